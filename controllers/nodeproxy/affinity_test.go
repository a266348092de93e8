package nodeproxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

func sticky(seconds int32) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
}

// served returns who answers each of the sources.
func (w *world) served(t *testing.T, sources []netip.Addr, to netip.AddrPort, network string) map[netip.Addr]string {
	t.Helper()
	out := make(map[netip.Addr]string)
	for _, s := range sources {
		got := w.askAs(t, "client", s, network, to, patience)
		if !slices.Contains([]string{"a", "b", "remote"}, got.pod) {
			t.Fatalf("%v to %v: %v", s, to, got)
		}
		out[s] = got.pod
	}
	return out
}

// eachWay runs a test in each family and over each protocol.
func eachWay(t *testing.T, test func(t *testing.T, family int, network string)) {
	for family, name := range families {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(name+" "+network, func(t *testing.T) { test(t, family, network) })
		}
	}
}

func distinct(served map[netip.Addr]string) int {
	return len(slices.Compact(slices.Sorted(maps.Values(served))))
}

// TestSessionAffinity follows clients through all that may happen to a Service.
func TestSessionAffinity(t *testing.T) {
	for _, local := range []bool{false, true} {
		for family, familyName := range families {
			for _, network := range []string{"tcp", "udp"} {
				t.Run(fmt.Sprintf("%s %s local=%v", network, familyName, local), func(t *testing.T) { testAffinity(t, family, network, local) })
			}
		}
	}
}

func testAffinity(t *testing.T, family int, network string, local bool) {
	w := newWorld(t)
	w.start(t)
	service := newTestService("web", sticky(10800), func(s *corev1.Service) {
		if local {
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
	})
	to := vip.at(family)
	sources := w.sources(t, family, 12)
	with := func(pods ...string) []any {
		var endpoints []discoveryv1.Endpoint
		for _, p := range pods {
			endpoints = append(endpoints, pod(p))
		}
		return newTestSlices("web", endpoints...)
	}
	w.replace(t, append(with("a", "b", "remote"), service)...)
	sets := w.objects(t, "set") + w.objects(t, "map")

	first := w.served(t, sources, to, network)
	if n := distinct(first); n < 2 {
		t.Fatalf("all clients went to one endpoint: %v", first)
	}
	same := func(when string, want map[netip.Addr]string) {
		t.Helper()
		for range 3 {
			if got := w.served(t, sources, to, network); !maps.Equal(got, want) {
				t.Fatalf("%s: %v, want %v", when, got, want)
			}
		}
	}
	same("again", first)
	if !local { // where every address has the same endpoints
		for _, other := range []target{clusterIP, atNode} {
			if got := w.served(t, sources, other.at(family), network); !maps.Equal(got, first) {
				t.Errorf("at %s: %v, want %v", other.name, got, first)
			}
		}
	}

	w.stop()
	w.startWith(t, append(with("a", "b", "remote"), service)...)
	same("after a restart", first)

	w.update(t, with("b", "remote")...)
	second := w.served(t, sources, to, network)
	for source, pod := range first {
		if pod != "a" && second[source] != pod {
			t.Errorf("%v was moved from %s to %s, though only a went", source, pod, second[source])
		}
		if second[source] == "a" {
			t.Errorf("%v still goes to a", source)
		}
	}
	same("after a went", second)

	w.update(t, with("a", "b", "remote")...)
	same("after a came back", second)
	w.update(t, append(with("a", "b", "remote"), newTestService("web", func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = service.Spec.ExternalTrafficPolicy }))...)
	all, source := []string{"a", "b", "remote"}, "node"
	if local {
		all, source = []string{"a", "b"}, "client"
	}
	w.checkOne(t, flow{"client", vip, all, source}, family, network) // without affinity
	if now := w.objects(t, "set") + w.objects(t, "map"); now != sets {
		t.Errorf("%d sets and maps, %d in the beginning", now, sets)
	}
}

// objects counts the sets, maps or chains that nft lists on the node.
func (w *world) objects(t *testing.T, kind string) int {
	t.Helper()
	return strings.Count(w.list(t), "\n\t"+kind+" ")
}

