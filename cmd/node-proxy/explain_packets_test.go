package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairway-lb/fairway/controllers/nodeproxy"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/explain"
	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// prediction is what a text of explain says about packets of one source.
type prediction struct {
	fate        string   // "answered", "refused", "dropped" or "none"
	endpoints   []string // that may answer
	masqueraded bool
}

var slotLine = regexp.MustCompile(`(?:slot \d+|spare): ([^ ,]+)(.*)`)

// predict reads a text the way its reader does.
func predict(t *testing.T, text string) prediction {
	t.Helper()
	said := make(map[string][]string) // by the word before
	word := ""
	for line := range strings.Lines(text) {
		if len(line) < 16 || line[:2] != "  " {
			continue
		}
		if w := strings.TrimSpace(line[2:16]); w != "" {
			word = w
		}
		said[word] = append(said[word], strings.TrimSpace(line[16:]))
	}
	of := func(word string) string { return strings.Join(said[word], "; ") }
	verdict := of("verdict") + of("policy")
	switch {
	case strings.HasPrefix(verdict, "refused"):
		return prediction{fate: "refused"}
	case strings.HasPrefix(verdict, "dropped"), strings.Contains(of("sources"), "DROPPED"):
		return prediction{fate: "dropped"}
	case strings.HasPrefix(verdict, "none"):
		return prediction{fate: "none"}
	}
	isPod := strings.Contains(of("source"), "is a Pod's address")
	p := prediction{fate: "answered", masqueraded: strings.Contains(verdict, "the source is masqueraded") || !isPod && strings.Contains(verdict, "a source that is no Pod is masqueraded")}
	pool := said["endpoints"]
	if strings.HasPrefix(verdict, "external, Local") && !isPod {
		if pool = said["local ones"]; strings.HasPrefix(of("local ones"), "none") {
			return prediction{fate: "dropped"}
		}
	}
	if kept := of("affinity"); strings.Contains(kept, " has ") { // this source was given one
		pool = said["affinity"]
	}
	for _, line := range pool {
		m := slotLine.FindStringSubmatch(line)
		if m == nil || m[1] == "empty" {
			continue
		}
		if !slices.Contains(p.endpoints, m[1]) {
			p.endpoints = append(p.endpoints, m[1])
		}
	}
	if len(p.endpoints) == 0 {
		t.Fatalf("no endpoint in\n%s", text)
	}
	return p
}

// diagnosed are Services of every kind, beside those the stage has: name, what it
// has, and whose its endpoints are.
func diagnosed() map[string][]any {
	affinity := int32(600)
	local := corev1.ServiceInternalTrafficPolicyLocal
	out := make(map[string][]any)
	for i, s := range []struct {
		name      string
		endpoints []string
		edit      func(*corev1.ServiceSpec, *corev1.ServiceStatus)
	}{
		{"sticky", []string{"a", "b"}, func(s *corev1.ServiceSpec, _ *corev1.ServiceStatus) {
			s.SessionAffinity = corev1.ServiceAffinityClientIP
			s.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &affinity}}
		}},
		{"ranged", []string{"a", "b"}, func(s *corev1.ServiceSpec, status *corev1.ServiceStatus) {
			s.Type, s.LoadBalancerSourceRanges = corev1.ServiceTypeLoadBalancer, []string{"198.51.100.0/24", "2001:db8:c::/64"}
			status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.10"}, {IP: "2001:db8:a::10"}}
		}},
		{"here", []string{"b"}, func(s *corev1.ServiceSpec, _ *corev1.ServiceStatus) {
			s.Type, s.ExternalTrafficPolicy, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, corev1.ServiceExternalTrafficPolicyLocal, 30090
		}},
		{"elsewhere", []string{"elsewhere"}, func(s *corev1.ServiceSpec, _ *corev1.ServiceStatus) {
			s.Type, s.ExternalTrafficPolicy, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, corev1.ServiceExternalTrafficPolicyLocal, 30091
			s.InternalTrafficPolicy = &local
		}},
		{"named", []string{"a"}, func(s *corev1.ServiceSpec, _ *corev1.ServiceStatus) {
			s.ExternalIPs = []string{"192.0.2.11", "2001:db8:b::11"}
		}},
	} {
		service := corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: s.name, ResourceVersion: "1"}, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIPs: []string{fmt.Sprintf("10.96.1.%d", i+1), fmt.Sprintf("fd00:96::1:%d", i+1)}, IPFamilies: bothFamilies,
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		}}
		service.Spec.ClusterIP = service.Spec.ClusterIPs[0]
		s.edit(&service.Spec, &service.Status)
		out["services"] = append(out["services"], service)
		for family, kind := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
			slice := discoveryv1.EndpointSlice{AddressType: kind,
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint(s.name, "-", family), ResourceVersion: "1", Labels: map[string]string{discoveryv1.LabelServiceName: s.name}},
				Ports:      []discoveryv1.EndpointPort{{Name: new("http"), Protocol: new(corev1.ProtocolTCP), Port: new(int32(8080))}}}
			for _, pod := range s.endpoints {
				address, on := families[family].hosts[pod], "node-1"
				if pod == "elsewhere" {
					address, on = []string{"10.244.2.10", "fd00:f4:2::10"}[family], "node-2"
				}
				slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{address}, NodeName: &on})
			}
			out["endpointslices"] = append(out["endpointslices"], slice)
		}
	}
	out["servicecidrs"] = []any{networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", ResourceVersion: "1"},
		Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16", "fd00:96::/64"}}}}
	return out
}

