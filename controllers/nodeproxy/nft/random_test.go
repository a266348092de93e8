package nft

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// arbitrary is a Service as nobody would write it, but the API server would take.
func arbitrary(r *rand.Rand) *Service {
	s := &Service{Frontends: make(map[Frontend]Backends)}
	pool := func() []netip.AddrPort {
		n := []int{0, 1, 2, 3, 5, 9, 40}[r.IntN(7)]
		ids := r.Perm(60)[:n]
		return endpoints(ids...)
	}
	for range r.IntN(4) {
		// Few addresses, so that Services claim each other's.
		f := Frontend{Addr: netip.AddrFrom4([4]byte{10, 96, 0, byte(r.IntN(6))}), Protocol: []Protocol{TCP, UDP, SCTP}[r.IntN(3)], Port: uint16(80 + r.IntN(3))}
		b := Backends{Policy: Policy(r.IntN(6)), Cluster: pool(), ServicePort: uint16(r.IntN(2))}
		if b.Policy == InternalLocal || b.Policy == ExternalLocal {
			b.Local = b.Cluster[:r.IntN(len(b.Cluster)+1)]
		}
		if r.IntN(3) == 0 && b.Policy != Direct {
			b.Affinity = uint32(1 + r.IntN(2)*10800)
		}
		for range r.IntN(3) * r.IntN(3) {
			a := netip.AddrFrom4([4]byte{byte(r.IntN(3)), byte(r.IntN(2)), 0, byte(r.IntN(256))})
			b.Sources = append(b.Sources, netip.PrefixFrom(a, r.IntN(33)))
		}
		s.Frontends[f] = b
		s.ClusterIPs = append(s.ClusterIPs, f.Addr)
	}
	slices.SortFunc(s.ClusterIPs, netip.Addr.Compare)
	s.ClusterIPs = slices.Compact(s.ClusterIPs)
	for _, id := range r.Perm(8)[:r.IntN(4)] {
		s.LocalEndpoints = append(s.LocalEndpoints, endpoints(id)[0].Addr())
	}
	return s
}

// TestArbitrary changes arbitrary Services in arbitrary ways. The kernel must
// refuse nothing, and in the end, after sweeps and a restart, what it has must be
// what a table has that was never anything else.
func TestArbitrary(t *testing.T) {
	modes(t, func(t *testing.T, owned bool) {
		for seed := range uint64(6) {
			r := rand.New(rand.NewPCG(seed, 7))
			host := newHost(t)
			table := open(t, host, owned)
			wanted := make(map[string]*Service)
			mustLoad(t, table, wanted)
			for step := range 120 {
				changes := make(map[string]*Service)
				for range 1 + r.IntN(5) {
					name := fmt.Sprintf("ns/s%d", r.IntN(12))
					changes[name] = arbitrary(r)
					if r.IntN(4) == 0 {
						changes[name] = nil
					}
				}
				if r.IntN(10) == 0 {
					// One that the kernel cannot take leaves no trace.
					changes["ns/bad"] = &Service{Frontends: map[Frontend]Backends{{Addr: netip.MustParseAddr("fd00::1"), Protocol: TCP, Port: 1}: {}}}
					rejected, err := table.Apply(changes)
					expectOnly(t, rejected, err, "ns/bad")
					delete(changes, "ns/bad")
				} else {
					mustApply(t, table, changes)
				}
				maps.Copy(wanted, changes)
				maps.DeleteFunc(wanted, func(_ string, s *Service) bool { return s == nil })
				if step%25 == 24 {
					if err := table.Sweep(); err != nil {
						t.Fatal(err)
					}
				}
				if step%40 == 39 {
					table = reopen(t, host, table, owned)
					mustLoad(t, table, wanted)
					if table.Unfit() != nil {
						t.Fatalf("step %d: replaced: %v", step, table.Unfit())
					}
				}
				if err := table.Verify(); err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
			}
			if text, err := nft(t, host, "-j", "list", "ruleset"); err != nil {
				t.Fatalf("nft cannot list it: %v\n%s", err, text)
			}
			compareWithFresh(t, host, table, wanted, owned)
			for name := range wanted {
				wanted[name] = nil
			}
			mustApply(t, table, wanted)
			if err := table.Sweep(); err != nil {
				t.Fatal(err)
			}
			if s := table.Stats(); s.Chains != 0 {
				t.Errorf("%d chains are left", s.Chains)
			}
			if rest := elementsOf(t, host); strings.Contains(strings.ReplaceAll(rest, "elements = { 10.244.0.0/16 }", ""), "elements") {
				t.Errorf("elements are left:\n%s", rest)
			}
		}
	})
}

