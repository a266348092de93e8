package nodeproxy

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/health"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// TestQuarantine has the kernel refuse a Service: others go on, the node stays
// healthy, and the Service is tried again, ever more seldom.
func TestQuarantine(t *testing.T) {
	w := newWorld(t)
	h := health.New(time.Minute, "IPv4")
	h.SetEligible(true)
	recorder, told := newRecorder(t)
	must(t, w.hosts["node"].Do(func() (err error) {
		w.proxy, err = New(Config{NodeName: "node", Events: recorder}, h)
		return err
	}))
	defer w.proxy.Close()
	plane := w.proxy.planes[0]
	web := func(addresses ...string) *forwarding {
		s := &nft.Service{Frontends: make(map[nft.Frontend]nft.Backends)}
		for _, a := range addresses {
			s.Frontends[nft.Frontend{Addr: netip.MustParseAddr(a), Protocol: nft.TCP, Port: 80}] = nft.Backends{
				Cluster: []netip.AddrPort{netip.AddrPortFrom(addr("a", 0), podPort)},
			}
		}
		return &forwarding{service: s}
	}
	now := time.Now()
	step := func(after time.Duration, quarantined int, tried bool) {
		t.Helper()
		before := plane.quarantine["ns/bad"].until
		now = now.Add(after)
		must(t, w.proxy.program(t.Context(), now))
		if got := len(w.proxy.Refused()); got != quarantined {
			t.Errorf("%d Services in quarantine, want %d", got, quarantined)
		}
		if got := plane.quarantine["ns/bad"].until != before; got != tried {
			t.Errorf("after %v: tried again %v, want %v", after, got, tried)
		}
		if code := get(h, "/healthz").Code; code != 200 {
			t.Errorf("/healthz says %d", code)
		}
	}
	answered := func() {
		t.Helper()
		if got := w.ask(t, "client", "tcp", clusterIP.at(0), patience); got.pod != "a" {
			t.Errorf("the other Service is answered by %v", got)
		}
	}
	// An IPv6 address does not fit into the IPv4 table.
	plane.want("ns/bad", web("192.0.2.1", "fd00::1"))
	plane.want("ns/good", web("10.96.0.10"))
	step(0, 1, true)
	answered()
	step(29*time.Second, 1, false)
	step(time.Second, 1, true)
	step(59*time.Second, 1, false)
	step(time.Second, 1, true)
	plane.want("ns/bad", web("192.0.2.1", "fd00::2"))
	step(time.Second, 1, true)
	if refused := w.proxy.Refused(); len(refused) != 1 || refused[0].Service != "ns/bad" || refused[0].Family != "IPv4" || refused[0].Reason == "" {
		t.Errorf("who is in quarantine, and why: %+v", refused)
	}
	if got := w.value(t, `fairway_nodeproxy_quarantined_services{ip_family="IPv4"}`); got != 1 {
		t.Errorf("%v Services in quarantine are counted", got)
	}
	until(t, "the Service's users are told, once", func() bool { return slices.Equal(told.all(), []string{"ProgrammingFailed Service/bad"}) })
	plane.want("ns/bad", web("192.0.2.1"))
	step(time.Second, 0, true)
	answered()
	if got := w.value(t, `fairway_nodeproxy_quarantined_services{ip_family="IPv4"}`); got != 0 {
		t.Errorf("%v Services in quarantine are counted after it", got)
	}
	must(t, plane.table.Verify())
}
