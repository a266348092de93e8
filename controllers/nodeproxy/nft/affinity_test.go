package nft

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestAffinityCarriedOver replaces a table that knows clients, at once and through
// a socket that takes little at once.
func TestAffinityCarriedOver(t *testing.T) {
	for _, small := range []bool{false, true} {
		t.Run(fmt.Sprintf("small=%v", small), func(t *testing.T) {
			host := newHost(t)
			table := open(t, host, true)
			services := many(2000, 3)
			var known []client
			for i, name := range slices.Sorted(maps.Keys(services)) {
				for f, b := range services[name].Frontends {
					b.Affinity = 1000
					services[name].Frontends[f] = b
					known = append(known, client{
						source: netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), frontends: []Frontend{f}, endpoint: b.Cluster[i%3],
						timeout: 1000 * time.Second, expires: 900 * time.Second,
					})
				}
			}
			mustLoad(t, table, services)
			if err := table.writer().remind(table.known.memories(known)); err != nil {
				t.Fatal(err)
			}
			// Endpoints come and go meanwhile, and another layout has other slots.
			for i, name := range slices.Sorted(maps.Keys(services)) {
				services[name] = with(services[name], append(endpoints(60000+i), services[name].clusterOf()[1:]...))
			}
			table = reopen(t, host, table, true)
			table.layout.version++
			if small {
				table.kernel.(*socket).sendBuf = 1 << 30 // as if it had grown already: it stays at the default
			}
			got := make(map[netip.Addr]netip.AddrPort)
			for _, c := range replaced(t, table, services) {
				got[c.source] = c.endpoint
				if c.timeout != 1000*time.Second || c.expires > 900*time.Second || c.expires < 700*time.Second {
					t.Errorf("%v is remembered for %v of %v", c.source, c.expires, c.timeout)
				}
			}
			for i, c := range known {
				if at, ok := got[c.source]; ok != (i%3 > 0) || ok && at != c.endpoint {
					t.Fatalf("%v was at %v and is at %v (%v)", c.source, c.endpoint, at, ok)
				}
			}
		})
	}
}

// replaced loads a table in place of one of another layout, and returns the
// clients it then knows.
func replaced(t *testing.T, table *Table, services map[string]*Service) []client {
	t.Helper()
	mustLoad(t, table, services)
	if table.Unfit() == nil {
		t.Fatal("it was taken over")
	}
	found, err := table.survey()
	if err != nil {
		t.Fatal(err)
	}
	return table.clients(found)
}

// learning lets a table learn of a client in the moment in which another one
// begins to carry traffic beside it.
type learning struct {
	kernel
	learn func()
}

func (k *learning) commit(b *batch) error {
	err := k.kernel.commit(b)
	if b.table == bridgeName && k.learn != nil {
		learn := k.learn
		k.learn = nil
		learn()
	}
	return err
}

// TestAffinityLearnedMeanwhile replaces a table that goes on learning.
func TestAffinityLearnedMeanwhile(t *testing.T) {
	host := newHost(t)
	table := open(t, host, true)
	services := many(3, 3)
	var f Frontend
	for at, b := range services["ns/s1"].Frontends {
		b.Affinity, f = 1000, at
		services["ns/s1"].Frontends[at] = b
	}
	mustLoad(t, table, services)
	endpoint := services["ns/s1"].clusterOf()[2]
	late := client{source: netip.MustParseAddr("192.0.2.9"), frontends: []Frontend{f}, endpoint: endpoint, timeout: time.Hour, expires: time.Hour}
	table.kernel = &learning{table.kernel, func() {
		if err := table.writer().remind(table.known.memories([]client{late})); err != nil {
			t.Error(err)
		}
	}}
	table.layout.version++
	if got := replaced(t, table, services); len(got) != 1 || got[0].source != late.source || got[0].endpoint != endpoint {
		t.Errorf("the new table knows %+v, want %+v", got, late)
	}
}

// clusterOf returns the endpoints of the only frontend.
func (s *Service) clusterOf() []netip.AddrPort {
	for _, b := range s.Frontends {
		return b.Cluster
	}
	return nil
}
