package nodeproxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/health"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// Retries of a Service the kernel refused: it may take it when the cause is gone.
const (
	firstRetry = 30 * time.Second
	lastRetry  = 10 * time.Minute
)

// plane is the forwarding state of one address family: what is wanted, what the
// kernel has, and what stands between.
type plane struct {
	ipv6      bool
	table     *nft.Table
	conntrack *conntrack
	checks    *health.NodePorts
	loopback  *loopback // nil where NodePorts are not answered at that address

	wanted  map[string]forwarding
	known   map[string]forwarding // in the kernel
	pending map[string]struct{}   // Services of which the two may differ
	loaded  bool
	gone    bool // the table was, and connections were tried meanwhile

	ranges        nft.Ranges // wanted
	rangesPending bool       // the kernel may have others

	quarantine map[string]quarantined
	waiting    map[string][]nft.Frontend // of each Service that waits, what was logged
	report     *report
}

// quarantined is a Service that the kernel refused, and when to try again.
type quarantined struct {
	until  time.Time
	delay  time.Duration
	reason error
}

func newPlane(c nft.Config, ct *conntrack, checks *health.NodePorts) (*plane, error) {
	table, err := nft.Open(c)
	if err != nil {
		return nil, err
	}
	return &plane{
		ipv6: c.IPv6, table: table, conntrack: ct, checks: checks,
		wanted:     make(map[string]forwarding),
		known:      make(map[string]forwarding),
		pending:    make(map[string]struct{}),
		quarantine: make(map[string]quarantined),
		waiting:    make(map[string][]nft.Frontend),
	}, nil
}

func (p *plane) family() health.Family {
	if p.ipv6 {
		return "IPv6"
	}
	return "IPv4"
}

// want notes the Service's new state; nil removes it.
func (p *plane) want(name string, f *forwarding) {
	p.pending[name] = struct{}{}
	if f == nil {
		delete(p.wanted, name)
		p.checks.Set(name, 0, 0)
		p.loopback.set(name, nil)
		return
	}
	p.wanted[name] = *f
	p.checks.Set(name, f.healthCheckPort, f.localReady)
	p.loopback.set(name, f.loopback)
}

// setRanges notes the address ranges to tell Pods and ClusterIPs by.
func (p *plane) setRanges(r nft.Ranges) {
	if !slices.Equal(r.Pods, p.ranges.Pods) || !slices.Equal(r.Services, p.ranges.Services) {
		p.ranges, p.rangesPending = r, true
	}
}

// changed tells whether something is wanted that the kernel may not have.
func (p *plane) changed() bool { return len(p.pending) > 0 || p.rangesPending }

// sync brings the kernel to what is wanted. After an error all that is missing
// stays pending.
func (p *plane) sync(ctx context.Context, now time.Time) error {
	for name, q := range p.quarantine {
		if !now.Before(q.until) {
			p.pending[name] = struct{}{}
		}
	}
	if p.loaded && !p.changed() {
		return nil
	}
	start, full := time.Now(), !p.loaded
	rejected, err := p.program(ctx)
	if err != nil {
		p.report.failed(start)
		return fmt.Errorf("programming %s: %w", p.family(), err)
	}
	stale := make(staleFlows)
	for name := range p.pending {
		if reason, no := rejected[name]; no {
			p.reject(ctx, name, reason, now)
			continue
		}
		delete(p.quarantine, name)
		p.tellWaiting(ctx, name)
		wanted, exists := p.wanted[name]
		stale.add(p.known[name], wanted)
		if exists && (p.gone || full && p.table.Fresh()) {
			stale.addAttempts(wanted, p.gone)
		}
		p.report.lacksLocal(name, wanted.noLocal)
		if exists {
			p.known[name] = wanted
		} else {
			delete(p.known, name)
		}
	}
	clear(p.pending)
	p.gone = false
	p.report.synced(start, full, p.table)
	p.report.has(len(p.known), len(p.quarantine))
	p.conntrack.purge(stale)
	return nil
}

// program loads the table the first time and when it was lost, and changes what
// is pending otherwise.
func (p *plane) program(ctx context.Context) (map[string]error, error) {
	if p.rangesPending {
		if err := p.table.SetRanges(p.ranges); errors.Is(err, nft.ErrLost) {
			p.lost(ctx)
		} else if err != nil {
			return nil, err
		}
		p.rangesPending = false
	}
	if p.loaded {
		changes := make(map[string]*nft.Service, len(p.pending))
		for name := range p.pending {
			changes[name] = p.wanted[name].service
		}
		rejected, err := p.table.Apply(changes)
		if !errors.Is(err, nft.ErrLost) {
			return rejected, err
		}
		p.lost(ctx)
	}
	all := make(map[string]*nft.Service, len(p.wanted))
	for name, f := range p.wanted {
		all[name] = f.service
		p.pending[name] = struct{}{}
	}
	start := time.Now()
	rejected, err := p.table.Load(all)
	if err != nil {
		return nil, err
	}
	p.loaded = true
	clear(p.known)
	klog.FromContext(ctx).Info("Loaded the forwarding table", "family", p.family(), "services", len(all)-len(rejected),
		"rejected", len(rejected), "duration", time.Since(start), "owned", p.table.Owned(), "replacedBecause", p.table.Unfit())
	return rejected, nil
}

// lost notes that another program changed the table.
func (p *plane) lost(ctx context.Context) {
	klog.FromContext(ctx).Info("Another program changed the forwarding table, loading it again", "family", p.family())
	p.report.changedByOthers()
	p.loaded, p.gone = false, true
}

// tellWaiting logs, once for each change of that, which addresses and ports a
// Service does not get because another has them. Only load balancer and external
// addresses can be that. The answers to probes are the same whoever has them.
func (p *plane) tellWaiting(ctx context.Context, name string) {
	waiting := slices.DeleteFunc(p.table.Waiting(name), func(f nft.Frontend) bool {
		return p.wanted[name].service.Frontends[f].Policy == nft.Direct
	})
	if len(waiting) == 0 {
		delete(p.waiting, name)
		return
	}
	if slices.Equal(p.waiting[name], waiting) {
		return
	}
	p.waiting[name] = waiting
	klog.FromContext(ctx).Info("Another Service has an address and port of a Service", "service", name, "frontends", waiting)
}

// verify looks whether the table is still the one that was written.
func (p *plane) verify(ctx context.Context) error {
	if !p.loaded {
		return nil
	}
	err := p.table.Verify()
	if errors.Is(err, nft.ErrLost) {
		p.lost(ctx)
		return nil
	}
	return err
}

// reject keeps a Service that the kernel refused from holding others up. It
// stays as it was before, and is tried again later or when it changes.
func (p *plane) reject(ctx context.Context, name string, reason error, now time.Time) {
	q := p.quarantine[name]
	q.delay = min(max(2*q.delay, firstRetry), lastRetry)
	q.until, q.reason = now.Add(q.delay), reason
	p.quarantine[name] = q
	klog.FromContext(ctx).Error(reason, "The kernel refused a Service, which keeps its former endpoints",
		"service", name, "family", p.family(), "retryIn", q.delay)
	p.report.refused(name, reason, q.delay)
}
