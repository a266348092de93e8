package nodeproxy

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
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
