package nodeproxy

import (
	"net/netip"
	"slices"
	"time"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// view is what decides about a Service besides itself and its endpoints.
type view struct {
	ipv6 bool   // the family asked about
	zone string // of this node, empty if unknown
	// nodeAddresses are the Node's own.
	nodeAddresses []netip.Addr
	// named are all addresses that the Node's status has.
	named []netip.Addr
	// nodePortAddresses are the addresses at which this node answers NodePorts.
	nodePortAddresses []netip.Addr
	// healthPort is where this node tells load balancers whether to send it
	// traffic, 0 for nowhere.
	healthPort uint16
	// healthAddress is the one address it does so at, unspecified or zero for all.
	healthAddress netip.Addr
	// loopback is whether this node answers NodePorts at its loopback address.
	loopback bool
}

func (v view) has(a netip.Addr) bool { return a.Is6() == v.ipv6 }

// own returns the addresses of the family.
func (v view) own(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		if v.has(a) {
			out = append(out, a)
		}
	}
	return out
}

// forwarding is what one Service needs on this node, in one family.
type forwarding struct {
	service *nft.Service
	// serving are, for the UDP frontends, the endpoints whose flows may go on:
	// those in use and those that finish what they began.
	serving map[nft.Frontend][]netip.AddrPort
	// healthCheckPort is the healthCheckNodePort, 0 without, and localReady how
	// many ready Pods on this node its answer counts.
	healthCheckPort uint16
	localReady      int
	// loopback are the NodePorts to answer at the loopback address.
	loopback map[uint16]loopbackPort
	noLocal  noLocal
}

// desired decides where this node sends a Service's packets. It is pure: the
// same records give the same, equal result, in the same order.
func desired(s service, endpoints []endpointSlice, v view) forwarding {
	out := forwarding{
		service: &nft.Service{Frontends: make(map[nft.Frontend]nft.Backends), ClusterIPs: v.own(s.clusterIPs)},
		serving: make(map[nft.Frontend][]netip.AddrPort),

		healthCheckPort: s.healthCheckPort,
		localReady:      countLocalReady(endpoints, v),
	}
	internal, external := nft.Internal, nft.External
	if s.internalLocal {
		internal = nft.InternalLocal
	}
	if s.externalLocal {
		external = nft.ExternalLocal
	}
	sources := s.sourcesOf(v)
	for _, p := range s.ports {
		pools := poolsOf(p, endpoints, v)
		out.noLocal.count(s, pools)
		out.service.LocalEndpoints = append(out.service.LocalEndpoints, pools.localAddrs()...)
		add := func(policy nft.Policy, port uint16, addrs []netip.Addr, sources ...netip.Prefix) {
			for _, a := range addrs {
				f := nft.Frontend{Addr: a, Protocol: p.protocol, Port: port}
				if _, taken := out.service.Frontends[f]; taken || !v.has(a) || port == 0 {
					continue
				}
				b := pools.backends(policy)
				b.Affinity, b.ServicePort, b.Sources = s.affinity, p.port, sources
				out.service.Frontends[f] = b
				if p.protocol == nft.UDP {
					out.serving[f] = pools.serving
				}
			}
		}
		add(internal, p.port, s.clusterIPs)
		add(external, p.port, s.externalIPs)
		add(external, p.port, s.loadBalancerIPs, sources...)
		add(external, p.nodePort, v.nodePortAddresses)
		if v.loopback && p.nodePort != 0 && p.protocol != nft.TCP {
			f := nft.Frontend{Addr: loopbackAddress(v.ipv6), Protocol: p.protocol, Port: p.nodePort}
			out.service.Frontends[f] = nft.Backends{Policy: nft.Refused}
		}
		if v.loopback && p.nodePort != 0 && p.protocol == nft.TCP {
			if out.loopback == nil {
				out.loopback = make(map[uint16]loopbackPort)
			}
			out.loopback[p.nodePort] = loopbackPort{pools.external(s.externalLocal), time.Duration(s.affinity) * time.Second}
		}
	}
	answerProbes(s, v, out.service.Frontends)
	slices.SortFunc(out.service.LocalEndpoints, netip.Addr.Compare)
	out.service.LocalEndpoints = slices.Compact(out.service.LocalEndpoints)
	return out
}

// countLocalReady counts Pods, not ports. Those that are terminating, even if
// they get traffic for want of others, do not count: the load balancer shall
// look elsewhere.
func countLocalReady(endpointSlices []endpointSlice, v view) int {
	ready := make(map[netip.Addr]struct{})
	for _, s := range endpointSlices {
		for _, e := range s.endpoints {
			if e.local && e.ready && v.has(e.addr) {
				ready[e.addr] = struct{}{}
			}
		}
	}
	return len(ready)
}

// pools are the endpoints of one Service port.
type pools struct {
	cluster, local []netip.AddrPort // usable, anywhere and on this node
	serving        []netip.AddrPort // ready, or terminating and still answering
}

func (p pools) backends(policy nft.Policy) nft.Backends {
	b := nft.Backends{Policy: policy, Cluster: p.cluster}
	if policy == nft.InternalLocal || policy == nft.ExternalLocal {
		b.Local = p.local
	}
	return b
}

// external returns the endpoints for traffic to an external address.
func (p pools) external(local bool) []netip.AddrPort {
	if local {
		return p.local
	}
	return p.cluster
}

func (p pools) localAddrs() []netip.Addr {
	out := make([]netip.Addr, len(p.local))
	for i, e := range p.local {
		out[i] = e.Addr()
	}
	return out
}

// poolsOf merges the slices of a Service for one of its ports, which slices know
// by name and protocol.
func poolsOf(p servicePort, endpointSlices []endpointSlice, v view) pools {
	merged := make(map[netip.AddrPort]endpoint)
	for _, s := range endpointSlices {
		for _, sp := range s.ports {
			if sp.name != p.name || sp.protocol != p.protocol {
				continue
			}
			for _, e := range s.endpoints {
				if !v.has(e.addr) {
					continue
				}
				// While an endpoint moves between slices it may be in two:
				// the one that does not say it is going is the newer.
				at := netip.AddrPortFrom(e.addr, sp.port)
				if known, ok := merged[at]; !ok || known.terminating && !e.terminating {
					merged[at] = e
				}
			}
		}
	}
	isLocal := func(e endpoint) bool { return e.local }
	return pools{
		cluster: usable(merged, near(merged, v.zone)),
		local:   usable(merged, isLocal),
		serving: sorted(merged, func(e endpoint) bool { return e.ready || e.serving }),
	}
}

// usable returns the ready endpoints of a pool, or those that are terminating
// but still serve when no other is left
// (https://github.com/kubernetes/enhancements/issues/1669).
func usable(all map[netip.AddrPort]endpoint, in func(endpoint) bool) []netip.AddrPort {
	ready := sorted(all, func(e endpoint) bool { return in(e) && e.ready })
	if len(ready) > 0 {
		return ready
	}
	return sorted(all, func(e endpoint) bool { return in(e) && e.serving && e.terminating })
}

func sorted(all map[netip.AddrPort]endpoint, keep func(endpoint) bool) []netip.AddrPort {
	var out []netip.AddrPort
	for at, e := range all {
		if keep(e) {
			out = append(out, at)
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out
}