// compareWithFresh loads the same Services elsewhere and compares what does not
// depend on the way there: who has a frontend may, where two claim it.
func compareWithFresh(t *testing.T, host interface{ Name() string }, table *Table, wanted map[string]*Service, owned bool) {
	t.Helper()
	resolved := make(map[string]*Service)
	for name, s := range wanted {
		clone := *s
		clone.Frontends = maps.Clone(s.Frontends)
		for f := range s.Frontends {
			if table.known.frontends[f].owner != name {
				delete(clone.Frontends, f)
			}
		}
		resolved[name] = &clone
	}
	fresh := open(t, newHost(t), owned)
	mustLoad(t, fresh, resolved)
	for f, want := range fresh.known.frontends {
		got := table.known.frontends[f]
		if got.owner != want.owner || !slices.Equal(got.sources, want.sources) || !sameEndpoints(got.cluster, want.cluster) || !sameEndpoints(got.local, want.local) {
			t.Errorf("%s: %v is %+v, fresh %+v", host.Name(), f, got, want)
		}
	}
	if got, want := len(table.known.frontends), len(fresh.known.frontends); got != want {
		t.Errorf("%d frontends, %d in a fresh table", got, want)
	}
	if !maps.Equal(table.known.members, fresh.known.members) {
		t.Errorf("members %v, fresh %v", table.known.members, fresh.known.members)
	}
}

func sameEndpoints(a, b pool) bool {
	distinct := func(p pool) []netip.AddrPort {
		var out []netip.AddrPort
		for _, e := range p.slots[:p.draws()] {
			if e.IsValid() {
				out = append(out, e)
			}
		}
		slices.SortFunc(out, netip.AddrPort.Compare)
		return slices.Compact(out)
	}
	return slices.Equal(distinct(a), distinct(b))
}

// TestStickyInvariants walks a pool with affinity through random changes: a slot
// that was given to a client means the same endpoint as long as there is such.
func TestStickyInvariants(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	var p pool
	var want []netip.AddrPort
	given := make(map[int]netip.AddrPort)
	for step := range 20000 {
		if step%100 < 50 || len(want) == 0 {
			want = append(want, endpoints(step)...)
		} else {
			want = slices.Delete(slices.Clone(want), 0, 1+random.IntN(min(3, len(want))))
		}
		random.Shuffle(len(want), func(i, j int) { want[i], want[j] = want[j], want[i] })
		p = p.update(want, true)
		for slot, e := range given {
			if !slices.Contains(want, e) {
				delete(given, slot)
			} else if p.slots.at(slot) != e {
				t.Fatalf("step %d: slot %d was %v's and is %v's", step, slot, e, p.slots.at(slot))
			}
		}
		n := p.draws()
		holes := 0
		for slot, e := range p.slots[:n] {
			if e.IsValid() {
				given[slot] = e
			} else {
				holes++
			}
		}
		switch {
		case len(want) > 0 && !slices.Contains(want, p.spare()):
			t.Fatalf("step %d: the last resort is %v", step, p.spare())
		case n != poolSize(n):
			t.Fatalf("step %d: %d slots, for which there is no class", step, n)
		case holes > n/4:
			t.Fatalf("step %d: %d of %d slots are holes", step, holes, n)
		case !sameEndpoints(p, pool{slots: want}):
			t.Fatalf("step %d: slots hold %v, want %v", step, p.slots, want)
		case len(p.slots) > 8*poolSize(max(len(want), 60)):
			t.Fatalf("step %d: %d slots for %d endpoints", step, len(p.slots), len(want))
		}
	}
}
