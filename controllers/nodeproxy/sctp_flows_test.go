package nodeproxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// withSCTP adds an SCTP port to a Service, beside TCP and UDP on the same port.
func withSCTP(s *corev1.Service) {
	s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "sctp", Protocol: corev1.ProtocolSCTP, Port: 80, NodePort: nodePort})
}

// sctpSlices are newTestSlices that have that port too.
func sctpSlices(service string, endpoints ...discoveryv1.Endpoint) []any {
	out := newTestSlices(service, endpoints...)
	for _, o := range out {
		s := o.(*discoveryv1.EndpointSlice)
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: new("sctp"), Protocol: new(corev1.ProtocolSCTP), Port: new(int32(podPort))})
	}
	return out
}

// startSCTP starts a proxy on a node whose Pods answer SCTP.
func (w *world) startSCTP(t *testing.T) {
	t.Helper()
	w.start(t)
	for _, pod := range []string{"a", "b", "remote"} {
		w.serveSCTP(t, pod)
	}
	must(t, w.proxy.tracker.ranges.Replace([]any{&networkingv1.ServiceCIDR{Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16", "fd00:96::/64"}}}}, ""))
}

// inZone hints that an endpoint is for a zone, and maybe for a node.
func inZone(e discoveryv1.Endpoint, zone string, nodes ...string) discoveryv1.Endpoint {
	e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: zone}}}
	for _, n := range nodes {
		e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: n})
	}
	return e
}

