package nodeproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// lines prints what a Service becomes in one family, a line per fact.
func lines(f forwarding) string {
	var out []string
	for at, b := range f.service.Frontends {
		policy := map[nft.Policy]string{nft.Internal: "internal", nft.InternalLocal: "internal-local", nft.External: "external", nft.ExternalLocal: "external-local"}[b.Policy]
		line := fmt.Sprintf("%v %s %v", at, policy, b.Cluster)
		if len(b.Local) > 0 {
			line += fmt.Sprintf(" local %v", b.Local)
		}
		out = append(out, line)
	}
	slices.Sort(out)
	for _, a := range f.service.ClusterIPs {
		out = append(out, fmt.Sprintf("cluster-ip %v", a))
	}
	for _, a := range f.service.LocalEndpoints {
		out = append(out, fmt.Sprintf("here %v", a))
	}
	return strings.Join(out, "\n")
}

// decide runs API objects through records to the forwarding state, as seen from
// "node" with the address 10.0.0.11.
func decide(t *testing.T, s *corev1.Service, ipv6 bool, slices ...*discoveryv1.EndpointSlice) (forwarding, service) {
	t.Helper()
	record, ok := newService(s)
	if !ok {
		t.Fatal("the Service was left out")
	}
	var endpoints []endpointSlice
	for _, s := range slices {
		if r, ok := newEndpointSlice(s, "node"); ok {
			endpoints = append(endpoints, r)
		}
	}
	return desired(record, endpoints, view{ipv6: ipv6, nodePortAddresses: []netip.Addr{netip.MustParseAddr("10.0.0.11"), netip.MustParseAddr("fd00:a::11")}}), record
}

func tcpPort(name string, port, nodePort int32) corev1.ServicePort {
	return corev1.ServicePort{Name: name, Protocol: corev1.ProtocolTCP, Port: port, NodePort: nodePort}
}

func testService(edit func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}}
	s.Spec.Type = corev1.ServiceTypeClusterIP
	s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.96.0.1", []string{"10.96.0.1"}
	s.Spec.Ports = []corev1.ServicePort{tcpPort("http", 80, 0)}
	edit(s)
	return s
}

