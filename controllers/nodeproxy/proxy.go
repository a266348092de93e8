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
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/events"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/health"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/listeners"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/metrics"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// MasqueradeMark is the bit of the packet mark that the node proxy uses between
// prerouting and postrouting: the one kube-proxy uses by default.
const MasqueradeMark = 1 << 14

// Config is what a Proxy is told at start.
type Config struct {
	// API reaches the API server, by an address that works before any Service does.
	API *rest.Config
	// NodeName names the Node object of the node this program runs on.
	NodeName string
	// PodCIDRs are the address ranges of all Pods of the cluster. Connections
	// from elsewhere to a ClusterIP are masqueraded; without ranges none are.
	PodCIDRs []netip.Prefix
	// DetectLocal says how packets of Pods are told from others.
	DetectLocal DetectLocal
	// PodInterface is the name, or its beginning, of the interfaces Pods are
	// behind, where DetectLocal goes by that.
	PodInterface string
	// MasqueradeAll masquerades also Pods' connections to ClusterIPs.
	MasqueradeAll bool
	// NATPriorities are those of the hooks in the packet filter.
	NATPriorities nft.Priorities
	// AffinitySize is how many clients session affinity remembers, in each
	// family; 0 means [nft.DefaultAffinitySize].
	AffinitySize uint32
	// NodePortAddresses are ranges: NodePorts are answered at this node's
	// addresses within them, and in a family of which there is none at all of
	// them, unless PrimaryNodePorts says which; loopback and link-local addresses
	// excepted. Empty means at the Node object's own addresses. At a range of loopback addresses, 127.0.0.1
	// or ::1 is answered, over TCP.
	NodePortAddresses []netip.Prefix
	// PrimaryNodePorts adds the Node object's own addresses to those ranges.
	PrimaryNodePorts bool
	// HealthPort is where this node answers /healthz; load balancers that ask
	// at their own address get that answer too. 0 means nowhere.
	HealthPort uint16
	// HealthAddress is the one address that port is open at; an unspecified or the
	// zero Addr means all of this node. Load balancers cannot reach a loopback one.
	HealthAddress netip.Addr
	// IPv6 adds that family to IPv4.
	IPv6 bool
	// SharedTable leaves the table open to other programs' changes also where
	// the kernel could keep them out.
	SharedTable bool
	// MasqueradeMark is the one bit of the packet mark that is used between
	// prerouting and postrouting; 0 means the constant of that name.
	MasqueradeMark uint32
	// MinSyncPeriod is the least time between two transactions for changes: one
	// that comes sooner after the last waits for others. A lone one does not
	// wait, nor does the repair of a table that another program changed.
	MinSyncPeriod time.Duration
	// Listen opens the healthCheckNodePorts; nil means net.ListenConfig's method.
	Listen listeners.Listen
	// Dial connects to endpoints from this node; nil means net.Dialer's method.
	Dial Dial
	// Metrics count what happens; nil means that nobody sees them.
	Metrics *metrics.Metrics
	// Events tell people what they are needed for; nil means nobody is told.
	Events *events.Recorder
}

func (c Config) listen() listeners.Listen {
	if c.Listen != nil {
		return c.Listen
	}
	return (&net.ListenConfig{}).Listen
}

func (c Config) dial() Dial {
	if c.Dial != nil {
		return c.Dial
	}
	return (&net.Dialer{}).DialContext
}

// loopback tells whether NodePorts are answered at the loopback address of the
// family: if a range is named that is only of such.
func (c Config) loopback(ipv6 bool) bool {
	return slices.ContainsFunc(c.NodePortAddresses, func(p netip.Prefix) bool { return p.Addr().Is6() == ipv6 && p.Addr().IsLoopback() })
}

