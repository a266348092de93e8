package cluster

import (
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
	if n == nil {
		n = c.network.main
	}
	started, err := startComponent(n, name, c.config.LogDir, append(append([]string{"env"}, variables...), command...), c.fail)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.programs = append(c.programs, started)
	return &Program{component: started}, nil
}

// Stop asks the program to end (SIGTERM) and waits for it.
func (p *Program) Stop() { p.component.stop(true) }

// Log returns what the program has printed so far.
func (p *Program) Log() (string, error) {
	content, err := os.ReadFile(p.component.logPath)
	return string(content), err
}
