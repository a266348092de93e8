package aws

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/providertest"
)

// TestContract holds the provider to what is asked of every one.
func TestContract(t *testing.T) {
	for _, name := range []string{"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"} {
		t.Setenv(name, os.DevNull)
	}
	t.Setenv("AWS_CA_BUNDLE", "")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	providertest.Run(t, providertest.Cloud{
		Open:       openSimulated,
		Service:    contractService,
		Updates:    contractUpdates(),
		NodeChange: func(s *lb.Service) { s.Targets = []lb.Target{node(2), node(3), node(4)} },
		Invalid:    also("scheme", "interal"),
		Drifts:     contractDrifts(),
		Strangers:  contractStrangers(),
		Takeovers:  contractTakeovers(),
		Constant: map[string]string{
			"load-balancer ip-address-type": "this version makes IPv4 load balancers only",
			"load-balancer failure":         "what goes wrong at AWS is nobody's wish",
			"node-rules ingress":            "they are the cluster's and admit what any Service may need",
		},
		Immutable: map[string]string{
			"security-group name": "AWS has no call that changes it", "security-group vpc": "AWS has no call that changes it",
			"load-balancer name": "AWS has no call that changes it", "load-balancer scheme": "AWS has no call that changes it",
			"load-balancer ip-address-type": "the account has no IPv6 subnets to change it with",
			"load-balancer failure":         "nobody but AWS brings it about",
			"target-group name":             "AWS has no call that changes it", "target-group vpc": "AWS has no call that changes it",
			"target-group protocol": "AWS has no call that changes it", "target-group port": "AWS has no call that changes it",
			"target-group target-type": "AWS has no call that changes it",
			"listener port":            "a listener on another port is another listener",
		},
		Attempts: maxAttempts,
	})
}

// contractService is default/web-n with two ports, and attributes of its own.
func contractService(n int) lb.Service {
	return service(annotate("cross-zone-load-balancing-enabled", "true", "target-group-attributes.80", "deregistration_delay.timeout_seconds=60",
		"additional-resource-tags", "team=edge"), func(s *lb.Service) {
		s.Name, s.UID = fmt.Sprint("web-", n), fmt.Sprint("uid-", n)
		s.Ports = []lb.Port{
			{Name: "http", Protocol: lb.TCP, Port: 80, NodePort: uint16(30000 + 2*n)},
			{Name: "https", Protocol: lb.TCP, Port: 443, NodePort: uint16(30001 + 2*n)},
		}
	})
}

// also is annotate, on top of what annotations there are.
func also(kv ...string) func(*lb.Service) {
	return func(s *lb.Service) {
		all := maps.Clone(s.Annotations)
		annotate(kv...)(s)
		maps.Copy(all, s.Annotations)
		s.Annotations = all
	}
}

