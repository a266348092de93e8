package aws

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairway-lb/fairway/providers/fake"
	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

func TestCreateAndDelete(t *testing.T) {
	simulate(t, func(b *bench) {
		s := service()
		r := b.reconcile(s)
		golden(t, "create.txt", r.Plan.String())
		if len(r.Status.Addresses) != 1 || len(b.account.Resolve(r.Status.Addresses[0].Hostname)) != 3 {
			t.Errorf("status %+v does not name a load balancer with three addresses", r.Status)
		}
		b.settled(s)
		b.remove(s)
	})
}

// realTiming is how long AWS takes for things.
func realTiming(w *fakeaws.World) {
	w.Timing = fakeaws.Timing{
		Latency: fake.Duration(50 * time.Millisecond), Provisioning: fake.Duration(2 * time.Minute), Registration: fake.Duration(30 * time.Second),
		InterfaceLinger: fake.Duration(90 * time.Second), ReleaseLag: fake.Duration(5 * time.Second), VisibilityLag: fake.Duration(3 * time.Second),
	}
}

// A new group that is not seen everywhere for a moment is waited for, not left to
// the next turn, which comes after everybody else's.
func TestNewGroupIsWaitedFor(t *testing.T) {
	simulate(t, func(b *bench) {
		started := time.Now()
		b.reconcile(service())
		if took := time.Since(started); took > 3*time.Second {
			t.Errorf("it took %s", took)
		}
		b.remove(service())
	}, func(w *fakeaws.World) { w.Timing.VisibilityLag = fake.Duration(time.Second) })
}

func TestPatienceWithARealCloud(t *testing.T) {
	simulate(t, func(b *bench) {
		s := service()
		r := b.settle(func() (plan.Result, error) { return b.engine.Reconcile(b.Context(), s) })
		if len(r.Status.Addresses) != 1 {
			t.Errorf("no address is published while the load balancer is provisioned: %+v", r.Status)
		}
		b.settled(s)
		b.remove(s)
	}, realTiming)
}

// TestDeleteRightAfterCreation: what AWS does not list yet is not forgotten.
func TestDeleteRightAfterCreation(t *testing.T) {
	simulate(t, func(b *bench) {
		s := service()
		b.settle(func() (plan.Result, error) { return b.engine.Reconcile(b.Context(), s) })
		b.remove(s)
	}, realTiming)
}

