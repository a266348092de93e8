package localstack

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/providertest"
)

// TestContract holds the AWS provider to the contract, with the real SDK over
// HTTP, on an AWS that is not ours.
func TestContract(t *testing.T) {
	w := theWorld(t)
	listed := maps.Clone(ownFake)
	for name, why := range faulty {
		listed[name] = why.reason
	}
	suite := part{T: t, met: &met{}}
	providertest.RunOn(suite, providertest.Cloud{
		Open:       w.open,
		Service:    w.service,
		Updates:    w.updates(),
		NodeChange: func(s *lb.Service) { s.Targets = w.nodes(2, 3, 4) },
		Invalid:    annotated("scheme", "outward"),
		Strangers:  strangers,
		Attempts:   1,
		Many:       8,
		RealTime:   true,
	})
	for name, reason := range ownFake {
		t.Logf("not run here: %q: %s", name, reason)
	}
	if flag.Lookup("test.run").Value.String() != "" {
		return // not all of it was run
	}
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		if !(*suite.met)[name] {
			t.Errorf("the contract suite has no %q any more: take it off the list", name)
		}
	}
}

// theWorld is a world that the test has for itself.
func theWorld(t *testing.T) *world {
	t.Helper()
	w, err := newWorld(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := w.remove(ctx); err != nil {
			t.Errorf("clean up in the emulator: %v", err)
		}
	})
	return w
}

// service is the n-th Service: one port and three nodes.
func (w *world) service(n int) lb.Service {
	return lb.Service{
		ServiceRef: lb.ServiceRef{Namespace: "default", Name: fmt.Sprintf("web-%d", n), UID: fmt.Sprintf("service-uid-%d", n)},
		Ports:      []lb.Port{{Name: "http", Protocol: lb.TCP, Port: 80, NodePort: uint16(30080 + n)}},
		IPv4:       true, Targets: w.nodes(1, 2, 3),
	}
}

// nodes are the given nodes as targets.
func (w *world) nodes(numbers ...int) []lb.Target {
	var targets []lb.Target
	for _, n := range numbers {
		targets = append(targets, lb.Target{
			Node: fmt.Sprintf("node-%d", n), ProviderID: w.providerID(n), Zone: zones[(n-1)%len(zones)], State: lb.TargetActive,
		})
	}
	return targets
}

// annotated sets an annotation, named without its prefix.
func annotated(name, value string) func(*lb.Service) {
	return func(s *lb.Service) {
		if s.Annotations == nil {
			s.Annotations = map[string]string{}
		}
		s.Annotations["service.beta.kubernetes.io/aws-load-balancer-"+name] = value
	}
}

// updates are the edits that users make of a Service.
func (w *world) updates() []providertest.Edit {
	return []providertest.Edit{
		{Name: "source ranges", Edit: func(s *lb.Service) {
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24")}
		}},
		{Name: "no ICMP", Edit: annotated("enable-icmp-for-path-mtu-discovery", "off")},
		{Name: "another port", Edit: func(s *lb.Service) { s.Ports[0].Port = 8080 }},
		{Name: "another node port", Edit: func(s *lb.Service) { s.Ports[0].NodePort += 1000 }},
		{Name: "a UDP port more", Edit: func(s *lb.Service) {
			s.Ports = append(slices.Clone(s.Ports), lb.Port{Name: "dns", Protocol: lb.UDP, Port: 53, NodePort: 30053})
		}},
		{Name: "TCP and UDP on one port", Edit: func(s *lb.Service) {
			both := s.Ports[0]
			both.Name, both.Protocol = "http3", lb.UDP
			s.Ports = append(slices.Clone(s.Ports), both)
		}},
		{Name: "UDP in place of TCP", Edit: func(s *lb.Service) { s.Ports[0].Protocol = lb.UDP }},
		{Name: "a node fewer", Edit: func(s *lb.Service) { s.Targets = w.nodes(1, 2) }},
		{Name: "other nodes", Edit: func(s *lb.Service) { s.Targets = w.nodes(1, 2, 4, 5) }},
		{Name: "health check over TCP", Edit: annotated("healthcheck-protocol", "TCP")},
		{Name: "health check path", Edit: annotated("healthcheck-path", "/livez")},
		{Name: "health check codes", Edit: annotated("healthcheck-success-codes", "200,204")},
		{Name: "health check times", Edit: func(s *lb.Service) {
			annotated("healthcheck-interval", "30")(s)
			annotated("healthcheck-timeout", "10")(s)
			annotated("healthcheck-healthy-threshold", "4")(s)
			annotated("healthcheck-unhealthy-threshold", "5")(s)
		}},
		{Name: "local traffic policy", Edit: func(s *lb.Service) { s.ExternalTrafficPolicy, s.HealthCheckNodePort = lb.PolicyLocal, 32000 }},
		{Name: "internal, a new load balancer before the old one goes", Edit: annotated("scheme", "internal")},
		{Name: "two subnets", Edit: annotated("subnets", w.public[0]+","+w.public[1])},
		{Name: "one subnet", Edit: annotated("subnets", w.public[0])},
	}
}