// table is what one family's table is told.
func (c Config) table(ipv6 bool) nft.Config {
	return nft.Config{
		IPv6: ipv6, Pods: c.pods(ipv6), MasqueradeAll: c.MasqueradeAll, MasqueradeMark: c.MasqueradeMark,
		Priorities: c.NATPriorities, AffinitySize: c.AffinitySize, Shared: c.SharedTable,
	}
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
	closers []func()

	interfaces   *interfaces // nil where nobody asks
	surroundings surroundings
	told         map[string]string // Service → what of it was logged as ignored
	refused      atomic.Pointer[[]Refusal]
	programmed   atomic.Pointer[time.Time] // all handed over before is in the kernel
	first        chan struct{}             // closed when programmed is set
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
	p.tracker.queued, p.tracker.metrics = p.queued, c.Metrics
	if len(c.NodePortAddresses) > 0 {
		var err error
		if p.interfaces, err = newInterfaces(); err != nil {
			p.Close()
			return nil, err
		}
		p.closers = append(p.closers, p.interfaces.close)
	}
	for _, ipv6 := range []bool{false, true} {
		if ipv6 && !c.IPv6 {
			continue
		}
		flows, err := newConntrack(ipv6, c.Metrics)
		if err != nil {
			p.Close()
			return nil, err
		}
		p.closers = append(p.closers, flows.close)
		plane, err := newPlane(c.table(ipv6), flows, health.NewNodePorts(h, c.listen()))
		if err != nil {
			p.Close()
			return nil, err
		}
		if c.loopback(ipv6) {
			plane.loopback = newLoopback(ipv6, c)
		}
		plane.report = newReport(c, plane.family())
		p.closers = append(p.closers, func() { _ = plane.table.Close() })
		p.planes = append(p.planes, plane)
	}
	if err := p.acquaint(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// acquaint tells the families' tables that they have one program.
func (p *Proxy) acquaint() error {
	for _, plane := range p.planes {
		for _, other := range p.planes {
			if plane == other {
				continue
			}
			if err := plane.table.Trust(other.table); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close gives up what New opened. The tables stay and go on forwarding.
func (p *Proxy) Close() {
	for _, c := range slices.Backward(p.closers) {
		c()
	}
	p.closers = nil
}

// Refusal is a Service in quarantine: the kernel refused what it needs.
type Refusal struct {
	Service string        `json:"service"` // namespace/name
	Family  health.Family `json:"family"`
	Reason  string        `json:"reason"`
	// RetryAt is when it is tried again, unless it changes before.
	RetryAt time.Time `json:"retryAt"`
}

// Refused returns the Services that the kernel refuses at the moment, in no
// particular order.
func (p *Proxy) Refused() []Refusal {
	if all := p.refused.Load(); all != nil {
		return *all
	}
	return nil
}

// queued notes that a change waits.
func (p *Proxy) queued() {
	p.health.Queued()
	for _, plane := range p.planes {
		plane.report.queued.SetToCurrentTime()
	}
}

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
	for _, plane := range p.planes {
		wg.Go(func() { plane.conntrack.run(ctx) })
	}
	p.follow(ctx)
	return nil
}

// decide turns what changed into wanted state.
func (p *Proxy) decide(ctx context.Context) {
	node := p.tracker.node()
	around := p.lookAround(ctx, node)
	c := p.tracker.take(!around.equal(p.surroundings))
	p.surroundings = around
	ranges := nft.Ranges{Pods: p.config.podCIDRs(node), Services: p.tracker.serviceCIDRs()}
	for _, plane := range p.planes {
		plane.setRanges(ranges)
		for _, t := range c.triggers {
			if t.ipv6 == plane.ipv6 {
				plane.report.triggered = append(plane.report.triggered, t.at)
			}
		}
		plane.checks.SetAddresses(view{ipv6: plane.ipv6}.own(around.checks))
	}
	for name, s := range c.services {
		p.tell(ctx, name, s)
		for _, plane := range p.planes {
			if s == nil {
				plane.want(name, nil)
				continue
			}
			f := desired(*s, c.slices[name], view{
				ipv6: plane.ipv6, zone: around.zone, nodeAddresses: around.addresses, named: around.named,
				nodePortAddresses: around.nodePorts, healthPort: p.config.HealthPort, healthAddress: p.config.HealthAddress,
				loopback: plane.loopback != nil,
			})
			plane.want(name, &f)
		}
	}
}

// program brings all families to what is wanted, which was decided after now.
// One that fails does not keep the other from being served.
func (p *Proxy) program(ctx context.Context, now time.Time) error {
	var errs []error
	var refused []Refusal
	for _, plane := range p.planes {
		if err := plane.sync(ctx, now); err != nil {
			errs = append(errs, err)
			continue
		}
		for name, q := range plane.quarantine {
			refused = append(refused, Refusal{Service: name, Family: plane.family(), Reason: q.reason.Error(), RetryAt: q.until})
		}
		for service, err := range plane.checks.Reconcile(ctx, now) {
			klog.FromContext(ctx).Error(err, "Load balancers take this node for one without endpoints", "service", service)
			plane.report.healthCheckFailed(service, err)
		}
		if err := plane.loopback.reconcile(ctx, now); err != nil {
			klog.FromContext(ctx).Error(err, "NodePorts at the loopback address are missing, trying again")
		}
		p.health.Updated(plane.family(), now)
	}
	p.refused.Store(&refused)
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
		if full, err := plane.table.AffinityFull(); err == nil {
			plane.report.affinityFull(full)
		}
		for _, protocol := range []nft.Protocol{nft.UDP, nft.SCTP} {
			if n, err := plane.table.Refused(protocol); err == nil {
				plane.report.refusedAtLoopback(protocol, n)
			}
		}
	}
}

// lookAround returns what of the node decides about all Services.
func (p *Proxy) lookAround(ctx context.Context, n node) surroundings {
	out := surroundings{zone: n.zone, addresses: n.addresses, named: n.named, nodePorts: n.addresses, checks: n.addresses}
	if p.interfaces == nil {
		return out
	}
	routed, loopback, err := p.interfaces.within(p.config.NodePortAddresses, p.config.PrimaryNodePorts)
	if err != nil {
		klog.FromContext(ctx).Error(err, "NodePorts stay at the addresses known so far")
		out.nodePorts, out.checks = p.surroundings.nodePorts, p.surroundings.checks
		return out
	}
	if p.config.PrimaryNodePorts {
		routed = sortedOnce(append(routed, n.addresses...))
	}
	out.nodePorts, out.checks = routed, slices.Concat(routed, loopback)
	return out
}

// addressChanges returns what tells that the node's addresses changed, nil where
// nobody asks.
func (p *Proxy) addressChanges() <-chan netlink.AddrUpdate {
	if p.interfaces == nil {
		return nil
	}
	return p.interfaces.changed
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
