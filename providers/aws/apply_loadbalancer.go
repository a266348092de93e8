package aws

import (
	"cmp"
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairway-lb/fairway/providers/lb"
)

// loadBalancers drives Network Load Balancers.
type loadBalancers struct{ *Provider }

// loadBalancerResource returns what b is, but for its reference, owners and
// security groups.
func loadBalancerResource(b elbtypes.LoadBalancer) lb.Resource {
	failure := lb.Set()
	if b.State != nil && b.State.Code == elbtypes.LoadBalancerStateEnumFailed {
		failure = lb.Text(cmp.Or(aws.ToString(b.State.Reason), "AWS gives no reason"))
	}
	return lb.Resource{ID: aws.ToString(b.LoadBalancerArn), Fields: lb.Fields{
		"name":            lb.Text(aws.ToString(b.LoadBalancerName)),
		"scheme":          lb.Text(string(b.Scheme)),
		"ip-address-type": lb.Text(string(b.IpAddressType)),
		"subnets":         lb.Set(subnetsOf(b)...),
		"dns-name":        lb.Text(aws.ToString(b.DNSName)),
		"failure":         failure,
	}}
}

// create always gives security groups: a load balancer made without any can
// never get one.
// https://docs.aws.amazon.com/elasticloadbalancing/latest/network/load-balancer-security-groups.html
func (d loadBalancers) create(ctx context.Context, want lb.Resource, known lb.Lookup) (lb.Resource, error) {
	groups, err := lookupAll(known, want.Fields["security-groups"])
	if err != nil {
		return lb.Resource{}, err
	}
	out, err := d.elb.CreateLoadBalancer(ctx, &elb.CreateLoadBalancerInput{
		Name:           aws.String(want.Fields.Text("name")),
		Type:           elbtypes.LoadBalancerTypeEnumNetwork,
		Scheme:         elbtypes.LoadBalancerSchemeEnum(want.Fields.Text("scheme")),
		IpAddressType:  elbtypes.IpAddressType(want.Fields.Text("ip-address-type")),
		Subnets:        want.Fields["subnets"],
		SecurityGroups: groups,
		Tags:           toPairs[elbtypes.Tag](d.marks.tags(want)),
	})
	switch {
	case isCode(err, "DuplicateLoadBalancerName"):
		return d.adopt(ctx, want, groups, known, err)
	case isCode(err, "InvalidSecurityGroup", "InvalidGroup.NotFound") && len(want.DependsOn) == len(groups):
		// All groups are ours, so they exist.
		return lb.Resource{}, notYetVisible("create", want.Ref, err)
	case err != nil:
		return lb.Resource{}, failed("create", want.Ref, err)
	case len(out.LoadBalancers) != 1:
		return lb.Resource{}, &lb.Error{Kind: lb.Unavailable, Op: "create", Resource: want.Ref, Message: "the answer describes no load balancer"}
	}
	have := loadBalancerResource(out.LoadBalancers[0])
	have.Fields["security-groups"] = want.Fields["security-groups"]
	fresh(have, want)
	return adopt(ctx, d, have, want, known)
}

// adopt takes over the load balancer that has the wanted name, if it is ours.
func (d loadBalancers) adopt(ctx context.Context, want lb.Resource, groups []string, known lb.Lookup, cause error) (lb.Resource, error) {
	name := want.Fields.Text("name")
	out, err := d.elb.DescribeLoadBalancers(ctx, &elb.DescribeLoadBalancersInput{Names: []string{name}})
	if isCode(err, "LoadBalancerNotFound") || err == nil && len(out.LoadBalancers) == 0 {
		return lb.Resource{}, notYetVisible("create", want.Ref, cause)
	}
	if err != nil {
		return lb.Resource{}, failed("create", want.Ref, err)
	}
	b := out.LoadBalancers[0]
	arn := aws.ToString(b.LoadBalancerArn)
	tags, err := d.tagsOf(ctx, []string{arn})
	if err != nil {
		return lb.Resource{}, err
	}
	if !d.marks.owns(tags[arn], want) {
		return lb.Resource{}, foreign(want.Ref, name, arn)
	}
	have := loadBalancerResource(b)
	have.Fields["tags"] = ourTags(tags[arn])
	have.Fields["security-groups"] = lb.Set(b.SecurityGroups...)
	if have.Fields["security-groups"].Equal(lb.Set(groups...)) {
		have.Fields["security-groups"] = want.Fields["security-groups"]
	}
	if err := d.balancerSettings().observe(ctx, have, tags[arn]); err != nil {
		return lb.Resource{}, err
	}
	return adopt(ctx, d, have, want, known)
}

func (d loadBalancers) update(ctx context.Context, c lb.Change, known lb.Lookup) (lb.Resource, error) {
	if err := unchangeable(c, "name", "scheme", "ip-address-type"); err != nil {
		return lb.Resource{}, err
	}
	if c.Changes("failure") {
		return lb.Resource{}, d.discard(ctx, c)
	}
	if c.Changes("subnets") {
		_, err := d.elb.SetSubnets(ctx, &elb.SetSubnetsInput{LoadBalancerArn: &c.Before.ID, Subnets: c.After.Fields["subnets"]})
		if err != nil {
			return lb.Resource{}, failed("set subnets of", c.Ref(), err)
		}
	}
	if c.Changes("security-groups") {
		groups, err := lookupAll(known, c.After.Fields["security-groups"])
		if err != nil {
			return lb.Resource{}, err
		}
		_, err = d.elb.SetSecurityGroups(ctx, &elb.SetSecurityGroupsInput{LoadBalancerArn: &c.Before.ID, SecurityGroups: groups})
		if isCode(err, "InvalidSecurityGroup", "InvalidGroup.NotFound") && len(c.After.DependsOn) == len(groups) {
			return lb.Resource{}, notYetVisible("set security groups of", c.Ref(), err)
		}
		if err != nil {
			return lb.Resource{}, failed("set security groups of", c.Ref(), err)
		}
	}
	if err := d.retag(ctx, c); err != nil {
		return lb.Resource{}, err
	}
	return d.setAttributes(ctx, d.balancerSettings(), c, changed(c))
}

// discard deletes a load balancer that AWS could not set up, which is all that can
// be done with one, so that the next run makes it anew. The error says so.
// https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_LoadBalancerState.html
func (d loadBalancers) discard(ctx context.Context, c lb.Change) error {
	if err := d.delete(ctx, c.Before, nil); err != nil {
		return err
	}
	d.newborns.forget(c.Ref())
	return &lb.Error{Kind: lb.Unavailable, Op: "set up", Resource: c.Ref(), RetryAfter: 5 * time.Second,
		Message: "AWS could not do it (" + c.Before.Fields.Text("failure") + "), so " + c.Before.Fields.Text("name") +
			" is deleted and made anew; if this comes again, see that each of its subnets has 8 free addresses and that AWS reports no outage"}
}

// delete also takes the listeners away. It succeeds for one that is gone.
func (d loadBalancers) delete(ctx context.Context, have lb.Resource, _ lb.Lookup) error {
	_, err := d.elb.DeleteLoadBalancer(ctx, &elb.DeleteLoadBalancerInput{LoadBalancerArn: &have.ID})
	if err == nil || isCode(err, "LoadBalancerNotFound") {
		return nil
	}
	e := failed("delete", have.Ref, err)
	if e.Code == "OperationNotPermitted" {
		e.Message += "; turn off deletion protection of " + have.Fields.Text("name") + ", in AWS or, where the annotation " + annotationPrefix + "attributes asks for it, there: it is not turned off by itself"
	}
	return e
}
