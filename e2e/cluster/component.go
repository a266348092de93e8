package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// component is a process of the cluster with its log file.
type component struct {
	name     string
	logPath  string
	process  *os.Process
	stopping atomic.Bool
	exited   chan struct{}
}

// stopTimeout is how long a component that is asked to end has before it is
// killed.
const stopTimeout = 10 * time.Second

// launch is what it takes to start a component.
type launch struct {
	name    string
	netns   *sandbox.NetNS
	logDir  string
	command []string
	// variables ("NAME=value") come on top of this process's environment.
	variables []string
	// died gets an error with the end of the log if the program ends without
	// being stopped.
	died func(error)
}

func (l launch) start() (*component, error) {
	c := &component{name: l.name, logPath: filepath.Join(l.logDir, l.name+".log"), exited: make(chan struct{})}
	log, err := os.OpenFile(c.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", l.name, err)
	}
	defer log.Close()
	cmd := exec.Command(l.command[0], l.command[1:]...)
	cmd.Env = append(os.Environ(), l.variables...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := l.netns.Start(cmd); err != nil {
		return nil, fmt.Errorf("starting %s: %w", l.name, err)
	}
	c.process = cmd.Process
	go func() {
		err := cmd.Wait()
		close(c.exited)
		if !c.stopping.Load() {
			if err == nil {
				err = errors.New("exit status 0")
			}
			l.died(fmt.Errorf("%s ended by itself: %w; the end of its log:\n%s", l.name, err, c.tail()))
		}
	}()
	return c, nil
}

// stop ends the component, by asking it first if gently, and waits for its end.
func (c *component) stop(gently bool) {
	if c == nil {
		return
	}
	c.stopping.Store(true)
	if gently {
		_ = c.process.Signal(syscall.SIGTERM)
		select {
		case <-c.exited:
			return
		case <-time.After(stopTimeout):
		}
	}
	_ = c.process.Kill()
	<-c.exited
}

// tail is the last part of the component's log, indented.
func (c *component) tail() string {
	const lines, bytes = 15, 16 << 10
	file, err := os.Open(c.logPath)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > bytes {
		_, _ = file.Seek(-bytes, io.SeekEnd)
	}
	content, _ := io.ReadAll(file)
	all := strings.Split(strings.TrimSpace(string(content)), "\n")
	return "    " + strings.Join(all[max(0, len(all)-lines):], "\n    ")
}