// testSlice is an IPv4 slice for the port "http"; each endpoint is an address,
// with "!" appended for one on this node, "-" for one that is not ready, "~" for
// one that is terminating but serves.
func testSlice(port int32, endpoints ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	s.Namespace, s.Labels = "ns", map[string]string{discoveryv1.LabelServiceName: "web"}
	s.Ports = []discoveryv1.EndpointPort{{Name: new("http"), Protocol: new(corev1.ProtocolTCP), Port: &port}}
	for _, text := range endpoints {
		e := discoveryv1.Endpoint{Addresses: []string{strings.TrimRight(text, "!-~")}, NodeName: new("other")}
		if strings.Contains(text, "!") {
			e.NodeName = new("node")
		}
		if strings.Contains(text, "-") {
			e.Conditions.Ready, e.Conditions.Serving = new(false), new(false)
		}
		if strings.Contains(text, "~") {
			e = terminating(e)
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func TestDesired(t *testing.T) {
	nodePorts := func(s *corev1.Service) {
		s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
	}
	for _, c := range []struct {
		name   string
		edit   func(*corev1.Service)
		slices []*discoveryv1.EndpointSlice
		want   string
	}{
		{
			name:   "slices merge, sorted, each endpoint once",
			slices: []*discoveryv1.EndpointSlice{testSlice(8080, "10.244.2.3", "10.244.1.1"), testSlice(8080, "10.244.1.2!", "10.244.1.1")},
			want: `10.96.0.1:80/tcp internal [10.244.1.1:8080 10.244.1.2:8080 10.244.2.3:8080]
cluster-ip 10.96.0.1
here 10.244.1.2`,
		},
		{
			name:   "slices that differ in the target port of one name",
			slices: []*discoveryv1.EndpointSlice{testSlice(8080, "10.244.1.1"), testSlice(9090, "10.244.1.2")},
			want: `10.96.0.1:80/tcp internal [10.244.1.1:8080 10.244.1.2:9090]
cluster-ip 10.96.0.1`,
		},
		{
			name:   "not ready",
			slices: []*discoveryv1.EndpointSlice{testSlice(8080, "10.244.1.1-", "10.244.1.2")},
			want: `10.96.0.1:80/tcp internal [10.244.1.2:8080]
cluster-ip 10.96.0.1`,
		},
		{
			name:   "none",
			slices: []*discoveryv1.EndpointSlice{testSlice(8080, "10.244.1.1-!")},
			want: `10.96.0.1:80/tcp internal []
cluster-ip 10.96.0.1`,
		},
		{
			name:   "terminating in one slice, ready in a newer one",
			slices: []*discoveryv1.EndpointSlice{testSlice(8080, "10.244.1.1"), testSlice(8080, "10.244.1.1~")},
			want: `10.96.0.1:80/tcp internal [10.244.1.1:8080]
cluster-ip 10.96.0.1`,
		},
		{
			name:   "the fallback to terminating endpoints is for each pool alone",
			edit:   func(s *corev1.Service) { nodePorts(s); s.Spec.ExternalTrafficPolicy = "Local" },
			slices: []*discoveryv1.EndpointSlice{testSlice(8080, "10.244.1.1~!", "10.244.2.2", "10.244.2.3~")},
			want: `10.0.0.11:30080/tcp external-local [10.244.2.2:8080] local [10.244.1.1:8080]
10.96.0.1:80/tcp internal [10.244.2.2:8080]
cluster-ip 10.96.0.1
here 10.244.1.1`,
		},
		{
			name:   "all terminating",
			slices: []*discoveryv1.EndpointSlice{testSlice(8080, "10.244.1.1~!", "10.244.2.2~", "10.244.2.3-")},
			want: `10.96.0.1:80/tcp internal [10.244.1.1:8080 10.244.2.2:8080]
cluster-ip 10.96.0.1
here 10.244.1.1`,
		},
		{
			name: "every kind of address",
			edit: func(s *corev1.Service) {
				nodePorts(s)
				s.Spec.Type = corev1.ServiceTypeLoadBalancer
				s.Spec.ExternalIPs = []string{"192.0.2.7", "0.0.0.0", "127.0.0.1", "224.0.0.1", "010.0.0.1", "::ffff:192.0.2.7"}
				s.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal)
				s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{
					{IP: "203.0.113.1"},
					{IP: "203.0.113.2", IPMode: new(corev1.LoadBalancerIPModeVIP)},
					{IP: "203.0.113.3", IPMode: new(corev1.LoadBalancerIPModeProxy)},
					{Hostname: "example.com"},
				}
			},
			slices: []*discoveryv1.EndpointSlice{testSlice(8080, "10.244.2.2")},
			want: `10.0.0.11:30080/tcp external [10.244.2.2:8080]
10.0.0.1:80/tcp external [10.244.2.2:8080]
10.96.0.1:80/tcp internal-local [10.244.2.2:8080]
192.0.2.7:80/tcp external [10.244.2.2:8080]
203.0.113.1:80/tcp external [10.244.2.2:8080]
203.0.113.2:80/tcp external [10.244.2.2:8080]
cluster-ip 10.96.0.1`,
		},
		{
			name: "a load balancer status on another type of Service",
			edit: func(s *corev1.Service) {
				s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.1"}}
			},
			want: `10.96.0.1:80/tcp internal []
cluster-ip 10.96.0.1`,
		},
		{
			name: "ports by name and protocol",
			edit: func(s *corev1.Service) {
				s.Spec.Ports = []corev1.ServicePort{tcpPort("http", 80, 0), tcpPort("admin", 81, 0), {Name: "http", Protocol: corev1.ProtocolUDP, Port: 80}}
			},
			slices: []*discoveryv1.EndpointSlice{testSlice(8080, "10.244.2.2")},
			want: `10.96.0.1:80/tcp internal [10.244.2.2:8080]
10.96.0.1:80/udp internal []
10.96.0.1:81/tcp internal []
cluster-ip 10.96.0.1`,
		},
		{
			name: "slices that do not count",
			slices: []*discoveryv1.EndpointSlice{
				func() *discoveryv1.EndpointSlice {
					s := testSlice(8080, "10.244.2.2")
					s.AddressType = discoveryv1.AddressTypeFQDN
					return s
				}(),
				func() *discoveryv1.EndpointSlice { s := testSlice(8080, "10.244.2.3"); s.Labels = nil; return s }(),
				func() *discoveryv1.EndpointSlice { s := testSlice(8080, "10.244.2.4"); s.Ports[0].Port = nil; return s }(),
				func() *discoveryv1.EndpointSlice { s := testSlice(8080, "10.244.2.5"); s.Ports[0].Name = nil; return s }(),
				testSlice(0, "10.244.2.6"), testSlice(8080, "no-address", ""),
			},
			want: `10.96.0.1:80/tcp internal []
cluster-ip 10.96.0.1`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := testService(func(s *corev1.Service) {
				if c.edit != nil {
					c.edit(s)
				}
			})
			got, _ := decide(t, s, false, c.slices...)
			if diff := cmp.Diff(c.want, lines(got)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			six, _ := decide(t, s, true, c.slices...)
			for f := range six.service.Frontends {
				if f.Port != nodePort {
					t.Errorf("in IPv6 there is %v", f)
				}
			}
		})
	}
}

// TestNoLocal counts the ports that kube-proxy counts.
func TestNoLocal(t *testing.T) {
	internal := func(s *corev1.Service) {
		s.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal)
	}
	external := func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.ExternalIPs, s.Spec.Ports[0].NodePort = []string{"192.0.2.7", "192.0.2.8"}, 30080
	}
	// alike makes three ports of the slices and the Service, with one target port.
	alike := func(s *corev1.Service) {
		s.Spec.Ports = append(s.Spec.Ports, tcpPort("http", 81, 0), tcpPort("http", 82, 0))
	}
	for _, c := range []struct {
		name   string
		edits  []func(*corev1.Service)
		slices []*discoveryv1.EndpointSlice
		want   noLocal
	}{
		{"policies Cluster", nil, []*discoveryv1.EndpointSlice{testSlice(8080, "10.244.2.2")}, noLocal{}},
		{"internal, at one address", []func(*corev1.Service){internal}, []*discoveryv1.EndpointSlice{testSlice(8080, "10.244.2.2")}, noLocal{internal: 1}},
		{"external, at several", []func(*corev1.Service){external}, []*discoveryv1.EndpointSlice{testSlice(8080, "10.244.2.2")}, noLocal{external: 1}},
		{"both", []func(*corev1.Service){internal, external}, []*discoveryv1.EndpointSlice{testSlice(8080, "10.244.2.2")}, noLocal{1, 1}},
		{"ports with the same endpoints", []func(*corev1.Service){internal, external, alike}, []*discoveryv1.EndpointSlice{testSlice(8080, "10.244.2.2")}, noLocal{3, 3}},
		{"external, without an address yet", []func(*corev1.Service){external, func(s *corev1.Service) {
			s.Spec.ExternalIPs, s.Spec.Ports[0].NodePort = nil, 0
		}}, []*discoveryv1.EndpointSlice{testSlice(8080, "10.244.2.2")}, noLocal{external: 1}},
		{"a local endpoint", []func(*corev1.Service){internal, external, alike}, []*discoveryv1.EndpointSlice{testSlice(8080, "10.244.2.2", "10.244.1.2!")}, noLocal{}},
		{"a local one that is terminating", []func(*corev1.Service){internal}, []*discoveryv1.EndpointSlice{testSlice(8080, "10.244.2.2", "10.244.1.2!~")}, noLocal{}},
		{"none that is ready", []func(*corev1.Service){internal, external}, []*discoveryv1.EndpointSlice{testSlice(8080, "10.244.2.2-")}, noLocal{}},
		{"no endpoints", []func(*corev1.Service){internal, external}, nil, noLocal{}},
	} {
		got, _ := decide(t, testService(func(s *corev1.Service) {
			for _, edit := range c.edits {
				edit(s)
			}
		}), false, c.slices...)
		if got.noLocal != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got.noLocal, c.want)
		}
	}
}

