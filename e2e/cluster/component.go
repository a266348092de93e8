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

// startComponent starts a program in a network namespace. If the program ends
// without being stopped, died gets an error with the end of its log.
func startComponent(n *sandbox.NetNS, name, logDir string, command []string, died func(error)) (*component, error) {
	c := &component{name: name, logPath: filepath.Join(logDir, name+".log"), exited: make(chan struct{})}
	log, err := os.OpenFile(c.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	defer log.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := n.Start(cmd); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	c.process = cmd.Process
	go func() {
		err := cmd.Wait()
		close(c.exited)
		if !c.stopping.Load() {
			if err == nil {
				err = errors.New("exit status 0")
			}
			died(fmt.Errorf("%s ended by itself: %w; the end of its log:\n%s", name, err, c.tail()))
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