func TestChanges(t *testing.T) {
	cases := []struct {
		name          string
		before, after lb.Service
		writes        []string
	}{
		{"source-ranges", service(), service(func(s *lb.Service) {
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("198.51.100.7/24"), netip.MustParsePrefix("2001:db8::/32")}
		}), []string{"AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"}},
		{"nodes", service(), service(func(s *lb.Service) { s.Targets = []lb.Target{node(2), node(3), node(4)} }),
			[]string{"RegisterTargets", "DeregisterTargets"}},
		{"node-draining", service(), service(func(s *lb.Service) { s.Targets[0].State = lb.TargetDraining }),
			[]string{"DeregisterTargets"}},
		{"port", service(), service(func(s *lb.Service) { s.Ports[0].Port = 8080 }),
			[]string{"CreateListener", "DeleteListener", "AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"}},
		{"node-port", service(), service(func(s *lb.Service) { s.Ports[0].NodePort = 30081 }),
			[]string{"CreateTargetGroup", "RegisterTargets", "ModifyListener", "DeleteTargetGroup"}},
		{"protocol", service(), service(func(s *lb.Service) { s.Ports[0].Protocol = lb.UDP }),
			[]string{"CreateTargetGroup", "RegisterTargets", "ModifyListener", "DeleteTargetGroup", "AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"}},
		{"one-port-more", service(), service(func(s *lb.Service) {
			s.Ports = append(s.Ports, lb.Port{Name: "dns", Protocol: lb.UDP, Port: 53, NodePort: 30053})
		}), []string{"CreateTargetGroup", "RegisterTargets", "CreateListener", "AuthorizeSecurityGroupIngress"}},
		{"tcp-and-udp", service(), service(func(s *lb.Service) {
			s.Ports = append(s.Ports, lb.Port{Name: "http3", Protocol: lb.UDP, Port: 80, NodePort: 30080})
		}), []string{"CreateTargetGroup", "RegisterTargets", "ModifyListener", "DeleteTargetGroup", "AuthorizeSecurityGroupIngress"}},
		{"scheme", service(), service(annotate("scheme", "internal")),
			[]string{"CreateLoadBalancer", "CreateTargetGroup", "RegisterTargets", "CreateListener", "DeleteLoadBalancer", "DeleteTargetGroup"}},
		{"subnets", service(), service(annotate("subnets", "subnet-0000000000000000a,subnet-0000000000000002b")),
			[]string{"SetSubnets"}},
		{"health-check", service(), service(annotate("healthcheck-interval", "30", "healthcheck-path", "/ready")),
			[]string{"ModifyTargetGroup"}},
		{"local", service(), service(func(s *lb.Service) { s.ExternalTrafficPolicy, s.HealthCheckNodePort = lb.PolicyLocal, 31000 }),
			[]string{"ModifyTargetGroup"}},
		{"health-check-tcp", service(), service(annotate("healthcheck-protocol", "TCP", "healthcheck-port", "traffic-port")),
			[]string{"ModifyTargetGroup"}},
		{"attributes", service(), service(annotate("cross-zone-load-balancing-enabled", "true", "proxy-protocol", "*", "attributes", "zonal_shift.config.enabled=true"),
			func(s *lb.Service) { s.ClientAffinity = defaultAffinity }),
			[]string{"AddTags", "AddTags", "ModifyLoadBalancerAttributes", "ModifyTargetGroupAttributes"}},
		{"attributes-and-health-check", service(annotate("connection-draining-timeout", "30")),
			service(annotate("connection-draining-timeout", "60", "healthcheck-interval", "30")),
			[]string{"ModifyTargetGroup", "ModifyTargetGroupAttributes"}},
		{"own-groups", service(), service(annotate("security-groups", testNodes)),
			[]string{"SetSecurityGroups", "DeleteSecurityGroup"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			simulate(t, func(b *bench) {
				b.reconcile(c.before)
				r, writes := b.perform(c.after)
				golden(t, "change-"+c.name+".txt", r.Plan.String())
				b.expectWrites(writes, c.writes...)
				b.settled(c.after)
				if len(r.Status.Addresses) != 1 || len(b.account.Resolve(r.Status.Addresses[0].Hostname)) == 0 {
					t.Errorf("status afterwards: %+v", r.Status)
				}
				// And back: no field may be stuck.
				b.reconcile(c.before)
				b.settled(c.before)
				b.remove(c.before)
			})
		})
	}
}

// TestNothingIsTakenAwayFirst: what replaces something stands before that goes.
func TestNothingIsTakenAwayFirst(t *testing.T) {
	cases := []struct {
		name         string
		after        lb.Service
		first, later string
	}{
		{"load balancer", service(annotate("scheme", "internal")), "CreateListener", "DeleteLoadBalancer"},
		{"target group", service(func(s *lb.Service) { s.Ports[0].NodePort = 30081 }), "ModifyListener", "DeleteTargetGroup"},
		{"targets", service(func(s *lb.Service) { s.Targets = []lb.Target{node(2), node(3), node(4)} }), "RegisterTargets", "DeregisterTargets"},
		{"rules", service(func(s *lb.Service) { s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }),
			"AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"},
		{"targets of a new listener", service(func(s *lb.Service) { s.Ports[0].NodePort = 30081 }), "RegisterTargets", "ModifyListener"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			simulate(t, func(b *bench) {
				b.reconcile(service())
				_, writes := b.perform(c.after)
				first, later := slices.Index(writes, c.first), slices.Index(writes, c.later)
				if first < 0 || later < 0 || first > later {
					t.Errorf("want %s before %s, got %v", c.first, c.later, writes)
				}
			})
		})
	}
}

