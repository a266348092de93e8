package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a program at work on the node.
type process struct {
	cmd  *exec.Cmd
	out  *output
	done chan struct{}
	// began is when it was started.
	began time.Time

	mu       sync.Mutex
	together int64 // the most memory seen, programs it runs included
}

// start runs a program on the node.
func (w *world) start(command []string) (*process, error) {
	p := &process{cmd: exec.Command(command[0], command[1:]...), out: &output{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	err := w.node.NetNS.Do(func() error {
		p.began = time.Now()
		return p.cmd.Start()
	})
	if err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is seen in its output
		close(p.done)
	}()
	go p.sample()
	return p, nil
}

// kill ends it at once, as a crash does.
func (p *process) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGKILL) // it may have ended already
	<-p.done
}

// alive returns an error with the end of its output once it has ended.
func (p *process) alive() error {
	select {
	case <-p.done:
		return fmt.Errorf("it ended: %s", p.out.tail())
	default:
		return nil
	}
}

// output keeps the end of what a program says.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

const outputKept = 16 << 10

// Write never fails.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(p)
	if extra := o.text.Len() - outputKept; extra > outputKept {
		o.text.Next(extra)
	}
	return len(p), nil
}

func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	text := o.text.String()
	return text[max(0, len(text)-1000):]
}

func (o *output) contains(text string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Contains(o.text.String(), text)
}

// ticksPerSecond is USER_HZ, 100 on every architecture of Linux that Go has.
const ticksPerSecond = 100

// cpu returns the processor time used so far, by the programs it ran as well.
func (p *process) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// Behind the name in parentheses comes field 3; utime is field 14, and
	// stime, cutime and cstime follow it (proc_pid_stat(5)).
	_, rest, found := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if !found || len(fields) < 15 {
		return 0, errors.New("cannot read the process's times")
	}
	var ticks int64
	for _, field := range fields[11:15] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

// peak returns the most memory it ever had, in bytes, alone and with the
// programs it runs.
func (p *process) peak() (alone, together int64, err error) {
	alone, err = memory(p.cmd.Process.Pid, "VmHWM:")
	p.mu.Lock()
	defer p.mu.Unlock()
	return alone, max(alone, p.together), err
}

// sample looks often at the memory of the process and of those it runs now.
func (p *process) sample() {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-tick.C:
		}
		var sum int64
		for _, pid := range append(children(p.cmd.Process.Pid), p.cmd.Process.Pid) {
			size, err := memory(pid, "VmRSS:")
			if err == nil { // it may have ended since
				sum += size
			}
		}
		p.mu.Lock()
		p.together = max(p.together, sum)
		p.mu.Unlock()
	}
}

// children are those of all threads of a process (proc_pid_task_children(5)).
func children(pid int) (all []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is a good one
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for field := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

// memory is a field of a process's status, in bytes.
func memory(pid int, field string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, field); found {
			kib, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no %s in the process's status", field)
}
