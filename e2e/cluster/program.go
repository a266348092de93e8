package cluster

import (
	"fmt"
	"os"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// Program is a process that was started beside the cluster's own.
type Program struct{ component *component }

// Run starts a program in one of the cluster's network namespaces, nil being
// the control plane's. Its output goes to a file <name>.log beside the other
// logs, variables ("NAME=value") are added to its environment. If it ends
// before it is stopped, the cluster ends with it, for that reason.
func (c *Cluster) Run(n *sandbox.NetNS, name string, variables []string, command ...string) (*Program, error) {
	if len(command) == 0 {
		return nil, fmt.Errorf("starting %s: no command given", name)
	}
	if err := c.Err(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	if n == nil {
		n = c.network.main
	}
	started, err := launch{
		name: name, netns: n, logDir: c.config.LogDir, command: command, variables: variables, died: c.fail,
	}.start()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.programs = append(c.programs, started)
	return &Program{component: started}, nil
}

// Stop asks the program to end (SIGTERM) and waits for it, 10 seconds at most;
// then it kills it.
func (p *Program) Stop() { p.component.stop(true) }

// Log returns what the program has printed so far.
func (p *Program) Log() (string, error) {
	content, err := os.ReadFile(p.component.logPath)
	return string(content), err
}
