package datapath

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// addrRange is the IPv4 addresses from first to last, both included.
type addrRange struct{ first, last uint32 }

var everyone = addrRange{0, 1<<32 - 1}

// merge turns prefixes into the fewest ranges that hold the same addresses,
// sorted: the kernel's interval sets refuse what overlaps. IPv6 prefixes are left
// out, since no IPv4 packet can match them.
func merge(prefixes []netip.Prefix) []addrRange {
	var ranges []addrRange
	for _, p := range prefixes {
		if !p.IsValid() || !p.Addr().Is4() {
			continue
		}
		first := number(p.Masked().Addr())
		ranges = append(ranges, addrRange{first, first | uint32(uint64(1)<<(32-p.Bits())-1)})
	}
	slices.SortFunc(ranges, func(a, b addrRange) int {
		return int(int64(a.first) - int64(b.first))
	})
	var merged []addrRange
	for _, r := range ranges {
		if n := len(merged); n > 0 && uint64(r.first) <= uint64(merged[n-1].last)+1 {
			merged[n-1].last = max(merged[n-1].last, r.last)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// common returns the addresses that are in both lists, each sorted and without
// overlaps, as a list of the same kind.
func common(a, b []addrRange) []addrRange {
	var both []addrRange
	for len(a) > 0 && len(b) > 0 {
		first, last := max(a[0].first, b[0].first), min(a[0].last, b[0].last)
		if first <= last {
			both = append(both, addrRange{first, last})
		}
		if a[0].last < b[0].last {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return both
}

// number is the value of an IPv4 address.
func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}
