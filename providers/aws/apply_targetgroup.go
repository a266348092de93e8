package aws

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairway-lb/fairway/providers/lb"
)

// targetGroups drives target groups without their targets.
type targetGroups struct{ *Provider }

// targetGroupResource returns what g is, but for its reference and owners.
func targetGroupResource(g elbtypes.TargetGroup) lb.Resource {
	fields := lb.Fields{
		"name":                  lb.Text(aws.ToString(g.TargetGroupName)),
		"vpc":                   lb.Text(aws.ToString(g.VpcId)),
		"protocol":              lb.Text(string(g.Protocol)),
		"port":                  lb.Number(aws.ToInt32(g.Port)),
		"target-type":           lb.Text(string(g.TargetType)),
		"health-check-protocol": lb.Text(string(g.HealthCheckProtocol)),
		"health-check-port":     lb.Text(aws.ToString(g.HealthCheckPort)),
		"health-check-interval": lb.Number(aws.ToInt32(g.HealthCheckIntervalSeconds)),
		"health-check-timeout":  lb.Number(aws.ToInt32(g.HealthCheckTimeoutSeconds)),
		"healthy-threshold":     lb.Number(aws.ToInt32(g.HealthyThresholdCount)),
		"unhealthy-threshold":   lb.Number(aws.ToInt32(g.UnhealthyThresholdCount)),
	}
	if g.HealthCheckPath != nil {
		fields["health-check-path"] = lb.Text(*g.HealthCheckPath)
	}
	if g.Matcher != nil && g.Matcher.HttpCode != nil {
		fields["health-check-codes"] = lb.Text(*g.Matcher.HttpCode)
	}
	return lb.Resource{ID: aws.ToString(g.TargetGroupArn), Fields: fields}
}

// number returns a field as the SDK wants it; desired sets only numbers.
func number(f lb.Fields, name string) *int32 {
	n, err := strconv.ParseInt(f.Text(name), 10, 32)
	if err != nil {
		return nil
	}
	return aws.Int32(int32(n))
}

// text returns a field as the SDK wants it, nil when it is not set.
func text(f lb.Fields, name string) *string {
	if len(f[name]) == 0 {
		return nil
	}
	return aws.String(f.Text(name))
}

func matcher(f lb.Fields) *elbtypes.Matcher {
	if codes := text(f, "health-check-codes"); codes != nil {
		return &elbtypes.Matcher{HttpCode: codes}
	}
	return nil
}

func (d targetGroups) create(ctx context.Context, want lb.Resource, known lb.Lookup) (lb.Resource, error) {
	f := want.Fields
	out, err := d.elb.CreateTargetGroup(ctx, &elb.CreateTargetGroupInput{
		Name:                       aws.String(f.Text("name")),
		Protocol:                   elbtypes.ProtocolEnum(f.Text("protocol")),
		Port:                       number(f, "port"),
		VpcId:                      aws.String(f.Text("vpc")),
		TargetType:                 elbtypes.TargetTypeEnum(f.Text("target-type")),
		HealthCheckEnabled:         aws.Bool(true),
		HealthCheckProtocol:        elbtypes.ProtocolEnum(f.Text("health-check-protocol")),
		HealthCheckPort:            text(f, "health-check-port"),
		HealthCheckPath:            text(f, "health-check-path"),
		HealthCheckIntervalSeconds: number(f, "health-check-interval"),
		HealthCheckTimeoutSeconds:  number(f, "health-check-timeout"),
		HealthyThresholdCount:      number(f, "healthy-threshold"),
		UnhealthyThresholdCount:    number(f, "unhealthy-threshold"),
		Matcher:                    matcher(f),
		Tags:                       toPairs[elbtypes.Tag](d.marks.tags(want)),
	})
	switch {
	case isCode(err, "DuplicateTargetGroupName"):
		return d.adopt(ctx, want, known, err)
	case err != nil:
		return lb.Resource{}, failed("create", want.Ref, err)
	case len(out.TargetGroups) != 1:
		return lb.Resource{}, &lb.Error{Kind: lb.Unavailable, Op: "create", Resource: want.Ref, Message: "the answer describes no target group"}
	}
	have := targetGroupResource(out.TargetGroups[0])
	fresh(have, want)
	return adopt(ctx, d, have, want, known)
}