// TestExplainSaysWhatPacketsDo asks about every kind of address, reads what is
// explained, and sends packets to see.
func TestExplainSaysWhatPacketsDo(t *testing.T) {
	s := newStage(t)
	s.api.extra = diagnosed()
	s.start("run")
	s.healthy()
	s.until("all is programmed", func() bool { return s.metric(`fairway_nodeproxy_services{ip_family="IPv6"} 7`) })
	for _, c := range []struct {
		name, from string
		at         [2]string
		fate       string // that it is about
	}{
		{"ClusterIP, from a Pod that is an endpoint", "a", [2]string{clusterIP, families[1].clusterIP}, "answered"},
		{"ClusterIP, from the node", "node", [2]string{clusterIP, families[1].clusterIP}, "answered"},
		{"ClusterIP, from outside", "client", [2]string{clusterIP, families[1].clusterIP}, "answered"},
		{"wrong port", "a", [2]string{"10.96.0.10:81", "[fd00:96::10]:81"}, "refused"},
		{"unallocated", "a", [2]string{"10.96.0.50:80", "[fd00:96::50]:80"}, "dropped"},
		{"NodePort", "client", [2]string{atNode, families[1].atNode}, "answered"},
		{"NodePort, from a Pod", "b", [2]string{atNode, families[1].atNode}, "answered"},
		{"NodePort without endpoints", "client", [2]string{"10.0.0.11:30081", "[fd00:a::11]:30081"}, "refused"},
		{"NodePort, policy Local", "client", [2]string{"10.0.0.11:30090", "[fd00:a::11]:30090"}, "answered"},
		{"NodePort, policy Local, from a Pod", "a", [2]string{"10.0.0.11:30090", "[fd00:a::11]:30090"}, "answered"},
		{"NodePort, policy Local, all endpoints elsewhere", "client", [2]string{"10.0.0.11:30091", "[fd00:a::11]:30091"}, "dropped"},
		{"ClusterIP, policy Local, all endpoints elsewhere", "a", [2]string{"10.96.1.4:80", "[fd00:96::1:4]:80"}, "dropped"},
		{"external IP", "client", [2]string{"192.0.2.11:80", "[2001:db8:b::11]:80"}, "answered"},
		{"load balancer, source in range", "client", [2]string{"203.0.113.10:80", "[2001:db8:a::10]:80"}, "answered"},
		{"load balancer, source out of range", "b", [2]string{"203.0.113.10:80", "[2001:db8:a::10]:80"}, "dropped"},
		{"affinity, before the first connection", "client", [2]string{"10.96.1.1:80", "[fd00:96::1:1]:80"}, "answered"},
		{"affinity, remembered", "client", [2]string{"10.96.1.1:80", "[fd00:96::1:1]:80"}, "answered"},
		{"no Service", "client", [2]string{"10.0.0.11:81", "[fd00:a::11]:81"}, "none"},
	} {
		for i, family := range families {
			t.Run(fmt.Sprintf("%s/%d", c.name, 4+2*i), func(t *testing.T) {
				text := s.explain(c.at[i], "--from", family.hosts[c.from])
				said := predict(t, text)
				if said.fate != c.fate {
					t.Fatalf("explain says %+v, the case is about %s:\n%s", said, c.fate, text)
				}
				s.verify(t, said, c.from, c.at[i], i)
				if t.Failed() {
					t.Logf("explain said\n%s", text)
				}
			})
		}
	}
	t.Run("quarantine", func(t *testing.T) {
		text := s.explain(clusterIP, "--from", "198.51.100.10", "--metrics-address", s.quarantined("default/web"))
		if !strings.Contains(text, "YES: the kernel refused the Service's latest change, the above is older") {
			t.Errorf("of a Service in quarantine explain says\n%s", text)
		}
		s.verify(t, predict(t, text), "client", clusterIP, 0)
	})
}

