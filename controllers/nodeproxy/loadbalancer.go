package nodeproxy

import (
	"net/netip"
	"slices"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// sourcesOf returns who may use the load balancer's addresses, none for all. A
// node that may also may from those addresses themselves: where they are the
// node's too, it chooses them as its source.
func (s service) sourcesOf(v view) []netip.Prefix {
	var out []netip.Prefix
	fromNode := false
	for _, p := range s.sources {
		if !v.has(p.Addr()) {
			continue
		}
		if p.Bits() == 0 {
			return nil
		}
		out = append(out, p)
		for _, a := range v.own(v.nodeAddresses)[:min(1, len(v.own(v.nodeAddresses)))] {
			fromNode = fromNode || p.Contains(a)
		}
	}
	if fromNode {
		for _, a := range v.own(s.loadBalancerIPs) {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out
}

// healthAddresses returns where among the addresses of the family this node tells
// load balancers its health.
func (v view) healthAddresses() []netip.Addr {
	switch a := v.healthAddress; {
	case !a.IsValid() || a.IsUnspecified():
		return v.own(v.nodeAddresses)
	case a.IsLoopback():
		return nil
	default:
		return v.own([]netip.Addr{a})
	}
}

// answerProbes has the node answer what load balancers ask at the address they
// balance: where that is not the node's, the packet filter alone can. Nothing
// else is answered there. Where one of the addresses is this node's, they are
// those of nodes, and each answers at its own; others' cannot be told from any
// address else, as a node knows no Node but its own.
func answerProbes(s service, v view, frontends map[nft.Frontend]nft.Backends) {
	if slices.ContainsFunc(s.loadBalancerIPs, func(a netip.Addr) bool { return slices.Contains(v.named, a) }) {
		return
	}
	answer := func(port uint16, by []netip.Addr) {
		if port == 0 || len(by) == 0 {
			return
		}
		for _, a := range v.own(s.loadBalancerIPs) {
			f := nft.Frontend{Addr: a, Protocol: nft.TCP, Port: port}
			if _, taken := frontends[f]; !taken {
				frontends[f] = nft.Backends{Policy: nft.Direct, Cluster: []netip.AddrPort{netip.AddrPortFrom(by[0], port)}}
			}
		}
	}
	answer(v.healthPort, v.healthAddresses())
	answer(s.healthCheckPort, v.own(v.nodePortAddresses)) // that is where it listens
}
