package nodeproxy

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"
)

// TestAffinityShared: what a client got at one address of a Service holds at the
// others, also when it comes there for the first time after many endpoints came,
// when a new client would get another one, and after a restart.
func TestAffinityShared(t *testing.T) {
	for family, familyName := range families {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(familyName+" "+network, func(t *testing.T) {
				w := newWorld(t)
				w.start(t)
				service := newTestService("web", sticky(10800))
				w.replace(t, append(newTestSlices("web", podsNamed("a", "b", "remote")...), service)...)
				first := w.served(t, w.sources(t, family, 12), vip.at(family), network)
				if distinct(first) < 2 {
					t.Fatalf("all clients went to one endpoint: %v", first)
				}
				same := func(when string, at target) {
					t.Helper()
					for source, pod := range first {
						if got := w.askAs(t, "client", source, network, at.at(family), patience); got.pod != pod {
							t.Errorf("%s, %v at %s: %v, want %s as at the load balancer's address", when, source, at.name, got, pod)
						}
					}
				}
				w.update(t, withAbsent(60, "a", "b", "remote")...)
				same("after 60 endpoints came", clusterIP)
				w.stop()
				w.startWith(t, append(withAbsent(60, "a", "b", "remote"), service)...)
				same("after a restart", atNode)
				same("after a restart", vip)
			})
		}
	}
}

// withAbsent returns slices with the Pods and so many endpoints that nobody
// answers at.
func withAbsent(n int, pods ...string) []any {
	endpoints := podsNamed(pods...)
	for i := range n {
		name := fmt.Sprintf("nobody-%d", i)
		addresses[name] = [2]string{fmt.Sprintf("10.244.4.%d", i+1), fmt.Sprintf("fd00:f4:4::%d", i+1)}
		e := pod("remote")
		e.Addresses = []string{name}
		endpoints = append(endpoints, e)
	}
	return newTestSlices("web", endpoints...)
}

// TestAffinityOfBothPools: with externalTrafficPolicy Local a client keeps an
// endpoint of the node's own at the outer addresses and one of all at the inner,
// whichever it uses in between.
func TestAffinityOfBothPools(t *testing.T) {
	for family, familyName := range families {
		t.Run(familyName, func(t *testing.T) {
			w := newWorld(t)
			w.start(t)
			service := newTestService("web", sticky(10800), externalLocal)
			w.replace(t, append(newTestSlices("web", podsNamed("a", "b", "remote")...), service)...)
			sources := w.sources(t, family, 12)
			inner := w.served(t, sources, clusterIP.at(family), "tcp")
			outer := w.served(t, sources, vip.at(family), "tcp")
			if distinct(inner) < 2 || distinct(outer) < 2 || maps.Equal(inner, outer) {
				t.Fatalf("at the ClusterIP %v, at the load balancer's address %v", inner, outer)
			}
			for _, step := range []int{0, 40, 3} {
				w.update(t, withAbsent(step, "a", "b", "remote")...)
				for _, at := range []struct {
					target
					want map[netip.Addr]string
				}{{vip, outer}, {clusterIP, inner}, {atNode, outer}} {
					if got := w.served(t, sources, at.at(family), "tcp"); !maps.Equal(got, at.want) {
						t.Errorf("with %d others, at %s: %v, before %v", step, at.name, got, at.want)
					}
				}
			}
		})
	}
}
