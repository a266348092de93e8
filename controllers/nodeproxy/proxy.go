// Package nodeproxy carries packets from a Service's addresses to its Pods on
// one node, in place of kube-proxy. It watches Services, EndpointSlices and its
// own Node, decides in pure functions what this node forwards where, and hands
// that to package nft, which changes what differs in the kernel.
//
// Objects become small records as they arrive (store). Changes gather for a few
// milliseconds (Proxy.Run), become the wanted state of each Service (desired),
// and go to the kernel as one transaction per address family (plane). A Service
// the kernel refuses is set aside; the others go on.
package nodeproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/events"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/health"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/metrics"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// MasqueradeMark is the bit of the packet mark that the node proxy uses between
// prerouting and postrouting: the one kube-proxy uses by default.
const MasqueradeMark = 1 << 14

const (
	// verifyEvery bounds how long another program's flush goes unnoticed where
	// the kernel does not forbid it.
	verifyEvery = time.Second
	sweepEvery  = 30 * time.Second
	// retryAfter is the pause after a transaction that failed as a whole.
	retryAfter = time.Second
)

// Config is what a Proxy is told at start.
type Config struct {
	// API reaches the API server, by an address that works before any Service does.
	API *rest.Config
	// NodeName names the Node object of the node this program runs on.
	NodeName string
	// PodCIDRs are the address ranges of all Pods of the cluster. Connections
	// from elsewhere to a ClusterIP are masqueraded; without ranges none are.
	PodCIDRs []netip.Prefix
	// NodePortAddresses are ranges: NodePorts are answered at this node's
	// addresses within them, loopback excepted. Empty means at the Node
	// object's own addresses.
	NodePortAddresses []netip.Prefix
	// IPv6 adds that family to IPv4.
	IPv6 bool
	// SharedTable leaves the table open to other programs' changes also where
	// the kernel could keep them out.
	SharedTable bool
	// MasqueradeMark is the one bit of the packet mark that is used between
	// prerouting and postrouting; 0 means the constant of that name.
	MasqueradeMark uint32
	// MinSyncPeriod is the least time between two transactions, in which
	// changes wait for others. A single one does not wait.
	MinSyncPeriod time.Duration
	// Listen opens the healthCheckNodePorts; nil means net.ListenConfig's method.
	Listen health.Listen
	// Metrics count what happens; nil means that nobody sees them.
	Metrics *metrics.Metrics
	// Events tell people what they are needed for; nil means nobody is told.
	Events *events.Recorder
}

func (c Config) listen() health.Listen {
	if c.Listen != nil {
		return c.Listen
	}
	return (&net.ListenConfig{}).Listen
}

// Families returns the families a proxy of this configuration serves.
func (c Config) Families() []health.Family {
	if c.IPv6 {
		return []health.Family{"IPv4", "IPv6"}
	}
	return []health.Family{"IPv4"}
}

// Proxy programs one node. Make one with [New].
type Proxy struct {
	config  Config
	health  *health.Health
	tracker *tracker
	planes  []*plane
	flows   *conntrack
	closers []func()

	nodePortAddresses []netip.Addr
	told              map[string]string // Service → what of it was logged as ignored
	quarantined       atomic.Int64
	programmed        atomic.Pointer[time.Time] // all handed over before is in the kernel
	first             chan struct{}             // closed when programmed is set
}

// New opens what a Proxy needs of the kernel, in the network namespace of the
// calling thread, and changes nothing there.
func New(c Config, h *health.Health) (*Proxy, error) {
	if c.Metrics == nil {
		c.Metrics = metrics.New()
	}
	if c.MasqueradeMark == 0 {
		c.MasqueradeMark = MasqueradeMark
	}
	p := &Proxy{config: c, health: h, tracker: newTracker(c.NodeName), told: make(map[string]string), first: make(chan struct{})}
	p.tracker.queued, p.tracker.metrics = h.Queued, c.Metrics
	var err error
	if p.flows, err = newConntrack(); err != nil {
		return nil, err
	}
	p.closers = append(p.closers, p.flows.close)
	p.flows.metrics = c.Metrics
	for _, ipv6 := range []bool{false, true} {
		if ipv6 && !c.IPv6 {
			continue
		}
		plane, err := newPlane(nft.Config{IPv6: ipv6, PodCIDRs: c.PodCIDRs, MasqueradeMark: c.MasqueradeMark, Shared: c.SharedTable}, p.flows, health.NewNodePorts(h, c.listen()))
		if err != nil {
			p.Close()
			return nil, err
		}
		plane.report = newReport(c, plane.family())
		p.closers = append(p.closers, func() { _ = plane.table.Close() })
		p.planes = append(p.planes, plane)
	}
	return p, nil
}

// Close gives up what New opened. The tables stay and go on forwarding.
func (p *Proxy) Close() {
	for _, c := range slices.Backward(p.closers) {
		c()
	}
	p.closers = nil
}

// Quarantined returns how many Services the kernel refuses at the moment.
func (p *Proxy) Quarantined() int { return int(p.quarantined.Load()) }

// Programmed returns a channel that is closed once all families carry packets
// for all Services known.
func (p *Proxy) Programmed() <-chan struct{} { return p.first }

