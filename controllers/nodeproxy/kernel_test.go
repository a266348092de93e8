package nodeproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

var families = []string{"IPv4", "IPv6"}

// target is an address a client may ask, by the name of the address.
type target struct {
	name string
	port uint16
}

var (
	clusterIP = target{"cluster", 80}
	vip       = target{"vip", 80}
	atNode    = target{"node", nodePort}
)

func (g target) at(family int) netip.AddrPort {
	return netip.AddrPortFrom(addr(g.name, family), g.port)
}

// flow is who asks whom, and what should come of it.
type flow struct {
	from   string
	to     target
	pods   []string // who may answer, and all of them must now and then
	source string   // the name of the address they see
}

// check sends each flow in both families and protocols.
func (w *world) check(t *testing.T, flows []flow) {
	t.Helper()
	for _, f := range flows {
		for family, familyName := range families {
			for _, network := range []string{"tcp", "udp"} {
				t.Run(fmt.Sprintf("%s to %s %s %s", f.from, f.to.name, network, familyName), func(t *testing.T) {
					w.checkOne(t, f, family, network)
				})
			}
		}
	}
}

func (w *world) checkOne(t *testing.T, f flow, family int, network string) {
	t.Helper()
	if f.from == "node" && network == "udp" && f.pods[0] == "timeout" {
		f.pods = []string{"refused"} // the kernel tells a sender of its own at once, also of a drop
	}
	w.checkWith(t, f, family, func(wait time.Duration) answer { return w.ask(t, f.from, network, f.to.at(family), wait) })
}

// checkWith looks at what comes of asking.
func (w *world) checkWith(t *testing.T, f flow, family int, ask func(wait time.Duration) answer) {
	t.Helper()
	if want := f.pods[0]; want == "refused" || want == "timeout" {
		wait := patience
		if want == "timeout" {
			wait /= 10
		}
		if got := ask(wait); got.pod != want {
			t.Errorf("got %v, want %s", got, want)
		}
		return
	}
	seen := make(map[string]bool)
	// 60 requests miss one of three Pods once in ten thousand million runs.
	for range 60 {
		got := ask(patience)
		if !slices.Contains(f.pods, got.pod) {
			t.Fatalf("answered by %v, want one of %v", got, f.pods)
		}
		want := addr(f.source, family).String()
		if f.source == "node" && got.source == addr("node-alt", family).String() {
			want = got.source // of several addresses of the node the kernel takes the one it likes
		}
		if got.source != want {
			t.Fatalf("%s saw the source %s, want %s (%s)", got.pod, got.source, want, f.source)
		}
		seen[got.pod] = true
		if len(seen) == len(f.pods) {
			return
		}
	}
	t.Errorf("only %v answered, want all of %v", seen, f.pods)
}

// TestFlows sends packets from everywhere to everything and looks at who
// answered and which source address arrived.
func TestFlows(t *testing.T) {
	local := corev1.ServiceInternalTrafficPolicyLocal
	externalLocal := func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }
	internalLocal := func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = &local }
	all := []string{"a", "b", "remote"}
	for _, c := range []struct {
		name    string
		service *corev1.Service
		slices  []any
		flows   []flow
	}{
		{
			name:    "policies Cluster",
			service: newTestService("web"),
			slices:  newTestSlices("web", pod("a"), pod("b"), pod("remote")),
			flows: []flow{
				{"node", clusterIP, all, "node"},
				{"client", clusterIP, all, "node"},
				{"a", atNode, all, "node"},
				{"node", atNode, all, "node"},
				{"client", atNode, all, "node"},
				{"a", vip, all, "node"},
				{"node", vip, all, "node"},
				{"client", vip, all, "node"},
			},
		},
		{
			name:    "externalTrafficPolicy Local",
			service: newTestService("web", externalLocal),
			slices:  newTestSlices("web", pod("b"), pod("remote")),
			flows: []flow{
				{"client", atNode, []string{"b"}, "client"},
				{"client", vip, []string{"b"}, "client"},
				{"client", clusterIP, []string{"b", "remote"}, "node"},
				{"a", vip, []string{"b", "remote"}, "a"},
				{"a", atNode, []string{"b", "remote"}, "a"},
				{"node", vip, []string{"b", "remote"}, "node"},
			},
		},
		{
			name:    "externalTrafficPolicy Local without local endpoint",
			service: newTestService("web", externalLocal),
			slices:  newTestSlices("web", pod("remote")),
			flows: []flow{
				{"client", atNode, []string{"timeout"}, ""},
				{"client", vip, []string{"timeout"}, ""},
				{"a", vip, []string{"remote"}, "a"},
				{"node", vip, []string{"remote"}, "node"},
			},
		},
		{
			name:    "externalTrafficPolicy Local, the local endpoint terminating",
			service: newTestService("web", externalLocal),
			slices:  newTestSlices("web", terminating(pod("a")), pod("remote")),
			flows: []flow{
				{"client", vip, []string{"a"}, "client"},
				{"client", clusterIP, []string{"remote"}, "node"},
			},
		},
		{
			name:    "internalTrafficPolicy Local",
			service: newTestService("web", internalLocal),
			slices:  newTestSlices("web", pod("b"), pod("remote")),
			flows: []flow{
				{"a", clusterIP, []string{"b"}, "a"},
				{"client", clusterIP, []string{"b"}, "node"},
				{"client", vip, []string{"b", "remote"}, "node"},
			},
		},
		{
			name:    "internalTrafficPolicy Local without local endpoint",
			service: newTestService("web", internalLocal),
			slices:  newTestSlices("web", pod("remote")),
			flows:   []flow{{"a", clusterIP, []string{"timeout"}, ""}},
		},
		{
			name:    "hairpin",
			service: newTestService("web"),
			slices:  newTestSlices("web", pod("a")),
			flows: []flow{
				{"a", clusterIP, []string{"a"}, "node"},
				{"a", atNode, []string{"a"}, "node"},
				{"b", clusterIP, []string{"a"}, "b"},
			},
		},
		{
			name:    "no endpoints",
			service: newTestService("web"),
			flows: []flow{
				{"a", clusterIP, []string{"refused"}, ""},
				{"node", clusterIP, []string{"refused"}, ""},
				{"client", atNode, []string{"refused"}, ""},
				{"client", vip, []string{"refused"}, ""},
			},
		},
		{
			name:    "all endpoints terminating",
			service: newTestService("web"),
			slices:  newTestSlices("web", terminating(pod("a")), terminating(pod("remote"))),
			flows:   []flow{{"b", clusterIP, []string{"a", "remote"}, "b"}},
		},
		{
			name: "load balancer that is a proxy",
			service: newTestService("web", func(s *corev1.Service) {
				proxy := corev1.LoadBalancerIPModeProxy
				for i := range s.Status.LoadBalancer.Ingress {
					s.Status.LoadBalancer.Ingress[i].IPMode = &proxy
				}
			}),
			slices: newTestSlices("web", pod("a")),
			// Leaves the node, and comes back from the fabric in this world.
			flows: []flow{{"b", clusterIP, []string{"a"}, "b"}, {"b", atNode, []string{"a"}, "node"}},
		},
		{
			name:    "wrong port",
			service: newTestService("web"),
			slices:  newTestSlices("web", pod("a")),
			flows:   []flow{{"b", target{"cluster", 81}, []string{"refused"}, ""}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.start(t)
			w.replace(t, append(c.slices, c.service)...)
			w.check(t, c.flows)
			w.list(t)
		})
	}
}
