package nft

import "net/netip"

// slots is a pool of endpoints as the kernel has it: an endpoint per slot, the
// zero value marking a hole. A packet draws a random slot number below the
// length, and draws again when it hits a hole, so that an endpoint that comes
// or goes changes one slot and no rule.
//
// The length is one of a few sizes (see poolSize), as each needs a chain. At
// most a quarter of the slots are holes and slot 0, the last resort after
// several bad draws, never is one.
type slots []netip.AddrPort

// update returns the pool for the wanted endpoints (distinct, in any order) with
// as few slots changed as the rules above allow. s stays as it is.
func (s slots) update(want []netip.AddrPort) slots {
	size := len(s)
	if holes := size - len(want); holes < 0 || holes > size/4 {
		size = poolSize(len(want))
	}
	next := make(slots, size)
	missing := make(map[netip.AddrPort]bool, len(want))
	for _, e := range want {
		missing[e] = true
	}
	for i, e := range s {
		if i < size && missing[e] {
			next[i] = e
			delete(missing, e)
		}
	}
	free := 0
	for _, e := range want {
		if !missing[e] {
			continue
		}
		for next[free].IsValid() {
			free++
		}
		next[free] = e
	}
	if size > 0 && !next[0].IsValid() {
		last := size - 1
		for !next[last].IsValid() {
			last--
		}
		next[0], next[last] = next[last], netip.AddrPort{}
	}
	return next
}

// poolSize returns the number of slots for n endpoints: the least of 0, 1, 2, 3
// and {4, 5, 6, 8} times a power of two that is no less than n.
func poolSize(n int) int {
	if n <= 3 {
		return n
	}
	for scale := 1; ; scale *= 2 {
		for _, size := range [...]int{4, 5, 6, 8} {
			if size*scale >= n {
				return size * scale
			}
		}
	}
}