// TestProbesAnsweredBy: load balancers' probes go where /healthz is served, and
// nowhere if that is no address of the node they can reach.
func TestProbesAnsweredBy(t *testing.T) {
	record, _ := newService(testService(func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.1"}, {IP: "2001:db8::1"}}
	}))
	for _, c := range []struct{ at, four, six string }{
		{"", "10.0.0.11", "fd00:a::11"},
		{"0.0.0.0", "10.0.0.11", "fd00:a::11"},
		{"::", "10.0.0.11", "fd00:a::11"},
		{"10.0.0.11", "10.0.0.11", ""},
		{"10.0.0.12", "10.0.0.12", ""}, // another address of the node
		{"fd00:a::11", "", "fd00:a::11"},
		{"127.0.0.1", "", ""},
		{"::1", "", ""},
	} {
		var at netip.Addr
		if c.at != "" {
			at = netip.MustParseAddr(c.at)
		}
		for ipv6, want := range map[bool]string{false: c.four, true: c.six} {
			v := view{ipv6: ipv6, nodeAddresses: parseAddrs([]string{"10.0.0.11", "fd00:a::11"}), healthPort: 10256, healthAddress: at}
			got := ""
			for f, b := range desired(record, nil, v).service.Frontends {
				if f.Port == 10256 {
					got = b.Cluster[0].Addr().String()
				}
			}
			if got != want {
				t.Errorf("/healthz at %q: in IPv6 %v, probes are answered by %q, want %q", c.at, ipv6, got, want)
			}
		}
	}
}