// TestAffinityTimeout: a client that stays away is forgotten, one that keeps
// asking is not.
func TestAffinityTimeout(t *testing.T) {
	for family, familyName := range families {
		t.Run(familyName, func(t *testing.T) {
			w := newWorld(t)
			w.start(t)
			sources := w.sources(t, family, 12)
			w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web", sticky(int32(sandbox.Patience(2*time.Second).Seconds()))))...)
			to := vip.at(family)
			w.served(t, sources, to, "tcp")
			w.update(t, newTestSlices("web", pod("a"), pod("b"), pod("remote"))...)
			if got := w.served(t, sources, to, "tcp"); distinct(got) != 1 {
				t.Fatalf("clients moved when endpoints came: %v", got)
			}
			if w.list(t) == "" {
				t.Skip("NOT CHECKED: there is no nft tool to see what is remembered")
			}
			keeper, others := sources[0], sources[1:]
			remembered := func(a netip.Addr) bool {
				return strings.Contains(w.list(t), "\t"+a.String()+" . ") || strings.Contains(w.list(t), " "+a.String()+" . ")
			}
			until(t, "the others are forgotten", func() bool {
				if got := w.askAs(t, "client", keeper, "tcp", to, patience).pod; got != "a" {
					t.Fatalf("the client that kept asking was moved to %s", got)
				}
				return !slices.ContainsFunc(others, remembered)
			})
			if got := w.served(t, others, to, "tcp"); distinct(got) < 2 {
				t.Errorf("after the timeout all clients still go to one endpoint: %v", got)
			}
		})
	}
}

// TestAffinityFull has more clients than there is room for: all are served, and
// those that are not remembered are counted.
func TestAffinityFull(t *testing.T) {
	for family, familyName := range families {
		t.Run(familyName, func(t *testing.T) {
			w := newWorld(t)
			w.configure = func(c *Config) { c.AffinitySize = 4 }
			w.start(t)
			sources := w.sources(t, family, 20)
			w.replace(t, append(newTestSlices("web", pod("a"), pod("b"), pod("remote")), newTestService("web", sticky(10800)))...)
			for range 3 {
				if got := w.served(t, sources, vip.at(family), "tcp"); distinct(got) < 2 {
					t.Errorf("all clients went to one endpoint: %v", got)
				}
			}
			var full uint64
			w.resting(t, func() {
				var err error
				full, err = w.proxy.planes[family].table.AffinityFull()
				must(t, err)
			})
			if full < 3 || full > 60 {
				t.Errorf("%d connections were counted as not remembered, of 60 by 20 clients with room for 4", full)
			}
		})
	}
}

// TestAffinitySurvivesChurn replaces endpoints at random while clients hold on
// to theirs.
func TestAffinitySurvivesChurn(t *testing.T) {
	eachWay(t, testAffinitySurvivesChurn)
}

func testAffinitySurvivesChurn(t *testing.T, family int, network string) {
	w := newWorld(t)
	w.start(t)
	sources := w.sources(t, family, 6)
	service := newTestService("web", sticky(10800))
	// Endpoints nobody reaches come and go beside the one that answers.
	with := func(n int) []any {
		endpoints := []discoveryv1.Endpoint{pod("a")}
		for i := range n {
			e := pod("remote")
			e.Addresses = []string{fmt.Sprintf("absent-%d", i)}
			endpoints = append(endpoints, e)
		}
		return newTestSlices("web", endpoints...)
	}
	for i := range 40 {
		addresses[fmt.Sprintf("absent-%d", i)] = [2]string{fmt.Sprintf("10.244.3.%d", i+1), fmt.Sprintf("fd00:f4:3::%d", i+1)}
	}
	w.replace(t, append(with(0), service)...)
	w.served(t, sources, clusterIP.at(family), network)
	for _, n := range []int{1, 4, 40, 17, 3, 0, 9, 33, 2, 40, 0} {
		w.update(t, with(n)...)
		for s, pod := range w.served(t, sources, clusterIP.at(family), network) {
			if pod != "a" {
				t.Fatalf("with %d others %v went to %s", n, s, pod)
			}
		}
		if n%2 == 0 {
			w.resting(t, func() { must(t, w.proxy.planes[family].table.Sweep()) })
		}
	}
	w.stop()
	w.startWith(t, append(with(5), service)...)
	w.served(t, sources, clusterIP.at(family), network)
}

