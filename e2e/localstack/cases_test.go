package localstack

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/providertest"
)

// ownFake are the parts of the contract suite that are not run here.
var ownFake = map[string]string{
	"pagination":               "needs pages of two items",
	"throttling":               "needs an account that throttles when told",
	"denied is not gone":       "needs an account that takes permissions away when told",
	"eventual consistency":     "needs an account that lags",
	"long operations":          "needs operations that take long",
	"drift is repaired":        "lets ten minutes pass each time; TestDrift does it in real time",
	"an old leader wakes late": "needs a controller that is paused at a chosen call",
	"none is left out":         "is about the suite's description of the provider, which is complete where it is run on our own fake",

	string(providertest.ErrorBefore): "needs a fault of the account",
	string(providertest.ErrorAfter):  "needs a fault of the account",
	string(providertest.Lost):        "needs a fault of the account",
	string(providertest.Throttle):    "needs a fault of the account",
	string(providertest.Timeout):     "needs a fault of the account",
	string(providertest.Denied):      "needs a fault of the account",
}

// Of the suite's scenarios with a fault at every call, a controller dies here in
// those that every Service goes through.
const faultAtEveryCall = "a fault at every call"

var faultsIn = []string{"create", "delete"}

// fault is why a part of the contract suite cannot pass on the emulator, and
// what its failure then says.
type fault struct{ reason, says string }

// faulty are the parts that cannot pass because the emulator is not as AWS is.
// Each is explained in docs/aws/localstack.md.
var faulty = map[string]fault{
	"update of every field/TCP and UDP on one port": noUDPListener,
	"update of every field/UDP in place of TCP":     noUDPListener,
	"update of every field/one subnet": {"SetSubnets wants two zones of a Network Load Balancer",
		"More than 1 availability zone must be specified"},
	"update of every field/health check codes": {"ModifyTargetGroup ignores the codes of a TCP target group's HTTP health check",
		`"HttpCode":"200-399"`},
}

var noUDPListener = fault{"ModifyListener does not know the protocols UDP and TCP_UDP", "<Code>UnsupportedProtocol</Code>"}