func TestServicesLeftOut(t *testing.T) {
	for name, edit := range map[string]func(*corev1.Service){
		"ExternalName":   func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName },
		"headless":       func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone },
		"no address yet": func(s *corev1.Service) { s.Spec.ClusterIP = "" },
	} {
		if r, ok := newService(testService(edit)); ok {
			t.Errorf("%s: taken as %+v", name, r)
		}
	}
}

func TestNode(t *testing.T) {
	address := func(kind corev1.NodeAddressType, a string) corev1.NodeAddress {
		return corev1.NodeAddress{Type: kind, Address: a}
	}
	for _, c := range []struct {
		name     string
		node     corev1.Node
		want     string
		eligible bool
	}{
		{"none", corev1.Node{}, "[]", true},
		{"internal before external", corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			address("Hostname", "10.9.9.9"), address("ExternalIP", "198.51.100.1"), address("InternalIP", "10.0.0.11"), address("InternalIP", "fd00::11")}}}, "[10.0.0.11 fd00::11]", true},
		{"external alone", corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{address("ExternalIP", "198.51.100.1")}}}, "[198.51.100.1]", true},
		{"the first of each family", corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			address("InternalIP", "fd00::11"), address("InternalIP", "fd00::12"), address("InternalIP", "10.0.0.11"), address("InternalIP", "10.0.0.12")}}}, "[fd00::11 10.0.0.11]", true},
		{"external only in the other family", corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			address("ExternalIP", "198.51.100.1"), address("ExternalIP", "2001:db8::1"), address("ExternalIP", "2001:db8::2"), address("InternalIP", "10.0.0.11")}}}, "[10.0.0.11 2001:db8::1]", true},
		{"no address at all", corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			address("InternalIP", "none"), address("InternalIP", "127.0.0.1"), address("InternalDNS", "10.9.9.9")}}}, "[]", true},
		{"other taint", corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "node.kubernetes.io/not-ready"}}}}, "[]", true},
		{"to be deleted", corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: toBeDeletedTaint}}}}, "[]", false},
		{"being deleted", corev1.Node{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{Time: metav1.Now().Time}}}, "[]", false},
	} {
		if got := newNode(&c.node); fmt.Sprint(got.addresses) != c.want || got.eligible != c.eligible {
			t.Errorf("%s: %+v, want %s, eligible %v", c.name, got, c.want, c.eligible)
		}
	}
}