func contractUpdates() []providertest.Edit {
	return []providertest.Edit{
		{Name: "source ranges", Edit: func(s *lb.Service) { s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")} }},
		{Name: "nodes", Edit: func(s *lb.Service) { s.Targets = []lb.Target{node(3), node(4), node(5)} }},
		{Name: "port", Edit: func(s *lb.Service) { s.Ports[1].Port = 8443 }},
		{Name: "node port", Edit: func(s *lb.Service) { s.Ports[0].NodePort = 31000 }},
		{Name: "protocol", Edit: func(s *lb.Service) { s.Ports[1].Protocol = lb.UDP }},
		{Name: "one port more", Edit: func(s *lb.Service) {
			s.Ports = append(s.Ports, lb.Port{Name: "dns", Protocol: lb.UDP, Port: 53, NodePort: 31053})
		}},
		{Name: "attributes reset", Edit: func(s *lb.Service) { delete(s.Annotations, annotationPrefix+"cross-zone-load-balancing-enabled") }},
		{Name: "attributes", Edit: also("target-group-attributes.80", "deregistration_delay.timeout_seconds=90")},
		{Name: "tags", Edit: also("additional-resource-tags", "team=core,tier=1")},
		{Name: "scheme", Edit: also("scheme", "internal")},
		{Name: "subnets", Edit: also("subnets", "subnet-0000000000000000a,subnet-0000000000000002a")},
		{Name: "health check's times", Edit: also("healthcheck-interval", "30", "healthcheck-timeout", "12",
			"healthcheck-healthy-threshold", "3", "healthcheck-unhealthy-threshold", "4")},
		{Name: "health check's answer", Edit: also("healthcheck-path", "/ready", "healthcheck-success-codes", "200")},
		{Name: "health check's protocol and port", Edit: also("healthcheck-protocol", "TCP", "healthcheck-port", "traffic-port")},
		{Name: "groups of their own", Edit: func(s *lb.Service) {
			s.SourceRanges = nil // they exclude each other
			also("security-groups", testNodes)(s)
		}},
	}
}

// found are the only Service's things, by kind and, of several, by port.
type found struct {
	*clients
	context.Context
	balancer  elbtypes.LoadBalancer
	listeners map[int32]elbtypes.Listener
	frontend  string // group id
}

func find(a providertest.Account, s lb.Service) (*found, error) {
	f := &found{clients: a.(*simulated).operator, Context: context.Background(), listeners: map[int32]elbtypes.Listener{}}
	balancers, err := f.listLoadBalancers(f)
	if err != nil {
		return nil, err
	}
	f.balancer = balancers[0]
	listeners, err := f.listListeners(f, aws.ToString(f.balancer.LoadBalancerArn))
	if err != nil {
		return nil, err
	}
	for _, l := range listeners {
		f.listeners[aws.ToInt32(l.Port)] = l
	}
	groups, err := f.listSecurityGroups(f)
	for _, g := range groups {
		if aws.ToString(g.GroupName) == contractNames.frontend(s.ServiceRef) {
			f.frontend = aws.ToString(g.GroupId)
		}
	}
	return f, err
}

// contractNames are the names of the cluster that the suite plays.
var contractNames = names{lb.Cluster{Name: "demo", UID: "cluster-uid-1"}}

// drift does something to what the only Service has.
func drift(name string, do func(*found) error) providertest.Drift {
	return providertest.Drift{Name: name, Do: func(a providertest.Account, s lb.Service) error {
		f, err := find(a, s)
		if err != nil {
			return err
		}
		return do(f)
	}}
}

func contractDrifts() []providertest.Drift {
	return []providertest.Drift{
		drift("listener deleted", func(f *found) error { return f.deleteListener(80) }),
		drift("listener sends elsewhere", func(f *found) error {
			_, err := f.elb.ModifyListener(f, &elb.ModifyListenerInput{ListenerArn: f.listeners[80].ListenerArn, DefaultActions: forward(forwardsTo(f.listeners[443]))})
			return err
		}),
		drift("listener of another protocol", (*found).anotherProtocol),
		drift("target group deleted", func(f *found) error {
			if err := f.deleteListener(80); err != nil {
				return err
			}
			_, err := f.elb.DeleteTargetGroup(f, &elb.DeleteTargetGroupInput{TargetGroupArn: aws.String(forwardsTo(f.listeners[80]))})
			return err
		}),
		drift("health check by TCP", func(f *found) error {
			_, err := f.elb.ModifyTargetGroup(f, &elb.ModifyTargetGroupInput{TargetGroupArn: aws.String(forwardsTo(f.listeners[80])),
				HealthCheckProtocol: elbtypes.ProtocolEnumTcp})
			return err
		}),
		drift("health check's port and times", func(f *found) error {
			_, err := f.elb.ModifyTargetGroup(f, &elb.ModifyTargetGroupInput{TargetGroupArn: aws.String(forwardsTo(f.listeners[80])),
				HealthCheckPort: aws.String("22"), HealthCheckIntervalSeconds: aws.Int32(100), HealthCheckTimeoutSeconds: aws.Int32(50),
				HealthyThresholdCount: aws.Int32(9), UnhealthyThresholdCount: aws.Int32(8)})
			return err
		}),
		drift("health check's answer", func(f *found) error {
			_, err := f.elb.ModifyTargetGroup(f, &elb.ModifyTargetGroupInput{TargetGroupArn: aws.String(forwardsTo(f.listeners[80])),
				HealthCheckPath: aws.String("/"), Matcher: &elbtypes.Matcher{HttpCode: aws.String("599")}})
			return err
		}),
		drift("targets deregistered", func(f *found) error {
			_, err := f.elb.DeregisterTargets(f, &elb.DeregisterTargetsInput{TargetGroupArn: aws.String(forwardsTo(f.listeners[443])),
				Targets: descriptions([]string{instanceOf(1), instanceOf(2)})})
			return err
		}),
		drift("target added", func(f *found) error {
			_, err := f.elb.RegisterTargets(f, &elb.RegisterTargetsInput{TargetGroupArn: aws.String(forwardsTo(f.listeners[443])),
				Targets: descriptions([]string{instanceOf(5)})})
			return err
		}),
		drift("load balancer's attributes", func(f *found) error {
			return f.balancerSettings().modify(f, aws.ToString(f.balancer.LoadBalancerArn), map[string]string{attrCrossZone: "false"})
		}),
		drift("target group's attributes", func(f *found) error {
			return f.groupSettings().modify(f, forwardsTo(f.listeners[80]), map[string]string{attrDraining: "1"})
		}),
		drift("tags", func(f *found) error {
			_, err := f.elb.AddTags(f, &elb.AddTagsInput{Tags: toPairs[elbtypes.Tag](map[string]string{"team": "nobody"}), ResourceArns: []string{
				aws.ToString(f.balancer.LoadBalancerArn), aws.ToString(f.listeners[80].ListenerArn), forwardsTo(f.listeners[80])}})
			if err != nil {
				return err
			}
			_, err = f.ec2.CreateTags(f, &ec2.CreateTagsInput{Resources: []string{f.frontend}, Tags: []ec2types.Tag{{Key: aws.String("team"), Value: aws.String("nobody")}}})
			return err
		}),
		drift("subnets", func(f *found) error {
			_, err := f.elb.SetSubnets(f, &elb.SetSubnetsInput{LoadBalancerArn: f.balancer.LoadBalancerArn, Subnets: subnetsOf(f.balancer)[:2]})
			return err
		}),
		drift("security groups", func(f *found) error {
			_, err := f.elb.SetSecurityGroups(f, &elb.SetSecurityGroupsInput{LoadBalancerArn: f.balancer.LoadBalancerArn, SecurityGroups: []string{testNodes}})
			return err
		}),
		drift("rule opened", func(f *found) error { return f.authorize(f.frontend, "tcp/22 from 0.0.0.0/0", "") }),
		drift("rule removed", func(f *found) error { return f.revoke(f.frontend, 0, func(string) bool { return true }) }),
		drift("node rules removed", func(f *found) error {
			return f.revoke(testNodes, 0, func(description string) bool { return description == marks(contractNames).rule() })
		}),
		drift("one node rule removed", func(f *found) error {
			return f.revoke(testNodes, 1, func(description string) bool { return description == marks(contractNames).rule() })
		}),
		drift("load balancer and its group deleted", func(f *found) error {
			if _, err := f.elb.DeleteLoadBalancer(f, &elb.DeleteLoadBalancerInput{LoadBalancerArn: f.balancer.LoadBalancerArn}); err != nil {
				return err
			}
			_, err := f.ec2.DeleteSecurityGroup(f, &ec2.DeleteSecurityGroupInput{GroupId: &f.frontend})
			return err
		}),
	}
}

// contractTakeovers are marked as another Service's by somebody who may.
func contractTakeovers() []providertest.Drift {
	theirs := map[string]string{markService: "theirs/web", markServiceUID: "uid-9"}
	tag := func(f *found, arn string) error {
		_, err := f.elb.AddTags(f, &elb.AddTagsInput{Tags: toPairs[elbtypes.Tag](theirs), ResourceArns: []string{arn}})
		return err
	}
	return []providertest.Drift{
		drift("load balancer", func(f *found) error { return tag(f, aws.ToString(f.balancer.LoadBalancerArn)) }),
		drift("target group", func(f *found) error { return tag(f, forwardsTo(f.listeners[80])) }),
		drift("security group", func(f *found) error {
			_, err := f.ec2.CreateTags(f, &ec2.CreateTagsInput{Resources: []string{f.frontend}, Tags: toEC2Tags(theirs)})
			return err
		}),
	}
}

func (f *found) deleteListener(port int32) error {
	_, err := f.elb.DeleteListener(f, &elb.DeleteListenerInput{ListenerArn: f.listeners[port].ListenerArn})
	return err
}

// anotherProtocol lets a listener be UDP, which takes a target group of that
// protocol: one of ours that is then no longer sent to, and so deleted.
func (f *found) anotherProtocol() error {
	group, err := f.elb.CreateTargetGroup(f, &elb.CreateTargetGroupInput{Name: aws.String(contractNames.targetGroupPrefix(contractService(0).ServiceRef) + "udp"),
		Protocol: elbtypes.ProtocolEnumUdp, Port: aws.Int32(53), VpcId: aws.String(testVPC), TargetType: elbtypes.TargetTypeEnumInstance,
		Tags: toPairs[elbtypes.Tag](marks(contractNames).tags(lb.Resource{Ref: lb.Ref{Kind: kindTargetGroup, Key: "left over"},
			Owners: []lb.Owner{lb.ByService(contractService(0).ServiceRef)}}))})
	if err != nil {
		return err
	}
	_, err = f.elb.ModifyListener(f, &elb.ModifyListenerInput{ListenerArn: f.listeners[80].ListenerArn, Protocol: elbtypes.ProtocolEnumUdp,
		DefaultActions: forward(aws.ToString(group.TargetGroups[0].TargetGroupArn))})
	return err
}

func (f *found) authorize(group, rule, description string) error {
	made, err := permissions([]string{rule}, description)
	if err != nil {
		return err
	}
	_, err = f.ec2.AuthorizeSecurityGroupIngress(f, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &group, IpPermissions: made})
	return err
}

// revoke removes rules with a matching description, n at most when that is more
// than 0.
func (f *found) revoke(group string, n int, matches func(description string) bool) error {
	out, err := f.ec2.DescribeSecurityGroups(f, &ec2.DescribeSecurityGroupsInput{GroupIds: []string{group}})
	if err != nil {
		return err
	}
	rules := rulesIn(out.SecurityGroups[0], matches, func(id string) string { return id })
	if n > 0 {
		rules = rules[:n]
	}
	gone, err := permissions(rules, "")
	if err != nil {
		return err
	}
	_, err = f.ec2.RevokeSecurityGroupIngress(f, &ec2.RevokeSecurityGroupIngressInput{GroupId: &group, IpPermissions: gone})
	return err
}

func contractStrangers() []providertest.Stranger {
	balancer := func(name func(lb.Service) string, tags ...elbtypes.Tag) func(providertest.Account, lb.Service) error {
		return func(a providertest.Account, s lb.Service) error {
			_, err := a.(*simulated).operator.elb.CreateLoadBalancer(context.Background(), &elb.CreateLoadBalancerInput{Name: aws.String(name(s)),
				Type: elbtypes.LoadBalancerTypeEnumNetwork, Subnets: []string{"subnet-0000000000000000a"}, Tags: tags})
			return err
		}
	}
	group := func(name func(lb.Service) string) func(providertest.Account, lb.Service) error {
		return func(a providertest.Account, s lb.Service) error {
			_, err := a.(*simulated).operator.elb.CreateTargetGroup(context.Background(), &elb.CreateTargetGroupInput{Name: aws.String(name(s)),
				Protocol: elbtypes.ProtocolEnumTcp, Port: aws.Int32(int32(s.Ports[0].NodePort)), VpcId: aws.String(testVPC), TargetType: elbtypes.TargetTypeEnumInstance})
			return err
		}
	}
	security := func(name func(lb.Service) string) func(providertest.Account, lb.Service) error {
		return func(a providertest.Account, s lb.Service) error {
			_, err := a.(*simulated).operator.ec2.CreateSecurityGroup(context.Background(), &ec2.CreateSecurityGroupInput{GroupName: aws.String(name(s)),
				Description: aws.String("made by hand"), VpcId: aws.String(testVPC)})
			return err
		}
	}
	nodeRule := func(rule, description string) func(providertest.Account, lb.Service) error {
		return func(a providertest.Account, _ lb.Service) error {
			f := &found{clients: a.(*simulated).operator, Context: context.Background()}
			return f.authorize(testNodes, rule, description)
		}
	}
	plain := func(name string) func(lb.Service) string { return func(lb.Service) string { return name } }
	ourBalancer := func(s lb.Service) string { return contractNames.loadBalancer(s.ServiceRef, schemeInternet, testVPC) }
	elsewhere := toPairs[elbtypes.Tag](marks{cluster: lb.Cluster{Name: "demo", UID: "cluster-uid-9"}}.tags(lb.Resource{
		Ref: loadBalancerRef(contractService(0).ServiceRef, schemeInternet, testVPC), Owners: []lb.Owner{lb.ByService(contractService(0).ServiceRef)}}))
	return []providertest.Stranger{
		{Name: "load balancer", Plant: balancer(plain("theirs"))},
		{Name: "load balancer of a Service with our UID in another cluster", Plant: balancer(plain("theirs"), elsewhere...)},
		{Name: "load balancer that begins like ours", Plant: balancer(func(s lb.Service) string { return contractNames.loadBalancerPrefix(s.ServiceRef) + "x" })},
		{Name: "load balancer with our name", Plant: balancer(ourBalancer), Blocks: true},
		{Name: "load balancer with our name and another cluster's mark", Plant: balancer(ourBalancer, elsewhere...), Blocks: true},
		{Name: "target group", Plant: group(plain("theirs"))},
		{Name: "target group that begins like ours", Plant: group(func(s lb.Service) string { return contractNames.targetGroupPrefix(s.ServiceRef) + "x" })},
		{Name: "target group with our name", Plant: group(func(s lb.Service) string {
			return contractNames.targetGroup(s.ServiceRef, schemeInternet, testVPC, "TCP", s.Ports[0].NodePort)
		}), Blocks: true},
		{Name: "security group", Plant: security(plain("theirs"))},
		{Name: "security group with our name", Plant: security(func(s lb.Service) string { return contractNames.frontend(s.ServiceRef) }), Blocks: true},
		{Name: "security group with the cluster's name", Plant: security(func(lb.Service) string { return contractNames.backend() }), Blocks: true},
		{Name: "rule in the nodes' group", Plant: nodeRule("tcp/9100 from 10.1.0.0/16", "monitoring"), InPlace: true, Trace: "monitoring"},
		{Name: "rule in the nodes' group that says it is another cluster's", Plant: nodeRule("tcp/30000-32767 from 10.1.0.0/16", "fairway demo/cluster-uid-9"), InPlace: true, Trace: "cluster-uid-9"},
	}
}