// TestAffinityAtLaterAddresses: an address that a Service gets later starts a
// client where the others do, though their endpoints have come and gone.
func TestAffinityAtLaterAddresses(t *testing.T) {
	for _, local := range []bool{false, true} {
		t.Run(fmt.Sprintf("local=%v", local), func(t *testing.T) {
			eachWay(t, func(t *testing.T, family int, network string) {
				w := newWorld(t)
				w.start(t)
				service := func(edits ...func(*corev1.Service)) *corev1.Service {
					if local {
						edits = append(edits, externalLocal)
					}
					return newTestService("web", append(edits, sticky(10800))...)
				}
				w.replace(t, append(newTestSlices("web", podsNamed("a", "b", "remote")...), service(func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = nil }))...)
				w.update(t, newTestSlices("web", podsNamed("b", "remote")...)...)
				w.update(t, newTestSlices("web", podsNamed("a", "b", "remote")...)...)
				w.update(t, service())

				known, late := atNode, vip
				first := w.served(t, w.sources(t, family, 12), known.at(family), network)
				if n := distinct(first); n < 2 {
					t.Fatalf("all clients went to one endpoint: %v", first)
				}
				if got := w.served(t, slices.Collect(maps.Keys(first)), late.at(family), network); !maps.Equal(got, first) {
					t.Errorf("at the later address: %v, at the other: %v", got, first)
				}
			})
		})
	}
}

// TestAffinityPorts has a Service with two ports: a client gets the same endpoint
// at both, and what becomes of one port is no matter of the other's.
func TestAffinityPorts(t *testing.T) {
	eachWay(t, func(t *testing.T, family int, network string) {
		protocol := corev1.Protocol(strings.ToUpper(network))
		w := newWorld(t)
		w.start(t)
		const secondPort = 81
		service := newTestService("web", sticky(10800), func(s *corev1.Service) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "second", Protocol: protocol, Port: secondPort})
		})
		second := func(pods ...string) []any {
			out := newTestSlices("web", podsNamed(pods...)...)
			for _, o := range out {
				slice := o.(*discoveryv1.EndpointSlice)
				slice.Name += "-second"
				slice.Ports = []discoveryv1.EndpointPort{{Name: new("second"), Protocol: &protocol, Port: new(int32(podPort))}}
			}
			return out
		}
		w.replace(t, slices.Concat(newTestSlices("web", podsNamed("a", "b", "remote")...), second("a", "b", "remote"), []any{service})...)
		sources := w.sources(t, family, 12)
		at80 := vip.at(family)
		at81 := netip.AddrPortFrom(at80.Addr(), secondPort)
		first := w.served(t, sources, at80, network)
		if got := w.served(t, sources, at81, network); !maps.Equal(got, first) || distinct(first) < 2 {
			t.Errorf("at the second port: %v, at the first: %v", got, first)
		}
		w.update(t, second("b")...)
		for source, pod := range w.served(t, sources, at81, network) {
			if pod != "b" {
				t.Errorf("%v went to %s at the second port, which only b has", source, pod)
			}
		}
		w.update(t, second("a", "b", "remote")...)
		for source, pod := range w.served(t, sources, at81, network) {
			if pod != "b" {
				t.Errorf("%v was moved to %s when other endpoints of the second port came back", source, pod)
			}
		}
		if got := w.served(t, sources, at80, network); !maps.Equal(got, first) {
			t.Errorf("at the first port, after changes of the second: %v, before %v", got, first)
		}
	})
}

// TestAffinityTerminating: an endpoint that terminates keeps its clients as long
// as none is ready, and loses them to one that is.
func TestAffinityTerminating(t *testing.T) {
	eachWay(t, func(t *testing.T, family int, network string) {
		w := newWorld(t)
		w.start(t)
		sources := w.sources(t, family, 12)
		w.replace(t, append(newTestSlices("web", podsNamed("a", "b", "remote")...), newTestService("web", sticky(10800)))...)
		to := clusterIP.at(family)
		first := w.served(t, sources, to, network)
		w.update(t, newTestSlices("web", terminating(pod("a")), terminating(pod("b")), terminating(pod("remote")))...)
		if got := w.served(t, sources, to, network); !maps.Equal(got, first) {
			t.Errorf("all terminate: %v, before %v", got, first)
		}
		w.update(t, newTestSlices("web", terminating(pod("a")), pod("b"), pod("remote"))...)
		second := w.served(t, sources, to, network)
		for source, before := range first {
			switch now := second[source]; {
			case now == "a":
				t.Errorf("%v still goes to a, which terminates while others are ready", source)
			case before != "a" && now != before:
				t.Errorf("%v was moved from %s to %s, though only a terminates", source, before, now)
			}
		}
		w.update(t, newTestSlices("web", pod("a"), pod("b"), pod("remote"))...)
		if got := w.served(t, sources, to, network); !maps.Equal(got, second) {
			t.Errorf("a is ready again: %v, before %v", got, second)
		}
	})
}
