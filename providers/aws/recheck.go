package aws

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairway-lb/fairway/providers/lb"
)

var _ lb.Rechecker = (*Provider)(nil)

// StillOwned implements lb.Rechecker with two calls for a Service of up to nine
// ports: one for the tags of what Elastic Load Balancing has, one for its groups.
// An ARN and a group's ID are never given to another thing.
func (p *Provider) StillOwned(ctx context.Context, resources []lb.Resource) (bool, error) {
	var arns, groups []string
	for _, r := range resources {
		switch r.Kind {
		case kindLoadBalancer, kindListener, kindTargetGroup:
			arns = append(arns, r.ID)
		case kindSecurityGroup:
			groups = append(groups, r.ID)
		}
	}
	var tags map[string]map[string]string
	var found []ec2types.SecurityGroup
	err := together(ctx,
		func(ctx context.Context) (err error) { tags, err = p.tagsOf(ctx, arns); return err },
		func(ctx context.Context) (err error) {
			if len(groups) > 0 {
				found, err = p.listSecurityGroups(ctx, ec2types.Filter{Name: aws.String("group-id"), Values: groups})
			}
			return err
		})
	if err != nil {
		return false, err
	}
	for _, g := range found {
		tags[aws.ToString(g.GroupId)] = ec2Tags(g.Tags)
	}
	moved := slices.ContainsFunc(resources, func(r lb.Resource) bool {
		return (slices.Contains(arns, r.ID) || slices.Contains(groups, r.ID)) && !p.marks.owns(tags[r.ID], r)
	})
	return !moved, nil
}

// Residue implements lb.Rechecker. EC2 refuses to delete a group that a network
// interface is in (DependencyViolation), and every load balancer of a Service
// stands in the Service's group from its creation: with that group deleted, none
// of them is left. Target groups nothing vouches for, so they are listed; where
// there is one, everything is looked at.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeleteSecurityGroup.html
func (p *Provider) Residue(ctx context.Context, o lb.Owner, deleted []lb.Resource) ([]lb.Resource, error) {
	of := func(kind lb.Kind) func(lb.Resource) bool { return func(r lb.Resource) bool { return r.Kind == kind } }
	if o.Kind != lb.OwnedByService || !slices.ContainsFunc(deleted, of(kindSecurityGroup)) || !slices.ContainsFunc(deleted, of(kindLoadBalancer)) {
		return p.Observe(ctx, o)
	}
	groups, err := p.groups.of(ctx, o.Service)
	if err != nil {
		return nil, err
	}
	if len(named(groups, func(g elbtypes.TargetGroup) *string { return g.TargetGroupName }, p.names.targetGroupPrefix(o.Service))) > 0 {
		return p.Observe(ctx, o)
	}
	return nil, nil
}