// adopt takes over the target group that has the wanted name, if it is ours.
func (d targetGroups) adopt(ctx context.Context, want lb.Resource, known lb.Lookup, cause error) (lb.Resource, error) {
	name := want.Fields.Text("name")
	out, err := d.elb.DescribeTargetGroups(ctx, &elb.DescribeTargetGroupsInput{Names: []string{name}})
	if isCode(err, "TargetGroupNotFound") || err == nil && len(out.TargetGroups) == 0 {
		return lb.Resource{}, notYetVisible("create", want.Ref, cause)
	}
	if err != nil {
		return lb.Resource{}, failed("create", want.Ref, err)
	}
	arn := aws.ToString(out.TargetGroups[0].TargetGroupArn)
	tags, err := d.tagsOf(ctx, []string{arn})
	if err != nil {
		return lb.Resource{}, err
	}
	if !d.marks.owns(tags[arn], want) {
		return lb.Resource{}, foreign(want.Ref, name, arn)
	}
	have := targetGroupResource(out.TargetGroups[0])
	have.Fields["tags"] = ourTags(tags[arn])
	if err := d.groupSettings().observe(ctx, have, tags[arn]); err != nil {
		return lb.Resource{}, err
	}
	return adopt(ctx, d, have, want, known)
}

// update changes health check and attributes in place.
func (d targetGroups) update(ctx context.Context, c lb.Change, _ lb.Lookup) (lb.Resource, error) {
	if err := unchangeable(c, "name", "vpc", "protocol", "port", "target-type"); err != nil {
		return lb.Resource{}, err
	}
	if err := d.modify(ctx, c); err != nil {
		return lb.Resource{}, err
	}
	if err := d.retag(ctx, c); err != nil {
		return lb.Resource{}, err
	}
	return d.setAttributes(ctx, d.groupSettings(), c, changed(c))
}

// modify changes the health check, if c does.
// https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_ModifyTargetGroup.html
func (d targetGroups) modify(ctx context.Context, c lb.Change) error {
	if !slices.ContainsFunc(c.Fields, isHealthField) {
		return nil
	}
	f := c.After.Fields
	_, err := d.elb.ModifyTargetGroup(ctx, &elb.ModifyTargetGroupInput{
		TargetGroupArn:             &c.Before.ID,
		HealthCheckEnabled:         aws.Bool(true),
		HealthCheckProtocol:        elbtypes.ProtocolEnum(f.Text("health-check-protocol")),
		HealthCheckPort:            text(f, "health-check-port"),
		HealthCheckPath:            text(f, "health-check-path"),
		HealthCheckIntervalSeconds: number(f, "health-check-interval"),
		HealthCheckTimeoutSeconds:  number(f, "health-check-timeout"),
		HealthyThresholdCount:      number(f, "healthy-threshold"),
		UnhealthyThresholdCount:    number(f, "unhealthy-threshold"),
		Matcher:                    matcher(f),
	})
	if err != nil {
		return failed("update", c.Ref(), err)
	}
	return nil
}

func isHealthField(name string) bool {
	return strings.HasPrefix(name, "health-check-") || strings.HasSuffix(name, "-threshold")
}

func (d targetGroups) delete(ctx context.Context, have lb.Resource, _ lb.Lookup) error {
	_, err := d.elb.DeleteTargetGroup(ctx, &elb.DeleteTargetGroupInput{TargetGroupArn: &have.ID})
	if err == nil || isCode(err, "TargetGroupNotFound") {
		return nil
	}
	e := failed("delete", have.Ref, err)
	if e.Code == "ResourceInUse" {
		e.Message = "its listener is gone, but AWS takes a few seconds to release it"
	}
	return e
}
