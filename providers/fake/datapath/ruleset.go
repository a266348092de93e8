package datapath

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/providers/fake"
)

// ruleset is what one fake.Dataplane asks of the kernel, worked out to the last
// address and still free of any netlink: compile makes it, table.replace sends it.
type ruleset struct {
	frontends []frontend
	// addresses of load balancers, sorted: what no frontend takes is dropped.
	addresses []netip.Addr
	// guards admit to load balancers, before their frontends see a packet.
	guards []guard
	// filters admit to instances, after the frontends.
	filters []filter
	// sources are the addresses that forwarded connections leave with where the
	// client's is not preserved, by connection mark.
	sources map[uint32]netip.Addr
	// outOfService are the addresses that DNS does not answer with for now.
	outOfService []netip.Addr
	// probes are the health checks to make, by target ID.
	probes map[string]probe
}

// frontendKey is what a client connects to.
type frontendKey struct {
	addr  netip.Addr
	proto uint8
	port  uint16
}

// frontend is one open port on one address of a load balancer.
type frontend struct {
	frontendKey
	loadBalancer, zone string
	// mark is put on the connection: whose it is, from there on.
	mark uint32
	// pool gets new connections. Empty: they are refused.
	pool []netip.AddrPort
	// relay is the address from which relays connect to targets; invalid where
	// the kernel translates.
	relay netip.Addr
	// sticky: a client's connections all get the same of the pool.
	sticky bool
	// bound are the targets that established connections may stay on: all that
	// are registered, draining ones included.
	bound []netip.AddrPort
}

// guard is the admission to one load balancer.
type guard struct {
	addrs []netip.Addr
	admit []admission
}

// filter is the admission to one instance.
type filter struct {
	device string
	admit  []admission
}

// admission lets packets in that match all of protocol, ports and origin.
type admission struct {
	// proto 0 is every protocol.
	proto uint8
	// ports are the first and the last, for TCP and UDP.
	ports [2]uint16
	// anyone: the origin does not matter. Otherwise the source is within from,
	// or the connection carries one of marks.
	anyone bool
	from   []addrRange
	marks  []uint32
}

// markKey says what a connection mark stands for: the node of a load balancer
// that forwards the connection, and whether it hides the client.
type markKey struct {
	loadBalancer, zone string
	hide               bool
}

// marks gives out connection marks. A mark keeps its meaning for the life of
// the data path, because connections outlive the ruleset that marked them.
type marks map[markKey]uint32

func (m marks) of(k markKey) uint32 {
	mark, ok := m[k]
	if !ok {
		mark = uint32(len(m) + 1)
		m[k] = mark
	}
	return mark
}

// members is who counts as a security group's traffic.
type members struct {
	prefixes map[string][]netip.Prefix
	marks    map[string][]uint32
}

// compile works out the ruleset of d. What the data path cannot carry (an IPv6
// address) is an error that names it.
func compile(d fake.Dataplane, m marks) (ruleset, error) {
	r := ruleset{sources: map[uint32]netip.Addr{}, probes: map[string]probe{}}
	groups := members{prefixes: map[string][]netip.Prefix{}, marks: map[string][]uint32{}}
	for _, lb := range d.LoadBalancers {
		if err := r.addLoadBalancer(lb, m, groups); err != nil {
			return ruleset{}, fmt.Errorf("load balancer %s: %w", lb.ID, err)
		}
	}
	for _, i := range d.Interfaces {
		for _, g := range i.Groups {
			groups.prefixes[g] = append(groups.prefixes[g], i.Addresses...)
		}
	}
	// Who is in which group is known only now.
	for _, lb := range d.LoadBalancers {
		if err := r.addGuards(lb, groups, merge(d.Network)); err != nil {
			return ruleset{}, fmt.Errorf("load balancer %s: %w", lb.ID, err)
		}
	}
	for _, i := range d.Interfaces {
		if !i.Filtered {
			continue
		}
		if i.Device == "" || slices.ContainsFunc(r.filters, func(f filter) bool { return f.device == i.Device }) {
			return ruleset{}, fmt.Errorf("interface of %v: device %q is empty or another interface's, so it cannot be filtered", i.Addresses, i.Device)
		}
		admit, err := groups.admissions(i.Ingress)
		if err != nil {
			return ruleset{}, fmt.Errorf("interface %s: %w", i.Device, err)
		}
		r.filters = append(r.filters, filter{device: i.Device, admit: admit})
	}
	slices.SortFunc(r.addresses, netip.Addr.Compare)
	r.addresses = slices.Compact(r.addresses)
	return r, nil
}