// drifts are done to what the Service web-0 has.
var drifts = []providertest.Drift{
	{Name: "a client's rule is taken away", Do: onFrontend(func(ctx context.Context, w *world, group string) error {
		_, err := w.ec2.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: &group,
			IpPermissions: []ec2types.IpPermission{tcpRule(80, "0.0.0.0/0")}})
		return err
	})},
	{Name: "a client's rule is added", Do: onFrontend(func(ctx context.Context, w *world, group string) error {
		return w.authorize(ctx, group, 22, "0.0.0.0/0")
	})},
	{Name: "the nodes' rules are taken away", Do: func(a providertest.Account, _ lb.Service) error {
		w, ctx := a.(*account).world, context.Background()
		groups, err := w.securityGroups(ctx)
		if err != nil {
			return err
		}
		for _, g := range groups {
			if aws.ToString(g.GroupId) != w.nodeGroup {
				continue
			}
			for _, p := range g.IpPermissions {
				if len(p.UserIdGroupPairs) > 0 {
					_, err := w.ec2.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: g.GroupId, IpPermissions: []ec2types.IpPermission{p}})
					return err
				}
			}
		}
		return fmt.Errorf("no rule of ours in %s", w.nodeGroup)
	}},
	{Name: "the load balancer is taken out of a group", Do: onBalancer(func(ctx context.Context, w *world, b elbtypes.LoadBalancer) error {
		_, err := w.elb.SetSecurityGroups(ctx, &elb.SetSecurityGroupsInput{LoadBalancerArn: b.LoadBalancerArn, SecurityGroups: b.SecurityGroups[:1]})
		return err
	})},
	{Name: "the load balancer is taken out of a zone", Do: onBalancer(func(ctx context.Context, w *world, b elbtypes.LoadBalancer) error {
		_, err := w.elb.SetSubnets(ctx, &elb.SetSubnetsInput{LoadBalancerArn: b.LoadBalancerArn, Subnets: w.public[:2]})
		return err
	})},
	{Name: "the load balancer is deleted", Do: onBalancer(func(ctx context.Context, w *world, b elbtypes.LoadBalancer) error {
		_, err := w.elb.DeleteLoadBalancer(ctx, &elb.DeleteLoadBalancerInput{LoadBalancerArn: b.LoadBalancerArn})
		return err
	})},
	{Name: "the listener is deleted", Do: onListener(func(ctx context.Context, w *world, l elbtypes.Listener) error {
		_, err := w.elb.DeleteListener(ctx, &elb.DeleteListenerInput{ListenerArn: l.ListenerArn})
		return err
	})},
	{Name: "the health check is changed", Do: onTargetGroup(func(ctx context.Context, w *world, g elbtypes.TargetGroup) error {
		_, err := w.elb.ModifyTargetGroup(ctx, &elb.ModifyTargetGroupInput{TargetGroupArn: g.TargetGroupArn,
			HealthCheckPort: aws.String("31000"), HealthCheckPath: aws.String("/elsewhere"), HealthCheckIntervalSeconds: aws.Int32(60),
			HealthyThresholdCount: aws.Int32(9), UnhealthyThresholdCount: aws.Int32(9), Matcher: &elbtypes.Matcher{HttpCode: aws.String("418")}})
		return err
	})},
	{Name: "a target is taken away", Do: onTargetGroup(func(ctx context.Context, w *world, g elbtypes.TargetGroup) error {
		_, err := w.elb.DeregisterTargets(ctx, &elb.DeregisterTargetsInput{TargetGroupArn: g.TargetGroupArn, Targets: []elbtypes.TargetDescription{{Id: &w.instances[1]}}})
		return err
	})},
	{Name: "a target is added", Do: onTargetGroup(func(ctx context.Context, w *world, g elbtypes.TargetGroup) error {
		_, err := w.elb.RegisterTargets(ctx, &elb.RegisterTargetsInput{TargetGroupArn: g.TargetGroupArn, Targets: []elbtypes.TargetDescription{{Id: &w.instances[4]}}})
		return err
	})},
}

// onBalancer is a drift of the world's only load balancer.
func onBalancer(do func(context.Context, *world, elbtypes.LoadBalancer) error) func(providertest.Account, lb.Service) error {
	return func(a providertest.Account, _ lb.Service) error {
		w, ctx := a.(*account).world, context.Background()
		all, err := w.balancers(ctx)
		if err == nil && len(all) != 1 {
			err = fmt.Errorf("%d load balancers", len(all))
		}
		if err != nil {
			return err
		}
		return do(ctx, w, all[0])
	}
}

// onListener is a drift of its only listener.
func onListener(do func(context.Context, *world, elbtypes.Listener) error) func(providertest.Account, lb.Service) error {
	return onBalancer(func(ctx context.Context, w *world, b elbtypes.LoadBalancer) error {
		out, err := w.elb.DescribeListeners(ctx, &elb.DescribeListenersInput{LoadBalancerArn: b.LoadBalancerArn})
		if err == nil && len(out.Listeners) != 1 {
			err = fmt.Errorf("%d listeners", len(out.Listeners))
		}
		if err != nil {
			return err
		}
		return do(ctx, w, out.Listeners[0])
	})
}

// onTargetGroup is a drift of the world's only target group.
func onTargetGroup(do func(context.Context, *world, elbtypes.TargetGroup) error) func(providertest.Account, lb.Service) error {
	return func(a providertest.Account, _ lb.Service) error {
		w, ctx := a.(*account).world, context.Background()
		all, err := w.targetGroups(ctx)
		if err == nil && len(all) != 1 {
			err = fmt.Errorf("%d target groups", len(all))
		}
		if err != nil {
			return err
		}
		return do(ctx, w, all[0])
	}
}

// onFrontend is a drift of the group that admits the Service's clients.
func onFrontend(do func(context.Context, *world, string) error) func(providertest.Account, lb.Service) error {
	return func(a providertest.Account, s lb.Service) error {
		w, ctx := a.(*account).world, context.Background()
		groups, err := w.securityGroups(ctx)
		if err != nil {
			return err
		}
		for _, g := range groups {
			for _, t := range g.Tags {
				if aws.ToString(t.Value) == s.String() {
					return do(ctx, w, aws.ToString(g.GroupId))
				}
			}
		}
		return fmt.Errorf("no security group of %s", s)
	}
}

