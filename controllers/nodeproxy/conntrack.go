package nodeproxy

import (
	"context"
	"maps"
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

// staleFlows selects tracked flows that go where they should not, by frontend.
//
// UDP flows would go on reaching an endpoint that is no more: UDP has no end of
// connection, and as long as a client keeps sending, its packets follow the entry
// and never see the table again. Those to the endpoints listed may stay. Entries
// made before a Service had its first endpoint count too; they have no
// translation at all.
//
// Of other protocols only attempts to connect are, which nobody answered yet: the
// client's next ones belong to the same flow as the first, made while there was no
// table.
type staleFlows map[nft.Frontend][]netip.AddrPort

func (s staleFlows) has(flow tracked) bool {
	keep, concerned := s[flow.to]
	return concerned && (flow.to.Protocol == nft.UDP || !flow.replied) && !slices.Contains(keep, flow.answer)
}

// byProtocol takes them apart.
func (s staleFlows) byProtocol() map[nft.Protocol]staleFlows {
	out := make(map[nft.Protocol]staleFlows)
	for f, keep := range s {
		if out[f.Protocol] == nil {
			out[f.Protocol] = make(staleFlows)
		}
		out[f.Protocol][f] = keep
	}
	return out
}

// add notes what a change of one Service makes stale: the flows of frontends
// that lost an endpoint, got their first or are no more.
func (s staleFlows) add(before, after forwarding) {
	for f, was := range before.serving {
		now := after.serving[f]
		lost := slices.ContainsFunc(was, func(e netip.AddrPort) bool { return !slices.Contains(now, e) })
		if lost {
			s[f] = now
		}
	}
	for f, now := range after.serving {
		if len(before.serving[f]) == 0 && len(now) > 0 {
			s[f] = now
		}
	}
}

// addAttempts notes all frontends that are not UDP's, after a time in which there
// was no table or, where it was damaged, only part of it. Then an attempt may be
// half translated; otherwise those that go to an endpoint may stay: kube-proxy, whose
// place is taken, sent them there.
func (s staleFlows) addAttempts(f forwarding, damaged bool) {
	for to, b := range f.service.Frontends {
		switch {
		case to.Protocol == nft.UDP:
		case damaged:
			s[to] = nil
		default:
			s[to] = slices.Concat(b.Cluster, b.Local)
		}
	}
}

// purgeRetry is the pause after stale flows could not be deleted.
const purgeRetry = 10 * time.Second

// conntrack deletes one family's stale flows in the background: finding them takes
// a walk through the whole connection tracking table, for which no other change
// of the node's forwarding should have to wait.
type conntrack struct {
	family  netlink.InetFamily
	flows   *flows
	wake    chan struct{}
	metrics *metrics.Metrics

	mu   sync.Mutex
	todo staleFlows
	busy bool
}

// newConntrack works in the network namespace of the calling thread.
func newConntrack(ipv6 bool, m *metrics.Metrics) (*conntrack, error) {
	f, err := newFlows()
	if err != nil {
		return nil, err
	}
	c := &conntrack{family: unix.AF_INET, flows: f, wake: make(chan struct{}, 1), metrics: m, todo: make(staleFlows)}
	if ipv6 {
		c.family = unix.AF_INET6
	}
	return c, nil
}

func (c *conntrack) close() { c.flows.close() }

// purge has the flows deleted soon. What it says about a frontend replaces what
// was said before.
func (c *conntrack) purge(stale staleFlows) {
	if len(stale) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.Copy(c.todo, stale)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run deletes flows until the context ends. After each walk it rests as long as
// that took: while endpoints change all the time, what they leave gathers.
func (c *conntrack) run(ctx context.Context) {
	retry := time.NewTicker(purgeRetry)
	defer retry.Stop()
	name := map[netlink.InetFamily]string{unix.AF_INET: "IPv4", unix.AF_INET6: "IPv6"}[c.family]
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-retry.C:
		}
		stale := c.take()
		if len(stale) == 0 {
			continue
		}
		start := time.Now()
		n, err := c.forget(stale)
		took := time.Since(start)
		c.metrics.ConntrackDuration.WithLabelValues(name).Observe(took.Seconds())
		c.metrics.ConntrackDeleted.WithLabelValues(name).Add(float64(n))
		if err != nil {
			klog.FromContext(ctx).Error(err, "Could not delete stale flows, trying again", "frontends", len(stale))
			c.putBack(stale)
		} else if n > 0 {
			klog.FromContext(ctx).V(2).Info("Deleted stale flows", "flows", n)
		}
		c.done()
		if !pause(ctx, took) {
			return
		}
	}
}

// forget deletes stale flows and returns how many there were.
func (c *conntrack) forget(stale staleFlows) (deleted int, err error) {
	for _, some := range stale.byProtocol() {
		all, err := c.flows.stale(c.family, some)
		if err != nil {
			return deleted, err
		}
		for _, flow := range all {
			if err := c.flows.forget(c.family, flow); err != nil {
				return deleted, err
			}
			deleted++
		}
	}
	return deleted, nil
}

func (c *conntrack) take() staleFlows {
	c.mu.Lock()
	defer c.mu.Unlock()
	todo := c.todo
	c.todo, c.busy = make(staleFlows), len(todo) > 0
	return todo
}

// putBack keeps flows for the next try, except where newer word came in.
func (c *conntrack) putBack(stale staleFlows) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.Copy(stale, c.todo)
	c.todo = stale
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
