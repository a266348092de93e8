package nodeproxy

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// TestFlowsToFrontend has the kernel find one frontend's flows among many others,
// delete one of them, and find several frontends'.
func TestFlowsToFrontend(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web"))...)
	for family, inet := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		t.Run(families[family], func(t *testing.T) {
			sources := w.sources(t, family, 20)
			for i, s := range sources {
				for _, to := range []target{clusterIP, vip, atNode} {
					if to == vip && i >= 7 {
						continue
					}
					if got := w.askAs(t, "client", s, "udp", to.at(family), patience); got.pod != "a" {
						t.Fatal(got)
					}
				}
				w.askAs(t, "client", s, "tcp", vip.at(family), patience)
			}
			var f *flows
			must(t, w.hosts["node"].Do(func() (err error) { f, err = newFlows(); return err }))
			defer f.close()
			to := frontendOf(vip.at(family))
			all, err := f.stale(inet, staleFlows{to: nil})
			must(t, err)
			if len(all) != 7 {
				t.Fatalf("%d flows, want 7: %+v", len(all), all)
			}
			for _, flow := range all {
				if want := netip.AddrPortFrom(addr("a", family), podPort); flow.answer != want || flow.to != to {
					t.Errorf("%+v, want to %v, answered by %v", flow, to, want)
				}
			}
			for range 2 { // the second time it is gone
				must(t, f.forget(inet, all[3]))
			}
			if all, err = f.stale(inet, staleFlows{to: nil}); err != nil || len(all) != 6 {
				t.Errorf("%d flows are left (%v), want 6", len(all), err)
			}
			if all, err = f.stale(inet, staleFlows{frontendOf(clusterIP.at(family)): nil}); err != nil || len(all) != 20 {
				t.Errorf("%d flows to another frontend (%v), want 20", len(all), err)
			}
			// Frontends that have little in common are asked for at once.
			several := staleFlows{to: nil, frontendOf(clusterIP.at(family)): nil, frontendOf(atNode.at(family)): {netip.AddrPortFrom(addr("a", family), podPort)}}
			if all, err = f.stale(inet, several); err != nil || len(all) != 26 {
				t.Errorf("%d flows to several frontends (%v), want 6 and 20, and none of those that may stay", len(all), err)
			}
		})
	}
}

func frontendOf(at netip.AddrPort) nft.Frontend {
	return nft.Frontend{Addr: at.Addr(), Protocol: nft.UDP, Port: at.Port()}
}

// TestTriedBeforeTheFirstLoad has connections tried before anything is programmed:
// they are tracked untranslated, and would stay so for two minutes.
func TestTriedBeforeTheFirstLoad(t *testing.T) {
	requireTool(t)
	for family, familyName := range families {
		t.Run(familyName, func(t *testing.T) {
			w := newWorld(t)
			inet := []netlink.InetFamily{unix.AF_INET, unix.AF_INET6}[family]
			to := frontendOf(clusterIP.at(family))
			to.Protocol = nft.TCP
			// Nothing is tracked before some rule asks for it, as network plugins' do.
			w.nft(t, "add table inet other; add chain inet other c { type filter hook prerouting priority 0; }; add rule inet other c ct state new accept")
			// What nobody translates goes to the fabric, which has no answer.
			own := addr("cluster", family)
			must(t, w.hosts["fabric"].Netlink().RouteReplace(&netlink.Route{Type: unix.RTN_BLACKHOLE,
				Dst: &net.IPNet{IP: own.AsSlice(), Mask: net.CIDRMask(own.BitLen(), own.BitLen())}}))
			answered := make(chan answer, 1)
			go func() { answered <- w.ask(t, "a", "tcp", clusterIP.at(family), sandbox.Patience(20*time.Second)) }()
			var f *flows
			must(t, w.hosts["node"].Do(func() (err error) { f, err = newFlows(); return err }))
			defer f.close()
			until(t, "the attempt is tracked", func() bool {
				all, err := f.stale(inet, staleFlows{to: nil})
				must(t, err)
				return len(all) == 1
			})
			w.startWith(t, append(newTestSlices("web", pod("b")), newTestService("web"))...)
			if got := <-answered; got.pod != "b" {
				t.Errorf("a connection tried before: %v", got)
			}
		})
	}
}

// TestStaleFlows decides about flows of every kind.
func TestStaleFlows(t *testing.T) {
	frontend := func(p nft.Protocol) nft.Frontend {
		return nft.Frontend{Addr: addr("cluster", 0), Protocol: p, Port: 80}
	}
	endpoint, gone := netip.AddrPortFrom(addr("a", 0), podPort), netip.AddrPortFrom(addr("b", 0), podPort)
	untranslated := clusterIP.at(0)
	web := forwarding{service: &nft.Service{Frontends: map[nft.Frontend]nft.Backends{
		frontend(nft.TCP): {Cluster: []netip.AddrPort{endpoint}}, frontend(nft.UDP): {Cluster: []netip.AddrPort{endpoint}},
	}}}
	for _, c := range []struct {
		name    string
		flow    tracked
		fresh   bool // stale when there was no table
		damaged bool // stale when it was damaged
	}{
		{"untranslated attempt", tracked{to: frontend(nft.TCP), answer: untranslated}, true, true},
		{"attempt that reaches an endpoint", tracked{to: frontend(nft.TCP), answer: endpoint}, false, true},
		{"attempt that reaches what is gone", tracked{to: frontend(nft.TCP), answer: gone}, true, true},
		{"connection", tracked{to: frontend(nft.TCP), answer: endpoint, replied: true}, false, false},
		{"connection to what is gone", tracked{to: frontend(nft.TCP), answer: gone, replied: true}, false, false},
		{"UDP, of which others decide", tracked{to: frontend(nft.UDP), answer: untranslated}, false, false},
		{"no frontend", tracked{to: frontend(nft.SCTP), answer: untranslated}, false, false},
	} {
		for damaged, want := range map[bool]bool{false: c.fresh, true: c.damaged} {
			s := make(staleFlows)
			s.addAttempts(web, damaged)
			if got := s.has(c.flow); got != want {
				t.Errorf("%s, damaged=%v: stale %v, want %v", c.name, damaged, got, want)
			}
		}
	}
}