func TestLastServiceTakesTheSharedGroup(t *testing.T) {
	simulate(t, func(b *bench) {
		one := service()
		two := service(func(s *lb.Service) { s.Name, s.UID = "api", "api-uid" })
		b.reconcile(one)
		b.reconcile(two)
		if _, err := b.engine.Delete(b.Context(), one.ServiceRef); err != nil {
			t.Fatal(err)
		}
		b.settled(two)
		b.remove(two)
	})
}

// TestDeleteAfterRestart: a provider that never saw the Service's nodes still
// finds all that belongs to it.
func TestDeleteAfterRestart(t *testing.T) {
	simulate(t, func(b *bench) {
		b.reconcile(service())
		b.restart("demo-uid")
		b.remove(service())
	})
}

func TestDrift(t *testing.T) {
	cases := []struct {
		name string
		harm func(b *bench, seen map[lb.Kind]lb.Resource) error
	}{
		{"listener deleted", func(b *bench, seen map[lb.Kind]lb.Resource) error {
			_, err := b.operator.elb.DeleteListener(b.Context(), &elb.DeleteListenerInput{ListenerArn: aws.String(seen[kindListener].ID)})
			return err
		}},
		{"load balancer deleted", func(b *bench, seen map[lb.Kind]lb.Resource) error {
			_, err := b.operator.elb.DeleteLoadBalancer(b.Context(), &elb.DeleteLoadBalancerInput{LoadBalancerArn: aws.String(seen[kindLoadBalancer].ID)})
			return err
		}},
		{"targets deregistered", func(b *bench, seen map[lb.Kind]lb.Resource) error {
			_, err := b.operator.elb.DeregisterTargets(b.Context(), &elb.DeregisterTargetsInput{TargetGroupArn: aws.String(seen[kindTargets].ID),
				Targets: descriptions([]string{instanceOf(1), instanceOf(2), instanceOf(3)})})
			return err
		}},
		{"target added on another port", func(b *bench, seen map[lb.Kind]lb.Resource) error {
			_, err := b.operator.elb.RegisterTargets(b.Context(), &elb.RegisterTargetsInput{TargetGroupArn: aws.String(seen[kindTargets].ID),
				Targets: descriptions([]string{targetItem(instanceOf(4), 8080)})})
			return err
		}},
		{"health check changed", func(b *bench, seen map[lb.Kind]lb.Resource) error {
			_, err := b.operator.elb.ModifyTargetGroup(b.Context(), &elb.ModifyTargetGroupInput{TargetGroupArn: aws.String(seen[kindTargetGroup].ID),
				HealthCheckProtocol: elbtypes.ProtocolEnumTcp, HealthCheckPort: aws.String("22")})
			return err
		}},
		{"rule opened", func(b *bench, seen map[lb.Kind]lb.Resource) error {
			made, err := permissions([]string{"tcp/22 from 0.0.0.0/0"}, "")
			if err == nil {
				_, err = b.operator.ec2.AuthorizeSecurityGroupIngress(b.Context(), &ec2.AuthorizeSecurityGroupIngressInput{
					GroupId: aws.String(seen[kindSecurityGroup].ID), IpPermissions: made})
			}
			return err
		}},
		{"node rules removed", func(b *bench, _ map[lb.Kind]lb.Resource) error {
			out, err := b.operator.ec2.DescribeSecurityGroups(b.Context(), &ec2.DescribeSecurityGroupsInput{GroupIds: []string{testNodes}})
			if err != nil {
				return err
			}
			ours := slices.DeleteFunc(out.SecurityGroups[0].IpPermissions, func(p ec2types.IpPermission) bool { return len(p.UserIdGroupPairs) == 0 })
			_, err = b.operator.ec2.RevokeSecurityGroupIngress(b.Context(), &ec2.RevokeSecurityGroupIngressInput{GroupId: aws.String(testNodes), IpPermissions: ours[:1]})
			return err
		}},
		{"subnets changed", func(b *bench, seen map[lb.Kind]lb.Resource) error {
			_, err := b.operator.elb.SetSubnets(b.Context(), &elb.SetSubnetsInput{LoadBalancerArn: aws.String(seen[kindLoadBalancer].ID),
				Subnets: seen[kindLoadBalancer].Fields["subnets"][:2]})
			return err
		}},
		{"security groups changed", func(b *bench, seen map[lb.Kind]lb.Resource) error {
			_, err := b.operator.elb.SetSecurityGroups(b.Context(), &elb.SetSecurityGroupsInput{LoadBalancerArn: aws.String(seen[kindLoadBalancer].ID),
				SecurityGroups: []string{testNodes}})
			return err
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			simulate(t, func(b *bench) {
				s := service()
				b.reconcile(s)
				observed, err := b.provider.Observe(b.Context(), lb.ByService(s.ServiceRef))
				if err != nil {
					t.Fatal(err)
				}
				seen := map[lb.Kind]lb.Resource{}
				for _, r := range observed {
					if r.OwnedBy(lb.ByService(s.ServiceRef)) || seen[r.Kind].ID == "" {
						seen[r.Kind] = r
					}
				}
				if err := c.harm(b, seen); err != nil {
					t.Fatal(err)
				}
				if r := b.reconcile(s); r.Plan.Empty() {
					t.Error("the harm was not seen")
				}
				b.settled(s)
				b.remove(s)
			})
		})
	}
}

