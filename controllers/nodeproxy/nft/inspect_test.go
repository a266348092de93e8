package nft

import (
	"net/netip"
	"slices"
	"testing"
)

// TestInspect reads back what was written, without the table that wrote it.
func TestInspect(t *testing.T) {
	host := newHost(t)
	table := open(t, host, true)
	inspect := func(f Frontend) (i Inspection) {
		t.Helper()
		err := host.Do(func() (err error) { i, err = Inspect(f, netip.Addr{}); return err })
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	web := ofSize(1, 5)
	f := Frontend{Addr: web.ClusterIPs[0], Protocol: TCP, Port: 80}
	if got := inspect(f); got.Table != "" {
		t.Errorf("before anything is written: %+v", got)
	}
	at := func(port uint16) Frontend { g := f; g.Port = port; return g }
	source := netip.MustParsePrefix("192.0.2.0/24")
	web.Frontends[at(81)] = Backends{Policy: ExternalLocal, Cluster: endpoints(1, 2), Local: endpoints(2), Sources: []netip.Prefix{source}}
	web.Frontends[at(82)] = Backends{Policy: InternalLocal, Cluster: endpoints(1)}
	web.Frontends[at(83)] = Backends{}
	web.Frontends[at(84)] = Backends{Cluster: endpoints(1, 2), Affinity: 60}
	web.LocalEndpoints = []netip.Addr{endpoints(2)[0].Addr()}
	mustLoad(t, table, map[string]*Service{"ns/web": web})

	got := inspect(f)
	if got.Service != "ns/web" || got.Policy != Internal || got.Refused || len(got.Slots) != 5 || !got.ClusterIP || got.Owned != table.Owned() {
		t.Errorf("five endpoints: %+v", got)
	}
	for _, s := range got.Slots {
		if !slices.Contains(web.Frontends[f].Cluster, s.Endpoint) || s.OnNode {
			t.Errorf("slot %+v", s)
		}
	}
	got = inspect(at(81))
	if got.Policy != ExternalLocal || !got.Ranged || !slices.Equal(got.Sources, []netip.Prefix{source}) || len(got.Slots) != 3 {
		t.Errorf("externalTrafficPolicy Local with sources: %+v", got)
	}
	local := slices.IndexFunc(got.Slots, func(s Slot) bool { return s.Local })
	if local < 0 || got.Slots[local].Endpoint != endpoints(2)[0] || !got.Slots[local].OnNode {
		t.Errorf("its local pool: %+v", got.Slots)
	}
	if got = inspect(at(82)); got.Target != "drop" || got.Refused {
		t.Errorf("internalTrafficPolicy Local without: %+v", got)
	}
	if got = inspect(at(83)); !got.Refused {
		t.Errorf("no endpoints: %+v", got)
	}
	if got = inspect(at(84)); got.Affinity != 60 || len(got.Slots) != 3 || !got.Slots[2].Spare || !got.Slots[2].Endpoint.IsValid() {
		t.Errorf("session affinity: %+v", got)
	}
	if got = inspect(at(99)); got.Target != "" || len(got.Neighbours) != 5 || got.Neighbours[f] != "ns/web" || !got.ClusterIP {
		t.Errorf("a wrong port: %+v", got)
	}
	if err := table.Verify(); err != nil {
		t.Errorf("looking changed the table: %v", err)
	}
}
