package nodeproxy

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// The tests of this file and of masquerade_test.go have the flows of kube-proxy's
// own (pkg/proxy/nftables/proxier_test.go of Kubernetes 1.37), under its names.
// There a regular expression follows the rules; here packets are sent.
// docs/node-proxy-conformance.md says what is covered where.

type namedFlow struct {
	name string
	flow
}

// conform sends each flow in both families, over TCP and UDP.
func (w *world) conform(t *testing.T, flows []namedFlow) {
	t.Helper()
	for _, f := range flows {
		for family, familyName := range families {
			for _, network := range []string{"tcp", "udp"} {
				t.Run(fmt.Sprintf("%s/%s/%s", f.name, familyName, network), func(t *testing.T) {
					if f.oneWay() {
						w.checkArrival(t, f.flow, family)
						return
					}
					w.checkOne(t, f.flow, family, network)
				})
			}
		}
	}
}

// oneWay tells of a client outside that a Pod elsewhere sees unmasqueraded: the
// answer does not pass this node, which would have to translate it.
func (f flow) oneWay() bool {
	return f.source == "client" && slices.Contains(f.pods, "remote")
}

// checkArrival sends datagrams and looks at what reaches the Pods.
func (w *world) checkArrival(t *testing.T, f flow, family int) {
	t.Helper()
	w.mu.Lock()
	clear(w.arrivals)
	w.mu.Unlock()
	until(t, fmt.Sprintf("all of %v see datagrams from %s", f.pods, f.source), func() bool {
		w.ask(t, f.from, "udp", f.to.at(family), 5*time.Millisecond)
		w.mu.Lock()
		defer w.mu.Unlock()
		for a := range w.arrivals {
			if !slices.Contains(f.pods, a.pod) || a.source != addr(f.source, family).String() {
				t.Fatalf("%s saw %s", a.pod, a.source)
			}
		}
		return len(w.arrivals) == len(f.pods)
	})
}

var (
	reject = []string{"refused"}
	drop   = []string{"timeout"}
)

func externalIPs(s *corev1.Service) { s.Spec.ExternalIPs = addr2("external") }

func externalLocal(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func internalLocal(s *corev1.Service) {
	s.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal)
}

func stopped(e discoveryv1.Endpoint) discoveryv1.Endpoint {
	e.Conditions = discoveryv1.EndpointConditions{Ready: new(false), Serving: new(false), Terminating: new(true)}
	return e
}