// TestForeign: what has a name that would be ours, but not our mark, is a
// Conflict that names it, and stays.
func TestForeign(t *testing.T) {
	s := service()
	n := names{lb.Cluster{Name: "demo", UID: "demo-uid"}}
	cases := []struct {
		name string
		make func(b *bench) error
		left string
	}{
		{"load balancer", func(b *bench) error {
			_, err := b.operator.elb.CreateLoadBalancer(b.Context(), &elb.CreateLoadBalancerInput{Name: aws.String(n.loadBalancer(s.ServiceRef, schemeInternet, testVPC)),
				Type: elbtypes.LoadBalancerTypeEnumNetwork, Subnets: []string{"subnet-0000000000000000a"}})
			return err
		}, "load-balancer " + n.loadBalancer(s.ServiceRef, schemeInternet, testVPC)},
		{"target group", func(b *bench) error {
			_, err := b.operator.elb.CreateTargetGroup(b.Context(), &elb.CreateTargetGroupInput{Name: aws.String(n.targetGroup(s.ServiceRef, schemeInternet, testVPC, "TCP", 30080)),
				Protocol: elbtypes.ProtocolEnumTcp, Port: aws.Int32(30080), VpcId: aws.String(testVPC), TargetType: elbtypes.TargetTypeEnumInstance})
			return err
		}, "target-group " + n.targetGroup(s.ServiceRef, schemeInternet, testVPC, "TCP", 30080)},
		{"target group of another port", func(b *bench) error {
			_, err := b.operator.elb.CreateTargetGroup(b.Context(), &elb.CreateTargetGroupInput{Name: aws.String(n.targetGroup(s.ServiceRef, schemeInternet, testVPC, "TCP", 30080)),
				Protocol: elbtypes.ProtocolEnumTcp, Port: aws.Int32(99), VpcId: aws.String(testVPC), TargetType: elbtypes.TargetTypeEnumInstance})
			return err
		}, "target-group " + n.targetGroup(s.ServiceRef, schemeInternet, testVPC, "TCP", 30080)},
		{"security group", func(b *bench) error {
			_, err := b.operator.ec2.CreateSecurityGroup(b.Context(), &ec2.CreateSecurityGroupInput{GroupName: aws.String(n.frontend(s.ServiceRef)),
				Description: aws.String("made by hand"), VpcId: aws.String(testVPC)})
			return err
		}, "security-group " + n.frontend(s.ServiceRef)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			simulate(t, func(b *bench) {
				if err := c.make(b); err != nil {
					t.Fatal(err)
				}
				if _, err := b.engine.Reconcile(b.Context(), s); lb.KindOf(err) != lb.Conflict {
					t.Errorf("got %v, want a Conflict", err)
				}
				if _, err := b.engine.Delete(b.Context(), s.ServiceRef); err != nil {
					t.Error(err)
				}
				b.expectLeft(c.left)
			})
		})
	}
}

