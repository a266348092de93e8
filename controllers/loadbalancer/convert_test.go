package loadbalancer

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"github.com/fairway-lb/fairway/providers/lb"
)

var netipEqual = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, t := range texts {
		all = append(all, netip.MustParsePrefix(t))
	}
	return all
}

func TestServiceFrom(t *testing.T) {
	targets := []lb.Target{{Node: "node-1", ProviderID: "x", State: lb.TargetActive}}
	// base is what service("web") becomes.
	base := func(edit func(*lb.Service)) lb.Service {
		s := lb.Service{
			ServiceRef:            lb.ServiceRef{Namespace: "default", Name: "web", UID: "uid-web"},
			Ports:                 []lb.Port{{Protocol: lb.TCP, Port: 80, NodePort: 30080}},
			ExternalTrafficPolicy: lb.PolicyCluster,
			IPv4:                  true,
			Targets:               targets,
		}
		edit(&s)
		return s
	}
	cases := []struct {
		name string
		edit func(*v1.Service)
		want func(*lb.Service)
	}{
		{"the plain one", func(*v1.Service) {}, func(*lb.Service) {}},
		{"several ports", func(s *v1.Service) {
			s.Spec.Ports = []v1.ServicePort{
				{Name: "dns", Protocol: v1.ProtocolUDP, Port: 53, NodePort: 30053},
				{Name: "web", Port: 443, NodePort: 65535, AppProtocol: new("https")},
			}
		}, func(s *lb.Service) {
			s.Ports = []lb.Port{
				{Name: "dns", Protocol: lb.UDP, Port: 53, NodePort: 30053},
				{Name: "web", Protocol: lb.TCP, Port: 443, NodePort: 65535, AppProtocol: "https"},
			}
		}},
		{"without node ports", func(s *v1.Service) { s.Spec.Ports[0].NodePort = 0 }, func(s *lb.Service) { s.Ports[0].NodePort = 0 }},
		{"traffic policy Local", func(s *v1.Service) {
			s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = v1.ServiceExternalTrafficPolicyLocal, 31000
		}, func(s *lb.Service) { s.ExternalTrafficPolicy, s.HealthCheckNodePort = lb.PolicyLocal, 31000 }},
		{"affinity by default", func(s *v1.Service) { s.Spec.SessionAffinity = v1.ServiceAffinityClientIP },
			func(s *lb.Service) { s.ClientAffinity = 3 * time.Hour }},
		{"affinity of a minute", func(s *v1.Service) {
			s.Spec.SessionAffinity = v1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &v1.SessionAffinityConfig{ClientIP: &v1.ClientIPConfig{TimeoutSeconds: new(int32(60))}}
		}, func(s *lb.Service) { s.ClientAffinity = time.Minute }},
		{"affinity None with a leftover time", func(s *v1.Service) { s.Spec.SessionAffinity = v1.ServiceAffinityNone }, func(*lb.Service) {}},
		{"both families", func(s *v1.Service) { s.Spec.IPFamilies = []v1.IPFamily{v1.IPv6Protocol, v1.IPv4Protocol} },
			func(s *lb.Service) { s.IPv6 = true }},
		{"an IPv6 cluster IP alone", func(s *v1.Service) { s.Spec.IPFamilies, s.Spec.ClusterIP = nil, "fd00::1" },
			func(s *lb.Service) { s.IPv4, s.IPv6 = false, true }},
		{"nothing about families", func(s *v1.Service) { s.Spec.IPFamilies = nil }, func(*lb.Service) {}},
		{"source ranges: sorted, once, masked", func(s *v1.Service) {
			s.Spec.LoadBalancerSourceRanges = []string{"192.168.1.9/24", " 10.0.0.0/8", "192.168.1.0/24"}
		}, func(s *lb.Service) { s.SourceRanges = prefixes("10.0.0.0/8", "192.168.1.0/24") }},
		{"source ranges by annotation", annotated(v1.AnnotationLoadBalancerSourceRangesKey, " 10.0.0.0/8 ,2001:db8::/32 "),
			func(s *lb.Service) {
				s.Annotations = map[string]string{v1.AnnotationLoadBalancerSourceRangesKey: " 10.0.0.0/8 ,2001:db8::/32 "}
				s.SourceRanges = prefixes("10.0.0.0/8", "2001:db8::/32")
			}},
		{"the field goes before the annotation", func(s *v1.Service) {
			s.Annotations = map[string]string{v1.AnnotationLoadBalancerSourceRangesKey: "nonsense"}
			s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8"}
		}, func(s *lb.Service) {
			s.Annotations = map[string]string{v1.AnnotationLoadBalancerSourceRangesKey: "nonsense"}
			s.SourceRanges = prefixes("10.0.0.0/8")
		}},
		{"an empty annotation is everyone", annotated(v1.AnnotationLoadBalancerSourceRangesKey, " "),
			func(s *lb.Service) { s.Annotations = map[string]string{v1.AnnotationLoadBalancerSourceRangesKey: " "} }},
		{"kubectl's copy of the object is no annotation of interest", annotated(v1.LastAppliedConfigAnnotation, "{}"),
			func(s *lb.Service) { s.Annotations = nil }},
		{"a wished address", func(s *v1.Service) { s.Spec.LoadBalancerIP = "10.0.0.5" }, func(s *lb.Service) { s.LoadBalancerIP = "10.0.0.5" }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			svc := service("web", c.edit)
			before := svc.DeepCopy()
			got, err := ServiceFrom(svc, targets)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(base(c.want), got, netipEqual); diff != "" {
				t.Errorf("service (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, svc); diff != "" {
				t.Errorf("the Service was changed:\n%s", diff)
			}
		})
	}
}

