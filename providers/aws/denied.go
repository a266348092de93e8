package aws

import (
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/fairway-lb/fairway/providers/lb"
)

// unlessGone returns the error of a change, or NotFound in its place when the
// change was denied because its resource is gone: a policy that asks for our tag,
// as ours does, denies what is done to a thing that has no tags any more before
// AWS could say that it is absent. It looks only then.
func (p *Provider) unlessGone(ctx context.Context, c lb.Change, err error) error {
	if lb.KindOf(err) != lb.Denied || !p.gone(ctx, c.Before.ID) {
		return err
	}
	return &lb.Error{Kind: lb.NotFound, Op: string(c.Op), Resource: c.Ref(), Err: err, Message: c.Before.ID + " does not exist any more"}
}

// gone reports whether AWS says that there is nothing with this ARN or security
// group id. Without an answer it is not known to be gone.
func (p *Provider) gone(ctx context.Context, id string) bool {
	if strings.HasPrefix(id, "arn:") {
		tags, err := p.tagsOf(ctx, []string{id})
		return err == nil && tags[id] == nil
	}
	groups, err := p.listSecurityGroups(ctx, ec2types.Filter{Name: aws.String("group-id"), Values: []string{id}})
	return err == nil && len(groups) == 0
}