func TestForeignListenerOnOurPort(t *testing.T) {
	simulate(t, func(b *bench) {
		s := service()
		b.reconcile(s)
		observed, err := b.provider.Observe(b.Context(), lb.ByService(s.ServiceRef))
		if err != nil {
			t.Fatal(err)
		}
		find := func(kind lb.Kind) string {
			return observed[slices.IndexFunc(observed, func(r lb.Resource) bool { return r.Kind == kind })].ID
		}
		_, err = b.operator.elb.CreateListener(b.Context(), &elb.CreateListenerInput{LoadBalancerArn: aws.String(find(kindLoadBalancer)),
			Port: aws.Int32(443), Protocol: elbtypes.ProtocolEnumTcp, DefaultActions: forward(find(kindTargetGroup))})
		if err != nil {
			t.Fatal(err)
		}
		b.settled(s) // one on another port is none of our business
		s.Ports = append(s.Ports, lb.Port{Name: "https", Protocol: lb.TCP, Port: 443, NodePort: 30443})
		if _, err := b.engine.Reconcile(b.Context(), s); lb.KindOf(err) != lb.Conflict {
			t.Errorf("got %v, want a Conflict", err)
		}
	})
}

// TestSameNameAnotherCluster: a cluster made again under its old name does not
// touch what is left of the old one.
func TestSameNameAnotherCluster(t *testing.T) {
	simulate(t, func(b *bench) {
		old := service()
		b.reconcile(old)
		b.restart("another-uid")
		b.reconcile(old)
		b.settled(old)
		b.settle(func() (plan.Result, error) { return b.engine.Delete(b.Context(), old.ServiceRef) })
		b.restart("demo-uid")
		b.settled(old)
		b.remove(old)
	})
}

func TestTheNodesOwnRulesStay(t *testing.T) {
	simulate(t, func(b *bench) {
		mine, err := permissions([]string{"tcp/9100 from 10.1.0.0/16"}, "monitoring")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.operator.ec2.AuthorizeSecurityGroupIngress(b.Context(), &ec2.AuthorizeSecurityGroupIngressInput{
			GroupId: aws.String(testNodes), IpPermissions: mine}); err != nil {
			t.Fatal(err)
		}
		b.reconcile(service())
		b.settle(func() (plan.Result, error) { return b.engine.Delete(b.Context(), service().ServiceRef) })
		b.expectLeft("security-group-rule nodes: tcp 9100-9100 from 10.1.0.0/16")
	})
}

// TestRefusedTargets: one bad node starves nobody, and is reported.
func TestRefusedTargets(t *testing.T) {
	simulate(t, func(b *bench) {
		ghost := lb.Target{Node: "ghost", ProviderID: "aws:///eu-west-1a/i-0dead0dead0dead0d", Zone: "eu-west-1a", State: lb.TargetActive}
		s := service(func(s *lb.Service) { s.Targets = append(s.Targets, ghost) })
		b.reconcile(s)
		_, err := b.engine.Reconcile(b.Context(), s)
		if lb.KindOf(err) != lb.Invalid || !strings.Contains(fmt.Sprint(err), "i-0dead0dead0dead0d") {
			t.Errorf("got %v, want an Invalid error that names the instance", err)
		}
		s.Targets = append(s.Targets[:3], node(4), ghost)
		if _, err := b.engine.Reconcile(b.Context(), s); lb.KindOf(err) != lb.Invalid {
			t.Errorf("got %v, want Invalid", err)
		}
		s.Targets = s.Targets[:4]
		b.settled(s) // node 4 is registered already
		b.remove(s)
	})
}

