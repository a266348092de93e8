package nft

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// TestWhoHasAFrontend lets Services claim each other's addresses, in names'
// orders both ways: who has a frontend keeps it over a restart, a loss of the
// table and another layout, and a ClusterIP is its Service's, whoever came first.
func TestWhoHasAFrontend(t *testing.T) {
	modes(t, func(t *testing.T, owned bool) {
		shared := netip.MustParseAddr("203.0.113.7")
		at := func(a netip.Addr) Frontend { return Frontend{Addr: a, Protocol: TCP, Port: 80} }
		claiming := func(s *Service, a netip.Addr) *Service {
			frontends := maps.Clone(s.Frontends)
			for _, b := range s.Frontends {
				b.Policy = External
				frontends[at(a)] = b
			}
			return &Service{Frontends: frontends, ClusterIPs: s.ClusterIPs}
		}
		for _, first := range []string{"ns/a", "ns/z"} {
			second := map[string]string{"ns/a": "ns/z", "ns/z": "ns/a"}[first]
			t.Run("first "+first, func(t *testing.T) {
				host := newHost(t)
				table := open(t, host, owned)
				victim := ofSize(3, 2) // ns/m has the ClusterIP that both claim as well
				services := map[string]*Service{first: claiming(ofSize(1, 1), shared)}
				mustLoad(t, table, services)
				services[second] = claiming(claiming(ofSize(2, 2), shared), victim.ClusterIPs[0])
				mustApply(t, table, map[string]*Service{second: services[second]})
				if got := table.known.frontends[at(victim.ClusterIPs[0])].owner; got != second {
					t.Fatalf("an address that nobody else wants is %q's", got)
				}
				services["ns/m"] = victim
				mustApply(t, table, map[string]*Service{"ns/m": victim})
				expect := func(when string) {
					t.Helper()
					for a, want := range map[netip.Addr]string{shared: first, victim.ClusterIPs[0]: "ns/m"} {
						if got := table.known.frontends[at(a)].owner; got != want {
							t.Errorf("%s: %v is %q's, want %q", when, a, got, want)
						}
						if got := ownerInKernel(t, host, at(a)); got != want {
							t.Errorf("%s: the kernel has %v as %q's, want %q", when, a, got, want)
						}
					}
					waits := []Frontend{at(victim.ClusterIPs[0]), at(shared)}
					slices.SortFunc(waits, Frontend.compare)
					if got := table.Waiting(second); !slices.Equal(got, waits) {
						t.Errorf("%s: %s waits for %v, want %v", when, second, got, waits)
					}
				}
				expect("as they came")
				table = reopen(t, host, table, owned)
				mustLoad(t, table, services)
				expect("after a restart")
				if err := table.remove(TableName); err != nil {
					t.Fatal(err)
				}
				mustLoad(t, table, services)
				expect("after the table was lost")
				table.layout.version++
				mustLoad(t, table, services)
				if table.Unfit() == nil {
					t.Error("the other layout was taken over")
				}
				expect("in another layout")

				mustApply(t, table, map[string]*Service{"ns/m": nil, first: nil})
				for _, a := range []netip.Addr{shared, victim.ClusterIPs[0]} {
					if got := ownerInKernel(t, host, at(a)); got != second {
						t.Errorf("the others are gone, but %v is %q's", a, got)
					}
				}
			})
			t.Run("at once, other is "+second, func(t *testing.T) {
				victim := ofSize(3, 2)
				host := newHost(t)
				table := open(t, host, owned)
				mustLoad(t, table, map[string]*Service{second: claiming(ofSize(2, 2), victim.ClusterIPs[0]), "ns/m": victim})
				if got := ownerInKernel(t, host, at(victim.ClusterIPs[0])); got != "ns/m" {
					t.Errorf("the ClusterIP of ns/m is %q's", got)
				}
			})
		}
	})
}

// ownerInKernel returns the comment of a frontend.
func ownerInKernel(t *testing.T, host *sandbox.NetNS, f Frontend) (owner string) {
	t.Helper()
	err := host.Do(func() error {
		i, err := Inspect(f, netip.Addr{})
		owner = i.Service
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return owner
}
