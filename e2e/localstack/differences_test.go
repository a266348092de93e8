package localstack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"github.com/aws/smithy-go"
)

// bed is what the probes below find: a load balancer with a listener on port 80,
// which sends to a target group with an HTTP health check, and its security
// group.
type bed struct {
	*world
	balancer, group, listener, security string
}

// differences are the ways in which the emulator is known not to be as AWS is,
// under the names docs/aws/localstack.md lists them by. A probe returns what the
// emulator does otherwise, "" when it is as AWS is. They run in this order.
var differences = []struct {
	name  string
	probe func(context.Context, *bed) string
}{
	{"a load balancer's name is taken twice", func(ctx context.Context, b *bed) string {
		_, err := b.elb.CreateLoadBalancer(ctx, &elb.CreateLoadBalancerInput{Name: aws.String("fairway-probe"), Type: elbtypes.LoadBalancerTypeEnumNetwork,
			Scheme: elbtypes.LoadBalancerSchemeEnumInternal, Subnets: b.private})
		return unless(err, "DuplicateLoadBalancerName")
	}},
	{"a target group made again as it is", func(ctx context.Context, b *bed) string {
		_, err := b.elb.CreateTargetGroup(ctx, probeGroup(b.vpc))
		return unless(err, "")
	}},
	{"a port has two listeners", func(ctx context.Context, b *bed) string {
		second, err := b.makeTargetGroup(ctx, "fairway-second")
		if err != nil {
			return ""
		}
		_, err = b.elb.CreateListener(ctx, &elb.CreateListenerInput{LoadBalancerArn: &b.balancer, Port: aws.Int32(80),
			Protocol: elbtypes.ProtocolEnumTcp, DefaultActions: forward(second)})
		return unless(err, "DuplicateListener")
	}},
	{"a listener's protocol becomes UDP", func(ctx context.Context, b *bed) string {
		group, err := b.elb.CreateTargetGroup(ctx, &elb.CreateTargetGroupInput{Name: aws.String("fairway-udp"), VpcId: &b.vpc,
			Port: aws.Int32(30053), Protocol: elbtypes.ProtocolEnumUdp})
		if err != nil {
			return ""
		}
		_, err = b.elb.ModifyListener(ctx, &elb.ModifyListenerInput{ListenerArn: &b.listener, Protocol: elbtypes.ProtocolEnumUdp,
			DefaultActions: forward(*group.TargetGroups[0].TargetGroupArn)})
		return unless(err, "")
	}},
	{"a load balancer shrinks to one zone", func(ctx context.Context, b *bed) string {
		_, err := b.elb.SetSubnets(ctx, &elb.SetSubnetsInput{LoadBalancerArn: &b.balancer, Subnets: b.public[:1]})
		return unless(err, "")
	}},
	{"the success codes of a health check change", func(ctx context.Context, b *bed) string {
		out, err := b.elb.ModifyTargetGroup(ctx, &elb.ModifyTargetGroupInput{TargetGroupArn: &b.group, Matcher: &elbtypes.Matcher{HttpCode: aws.String("200,204")}})
		if err != nil {
			return err.Error()
		}
		if m := out.TargetGroups[0].Matcher; m == nil || aws.ToString(m.HttpCode) != "200,204" {
			return "the answer is a success, and the codes are what they were"
		}
		return ""
	}},
	{"the success codes of a new health check", func(ctx context.Context, b *bed) string {
		out, err := b.elb.DescribeTargetGroups(ctx, &elb.DescribeTargetGroupsInput{TargetGroupArns: []string{b.group}})
		if err != nil || len(out.TargetGroups) != 1 {
			return ""
		}
		if m := out.TargetGroups[0].Matcher; m == nil || aws.ToString(m.HttpCode) != "200-399" {
			return "they are not 200-399"
		}
		return ""
	}},
	{"an instance that does not exist becomes a target", func(ctx context.Context, b *bed) string {
		_, err := b.elb.RegisterTargets(ctx, &elb.RegisterTargetsInput{TargetGroupArn: &b.group, Targets: []elbtypes.TargetDescription{{Id: aws.String("i-0123456789abcdef0")}}})
		return unless(err, "InvalidTarget")
	}},
	{"a target is healthy at once", func(ctx context.Context, b *bed) string {
		if _, err := b.elb.RegisterTargets(ctx, &elb.RegisterTargetsInput{TargetGroupArn: &b.group, Targets: []elbtypes.TargetDescription{{Id: &b.instances[0]}}}); err != nil {
			return ""
		}
		out, err := b.elb.DescribeTargetHealth(ctx, &elb.DescribeTargetHealthInput{TargetGroupArn: &b.group})
		if err == nil && len(out.TargetHealthDescriptions) > 0 && out.TargetHealthDescriptions[0].TargetHealth.State == elbtypes.TargetHealthStateEnumHealthy {
			return "its state is healthy, and nothing answers its probe"
		}
		return ""
	}},
	{"what is no target is deregistered", func(ctx context.Context, b *bed) string {
		_, err := b.elb.DeregisterTargets(ctx, &elb.DeregisterTargetsInput{TargetGroupArn: &b.group, Targets: []elbtypes.TargetDescription{{Id: &b.instances[1]}}})
		return unless(err, "")
	}},
	{"a security group in use is deleted", func(ctx context.Context, b *bed) string {
		_, err := b.ec2.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: &b.security})
		return unless(err, "DependencyViolation")
	}},
	{"a network load balancer's ARN and DNS name", func(ctx context.Context, b *bed) string {
		out, err := b.elb.DescribeLoadBalancers(ctx, &elb.DescribeLoadBalancersInput{LoadBalancerArns: []string{b.balancer}})
		if err != nil {
			return ""
		}
		dns := aws.ToString(out.LoadBalancers[0].DNSName)
		if strings.Contains(b.balancer, "loadbalancer/net/") && strings.HasSuffix(dns, ".elb."+region+".amazonaws.com") {
			return ""
		}
		return b.balancer + ", " + dns
	}},
}

