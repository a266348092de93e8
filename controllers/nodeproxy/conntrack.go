package nodeproxy

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/metrics"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// staleFlows selects conntrack entries of UDP flows that would go on reaching an
// endpoint that is no more. UDP has no end of connection: as long as a client
// keeps sending, its packets follow the entry and never see the table again.
// Entries made before a Service had its first endpoint count too; they have no
// translation at all.
type staleFlows map[nft.Frontend][]netip.AddrPort // to the endpoints whose flows may stay

var _ netlink.CustomConntrackFilter = staleFlows(nil)

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s staleFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != uint8(nft.UDP) {
		return false
	}
	keep, ours := s[nft.Frontend{Addr: addrOf(flow.Forward.DstIP), Protocol: nft.UDP, Port: flow.Forward.DstPort}]
	return ours && !slices.Contains(keep, netip.AddrPortFrom(addrOf(flow.Reverse.SrcIP), flow.Reverse.SrcPort))
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// add notes what a change of one Service makes stale: the flows of frontends
// that lost an endpoint, got their first or are no more.
func (s staleFlows) add(before, after forwarding) {
	for f, was := range before.serving {
		now, still := after.serving[f]
		lost := slices.ContainsFunc(was, func(e netip.AddrPort) bool { return !slices.Contains(now, e) })
		if !still || lost {
			s[f] = now
		}
	}
	for f, now := range after.serving {
		if len(before.serving[f]) == 0 && len(now) > 0 {
			s[f] = now
		}
	}
}

// purgeRetry is the pause after stale flows could not be deleted.
const purgeRetry = 10 * time.Second

// conntrack deletes stale flows in the background: finding them takes a walk
// through the whole connection tracking table, for which no other change of the
// node's forwarding should have to wait. Only of many frontends at once, as at a
// start, does it look at every flow itself.
type conntrack struct {
	handle  *netlink.Handle
	flows   *flows
	wake    chan struct{}
	metrics *metrics.Metrics

	mu   sync.Mutex
	todo map[netlink.InetFamily]staleFlows
	busy bool
}

// newConntrack works in the network namespace of the calling thread.
func newConntrack() (*conntrack, error) {
	// Without the family named, every other one would have to be there too.
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("opening connection tracking: %w", err)
	}
	f, err := newFlows()
	if err != nil {
		h.Close()
		return nil, err
	}
	return &conntrack{handle: h, flows: f, wake: make(chan struct{}, 1), todo: make(map[netlink.InetFamily]staleFlows)}, nil
}

func (c *conntrack) close() {
	c.flows.close()
	c.handle.Close()
}

// purge has the flows deleted soon. What it says about a frontend replaces what
// was said before.
func (c *conntrack) purge(stale staleFlows, ipv6 bool) {
	if len(stale) == 0 {
		return
	}
	family := netlink.InetFamily(unix.AF_INET)
	if ipv6 {
		family = unix.AF_INET6
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.todo[family] == nil {
		c.todo[family] = make(staleFlows)
	}
	maps.Copy(c.todo[family], stale)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run deletes flows until the context ends.
func (c *conntrack) run(ctx context.Context) {
	retry := time.NewTicker(purgeRetry)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-retry.C:
		}
		for family, stale := range c.take() {
			start := time.Now()
			n, err := c.forget(family, stale)
			name := map[netlink.InetFamily]string{unix.AF_INET: "IPv4", unix.AF_INET6: "IPv6"}[family]
			metrics.Since(c.metrics.ConntrackDuration.WithLabelValues(name), start)
			c.metrics.ConntrackDeleted.WithLabelValues(name).Add(float64(n))
			if err != nil {
				klog.FromContext(ctx).Error(err, "Could not delete stale UDP flows, trying again", "frontends", len(stale))
				c.putBack(family, stale)
			} else if n > 0 {
				klog.FromContext(ctx).V(2).Info("Deleted stale UDP flows", "flows", n)
			}
		}
		c.done()
	}
}

// fewFrontends is up to how many frontends are asked about one by one.
const fewFrontends = 16

// forget deletes stale flows and returns how many there were.
func (c *conntrack) forget(family netlink.InetFamily, stale staleFlows) (deleted uint, err error) {
	if len(stale) > fewFrontends {
		return c.handle.ConntrackDeleteFilters(netlink.ConntrackTable, family, stale)
	}
	for f, keep := range stale {
		all, err := c.flows.to(family, f)
		if err != nil {
			return deleted, err
		}
		for _, flow := range all {
			if slices.Contains(keep, flow.answer) {
				continue
			}
			if err := c.flows.forget(family, flow); err != nil {
				return deleted, err
			}
			deleted++
		}
	}
	return deleted, nil
}

func (c *conntrack) take() map[netlink.InetFamily]staleFlows {
	c.mu.Lock()
	defer c.mu.Unlock()
	todo := c.todo
	c.todo, c.busy = make(map[netlink.InetFamily]staleFlows), true
	return todo
}

// putBack keeps flows for the next try, except where newer word came in.
func (c *conntrack) putBack(family netlink.InetFamily, stale staleFlows) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.Copy(stale, c.todo[family])
	c.todo[family] = stale
}

func (c *conntrack) done() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = false
}

// idle tells whether all that was asked for is done.
func (c *conntrack) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.busy && len(c.todo) == 0
}
