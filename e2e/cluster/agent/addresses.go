package agent

import (
	"fmt"
	"net/netip"
	"sync"
)

// addresses hands out a node's Pod range. It goes round, so that the address of
// a Pod that just went is not at once another one's.
type addresses struct {
	podRange netip.Prefix

	mu   sync.Mutex
	last netip.Addr
	used map[netip.Addr]bool
}

func newAddresses(podRange netip.Prefix) (*addresses, error) {
	if podRange.Addr().BitLen()-podRange.Bits() < 2 {
		return nil, fmt.Errorf("range %v is too small for a node and a Pod", podRange)
	}
	a := &addresses{podRange: podRange.Masked(), used: map[netip.Addr]bool{}}
	a.last = a.gateway()
	return a, nil
}

// gateway is the node's own address in the range, the first one. Pods send all
// their packets there.
func (a *addresses) gateway() netip.Addr { return a.podRange.Addr().Next() }

func (a *addresses) take() (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	address := a.last
	// One more candidate than there are used ones: if the range has a free
	// address, it is among them.
	for range len(a.used) + 1 {
		// The last address of an IPv4 range is the broadcast address.
		if address = address.Next(); !a.podRange.Contains(address.Next()) {
			address = a.gateway().Next()
		}
		if !a.used[address] {
			a.used[address], a.last = true, address
			return address, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no free address in Pod range %v", a.podRange)
}

func (a *addresses) giveBack(address netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.used, address)
}