func TestServiceFromRefusesBadRanges(t *testing.T) {
	cases := []struct{ name, text, says string }{
		{"no mask", "10.0.0.1", `spec.loadBalancerSourceRanges: "10.0.0.1"`},
		{"mask too long", "10.0.0.0/33", `"10.0.0.0/33"`},
		{"a word", "everyone", `"everyone"`},
		{"nothing between commas", "", `""`},
		{"endless", strings.Repeat("x", 5000), "…"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := ServiceFrom(service("web", func(s *v1.Service) {
				s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8", c.text}
			}), nil)
			if lb.KindOf(err) != lb.Invalid || !strings.Contains(err.Error(), c.says) || len(err.Error()) > 400 {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestStatusFrom(t *testing.T) {
	ports := []v1.ServicePort{{Port: 80}, {Port: 53, Protocol: v1.ProtocolUDP}}
	wantPorts := []v1.PortStatus{{Port: 80, Protocol: v1.ProtocolTCP}, {Port: 53, Protocol: v1.ProtocolUDP}}
	got := StatusFrom(lb.Status{Addresses: []lb.Address{
		{Hostname: "A1.elb.example.com"},
		{IP: netip.MustParseAddr("203.0.113.9"), Mode: lb.ModeProxy},
		{IP: netip.MustParseAddr("2001:db8::9")},
	}}, ports)
	want := v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{
		{Hostname: "a1.elb.example.com", Ports: wantPorts},
		{IP: "203.0.113.9", IPMode: new(v1.LoadBalancerIPModeProxy), Ports: wantPorts},
		{IP: "2001:db8::9", IPMode: new(v1.LoadBalancerIPModeVIP), Ports: wantPorts},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if got := StatusFrom(lb.Status{}, ports); len(got.Ingress) > 0 {
		t.Errorf("no address gave %v", got)
	}
}

func TestVerdict(t *testing.T) {
	e := func(kind lb.ErrorKind, code string, after time.Duration) error {
		return &lb.Error{Kind: kind, Op: "create", Code: code, Message: "why", RetryAfter: after}
	}
	cases := []struct {
		name     string
		err      error
		ours     bool
		failures int
		kind     lb.ErrorKind
		after    time.Duration
	}{
		{"invalid, found by us", e(lb.Invalid, "", 0), true, 0, lb.Invalid, never},
		{"invalid, found by us, cured outside", e(lb.Invalid, "", time.Minute), true, 0, lb.Invalid, time.Minute},
		{"invalid, said by the cloud", e(lb.Invalid, "Bad", 0), true, 0, lb.Invalid, slowRetry},
		{"invalid, said after changes were tried", e(lb.Invalid, "", 0), false, 0, lb.Invalid, slowRetry},
		{"denied", e(lb.Denied, "No", 0), false, 7, lb.Denied, slowRetry},
		{"quota", e(lb.Quota, "Full", 0), false, 0, lb.Quota, slowRetry},
		{"pending", e(lb.Pending, "", 0), false, 9, lb.Pending, pendingRetry},
		{"pending with a hint", e(lb.Pending, "", 42*time.Second), false, 0, lb.Pending, 42 * time.Second},
		{"throttled with a hint", e(lb.Throttled, "Slow", 3*time.Second), false, 0, lb.Throttled, 3 * time.Second},
		{"the gravest is told, the soonest decides", errors.Join(e(lb.Pending, "", time.Second), e(lb.Denied, "No", 0)), false, 0, lb.Denied, time.Second},
		{"a stranger", errors.New("boom"), false, 20, lb.Unavailable, slowRetry},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			v := judge(c.err, c.ours, c.failures)
			if v.kind != c.kind || v.after < c.after || v.after > c.after+c.after/10 && c.after != never {
				t.Errorf("got kind %s after %s, want %s after %s", v.kind, v.after, c.kind, c.after)
			}
			if v.message == "" || len(v.message) > 1000 || v.key == "" {
				t.Errorf("message %q, key %q", v.message, v.key)
			}
		})
	}
}