func (r *ruleset) addLoadBalancer(lb fake.LoadBalancer, m marks, groups members) error {
	for _, n := range lb.Nodes {
		if !n.Private.Is4() || (n.Public.IsValid() && !n.Public.Is4()) {
			return fmt.Errorf("node in zone %q has address %v/%v: the data path carries IPv4 only", n.Zone, n.Public, n.Private)
		}
		for _, g := range lb.Groups {
			groups.prefixes[g] = append(groups.prefixes[g], netip.PrefixFrom(n.Private, n.Private.BitLen()))
		}
	}
	r.addresses = append(r.addresses, addressesOf(lb)...)
	r.outOfService = append(r.outOfService, outOfService(lb)...)
	for _, l := range lb.Listeners {
		for _, n := range lb.Nodes {
			mark := m.of(markKey{lb.ID, n.Zone, !l.PreserveClientIP})
			if !l.PreserveClientIP {
				r.sources[mark] = n.Private
			}
			for _, g := range lb.Groups {
				groups.marks[g] = append(groups.marks[g], mark)
			}
			if err := r.addFrontends(lb, n, l, mark); err != nil {
				return fmt.Errorf("listener %s/%d: %w", l.Protocol, l.Port, err)
			}
		}
		r.addProbes(lb, l)
	}
	return nil
}

// addGuards lets in who the load balancer's groups admit, at its private
// addresses only from within the network, unless that is not known.
func (r *ruleset) addGuards(lb fake.LoadBalancer, groups members, network []addrRange) error {
	admit := []admission{{anyone: true}}
	if lb.Filtered {
		var err error
		if admit, err = groups.admissions(lb.Ingress); err != nil {
			return err
		}
	}
	var public, private []netip.Addr
	for _, n := range lb.Nodes {
		private = append(private, n.Private)
		if n.Public.IsValid() {
			public = append(public, n.Public)
		}
	}
	if lb.Filtered && len(public) > 0 {
		r.guards = append(r.guards, guard{addrs: public, admit: admit})
	}
	switch {
	case len(network) > 0:
		r.guards = append(r.guards, guard{addrs: private, admit: within(admit, network)})
	case lb.Filtered:
		r.guards = append(r.guards, guard{addrs: private, admit: admit})
	}
	return nil
}

// within returns the admissions for those only who are also within ranges.
func within(admit []admission, ranges []addrRange) []admission {
	narrowed := make([]admission, 0, len(admit))
	for _, a := range admit {
		if a.anyone {
			a.anyone, a.from = false, ranges
		} else {
			a.from = common(a.from, ranges)
		}
		narrowed = append(narrowed, a)
	}
	return narrowed
}

func (r *ruleset) addFrontends(lb fake.LoadBalancer, n fake.LoadBalancerNode, l fake.Listener, mark uint32) error {
	f := frontend{loadBalancer: lb.ID, zone: n.Zone, mark: mark, sticky: l.Sticky}
	for _, t := range l.Targets {
		if !t.Addr.Addr().Is4() {
			return fmt.Errorf("target %v: the data path carries IPv4 only", t.Addr)
		}
		f.bound = append(f.bound, t.Addr)
	}
	for _, t := range eligible(lb, n.Zone, l.Targets) {
		f.pool = append(f.pool, t.Addr)
	}
	protocols, err := numbers(l.Protocol)
	if err != nil {
		return err
	}
	for _, a := range nodeAddresses(n) {
		for _, p := range protocols {
			f.frontendKey, f.relay = frontendKey{a, p, l.Port}, netip.Addr{}
			if l.ProxyProtocol && relayable(p) {
				f.relay = n.Private
			}
			r.frontends = append(r.frontends, f)
		}
	}
	return nil
}

// addProbes adds one health check per target of the group, made from the load
// balancer's node in the target's zone. (The cloud probes from every node of a
// cross-zone load balancer; one opinion per target is all the account keeps.) A
// target in a zone without a node is not in use and not probed.
func (r *ruleset) addProbes(lb fake.LoadBalancer, l fake.Listener) {
	for _, t := range l.Targets {
		i := slices.IndexFunc(lb.Nodes, func(n fake.LoadBalancerNode) bool { return n.Zone == t.Zone })
		if i < 0 || t.State == fake.StateDraining {
			continue
		}
		port := cmp.Or(l.HealthCheck.Port, t.Addr.Port())
		r.probes[t.ID] = probe{
			target: netip.AddrPortFrom(t.Addr.Addr(), port),
			source: lb.Nodes[i].Private,
			check:  l.HealthCheck,
			state:  t.State,
		}
	}
}