// TestSCTP sends SCTP through all that a Service may ask for, in both families.
// Pod "a" is the client where the endpoints are others.
func TestSCTP(t *testing.T) {
	all, both, local := []string{"a", "b", "remote"}, []string{"b", "remote"}, []string{"b"}
	clients := ranges("198.51.100.0/24", "2001:db8:c::/64")
	nowhere := ranges("192.0.2.0/24", "2001:db8:ff::/64")
	two := podsNamed("b", "remote")
	detect := func(how DetectLocal, device string) func(*Config) {
		return func(c *Config) { c.PodCIDRs, c.DetectLocal, c.PodInterface = nil, how, device }
	}
	// What of the detection of Pods packets show.
	detected := []namedFlow{
		{"pod to ClusterIP", flow{"a", clusterIP, both, "a"}},
		{"external to ClusterIP", flow{"client", clusterIP, both, "node"}},
		{"pod to LB with eTP:Local", flow{"a", vip, both, "a"}},
	}
	for _, c := range []struct {
		name      string
		edits     []func(*corev1.Service) // beyond withSCTP
		endpoints []discoveryv1.Endpoint
		configure func(*Config)
		flows     []namedFlow
	}{
		{"TestClusterIPGeneral", nil, two, nil, []namedFlow{
			{"clusterIP with TCP, UDP, and SCTP on same port (SCTP)", flow{"a", clusterIP, both, "a"}},
			{"external to ClusterIP", flow{"client", clusterIP, both, "node"}},
			{"external to NodePort", flow{"client", atNode, both, "node"}},
			{"external to LB", flow{"client", vip, both, "node"}},
			{"node to LB", flow{"node", vip, both, "node"}},
			{"wrong port", flow{"a", target{"cluster", 81}, reject, ""}},
			{"unallocated ClusterIP", flow{"a", target{"unallocated", 80}, drop, ""}},
			{"external to unallocated ClusterIP", flow{"client", target{"unallocated", 80}, drop, ""}},
		}},
		{"external IPs", []func(*corev1.Service){externalIPs}, two, nil, []namedFlow{
			{"pod to external IP", flow{"a", externalIP, both, "node"}},
			{"external to external IP", flow{"client", externalIP, both, "node"}},
		}},
		{"load balancer that is a proxy", []func(*corev1.Service){func(s *corev1.Service) {
			for i := range s.Status.LoadBalancer.Ingress {
				s.Status.LoadBalancer.Ingress[i].IPMode = new(corev1.LoadBalancerIPModeProxy)
			}
		}}, two, nil, []namedFlow{{"external to NodePort", flow{"client", atNode, both, "node"}}}},
		{"source ranges", []func(*corev1.Service){clients}, two, nil, []namedFlow{
			{"external to LB", flow{"client", vip, both, "node"}},
			{"pod to LB", flow{"a", vip, drop, ""}},
			{"pod to ClusterIP", flow{"a", clusterIP, both, "a"}},
		}},
		{"source ranges of others", []func(*corev1.Service){nowhere}, two, nil, []namedFlow{
			{"external to LB", flow{"client", vip, drop, ""}},
			{"external to NodePort", flow{"client", atNode, both, "node"}},
		}},
		{"externalTrafficPolicy Local", []func(*corev1.Service){externalLocal, externalIPs}, two, nil, []namedFlow{
			{"external to NodePort", flow{"client", atNode, local, "client"}},
			{"external to LB", flow{"client", vip, local, "client"}},
			{"external to external IP", flow{"client", externalIP, local, "client"}},
			{"pod to NodePort", flow{"a", atNode, both, "a"}},
			{"node to LB", flow{"node", vip, both, "node"}},
		}},
		{"externalTrafficPolicy Local without local endpoints", []func(*corev1.Service){externalLocal}, podsNamed("remote"), nil, []namedFlow{
			{"external to NodePort", flow{"client", atNode, drop, ""}},
			{"external to LB", flow{"client", vip, drop, ""}},
			{"pod to LB", flow{"a", vip, []string{"remote"}, "a"}},
		}},
		{"internalTrafficPolicy Local", []func(*corev1.Service){internalLocal}, two, nil, []namedFlow{
			{"pod to ClusterIP", flow{"a", clusterIP, local, "a"}},
			{"external to ClusterIP", flow{"client", clusterIP, local, "node"}},
			{"external to LB", flow{"client", vip, both, "node"}},
		}},
		{"internalTrafficPolicy Local without local endpoints", []func(*corev1.Service){internalLocal}, podsNamed("remote"), nil, []namedFlow{
			{"pod to ClusterIP", flow{"a", clusterIP, drop, ""}},
			{"external to LB", flow{"client", vip, []string{"remote"}, "node"}},
		}},
		{"hairpin", nil, podsNamed("a"), nil, []namedFlow{
			{"to ClusterIP", flow{"a", clusterIP, []string{"a"}, "node"}},
			{"to NodePort", flow{"a", atNode, []string{"a"}, "node"}},
			{"to LB", flow{"a", vip, []string{"a"}, "node"}},
		}},
		{"a terminating endpoint beside a ready one", nil, []discoveryv1.Endpoint{terminating(pod("b")), pod("remote")}, nil, []namedFlow{
			{"pod to ClusterIP", flow{"a", clusterIP, []string{"remote"}, "a"}},
		}},
		{"all endpoints terminating", nil, []discoveryv1.Endpoint{terminating(pod("b")), terminating(pod("remote"))}, nil, []namedFlow{
			{"pod to ClusterIP", flow{"a", clusterIP, both, "a"}},
			{"external to LB", flow{"client", vip, both, "node"}},
		}},
		{"the local endpoint terminating, policy Local", []func(*corev1.Service){externalLocal}, []discoveryv1.Endpoint{terminating(pod("b")), pod("remote")}, nil, []namedFlow{
			{"external to LB", flow{"client", vip, local, "client"}},
			{"pod to ClusterIP", flow{"a", clusterIP, []string{"remote"}, "a"}},
		}},
		{"stopped endpoints", nil, []discoveryv1.Endpoint{stopped(pod("b"))}, nil, []namedFlow{
			{"external to LB", flow{"client", vip, reject, ""}},
		}},
		{"no endpoints", []func(*corev1.Service){externalIPs}, nil, nil, []namedFlow{
			{"pod to ClusterIP", flow{"a", clusterIP, reject, ""}},
			{"external to LB", flow{"client", vip, reject, ""}},
			{"external to NodePort", flow{"client", atNode, reject, ""}},
			{"external to external IP", flow{"client", externalIP, reject, ""}},
		}},
		{"topology: same zone", nil, []discoveryv1.Endpoint{inZone(pod("a"), "zone-b"), inZone(pod("b"), "zone-a"), inZone(pod("remote"), "zone-a")}, nil, []namedFlow{
			{"pod to ClusterIP", flow{"a", clusterIP, both, "a"}},
			{"external to LB", flow{"client", vip, both, "node"}},
		}},
		{"topology: same node", nil, []discoveryv1.Endpoint{inZone(pod("b"), "zone-a", "node"), inZone(pod("remote"), "zone-a", "other")}, nil, []namedFlow{
			{"pod to ClusterIP", flow{"a", clusterIP, local, "a"}},
		}},
		{"topology: another zone alone", nil, []discoveryv1.Endpoint{inZone(pod("b"), "zone-b"), inZone(pod("remote"), "zone-b")}, nil, []namedFlow{
			{"pod to ClusterIP", flow{"a", clusterIP, both, "a"}},
		}},
		{"masqueradeAll", nil, two, func(c *Config) { c.MasqueradeAll = true }, []namedFlow{
			{"pod to ClusterIP", flow{"a", clusterIP, both, "node"}},
		}},
		{"no LocalTrafficDetector", []func(*corev1.Service){externalLocal}, two, func(c *Config) { c.PodCIDRs = nil }, []namedFlow{
			{"pod to ClusterIP", flow{"a", clusterIP, both, "a"}},
			{"pod to LB with eTP:Local", flow{"a", vip, local, "a"}},
		}},
		{"NodeCIDR", []func(*corev1.Service){externalLocal}, two, detect(DetectByNodeCIDR, ""), detected},
		{"InterfaceNamePrefix", []func(*corev1.Service){externalLocal}, two, detect(DetectByInterfacePrefix, "a"), detected},
		{"BridgeInterface", []func(*corev1.Service){externalLocal}, two, detect(DetectByBridge, "a"), detected},
		{"affinity", []func(*corev1.Service){sticky(100)}, podsNamed("a", "b", "remote"), nil, []namedFlow{
			{"external to LB, as any of several", flow{"", vip, all, "node"}},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.configure = c.configure
			w.startSCTP(t)
			n := newTestNode(addr2("node")...)
			n.Labels = map[string]string{corev1.LabelTopologyZone: "zone-a"}
			n.Spec.PodCIDRs = []string{"10.244.1.0/24", "fd00:f4:1::/64"}
			w.replace(t, append(sctpSlices("web", c.endpoints...), newTestService("web", append(c.edits, withSCTP)...), n)...)
			for _, f := range c.flows {
				for family, familyName := range families {
					t.Run(f.name+"/"+familyName, func(t *testing.T) {
						if f.from == "" {
							w.checkStickySCTP(t, f.flow, family)
							return
						}
						w.checkWith(t, f.flow, family, func(wait time.Duration) answer {
							return w.askSCTP(t, f.from, family, f.to.at(family), wait)
						})
					})
				}
			}
		})
	}
}

