package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fairway-lb/fairway/e2e/cluster"
	"github.com/fairway-lb/fairway/e2e/environment"
)

// contender is a proxy in one configuration.
type contender struct {
	name string
	// command returns the program and its arguments, for a node and a
	// kubeconfig; files may be written to dir.
	command func(dir, node, kubeconfig string) ([]string, error)
}

// ours is the name all others are compared with.
const ours = "fairway"

func contenders() []contender {
	all := []contender{
		{ours, func(_, node, kubeconfig string) ([]string, error) {
			return []string{filepath.Join(os.Getenv(environment.ProgramsVariable), "node-proxy"),
				"--kubeconfig=" + kubeconfig, "--node-name=" + node, "--cluster-cidr=" + podRanges, "--ipv6=no"}, nil
		}},
		kubeProxy("nftables", time.Second),
		kubeProxy("nftables", time.Millisecond),
	}
	if _, err := exec.LookPath("iptables-restore"); err == nil {
		all = append(all, kubeProxy("iptables", time.Second))
	}
	return all
}

// kubeProxy is the real one. One second is its default minSyncPeriod, how long
// changes are gathered.
func kubeProxy(mode string, period time.Duration) contender {
	return contender{fmt.Sprintf("kube-proxy %s, %s", mode, period), func(dir, node, kubeconfig string) ([]string, error) {
		config := fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: %s
hostnameOverride: %s
clusterCIDR: %s
nodePortAddresses: [primary]
clientConnection: {kubeconfig: %s, qps: 100, burst: 100}
conntrack: {maxPerCore: 0, min: 0}
iptables: {minSyncPeriod: %s}
nftables: {minSyncPeriod: %s}
`, mode, node, podRanges, kubeconfig, period, period)
		path := filepath.Join(dir, "kube-proxy.yaml")
		return []string{os.Getenv(kubeProxyVariable), "--config=" + path}, os.WriteFile(path, []byte(config), 0o600)
	}}
}

// process is a contender at work.
type process struct {
	cmd  *exec.Cmd
	out  *bytes.Buffer
	done chan struct{}
	// began is when it was started.
	began time.Time
}

// start runs the contender on the node.
func (c contender) start(w *world) (*process, error) {
	args, err := c.command(w.dir, w.node.Name, w.kubeconfig)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(args[0], args[1:]...), out: &bytes.Buffer{}, done: make(chan struct{}), began: time.Now()}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if err := w.node.NetNS.Start(p.cmd); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is seen in its output
		close(p.done)
	}()
	return p, nil
}

// kill ends it at once, as a crash does, and returns what it and the programs it
// ran cost in all.
func (p *process) kill() (cpu time.Duration) {
	_ = p.cmd.Process.Signal(syscall.SIGKILL) // it may have ended already
	<-p.done
	if state := p.cmd.ProcessState; state != nil {
		cpu = state.UserTime() + state.SystemTime()
	}
	return cpu
}

// alive returns an error with the end of its output once it has ended.
func (p *process) alive() error {
	select {
	case <-p.done:
		text := p.out.String()
		return fmt.Errorf("it ended: %s", text[max(0, len(text)-2000):])
	default:
		return nil
	}
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

// peak returns the most memory it ever had, in bytes, its children aside.
func (p *process) peak() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "VmHWM:"); found {
			kib, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no VmHWM in the process's status")
}

// wipe takes away everything a contender left in the node's kernel.
func wipe(ctx context.Context, node *cluster.Node) error {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "nft", "flush", "ruleset")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := node.NetNS.Start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("nft flush ruleset: %w: %s", err, out.String())
	}
	return forgetConnections(node)
}
