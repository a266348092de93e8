package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/e2e/cluster"
	"github.com/fairway-lb/fairway/e2e/environment"
	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// podRanges hold the Pods' addresses: the cluster's own, those of the backends
// that answer and of the client Pod, and those that nobody has.
const podRanges = "10.244.0.0/14"

// The hosts around the node, each on a cable of its own.
var (
	backendA  = netip.MustParseAddr("10.245.0.2")
	backendB  = netip.MustParseAddr("10.245.0.3")
	podClient = netip.MustParseAddr("10.245.1.2")
	// outsideClient is neither a node nor a Pod.
	outsideClient = netip.MustParseAddr("192.0.2.2")
)

// backendPort is where the backends listen.
const backendPort = 8080

// spread is how many addresses the backends have besides the two with names of
// their own: connections that are masqueraded would otherwise run out of ports.
const spread = 16

// backendOf is the address of the backend of Service i, if it answers.
func backendOf(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 245, 0, byte(16 + i/10%spread)}) }

// world is a control plane, a node without a proxy, and around it backends and
// clients.
type world struct {
	*cluster.Cluster
	node       *cluster.Node
	backends   *sandbox.NetNS
	pod        *sandbox.NetNS
	outside    *sandbox.NetNS
	flow       *flow
	kubeconfig string
	dir        string

	objects objects
}

func newWorld(ctx context.Context, o options) (_ *world, err error) {
	w := &world{}
	if w.dir, err = os.MkdirTemp("", "bench-"); err != nil {
		return nil, err
	}
	w.Cluster, err = cluster.Start(ctx, cluster.Config{
		Binaries: os.Getenv(environment.KubernetesVariable), Nodes: []cluster.NodeConfig{cluster.DefaultNode(1)}, LogDir: o.logs,
	})
	if err != nil {
		return nil, err
	}
	w.node = w.Nodes()[0]
	if w.kubeconfig, err = w.KubeconfigFor("bench", "system:masters"); err == nil {
		err = w.wire(ctx)
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *world) close() {
	if err := w.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "bench-proxy:", err)
	}
}

// wire puts backends and clients around the node.
func (w *world) wire(ctx context.Context) (err error) {
	backends := []netip.Addr{backendA, backendB}
	for i := range spread {
		backends = append(backends, backendOf(10*i))
	}
	for _, host := range []struct {
		ns        **sandbox.NetNS
		name      string
		addresses []netip.Addr
	}{{&w.backends, "backends", backends}, {&w.pod, "pod", []netip.Addr{podClient}}, {&w.outside, "outside", []netip.Addr{outsideClient}}} {
		if *host.ns, err = sandbox.NewNetNS(host.name); err != nil {
			return err
		}
		if err = w.plug(*host.ns, host.addresses); err != nil {
			return err
		}
	}
	// A reset connection is forgotten soon, whatever the proxy: the table of
	// connections shall not fill up while they are made by the ten thousand.
	if err := w.node.NetNS.Sysctl("net.netfilter.nf_conntrack_tcp_timeout_close", "1"); err != nil {
		return err
	}
	for _, a := range backends {
		letter := byte('A')
		if a == backendB {
			letter = 'B'
		}
		if err := answer(w.backends, a, letter); err != nil {
			return err
		}
	}
	w.flow, err = newFlow(ctx, w.backends)
	return err
}

// plug connects a host to the node, which has the first address of its subnet.
func (w *world) plug(ns *sandbox.NetNS, addresses []netip.Addr) error {
	subnet := netip.PrefixFrom(addresses[0], 24)
	router := subnet.Masked().Addr().Next()
	end := sandbox.End{NetNS: ns, Device: "eth0", Routes: []sandbox.Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: router}}}
	for _, a := range addresses {
		end.Addresses = append(end.Addresses, netip.PrefixFrom(a, 24))
	}
	return sandbox.Connect(sandbox.End{NetNS: w.node.NetNS, Device: ns.Name(), Addresses: []netip.Prefix{netip.PrefixFrom(router, 24)}}, end)
}

// wipe takes away everything a contender left in the node's kernel, and makes
// sure of it.
func (w *world) wipe(ctx context.Context) error {
	if _, err := w.nft(ctx, "flush", "ruleset"); err != nil {
		return err
	}
	left, err := w.nft(ctx, "list", "ruleset")
	if err == nil && left != "" {
		err = fmt.Errorf("the node's ruleset cannot be emptied; it is\n%s", left[:min(len(left), 500)])
	}
	return errors.Join(err, w.forgetConnections())
}

// nft runs the program of that name on the node.
func (w *world) nft(ctx context.Context, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "nft", args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := w.node.NetNS.Start(cmd); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("nft %v: %w: %s", args, err, out.String())
	}
	return out.String(), nil
}

// forgetConnections empties the node's connection tracking.
func (w *world) forgetConnections() error {
	return w.node.NetNS.Do(func() error {
		here, err := netns.Get()
		if err != nil {
			return err
		}
		defer func() { _ = here.Close() }() // it was only read from
		handle, err := netlink.NewHandleAt(here, unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer handle.Close()
		return handle.ConntrackTableFlush(netlink.ConntrackTable)
	})
}