// quarantined serves, on the node, what a program does that has a Service in
// quarantine: no object of the API can bring a real one there.
func (s *stage) quarantined(service string) (address string) {
	s.t.Helper()
	l, err := s.hosts["node"].Listen(s.t.Context(), "tcp", "127.0.0.1:0")
	must(s.t, err)
	mux := http.NewServeMux()
	mux.Handle(explain.QuarantinePath, explain.Quarantine(func() []nodeproxy.Refusal {
		return []nodeproxy.Refusal{{Service: service, Family: "IPv4", Reason: "numerical result out of range", RetryAt: time.Now().Add(time.Minute)}}
	}))
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(l) }()
	s.t.Cleanup(func() { server.Close() })
	return l.Addr().String()
}

// verify sends packets and compares.
func (s *stage) verify(t *testing.T, said prediction, from, at string, family int) {
	t.Helper()
	if said.fate != "answered" {
		if got := s.fate(t, from, at); got != said.fate && (said.fate != "none" || got != "refused") { // by the node itself
			t.Errorf("said to be %s, it is %s", said.fate, got)
		}
		return
	}
	answered := make(map[string]bool)
	for range 60 {
		pod, err := s.ask(from, at)
		must(t, err)
		endpoint := netip.AddrPortFrom(netip.MustParseAddr(families[family].hosts[pod]), 8080).String()
		if !slices.Contains(said.endpoints, endpoint) {
			t.Fatalf("answered by %s, said are %v", endpoint, said.endpoints)
		}
		answered[endpoint] = true
		s.mu.Lock()
		source := s.seen[pod]
		s.mu.Unlock()
		want := families[family].hosts[from]
		if said.masqueraded || pod == from { // of which explain says so
			want = families[family].hosts["node"]
		}
		if source.String() != want {
			t.Errorf("%s saw the source %v, explain says it sees %s", pod, source, want)
		}
	}
	// With affinity and nobody remembered it says where one may go.
	if len(answered) != len(said.endpoints) && !strings.HasPrefix(at, "10.96.1.1:") && !strings.HasPrefix(at, "[fd00:96::1:1]:") {
		t.Errorf("answered by %v, said are %v", answered, said.endpoints)
	}
}

// fate tells what becomes of a connection that nobody answers.
func (s *stage) fate(t *testing.T, from, at string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), sandbox.Patience(300*time.Millisecond))
	defer cancel()
	c, err := s.hosts[from].DialContext(ctx, "tcp", at)
	switch {
	case err == nil:
		c.Close()
		return "answered"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return "dropped"
	}
	return err.Error()
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}
