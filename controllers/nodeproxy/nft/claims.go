package nft

import (
	"maps"
	"net/netip"
	"slices"
)

// Two Services may want the same frontend: both a load balancer's address, or one
// of them, as an external IP, the ClusterIP of the other. The Service whose
// ClusterIP it is gets it, if that is where ClusterIPs come from; else who has it
// keeps it, also over a restart, and the other one waits.

// rival returns who has the better claim on a frontend than the Service that
// wants it, "" if nobody has.
func (tx *transaction) rival(name string, s *Service, f Frontend) string {
	own := tx.hasClusterIP(s, f.Addr)
	if have, taken := tx.state.frontends[f]; taken && have.owner != name {
		holder := tx.next(have.owner)
		holds := !have.found || holder.wants(f) // the one that was found to have it may not want it any more
		if holds && (!own || tx.hasClusterIP(holder, f.Addr)) {
			return have.owner
		}
	}
	if own {
		return ""
	}
	if other := tx.state.incumbents[f]; other != name && tx.next(other).wants(f) {
		return other
	}
	for _, other := range slices.Concat(tx.claims[f.Addr], tx.state.waiting[f]) {
		if s := tx.next(other); other != name && s.wants(f) && tx.hasClusterIP(s, f.Addr) {
			return other
		}
	}
	return ""
}

// hasClusterIP tells whether an address is a Service's as its ClusterIP: one from
// the ranges where those come from, if they are known. nil has none.
func (tx *transaction) hasClusterIP(s *Service, a netip.Addr) bool {
	ranges := tx.state.ranges[setServiceCIDRs]
	return s != nil && slices.Contains(s.ClusterIPs, a) &&
		(len(ranges) == 0 || slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) }))
}

// next returns what a Service wants from this transaction on, nil for nothing.
func (tx *transaction) next(name string) *Service {
	if s, changes := tx.wanted[name]; changes {
		return s
	}
	return tx.state.services[name]
}

// claimed returns, of the named Services, those that have a ClusterIP that is also
// an address of another kind.
func claimed(names []string, wanted map[string]*Service) map[netip.Addr][]string {
	foreign := make(map[netip.Addr]bool)
	for _, name := range names {
		if s := wanted[name]; s != nil {
			for f := range s.Frontends {
				if !slices.Contains(s.ClusterIPs, f.Addr) {
					foreign[f.Addr] = true
				}
			}
		}
	}
	out := make(map[netip.Addr][]string)
	for _, name := range names {
		if s := wanted[name]; s != nil {
			for _, a := range s.ClusterIPs {
				if foreign[a] {
					out[a] = append(out[a], name)
				}
			}
		}
	}
	return out
}

// contested returns who has the frontends that others wait for.
func (s *state) contested() map[Frontend]string {
	out := maps.Clone(s.incumbents)
	for f := range s.waiting {
		if have, taken := s.frontends[f]; taken {
			if out == nil {
				out = make(map[Frontend]string)
			}
			out[f] = have.owner
		}
	}
	return out
}