// checkStickySCTP has several clients begin associations: each stays with its
// endpoint, of which all are in use, and leaves it when that goes. Those of others
// stay then.
func (w *world) checkStickySCTP(t *testing.T, f flow, family int) {
	t.Helper()
	clients := w.sources(t, family, 24)
	served := func() map[netip.Addr]string {
		t.Helper()
		out := make(map[netip.Addr]string)
		for range 3 {
			for _, s := range clients {
				got := w.askSCTPAs(t, "client", s, family, f.to.at(family), patience)
				if !slices.Contains(f.pods, got.pod) || got.source != addr(f.source, family).String() {
					t.Fatalf("%v is answered by %v", s, got)
				}
				if before, asked := out[s]; asked && before != got.pod {
					t.Fatalf("%v was answered by %s, now by %s; the table is\n%s", s, before, got.pod, w.list(t))
				}
				out[s] = got.pod
			}
		}
		return out
	}
	before := served()
	if distinct(before) != len(f.pods) {
		t.Fatalf("of %v only some serve 24 clients: %v", f.pods, before)
	}
	w.update(t, sctpSlices("web", podsNamed(f.pods[1:]...)...)...)
	after := served()
	for _, s := range slices.SortedFunc(maps.Keys(before), netip.Addr.Compare) {
		switch gone := before[s] == f.pods[0]; {
		case gone && after[s] == f.pods[0]:
			t.Errorf("%v is still answered by %s, which is gone", s, after[s])
		case !gone && after[s] != before[s]:
			t.Errorf("%v was answered by %s, now by %s, though only %s went", s, before[s], after[s], f.pods[0])
		}
	}
	w.update(t, sctpSlices("web", podsNamed(f.pods...)...)...)
}

// TestSCTPApart: a port of SCTP is none of the other protocols', nor theirs its.
func TestSCTPApart(t *testing.T) {
	w := newWorld(t)
	w.startSCTP(t)
	for _, c := range []struct {
		name         string
		objects      []any
		sctp, others []string // who answers
	}{
		{"no SCTP port", append(sctpSlices("web", pod("b")), newTestService("web")), reject, []string{"b"}},
		{"an SCTP port", append(sctpSlices("web", pod("b")), newTestService("web", withSCTP)), []string{"b"}, []string{"b"}},
		{"an SCTP port alone", append(sctpSlices("web", pod("b")), newTestService("web", withSCTP, func(s *corev1.Service) { s.Spec.Ports = s.Spec.Ports[2:] })), []string{"b"}, reject},
	} {
		w.replace(t, c.objects...)
		for family, name := range families {
			t.Run(fmt.Sprintf("%s/%s", c.name, name), func(t *testing.T) {
				w.checkWith(t, flow{"a", clusterIP, c.sctp, "a"}, family, func(wait time.Duration) answer {
					return w.askSCTP(t, "a", family, clusterIP.at(family), wait)
				})
				for _, network := range []string{"tcp", "udp"} {
					w.checkOne(t, flow{"a", clusterIP, c.others, "a"}, family, network)
				}
			})
		}
	}
}