// strangers are things of somebody else in the same network.
var strangers = []providertest.Stranger{
	{Name: "a load balancer of somebody else", Plant: func(a providertest.Account, _ lb.Service) error {
		w, ctx := a.(*account).world, context.Background()
		balancer, err := w.makeBalancer(ctx, "fairway-theirs")
		if err != nil {
			return err
		}
		group, err := w.makeTargetGroup(ctx, "fairway-theirs")
		if err != nil {
			return err
		}
		if _, err := w.elb.RegisterTargets(ctx, &elb.RegisterTargetsInput{TargetGroupArn: &group, Targets: []elbtypes.TargetDescription{{Id: &w.instances[0]}}}); err != nil {
			return err
		}
		_, err = w.elb.CreateListener(ctx, &elb.CreateListenerInput{LoadBalancerArn: &balancer, Port: aws.Int32(80), Protocol: elbtypes.ProtocolEnumTcp,
			DefaultActions: []elbtypes.Action{{Type: elbtypes.ActionTypeEnumForward, TargetGroupArn: &group}}})
		return err
	}},
	{Name: "a rule in the nodes' group", Plant: func(a providertest.Account, _ lb.Service) error {
		w := a.(*account).world
		return w.authorize(context.Background(), w.nodeGroup, 30080, "0.0.0.0/0")
	}},
	{Name: "a load balancer in the place of ours", Blocks: true, Plant: inPlaceOf("load-balancer", func(ctx context.Context, w *world, name string) error {
		_, err := w.makeBalancer(ctx, name)
		return err
	})},
	{Name: "a target group in the place of ours", Blocks: true, Plant: inPlaceOf("target-group", func(ctx context.Context, w *world, name string) error {
		_, err := w.makeTargetGroup(ctx, name)
		return err
	})},
	{Name: "a security group in the place of ours", Blocks: true, Plant: inPlaceOf("security-group", func(ctx context.Context, w *world, name string) error {
		_, err := w.ec2.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{VpcId: &w.vpc, GroupName: &name, Description: aws.String("theirs")})
		return err
	})},
}

func (w *world) makeBalancer(ctx context.Context, name string) (arn string, err error) {
	out, err := w.elb.CreateLoadBalancer(ctx, &elb.CreateLoadBalancerInput{Name: &name, Type: elbtypes.LoadBalancerTypeEnumNetwork, Subnets: w.public})
	if err != nil {
		return "", err
	}
	return *out.LoadBalancers[0].LoadBalancerArn, nil
}

func (w *world) makeTargetGroup(ctx context.Context, name string) (arn string, err error) {
	out, err := w.elb.CreateTargetGroup(ctx, &elb.CreateTargetGroupInput{Name: &name, VpcId: &w.vpc, Port: aws.Int32(8080), Protocol: elbtypes.ProtocolEnumTcp})
	if err != nil {
		return "", err
	}
	return *out.TargetGroups[0].TargetGroupArn, nil
}

// inPlaceOf plants something under the name that the Service's own resource of
// the kind will want.
func inPlaceOf(kind lb.Kind, plant func(ctx context.Context, w *world, name string) error) func(providertest.Account, lb.Service) error {
	return func(a providertest.Account, s lb.Service) error {
		ctx := context.Background()
		planner, err := a.Provider(ctx, lb.Cluster{Name: clusterName, UID: "cluster-uid-1"})
		if err != nil {
			return err
		}
		desired, err := planner.Provider.Desired(ctx, s)
		if err != nil {
			return err
		}
		for _, r := range desired.Resources {
			if r.Kind == kind && r.OwnedBy(lb.ByService(s.ServiceRef)) {
				return plant(ctx, a.(*account).world, r.Fields.Text("name"))
			}
		}
		return fmt.Errorf("%s wants no %s", s, kind)
	}
}
