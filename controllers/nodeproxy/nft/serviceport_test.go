package nft

import (
	"net/netip"
	"slices"
	"testing"
)

// TestServicePorts: all frontends of a Service port have the same number and the
// same slots, whatever came and went, and keep the number over a restart; others
// have other numbers.
func TestServicePorts(t *testing.T) {
	host := newHost(t)
	table := open(t, host, true)
	mustLoad(t, table, nil)
	var addresses []netip.Addr
	for i := range 5 {
		addresses = append(addresses, netip.AddrFrom4([4]byte{10, 96, 9, byte(i)}))
	}
	service := func(count int, pools map[uint16][]netip.AddrPort) *Service {
		s := &Service{ClusterIPs: addresses[4:], Frontends: make(map[Frontend]Backends)}
		for port, pool := range pools {
			for _, a := range append(slices.Clone(addresses[:count]), addresses[4]) {
				s.Frontends[Frontend{a, TCP, port}] = Backends{Policy: ExternalLocal, Cluster: pool, Local: pool[1:], Affinity: 60, ServicePort: port}
			}
		}
		return s
	}
	numbers := make(map[uint16]uint32)
	expect := func(s *Service) {
		t.Helper()
		for f, b := range s.Frontends {
			have := table.known.frontends[f]
			like := table.known.frontends[Frontend{addresses[4], TCP, f.Port}]
			if numbers[b.ServicePort] == 0 {
				numbers[b.ServicePort] = have.port
			}
			if have.port == 0 || have.port != numbers[b.ServicePort] {
				t.Fatalf("%v has the number %d, want %d", f, have.port, numbers[b.ServicePort])
			}
			for _, which := range []poolOf{clusterPool, localPool} {
				a, b := which.has(have), which.has(like)
				if !slices.Equal(a.slots, b.slots) || *a.sticky != *b.sticky {
					t.Fatalf("%v has the slots %v (%v), the ClusterIP %v (%v)", f, a.slots, a.sticky, b.slots, b.sticky)
				}
			}
		}
		if numbers[80] == numbers[81] {
			t.Fatal("two ports have the same number")
		}
	}
	for step, count := range []int{1, 4, 2, 0, 3, 4} {
		for _, size := range []int{3, 40, 7} {
			s := service(count, map[uint16][]netip.AddrPort{80: rangeOf(step, size), 81: rangeOf(step+5, size)})
			if size == 7 {
				table = reopen(t, host, table, true)
				mustLoad(t, table, map[string]*Service{"ns/web": s})
			} else {
				mustApply(t, table, map[string]*Service{"ns/web": s})
			}
			expect(s)
		}
	}
	mustApply(t, table, map[string]*Service{"ns/web": nil})
	if len(table.known.ports)+len(table.known.numbers) != 0 {
		t.Errorf("left: %v, %v", table.known.ports, table.known.numbers)
	}

	// Another has the number already.
	free := table.known.number(servicePort{"ns/web", TCP, 80})
	table.known.numbers[free] = portUse{servicePort{"ns/other", TCP, 80}, 1}
	if n := table.known.number(servicePort{"ns/web", TCP, 80}); n == free || n == 0 || n > maxPort {
		t.Errorf("the number %d was taken, and ns/web got %d", free, n)
	}
}

// rangeOf returns endpoints with these numbers.
func rangeOf(first, n int) []netip.AddrPort {
	var ids []int
	for i := range n {
		ids = append(ids, first+i)
	}
	return endpoints(ids...)
}