// Run follows the API server until the context ends. Nothing is programmed
// before all Services, EndpointSlices and the Node are known: tables that an
// earlier run left stay as they are until then.
func (p *Proxy) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := p.tracker.watch(ctx, p.config.API, p.config.NodeName, &wg); err != nil {
		return err
	}
	wg.Go(func() { p.flows.run(ctx) })
	p.follow(ctx)
	return nil
}

// follow programs what the tracker hands over until the context ends.
func (p *Proxy) follow(ctx context.Context) {
	verify, sweep := time.NewTicker(verifyEvery), time.NewTicker(sweepEvery)
	defer verify.Stop()
	defer sweep.Stop()
	logger := klog.FromContext(ctx)
	var last, blocked time.Time // the last round; no transaction before
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			p.sweep(ctx)
			continue
		case <-verify.C:
			for _, plane := range p.planes {
				if err := plane.verify(ctx); err != nil {
					logger.Error(err, "Could not verify the forwarding table")
				}
			}
		case <-p.tracker.signal:
			if !pause(ctx, time.Until(last.Add(p.config.MinSyncPeriod))) {
				return
			}
		}
		if !p.tracker.synced() {
			continue
		}
		now := time.Now()
		last = now
		p.decide(ctx)
		if now.Before(blocked) {
			continue
		}
		if err := p.program(ctx, now); err != nil {
			logger.Error(err, "Could not program the node, trying again")
			p.health.Queued() // also where nothing new was, but the table is lost
			blocked = now.Add(retryAfter)
		}
	}
}

// pause returns false when the context ended first.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// decide turns what changed into wanted state.
func (p *Proxy) decide(ctx context.Context) {
	node := p.tracker.node()
	p.health.SetEligible(node.eligible)
	addresses := p.addressesOf(ctx, node)
	c := p.tracker.take(!slices.Equal(addresses, p.nodePortAddresses))
	p.nodePortAddresses = addresses
	for _, plane := range p.planes {
		plane.checks.SetAddresses(view{ipv6: plane.ipv6}.own(addresses))
	}
	for name, s := range c.services {
		p.tell(ctx, name, s)
		for _, plane := range p.planes {
			if s == nil {
				plane.want(name, nil)
				continue
			}
			f := desired(*s, c.slices[name], view{ipv6: plane.ipv6, nodePortAddresses: addresses})
			plane.want(name, &f)
		}
	}
}

// program brings all families to what is wanted, which was decided after now.
// One that fails does not keep the other from being served.
func (p *Proxy) program(ctx context.Context, now time.Time) error {
	var errs []error
	quarantined := 0
	for _, plane := range p.planes {
		if err := plane.sync(ctx, now); err != nil {
			errs = append(errs, err)
			continue
		}
		quarantined += len(plane.quarantine)
		for service, err := range plane.checks.Reconcile(ctx, now) {
			klog.FromContext(ctx).Error(err, "Load balancers take this node for one without endpoints", "service", service)
			plane.report.healthCheckFailed(service, err)
		}
		p.health.Updated(plane.family(), now)
	}
	p.quarantined.Store(int64(quarantined))
	if len(errs) == 0 && p.programmed.Swap(&now) == nil {
		close(p.first)
	}
	return errors.Join(errs...)
}

func (p *Proxy) sweep(ctx context.Context) {
	for _, plane := range p.planes {
		if !plane.loaded {
			continue
		}
		if err := plane.table.Sweep(); err != nil {
			klog.FromContext(ctx).Error(err, "Could not tidy the forwarding table up", "family", plane.family())
			p.config.Metrics.CleanupFailures.WithLabelValues(plane.report.family).Inc()
		}
	}
}

// addressesOf returns where this node answers NodePorts.
func (p *Proxy) addressesOf(ctx context.Context, n node) []netip.Addr {
	if len(p.config.NodePortAddresses) == 0 {
		return n.addresses
	}
	addresses, err := interfaceAddresses(p.config.NodePortAddresses)
	if err != nil {
		klog.FromContext(ctx).Error(err, "NodePorts stay at the addresses known so far")
		return p.nodePortAddresses
	}
	return addresses
}

// interfaceAddresses returns this node's addresses within the ranges, sorted.
func interfaceAddresses(within []netip.Prefix) ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing the addresses of this node: %w", err)
	}
	var out []netip.Addr
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		addr := p.Addr().Unmap()
		if addr.IsLoopback() || addr.IsLinkLocalUnicast() {
			continue
		}
		if slices.ContainsFunc(within, func(r netip.Prefix) bool { return r.Contains(addr) }) {
			out = append(out, addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}

// tell logs once what a Service asks for and does not get.
func (p *Proxy) tell(ctx context.Context, name string, s *service) {
	var ignored string
	if s != nil {
		ignored = strings.Join(s.ignored, "; ")
	}
	if ignored == "" {
		delete(p.told, name)
		return
	}
	if p.told[name] != ignored {
		p.told[name] = ignored
		klog.FromContext(ctx).Info("This node does not honour all a Service asks for", "service", name, "ignored", ignored)
	}
}
