package nft

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
)

// ranged returns the chain that lets only a frontend's sources through to
// another chain. Sources of all frontends are in one set.
func (r rules) ranged(inner chainSpec) chainSpec {
	s := chainSpec{name: "ranged-" + inner.name}
	if inner.rules != nil { // else it is always there
		s.needs = []chainSpec{inner}
	}
	for range 2 { // once more: a lookup may miss an element that is being replaced
		s.rules = append(s.rules, r.join(r.loadFrontend(), []expr.Any{
			r.loadAddr(offSrc, r.after(2)),
			&expr.Lookup{SourceRegister: reg1, SetName: setSources},
		}, r.goTo(inner.name)))
	}
	s.rules = append(s.rules, r.drop())
	return s
}

// appendSources returns the first and the last key of the interval that takes
// the sources in the prefix.
func appendSources(f Frontend, p netip.Prefix) (first, last []byte) {
	return appendAddr(appendFrontend(nil, f), p.Masked().Addr()), appendAddr(appendFrontend(nil, f), lastAddr(p))
}

// disjoint returns the prefixes sorted, masked, and without those that others
// contain.
func disjoint(prefixes []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range prefixes {
		out = append(out, p.Masked())
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var covered netip.Prefix
	return slices.DeleteFunc(out, func(p netip.Prefix) bool {
		if covered.IsValid() && covered.Contains(p.Addr()) {
			return true
		}
		covered = p
		return false
	})
}

// bound is one end of an interval; end marks the first address after it.
type bound struct {
	addr netip.Addr
	end  bool
}

// bounds returns both ends of a prefix as an interval set wants them. One that
// reaches to the last address there is has no end.
func bounds(p netip.Prefix) []bound {
	out := []bound{{addr: p.Masked().Addr()}}
	if next := lastAddr(p).Next(); next.IsValid() {
		out = append(out, bound{addr: next, end: true})
	}
	return out
}

// intervals returns the bounds of the prefixes, ascending, without overlaps.
func intervals(prefixes []netip.Prefix) []bound {
	var out []bound
	for _, p := range disjoint(prefixes) {
		out = append(out, bounds(p)...)
	}
	return out
}

func lastAddr(p netip.Prefix) netip.Addr {
	raw := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(raw)
	return last
}
