package aws

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairway-lb/fairway/providers/fake"
	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/lb"
)

// TestFullTargetGroup: where a new target has no room beside the old ones, they
// make room first.
func TestFullTargetGroup(t *testing.T) {
	simulate(t, func(b *bench) {
		b.reconcile(service())
		s := service(func(s *lb.Service) { s.Targets = []lb.Target{node(2), node(3), node(4)} })
		_, writes := b.perform(s)
		b.expectWrites(writes, "RegisterTargets", "DeregisterTargets", "RegisterTargets")
		b.settled(s)
	}, func(w *fakeaws.World) { w.Quotas.TargetsPerGroup = 3 })
}

// TestFullSecurityGroup: the same with rules.
func TestFullSecurityGroup(t *testing.T) {
	ranges := func(from int) func(*lb.Service) {
		return func(s *lb.Service) {
			for n := range 3 {
				s.SourceRanges = append(s.SourceRanges, netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", from+n)))
			}
		}
	}
	simulate(t, func(b *bench) {
		b.reconcile(service(ranges(1)))
		s := service(ranges(11))
		_, writes := b.perform(s)
		b.expectWrites(writes, "AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress", "AuthorizeSecurityGroupIngress")
		b.settled(s)
		if _, err := b.engine.Reconcile(b.Context(), service(ranges(11), ranges(21))); lb.KindOf(err) != lb.Quota {
			b.Errorf("got %v, want Quota", err)
		}
	}, func(w *fakeaws.World) { w.Quotas.RulesPerSecurityGroup = 4 })
}

// TestSharedGroupStaysForWhoIsOnTheWay: a Service that has its frontend group
// but no load balancer yet still needs the backend group.
func TestSharedGroupStaysForWhoIsOnTheWay(t *testing.T) {
	simulate(t, func(b *bench) {
		if err := b.account.Faults().Set([]fake.Fault{{Operation: "CreateLoadBalancer", Kind: fake.FaultError, Code: "AccessDenied", Status: 403}}); err != nil {
			b.Fatal(err)
		}
		if _, err := b.engine.Reconcile(b.Context(), service()); lb.KindOf(err) != lb.Denied {
			b.Fatalf("got %v, want Denied", err)
		}
		observed, err := b.provider.Observe(b.Context(), lb.ByCluster())
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range observed {
			if r.OwnedBy(lb.ByCluster()) && !r.InUse {
				b.Errorf("%s counts as unused", r.Ref)
			}
		}
		b.remove(service())
	})
}

// TestApplyDoesNotAdoptForeign: not even where a plan, made from an observation
// that is out of date, asks to create what somebody else has made since.
func TestApplyDoesNotAdoptForeign(t *testing.T) {
	simulate(t, func(b *bench) {
		want, err := b.provider.Desired(b.Context(), service())
		if err != nil {
			b.Fatal(err)
		}
		name := map[lb.Kind]*string{}
		for _, r := range want.Resources {
			if r.Owners[0].Kind == lb.OwnedByService {
				name[r.Kind] = aws.String(r.Fields.Text("name"))
			}
		}
		_, err = b.operator.elb.CreateLoadBalancer(b.Context(), &elb.CreateLoadBalancerInput{Name: name[kindLoadBalancer],
			Type: elbtypes.LoadBalancerTypeEnumNetwork, Subnets: []string{"subnet-0000000000000001a"}, SecurityGroups: []string{testNodes}})
		if err != nil {
			b.Fatal(err)
		}
		_, err = b.operator.elb.CreateTargetGroup(b.Context(), &elb.CreateTargetGroupInput{Name: name[kindTargetGroup],
			Protocol: elbtypes.ProtocolEnumTcp, Port: aws.Int32(30080), VpcId: aws.String(testVPC), TargetType: elbtypes.TargetTypeEnumInstance})
		if err != nil {
			b.Fatal(err)
		}
		group, err := b.operator.ec2.CreateSecurityGroup(b.Context(), &ec2.CreateSecurityGroupInput{GroupName: name[kindSecurityGroup],
			Description: aws.String("made by hand"), VpcId: aws.String(testVPC)})
		if err != nil {
			b.Fatal(err)
		}
		b.account.Calls().Reset()
		known := func(ref lb.Ref) (lb.Resource, bool) {
			if ref == backendRef(testVPC) {
				return lb.Resource{Ref: ref, ID: testNodes}, true
			}
			return lb.Resource{Ref: ref, ID: aws.ToString(group.GroupId)}, true
		}
		for _, r := range want.Resources {
			if r.Owners[0].Kind != lb.OwnedByService || name[r.Kind] == nil || *name[r.Kind] == "" {
				continue
			}
			_, err := b.provider.Apply(b.Context(), lb.Change{Op: lb.Create, After: r}, known)
			if lb.KindOf(err) != lb.Conflict || !strings.Contains(err.Error(), "owner mark") {
				b.Errorf("creating %s: got %v, want a Conflict", r.Ref, err)
			}
		}
		if writes := b.writes(); !slices.Equal(sorted(writes), []string{"CreateLoadBalancer", "CreateSecurityGroup", "CreateTargetGroup"}) {
			b.Errorf("more was tried than creation: %v", writes)
		}
	})
}

func TestIsPublic(t *testing.T) {
	table := func(main bool, subnet string, gateways ...string) ec2types.RouteTable {
		r := ec2types.RouteTable{Associations: []ec2types.RouteTableAssociation{{Main: &main}}}
		if subnet != "" {
			r.Associations[0].SubnetId = &subnet
		}
		for _, g := range gateways {
			state := ec2types.RouteStateActive
			if dead, ok := strings.CutPrefix(g, "dead:"); ok {
				g, state = dead, ec2types.RouteStateBlackhole
			}
			r.Routes = append(r.Routes, ec2types.Route{GatewayId: &g, State: state})
		}
		return r
	}
	cases := []struct {
		name   string
		tables []ec2types.RouteTable
		want   bool
	}{
		{"none", nil, false},
		{"own leads out", []ec2types.RouteTable{table(true, "", "local"), table(false, "subnet-1", "local", "igw-1")}, true},
		{"own stays in", []ec2types.RouteTable{table(true, "", "igw-1"), table(false, "subnet-1", "local", "vgw-1")}, false},
		{"main leads out", []ec2types.RouteTable{table(false, "subnet-2", "local"), table(true, "", "igw-1")}, true},
		{"another's leads out", []ec2types.RouteTable{table(false, "subnet-2", "igw-1"), table(true, "", "local")}, false},
		{"gateway is gone", []ec2types.RouteTable{table(true, "", "dead:igw-1")}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := isPublic("subnet-1", c.tables); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}
