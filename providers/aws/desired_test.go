package aws

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

func testFacts() facts {
	f := facts{region: testRegion, vpc: "vpc-1", nodeGroups: []string{"sg-1"}}
	for _, zone := range []string{"a", "b", "c"} {
		f.subnets = append(f.subnets,
			subnet{id: "subnet-" + zone + "-public", zone: testRegion + zone, public: true, free: 100},
			subnet{id: "subnet-" + zone + "-private", zone: testRegion + zone, free: 100})
	}
	return f
}

func wanted(s lb.Service, f facts) ([]lb.Resource, []lb.Notice, error) {
	o, err := parseAnnotations(s, testConfig())
	if err != nil {
		return nil, nil, err
	}
	return desired(o, f, names{lb.Cluster{Name: "demo", UID: "demo-uid"}})
}

func TestDesired(t *testing.T) {
	ports := func(ports ...lb.Port) func(*lb.Service) { return func(s *lb.Service) { s.Ports = ports } }
	cases := []struct {
		name string
		s    lb.Service
	}{
		{"simple", service()},
		{"internal", service(annotate("internal", "true"))},
		{"several-ports", service(ports(
			lb.Port{Name: "dns-udp", Protocol: lb.UDP, Port: 53, NodePort: 30053}, lb.Port{Name: "dns-tcp", Protocol: lb.TCP, Port: 53, NodePort: 30053},
			lb.Port{Name: "https", Protocol: lb.TCP, Port: 443, NodePort: 30443}, lb.Port{Name: "syslog", Protocol: lb.UDP, Port: 514, NodePort: 30514}))},
		{"local", service(func(s *lb.Service) { s.ExternalTrafficPolicy, s.HealthCheckNodePort = lb.PolicyLocal, 31000 })},
		{"source-ranges", service(annotate("security-group-prefix-lists", "pl-0f", "enable-icmp-for-path-mtu-discovery", "off"), func(s *lb.Service) {
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:DB8::/32")}
		})},
		{"prefix-lists", service(annotate("security-group-prefix-lists", "pl-0f"))},
		{"own-groups", service(annotate("security-groups", "sg-9,sg-8"))},
		{"labels", service(annotate("target-node-labels", "pool=edge"), func(s *lb.Service) { s.Targets[1].Labels = map[string]string{"pool": "edge", "x": "y"} })},
		{"no-targets", service(func(s *lb.Service) { s.Targets = nil })},
		{"odd-nodes", service(func(s *lb.Service) {
			s.Targets[0].State = lb.TargetDraining
			s.Targets[1].State = lb.TargetGone
			for n, id := range []string{"", "kind://x", "aws:///eu-west-1a/fargate-ip-10-0-0-1", "aws://eu-west-1a/i-0ff", "aws:///i-0ee"} {
				s.Targets = append(s.Targets, lb.Target{Node: fmt.Sprintf("odd-%d", n), ProviderID: id, State: lb.TargetActive})
			}
			s.Targets = append(s.Targets, lb.Target{Node: "far", ProviderID: "aws:///eu-west-1-lon-1a/i-0dd", Zone: "eu-west-1-lon-1a", State: lb.TargetActive})
		})},
		{"remarks", service(func(s *lb.Service) { s.LoadBalancerIP, s.ClientAffinity, s.IPv6 = "192.0.2.1", time.Hour, true })},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			resources, notices, err := wanted(c.s, testFacts())
			if err != nil {
				t.Fatal(err)
			}
			attached := lb.Resource{Ref: nodeGroupRef("sg-1"), ID: "sg-1", Owners: []lb.Owner{{Kind: lb.Attached}}}
			p, err := plan.Diff(resources, []lb.Resource{attached}, lb.ByService(c.s.ServiceRef))
			if err != nil {
				t.Fatal(err)
			}
			text := p.String()
			for _, n := range notices {
				text += "notice " + n.Reason + ": " + n.Message + "\n"
			}
			golden(t, "desired-"+c.name+".txt", text)
		})
	}
}

func TestDesiredRefuses(t *testing.T) {
	cases := []struct {
		name string
		s    lb.Service
		says string
	}{
		{"SCTP", service(func(s *lb.Service) { s.Ports[0].Protocol = lb.SCTP }), "TCP and UDP only"},
		{"no node port", service(func(s *lb.Service) { s.Ports[0].NodePort = 0 }), "allocateLoadBalancerNodePorts"},
		{"no port", service(func(s *lb.Service) { s.Ports = nil }), "at least one port"},
		{"no IPv4", service(func(s *lb.Service) { s.IPv4, s.IPv6 = false, true }), "IPv4"},
		{"two node ports on one port", service(func(s *lb.Service) {
			s.Ports = append(s.Ports, lb.Port{Name: "u", Protocol: lb.UDP, Port: 80, NodePort: 30081})
		}), "same nodePort, such as 30080"},
		{"too many ports", service(func(s *lb.Service) {
			for n := range 50 {
				s.Ports = append(s.Ports, lb.Port{Protocol: lb.TCP, Port: uint16(1000 + n), NodePort: uint16(31000 + n)})
			}
		}), "at most 50"},
		{"subnet that is not there", service(annotate("subnets", "subnet-x")), "no subnet of vpc-1"},
		{"own groups with source ranges", service(annotate("security-groups", "sg-9"), func(s *lb.Service) {
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		}), "source ranges"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			resources, _, err := wanted(c.s, testFacts())
			if lb.KindOf(err) != lb.Invalid || err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want Invalid with %q", err, c.says)
			}
			if len(resources) > 0 {
				t.Errorf("an error came with %d resources", len(resources))
			}
		})
	}
}

// TestDesiredIsStable: the same Service wants the same, whatever the order of
// its parts, so that a checkpoint holds.
func TestDesiredIsStable(t *testing.T) {
	s := service(func(s *lb.Service) {
		s.Ports = append(s.Ports, lb.Port{Name: "b", Protocol: lb.TCP, Port: 81, NodePort: 30081})
		s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")}
	})
	first, _, err := wanted(s, testFacts())
	if err != nil {
		t.Fatal(err)
	}
	s.Ports[0], s.Ports[1] = s.Ports[1], s.Ports[0]
	s.SourceRanges[0], s.SourceRanges[1] = s.SourceRanges[1], s.SourceRanges[0]
	s.Targets[0], s.Targets[2] = s.Targets[2], s.Targets[0]
	f := testFacts()
	f.subnets[0], f.subnets[5] = f.subnets[5], f.subnets[0]
	second, _, err := wanted(s, f)
	if err != nil {
		t.Fatal(err)
	}
	if lb.Hash(first) != lb.Hash(second) {
		t.Error("order matters")
	}
}
