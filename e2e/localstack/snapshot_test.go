package localstack

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// picture is what is in the world at one moment.
type picture struct {
	// lines are sorted: one per thing and per entry of a thing that several
	// owners have entries in, with the identifiers the emulator gave.
	lines []string
	// names are pairs of identifier and name.
	names []string
}

// line adds one, its values as JSON.
func (p *picture) line(kind, id string, values any) {
	text, err := json.Marshal(values)
	if err != nil {
		text = []byte(err.Error())
	}
	p.lines = append(p.lines, fmt.Sprintf("%s %s %s", kind, id, text))
}

// named returns the lines with names in place of identifiers.
func (p *picture) named() []string {
	names := strings.NewReplacer(p.names...)
	lines := make([]string, len(p.lines))
	for i, line := range p.lines {
		lines[i] = names.Replace(line)
	}
	slices.Sort(lines)
	return lines
}

// look asks the emulator what is in the world.
func (w *world) look(ctx context.Context) (*picture, error) {
	p := &picture{}
	for _, see := range []func(context.Context, *picture) error{w.seeSecurityGroups, w.seeTargetGroups, w.seeBalancers} {
		if err := see(ctx, p); err != nil {
			return nil, fmt.Errorf("look at the emulator: %w", err)
		}
	}
	slices.Sort(p.lines)
	return p, nil
}

func (w *world) seeSecurityGroups(ctx context.Context, p *picture) error {
	groups, err := w.securityGroups(ctx)
	if err != nil {
		return err
	}
	for _, g := range groups {
		id := aws.ToString(g.GroupId)
		p.names = append(p.names, id, aws.ToString(g.GroupName))
		tags := map[string]string{}
		for _, t := range g.Tags {
			tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
		}
		p.line("security-group", id, map[string]any{"name": g.GroupName, "description": g.Description, "tags": tags})
		for _, rule := range g.IpPermissions {
			for _, single := range split(rule) {
				p.line("rule", id, single)
			}
		}
	}
	return nil
}

// split returns a permission for each source of p.
func split(p ec2types.IpPermission) []ec2types.IpPermission {
	var all []ec2types.IpPermission
	one := func() *ec2types.IpPermission {
		all = append(all, ec2types.IpPermission{IpProtocol: p.IpProtocol, FromPort: p.FromPort, ToPort: p.ToPort})
		return &all[len(all)-1]
	}
	for _, r := range p.IpRanges {
		one().IpRanges = []ec2types.IpRange{r}
	}
	for _, r := range p.Ipv6Ranges {
		one().Ipv6Ranges = []ec2types.Ipv6Range{r}
	}
	for _, l := range p.PrefixListIds {
		one().PrefixListIds = []ec2types.PrefixListId{l}
	}
	for _, g := range p.UserIdGroupPairs {
		one().UserIdGroupPairs = []ec2types.UserIdGroupPair{{GroupId: g.GroupId, Description: g.Description}}
	}
	return all
}

func (w *world) seeTargetGroups(ctx context.Context, p *picture) error {
	groups, err := w.targetGroups(ctx)
	if err != nil {
		return err
	}
	for _, g := range groups {
		arn := aws.ToString(g.TargetGroupArn)
		p.names = append(p.names, arn, "target-group/"+aws.ToString(g.TargetGroupName))
		tags, err := w.tagsOf(ctx, arn)
		if err != nil {
			return err
		}
		attributes, err := w.elb.DescribeTargetGroupAttributes(ctx, &elb.DescribeTargetGroupAttributesInput{TargetGroupArn: &arn})
		if err != nil {
			return err
		}
		values := map[string]string{}
		for _, a := range attributes.Attributes {
			values[aws.ToString(a.Key)] = aws.ToString(a.Value)
		}
		g.TargetGroupArn, g.LoadBalancerArns = nil, nil
		if g.HealthCheckProtocol == elbtypes.ProtocolEnumTcp {
			g.HealthCheckPath, g.Matcher = nil, nil // of no use to it, but the emulator keeps them
		}
		p.line("target-group", arn, map[string]any{"is": g, "tags": tags, "attributes": values})
		health, err := w.elb.DescribeTargetHealth(ctx, &elb.DescribeTargetHealthInput{TargetGroupArn: &arn})
		if err != nil {
			return err
		}
		for _, t := range health.TargetHealthDescriptions {
			p.line("target", arn, t.Target)
		}
	}
	return nil
}

func (w *world) seeBalancers(ctx context.Context, p *picture) error {
	balancers, err := w.balancers(ctx)
	if err != nil {
		return err
	}
	for _, b := range balancers {
		arn := aws.ToString(b.LoadBalancerArn)
		p.names = append(p.names, arn, "load-balancer/"+aws.ToString(b.LoadBalancerName))
		tags, err := w.tagsOf(ctx, arn)
		if err != nil {
			return err
		}
		attributes, err := w.elb.DescribeLoadBalancerAttributes(ctx, &elb.DescribeLoadBalancerAttributesInput{LoadBalancerArn: &arn})
		if err != nil {
			return err
		}
		values := map[string]string{}
		for _, a := range attributes.Attributes {
			values[aws.ToString(a.Key)] = aws.ToString(a.Value)
		}
		p.line("load-balancer", arn, map[string]any{
			"name": b.LoadBalancerName, "type": b.Type, "scheme": b.Scheme, "vpc": b.VpcId, "addresses": b.IpAddressType,
			"subnets": subnets(b), "tags": tags, "attributes": values,
		})
		for _, group := range b.SecurityGroups {
			p.line("in group", arn, group)
		}
		if err := w.seeListeners(ctx, p, arn); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) seeListeners(ctx context.Context, p *picture, balancer string) error {
	out, err := w.elb.DescribeListeners(ctx, &elb.DescribeListenersInput{LoadBalancerArn: &balancer})
	if err != nil {
		return err
	}
	for _, l := range out.Listeners {
		tags, err := w.tagsOf(ctx, aws.ToString(l.ListenerArn))
		if err != nil {
			return err
		}
		p.line("listener", balancer, map[string]any{"port": l.Port, "protocol": l.Protocol, "to": target(l), "tags": tags})
	}
	return nil
}

func (w *world) tagsOf(ctx context.Context, arn string) (map[string]string, error) {
	out, err := w.elb.DescribeTags(ctx, &elb.DescribeTagsInput{ResourceArns: []string{arn}})
	if err != nil {
		return nil, err
	}
	tags := map[string]string{}
	for _, d := range out.TagDescriptions {
		for _, t := range d.Tags {
			tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
		}
	}
	return tags, nil
}

func subnets(b elbtypes.LoadBalancer) []string {
	var ids []string
	for _, z := range b.AvailabilityZones {
		ids = append(ids, aws.ToString(z.SubnetId))
	}
	slices.Sort(ids)
	return ids
}

// target is the ARN of the target group a listener sends to.
func target(l elbtypes.Listener) string {
	for _, a := range l.DefaultActions {
		if a.TargetGroupArn != nil {
			return *a.TargetGroupArn
		}
		if a.ForwardConfig != nil && len(a.ForwardConfig.TargetGroups) == 1 {
			return aws.ToString(a.ForwardConfig.TargetGroups[0].TargetGroupArn)
		}
	}
	return ""
}
