package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/fairway-lb/fairway/e2e/environment"
)

// contender is what is measured: a proxy in one configuration, or a baseline.
type contender struct {
	name string
	// mode is what a start depends on: contenders with the same one start alike.
	mode string
	// variant is one of less interest: it takes part in the first rounds only.
	variant bool
	// missing says why it cannot be measured here, "" if it can.
	missing string
	// measure takes part in a round, the first or not, on a clean node. It fills
	// in what it has got also when it fails.
	measure func(ctx context.Context, w *world, f figures, first bool) error
}

// The contenders that others are compared with.
const (
	ours     = "fairway"
	theirs   = "kube-proxy nftables, 1s"
	iptables = "kube-proxy iptables, 1s"
	informer = "bare informer"
	loader   = "raw netlink loader"
	none     = "no proxy"
)

// contenders are those whose names match.
func contenders(only *regexp.Regexp) []contender {
	all := []contender{
		{name: ours, measure: func(ctx context.Context, w *world, f figures, _ bool) error {
			// Other priorities are another layout, which no version has yet.
			return w.bout(ctx, f, w.nodeProxy(), handover{restart, w.nodeProxy(), ""}, handover{upgrade, w.nodeProxy("--nat-destination-priority=-101"), ""})
		}},
		kubeProxy("nftables", time.Second),
		kubeProxy("nftables", time.Millisecond),
		kubeProxy("iptables", time.Second),
		kubeProxy("iptables", time.Millisecond),
		{name: none, measure: measureNothing},
		{name: informer, measure: measureInformer},
		{name: loader, measure: measureLoader},
	}
	return slices.DeleteFunc(all, func(c contender) bool { return !only.MatchString(c.name) })
}

// nodeProxy returns the command of ours.
func (w *world) nodeProxy(more ...string) []string {
	return append([]string{filepath.Join(os.Getenv(environment.ProgramsVariable), "node-proxy"),
		"--kubeconfig=" + w.kubeconfig, "--node-name=" + w.node.Name, "--cluster-cidr=" + podRanges,
		// As kube-proxy below: the sandbox may not change the size of the table.
		"--conntrack-max-per-core=0", "--conntrack-min=0"}, more...)
}

// kubeProxy is the real one. One second is its default minSyncPeriod, how long
// changes are gathered, which a start does not depend on: a restart, and what
// comes after it, are measured with the default only.
func kubeProxy(mode string, period time.Duration) contender {
	c := contender{name: fmt.Sprintf("kube-proxy %s, %s", mode, period), mode: mode}
	c.variant = c.name != theirs
	if _, err := exec.LookPath("iptables-restore"); mode == "iptables" && err != nil {
		c.missing = "it runs the programs iptables and iptables-restore, which are not installed (Debian's package iptables)"
	}
	c.measure = func(ctx context.Context, w *world, f figures, _ bool) error {
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
`, mode, w.node.Name, podRanges, w.kubeconfig, period, period)
		path := filepath.Join(w.dir, "kube-proxy.yaml")
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			return err
		}
		command := []string{os.Getenv(kubeProxyVariable), "--config=" + path}
		var handovers []handover
		if period == time.Second {
			handovers = []handover{{restart, command, ""}, {takeover, w.nodeProxy("--takeover"), "Took kube-proxy's place"}}
		}
		return w.bout(ctx, f, command, handovers...)
	}
	return c
}