// eligible are the targets that a load balancer's node in a zone gives new
// connections to: the healthy ones; when there is none, all that are not
// draining ("fail open").
func eligible(lb fake.LoadBalancer, zone string, targets []fake.Target) []fake.Target {
	enabled := func(zone string) bool {
		return slices.ContainsFunc(lb.Nodes, func(n fake.LoadBalancerNode) bool { return n.Zone == zone })
	}
	var registered, healthy []fake.Target
	for _, t := range targets {
		inReach := t.Zone == zone || lb.CrossZone && enabled(t.Zone)
		if !inReach || t.State == fake.StateDraining {
			continue
		}
		registered = append(registered, t)
		if t.State == fake.StateHealthy {
			healthy = append(healthy, t)
		}
	}
	if len(healthy) > 0 {
		return healthy
	}
	return registered
}

// inService returns the nodes of lb whose addresses its DNS name answers with:
// those that reach a healthy target for every listener. When that is true of
// none, it is all nodes (DNS fails open, see
// https://docs.aws.amazon.com/elasticloadbalancing/latest/network/target-group-health-checks.html).
func inService(lb fake.LoadBalancer) []fake.LoadBalancerNode {
	var in []fake.LoadBalancerNode
	for _, n := range lb.Nodes {
		short := slices.ContainsFunc(lb.Listeners, func(l fake.Listener) bool {
			return !slices.ContainsFunc(eligible(lb, n.Zone, l.Targets), func(t fake.Target) bool {
				return t.State == fake.StateHealthy
			})
		})
		if !short {
			in = append(in, n)
		}
	}
	if len(in) == 0 {
		return slices.Clone(lb.Nodes)
	}
	return in
}

// outOfService returns the addresses of the nodes that are not in service.
func outOfService(lb fake.LoadBalancer) []netip.Addr {
	in := inService(lb)
	var out []netip.Addr
	for _, n := range lb.Nodes {
		if !slices.Contains(in, n) {
			out = append(out, nodeAddresses(n)...)
		}
	}
	return out
}

func (g members) admissions(rules []fake.Rule) ([]admission, error) {
	var list []admission
	for _, rule := range rules {
		var a admission
		switch rule.Protocol {
		case "tcp":
			a.proto, a.ports = unix.IPPROTO_TCP, [2]uint16{rule.FromPort, rule.ToPort}
		case "udp":
			a.proto, a.ports = unix.IPPROTO_UDP, [2]uint16{rule.FromPort, rule.ToPort}
		case "icmp":
			a.proto = unix.IPPROTO_ICMP
		case "all":
		default:
			return nil, fmt.Errorf("rule with unknown protocol %q", rule.Protocol)
		}
		sources := slices.Clone(rule.Sources)
		for _, group := range rule.SourceGroups {
			sources = append(sources, g.prefixes[group]...)
			a.marks = append(a.marks, g.marks[group]...)
		}
		a.from = merge(sources)
		a.anyone = slices.Contains(a.from, everyone)
		if a.anyone {
			a.from, a.marks = nil, nil
		}
		slices.Sort(a.marks)
		a.marks = slices.Compact(a.marks)
		list = append(list, a)
	}
	return list, nil
}

func nodeAddresses(n fake.LoadBalancerNode) []netip.Addr {
	if n.Public.IsValid() {
		return []netip.Addr{n.Public, n.Private}
	}
	return []netip.Addr{n.Private}
}

func addressesOf(lb fake.LoadBalancer) []netip.Addr {
	var all []netip.Addr
	for _, n := range lb.Nodes {
		all = append(all, nodeAddresses(n)...)
	}
	return all
}

func numbers(p fake.Protocol) ([]uint8, error) {
	switch p {
	case fake.TCP:
		return []uint8{unix.IPPROTO_TCP}, nil
	case fake.UDP:
		return []uint8{unix.IPPROTO_UDP}, nil
	case fake.TCPUDP:
		return []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP}, nil
	}
	return nil, fmt.Errorf("unknown protocol %q", p)
}