// TestConformance has one entry for each state of kube-proxy's tests; a name
// before the colon is that of the test there. Pod "a" is the client where the
// endpoints are others.
func TestConformance(t *testing.T) {
	external := target{"external", 80}
	both := []string{"b", "remote"}
	for _, c := range []struct {
		name    string
		service *corev1.Service
		slices  []any
		flows   []namedFlow
	}{
		{"TestNoEndpointsReject", newTestService("web", externalIPs), nil, []namedFlow{
			{"pod to cluster IP with no endpoints", flow{"a", clusterIP, reject, ""}},
			{"external to external IP with no endpoints", flow{"client", external, reject, ""}},
			{"pod to NodePort with no endpoints", flow{"a", atNode, reject, ""}},
			{"external to NodePort with no endpoints", flow{"client", atNode, reject, ""}},
			{"pod to LoadBalancer IP with no endpoints", flow{"a", vip, reject, ""}},
			{"external to LoadBalancer IP with no endpoints", flow{"client", vip, reject, ""}},
		}},
		{"TestClusterIPGeneral", newTestService("web"), newTestSlices("web", pod("b"), pod("remote")), []namedFlow{
			{"clusterIP with multiple endpoints", flow{"a", clusterIP, both, "a"}},
			{"svc1 does not accept svc2's ports", flow{"a", target{"cluster", 443}, reject, ""}},
			{"packet to unallocated cluster ip", flow{"a", target{"unallocated", 80}, drop, ""}},
		}},
		{"TestClusterIPGeneral: one endpoint", newTestService("web"), newTestSlices("web", pod("b")), []namedFlow{
			{"simple clusterIP", flow{"a", clusterIP, []string{"b"}, "a"}},
			{"hairpin to cluster IP", flow{"b", clusterIP, []string{"b"}, "node"}},
		}},
		{"TestExternalTrafficPolicyLocal", newTestService("web", externalIPs, externalLocal), newTestSlices("web", pod("b"), pod("remote")), []namedFlow{
			{"pod to cluster IP hits both endpoints, unmasqueraded", flow{"a", clusterIP, both, "a"}},
			{"pod to external IP hits both endpoints, unmasqueraded", flow{"a", external, both, "a"}},
			{"external to external IP hits only local endpoint, unmasqueraded", flow{"client", external, []string{"b"}, "client"}},
			{"pod to LB IP hits only both endpoints, unmasqueraded", flow{"a", vip, both, "a"}},
			{"external to LB IP hits only local endpoint, unmasqueraded", flow{"client", vip, []string{"b"}, "client"}},
			{"pod to NodePort hits both endpoints, unmasqueraded", flow{"a", atNode, both, "a"}},
			{"external to NodePort hits only local endpoint, unmasqueraded", flow{"client", atNode, []string{"b"}, "client"}},
		}},
		{"TestExternalTrafficPolicyCluster", newTestService("web", externalIPs), newTestSlices("web", pod("b"), pod("remote")), []namedFlow{
			{"pod to cluster IP hits both endpoints, unmasqueraded", flow{"a", clusterIP, both, "a"}},
			{"pod to external IP hits both endpoints, masqueraded", flow{"a", external, both, "node"}},
			{"external to external IP hits both endpoints, masqueraded", flow{"client", external, both, "node"}},
			{"pod to LB IP hits both endpoints, masqueraded", flow{"a", vip, both, "node"}},
			{"external to LB IP hits both endpoints, masqueraded", flow{"client", vip, both, "node"}},
			{"pod to NodePort hits both endpoints, masqueraded", flow{"a", atNode, both, "node"}},
			{"external to NodePort hits both endpoints, masqueraded", flow{"client", atNode, both, "node"}},
		}},
		{"TestInternalTrafficPolicy: internalTrafficPolicy is cluster", newTestService("web"), newTestSlices("web", pod("b"), pod("remote")), []namedFlow{
			{"pod to ClusterIP hits all endpoints", flow{"a", clusterIP, both, "a"}},
		}},
		{"TestInternalTrafficPolicy: internalTrafficPolicy is local and there is one local endpoint", newTestService("web", internalLocal), newTestSlices("web", pod("b"), pod("remote")), []namedFlow{
			{"pod to ClusterIP hits only local endpoint", flow{"a", clusterIP, []string{"b"}, "a"}},
		}},
		{"TestInternalTrafficPolicy: internalTrafficPolicy is local and there are multiple local endpoints", newTestService("web", internalLocal), newTestSlices("web", pod("a"), pod("b"), pod("remote")), []namedFlow{
			{"pod to ClusterIP hits all local endpoints", flow{"node", clusterIP, []string{"a", "b"}, "node"}},
		}},
		{"TestInternalTrafficPolicy: internalTrafficPolicy is local and there are no local endpoints", newTestService("web", internalLocal), newTestSlices("web", pod("remote")), []namedFlow{
			{"no endpoints", flow{"a", clusterIP, drop, ""}},
		}},
		{"TestTerminatingEndpointsTrafficPolicyLocal: ready endpoints exist", newTestService("web", externalLocal), newTestSlices("web", pod("b"), terminating(pod("a")), pod("remote")), []namedFlow{
			{"pod to clusterIP", flow{"a", clusterIP, both, "a"}},
			{"external to LB", flow{"client", vip, []string{"b"}, "client"}},
		}},
		{"TestTerminatingEndpointsTrafficPolicyLocal: only terminating endpoints exist", newTestService("web", externalLocal), newTestSlices("web", terminating(pod("a")), terminating(pod("b")), pod("remote")), []namedFlow{
			{"pod to clusterIP", flow{"b", clusterIP, []string{"remote"}, "b"}},
			{"external to LB", flow{"client", vip, []string{"a", "b"}, "client"}},
		}},
		{"TestTerminatingEndpointsTrafficPolicyLocal: terminating endpoints on remote node", newTestService("web", externalLocal), newTestSlices("web", terminating(pod("remote"))), []namedFlow{
			{"pod to clusterIP", flow{"a", clusterIP, []string{"remote"}, "a"}},
			{"external to LB, no locally-usable endpoints", flow{"client", vip, drop, ""}},
		}},
		{"TestTerminatingEndpointsTrafficPolicyLocal: no usable endpoints on any node", newTestService("web", externalLocal), newTestSlices("web", stopped(pod("b")), stopped(pod("remote"))), []namedFlow{
			{"pod to clusterIP, no usable endpoints", flow{"a", clusterIP, reject, ""}},
			{"external to LB, no usable endpoints", flow{"client", vip, reject, ""}},
		}},
		{"TestTerminatingEndpointsTrafficPolicyCluster: ready endpoints exist", newTestService("web"), newTestSlices("web", pod("b"), terminating(pod("a")), pod("remote")), []namedFlow{
			{"pod to clusterIP", flow{"a", clusterIP, both, "a"}},
			{"external to LB", flow{"client", vip, both, "node"}},
		}},
		{"TestTerminatingEndpointsTrafficPolicyCluster: only terminating endpoints exist", newTestService("web"), newTestSlices("web", terminating(pod("a")), terminating(pod("b")), terminating(pod("remote"))), []namedFlow{
			{"pod to clusterIP", flow{"node", clusterIP, []string{"a", "b", "remote"}, "node"}},
			{"external to LB", flow{"client", vip, []string{"a", "b", "remote"}, "node"}},
		}},
		{"TestTerminatingEndpointsTrafficPolicyCluster: terminating endpoints on remote node", newTestService("web"), newTestSlices("web", terminating(pod("remote"))), []namedFlow{
			{"pod to clusterIP", flow{"a", clusterIP, []string{"remote"}, "a"}},
			{"external to LB", flow{"client", vip, []string{"remote"}, "node"}},
		}},
		{"TestTerminatingEndpointsTrafficPolicyCluster: no usable endpoints on any node", newTestService("web"), newTestSlices("web", stopped(pod("b")), stopped(pod("remote"))), []namedFlow{
			{"pod to clusterIP", flow{"a", clusterIP, reject, ""}},
			{"external to LB", flow{"client", vip, reject, ""}},
		}},
		{"TestBadIPs", newTestService("web", ranges("198.51.100.000/024", "2001:db8:c::/64"), func(s *corev1.Service) {
			s.Spec.ClusterIPs[0], s.Spec.ExternalIPs, s.Status.LoadBalancer.Ingress[0].IP = "10.96.0.010", []string{"192.0.2.011", addresses["external"][1]}, "203.0.113.010"
		}), newTestSlices("web", pod("b")), []namedFlow{
			{"pod to cluster IP", flow{"a", clusterIP, []string{"b"}, "a"}},
			{"external to external IP", flow{"client", external, []string{"b"}, "node"}},
			{"external to LB IP", flow{"client", vip, []string{"b"}, "node"}},
			{"pod to LB IP", flow{"a", vip, drop, ""}},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.start(t)
			must(t, w.proxy.tracker.ranges.Replace([]any{&networkingv1.ServiceCIDR{Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16", "fd00:96::/64"}}}}, ""))
			w.replace(t, append(c.slices, c.service)...)
			w.conform(t, c.flows)
			if c.slices == nil {
				return
			}
			w.replace(t, c.service)
			w.conform(t, []namedFlow{{"after endpoints deleted", flow{"b", clusterIP, reject, ""}}})
		})
	}
}

// TestProtocolsApart: a port of one protocol is none of another's.
func TestProtocolsApart(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	tcpOnly := newTestService("web", func(s *corev1.Service) { s.Spec.Ports = s.Spec.Ports[:1] })
	w.replace(t, append(newTestSlices("web", pod("b")), tcpOnly)...)
	for family, name := range families {
		t.Run("TCP-only port does not match UDP traffic/"+name, func(t *testing.T) {
			w.checkOne(t, flow{"a", clusterIP, []string{"b"}, "a"}, family, "tcp")
			w.checkOne(t, flow{"a", clusterIP, reject, ""}, family, "udp")
		})
	}
}
