package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/e2e/cluster"
	"github.com/fairway-lb/fairway/e2e/environment"
	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// podRanges hold the Pods' addresses: the cluster's own, those of the backends
// that answer and those that nobody has.
const podRanges = "10.244.0.0/14"

// The backends that answer, each with its name.
var (
	backendA  = netip.MustParseAddr("10.245.0.2")
	backendB  = netip.MustParseAddr("10.245.0.3")
	nodesSide = netip.MustParseAddr("10.245.0.1")
)

// backendPort is where they listen.
const backendPort = 8080

// world is a control plane, a node without a proxy, and backends on it.
type world struct {
	*cluster.Cluster
	node       *cluster.Node
	backends   *sandbox.NetNS
	kubeconfig string
	dir        string

	objects objects
}

func newWorld(ctx context.Context, logs string) (_ *world, err error) {
	w := &world{}
	if w.dir, err = os.MkdirTemp("", "bench-"); err != nil {
		return nil, err
	}
	w.Cluster, err = cluster.Start(ctx, cluster.Config{
		Binaries: os.Getenv(environment.KubernetesVariable), Nodes: []cluster.NodeConfig{cluster.DefaultNode(1)}, LogDir: logs,
	})
	if err != nil {
		return nil, err
	}
	w.node = w.Nodes()[0]
	if w.kubeconfig, err = w.KubeconfigFor("bench", "system:masters"); err == nil {
		err = w.serve(ctx)
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

// serve puts the backends behind the node. Each says one letter to whoever
// connects.
func (w *world) serve(ctx context.Context) (err error) {
	if w.backends, err = sandbox.NewNetNS("backends"); err != nil {
		return err
	}
	subnet := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, 24) }
	err = sandbox.Connect(
		sandbox.End{NetNS: w.node.NetNS, Device: "backends", Addresses: []netip.Prefix{subnet(nodesSide)}},
		sandbox.End{NetNS: w.backends, Device: "eth0", Addresses: []netip.Prefix{subnet(backendA), subnet(backendB)},
			Routes: []sandbox.Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: nodesSide}}})
	if err != nil {
		return err
	}
	for a, letter := range map[netip.Addr]byte{backendA: 'A', backendB: 'B'} {
		l, err := w.backends.Listen(ctx, "tcp", netip.AddrPortFrom(a, backendPort).String())
		if err != nil {
			return err
		}
		go answer(l, letter)
	}
	return nil
}

func answer(l net.Listener, letter byte) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		_, _ = conn.Write([]byte{letter}) // a client that is gone needs no answer
		conn.Close()
	}
}

// forgetConnections empties the node's connection tracking.
func forgetConnections(node *cluster.Node) error {
	return node.NetNS.Do(func() error {
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