func TestManyTargets(t *testing.T) {
	simulate(t, func(b *bench) {
		s := service(func(s *lb.Service) {
			s.Targets = nil
			for n := range 250 {
				s.Targets = append(s.Targets, node(1+n))
			}
		})
		_, writes := b.perform(s)
		if n := len(slices.DeleteFunc(writes, func(op string) bool { return op != "RegisterTargets" })); n != 3 {
			t.Errorf("250 targets took %d calls, want 3", n)
		}
		b.settled(s)
	}, func(w *fakeaws.World) {
		w.Instances = nil
		for n := range 250 {
			w.Instances = append(w.Instances, fakeaws.Instance{ID: instanceOf(1 + n), Subnet: fmt.Sprintf("subnet-0%015da", n%3),
				PrivateIP: netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", 16*(n%3)+1, 1+n)), SecurityGroups: []string{testNodes}})
		}
	})
}

func TestWrongAnnotationChangesNothing(t *testing.T) {
	simulate(t, func(b *bench) {
		b.reconcile(service())
		b.account.Calls().Reset()
		r, err := b.engine.Reconcile(b.Context(), service(annotate("scheme", "interal")))
		if lb.KindOf(err) != lb.Invalid || !r.Plan.Empty() || len(b.account.Calls().Calls()) > 0 {
			t.Errorf("got %v of kind %s, a plan %q and %d calls; want Invalid and nothing else", err, lb.KindOf(err), r.Plan, len(b.account.Calls().Calls()))
		}
	})
}

// TestManyServicesAtOnce: thirty Services come and go at the same time, at the
// published request limits.
func TestManyServicesAtOnce(t *testing.T) {
	simulate(t, func(b *bench) {
		each := func(do func(lb.Service) (plan.Result, error)) {
			var all sync.WaitGroup
			for n := range 30 {
				s := service(func(s *lb.Service) {
					s.Name, s.UID = fmt.Sprintf("web-%d", n), fmt.Sprintf("uid-%d", n)
					s.Ports[0].NodePort = uint16(30100 + n)
				})
				all.Go(func() { b.settle(func() (plan.Result, error) { return do(s) }) })
			}
			all.Wait()
		}
		started := time.Now()
		each(func(s lb.Service) (plan.Result, error) { return b.engine.Reconcile(b.Context(), s) })
		t.Logf("30 created in %s with %d calls", time.Since(started).Round(time.Second), len(b.account.Calls().Calls()))
		each(func(s lb.Service) (plan.Result, error) {
			r, err := b.engine.Reconcile(b.Context(), s)
			if err == nil && !r.Plan.Empty() {
				t.Errorf("a second run finds something to do:\n%s", r.Plan)
			}
			return r, err
		})
		for n := range 30 {
			ref := lb.ServiceRef{Namespace: "default", Name: fmt.Sprintf("web-%d", n), UID: fmt.Sprintf("uid-%d", n)}
			b.settle(func() (plan.Result, error) { return b.engine.Delete(b.Context(), ref) })
		}
		b.expectLeft()
		if n := b.throttled(); n > 0 {
			t.Errorf("%d requests were refused for their number", n)
		}
	}, realTiming)
}

func (b *bench) throttled() int {
	n := 0
	for _, c := range b.account.Calls().Calls() {
		if c.Code == "Throttling" || c.Code == "RequestLimitExceeded" {
			n++
		}
	}
	return n
}