// TestDifferences looks whether the emulator is still wrong where the
// documentation says so.
func TestDifferences(t *testing.T) {
	b := makeBed(t)
	for _, d := range differences {
		t.Run(d.name, func(t *testing.T) {
			otherwise := d.probe(t.Context(), b)
			if otherwise == "" {
				t.Error("the emulator is as AWS is: take it out of docs/aws/localstack.md and out of the list")
			}
			t.Log(otherwise)
		})
	}
}

// TestCorrectionsAreNeeded asks the plugin whether what it puts right is still
// wrong.
func TestCorrectionsAreNeeded(t *testing.T) {
	python := os.Getenv(pythonVariable)
	if python == "" {
		t.Skip("the LocalStack is the user's own, and its python out of reach")
	}
	source, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, "-m", "fairway_localstack.corrections")
	cmd.Env = append(os.Environ(), "PYTHONPATH="+filepath.Join(source, "plugin"), "PYTHONDONTWRITEBYTECODE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func makeBed(t *testing.T) *bed {
	t.Helper()
	ctx := t.Context()
	b := &bed{world: theWorld(t)}
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	security, err := b.ec2.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{VpcId: &b.vpc, GroupName: aws.String("fairway-probe"), Description: aws.String("fairway-probe")})
	fail(err)
	b.security = *security.GroupId
	balancer, err := b.elb.CreateLoadBalancer(ctx, &elb.CreateLoadBalancerInput{Name: aws.String("fairway-probe"), Type: elbtypes.LoadBalancerTypeEnumNetwork,
		Scheme: elbtypes.LoadBalancerSchemeEnumInternetFacing, Subnets: b.public, SecurityGroups: []string{b.security}})
	fail(err)
	b.balancer = *balancer.LoadBalancers[0].LoadBalancerArn
	group, err := b.elb.CreateTargetGroup(ctx, probeGroup(b.vpc))
	fail(err)
	b.group = *group.TargetGroups[0].TargetGroupArn
	listener, err := b.elb.CreateListener(ctx, &elb.CreateListenerInput{LoadBalancerArn: &b.balancer, Port: aws.Int32(80),
		Protocol: elbtypes.ProtocolEnumTcp, DefaultActions: forward(b.group)})
	fail(err)
	b.listener = *listener.Listeners[0].ListenerArn
	return b
}

func probeGroup(vpc string) *elb.CreateTargetGroupInput {
	return &elb.CreateTargetGroupInput{Name: aws.String("fairway-probe"), VpcId: &vpc, Port: aws.Int32(30080), Protocol: elbtypes.ProtocolEnumTcp,
		HealthCheckProtocol: elbtypes.ProtocolEnumHttp, HealthCheckPort: aws.String("10256"), HealthCheckPath: aws.String("/healthz")}
}

func forward(group string) []elbtypes.Action {
	return []elbtypes.Action{{Type: elbtypes.ActionTypeEnumForward, TargetGroupArn: &group}}
}

// unless returns "" when err has the code, "" being the code of success, and
// otherwise what happened.
func unless(err error, code string) string {
	got, message := "", "the answer is a success"
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		got, message = api.ErrorCode(), fmt.Sprintf("the answer is %s: %s", api.ErrorCode(), api.ErrorMessage())
	} else if err != nil {
		return "no usable answer: " + err.Error()
	}
	if strings.TrimSuffix(got, "Exception") == code {
		return ""
	}
	return message
}
