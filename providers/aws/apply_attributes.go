package aws

import (
	"context"
	"maps"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairway-lb/fairway/providers/lb"
)

// Reading attributes takes a call for each load balancer and each target group,
// so they are read only where markAttributes tells that they were set. It is put
// on before the first attribute is and taken off after the last is reset.
//
// fieldMarked is an observed resource's field that says whether it is on.
const fieldMarked = "attributes-marked"

// attributed is one kind of resource that has attributes.
type attributed struct {
	table  attributeTable
	read   func(ctx context.Context, arn string) (map[string]string, error)
	modify func(ctx context.Context, arn string, set map[string]string) error
}

func (c *clients) balancerSettings() attributed {
	return attributed{balancerAttributes,
		func(ctx context.Context, arn string) (map[string]string, error) {
			out, err := c.elb.DescribeLoadBalancerAttributes(ctx, &elb.DescribeLoadBalancerAttributesInput{LoadBalancerArn: &arn})
			if err != nil {
				return nil, err
			}
			return fromPairs(out.Attributes), nil
		},
		func(ctx context.Context, arn string, set map[string]string) error {
			_, err := c.elb.ModifyLoadBalancerAttributes(ctx, &elb.ModifyLoadBalancerAttributesInput{LoadBalancerArn: &arn,
				Attributes: toPairs[elbtypes.LoadBalancerAttribute](set)})
			return err
		}}
}

func (c *clients) groupSettings() attributed {
	return attributed{groupAttributes,
		func(ctx context.Context, arn string) (map[string]string, error) {
			out, err := c.elb.DescribeTargetGroupAttributes(ctx, &elb.DescribeTargetGroupAttributesInput{TargetGroupArn: &arn})
			if err != nil {
				return nil, err
			}
			return fromPairs(out.Attributes), nil
		},
		func(ctx context.Context, arn string, set map[string]string) error {
			_, err := c.elb.ModifyTargetGroupAttributes(ctx, &elb.ModifyTargetGroupAttributesInput{TargetGroupArn: &arn,
				Attributes: toPairs[elbtypes.TargetGroupAttribute](set)})
			return err
		}}
}

// pair is one of the SDK's types of a key with a value, which are all one type
// under several names.
type pair interface {
	elbtypes.Tag | elbtypes.LoadBalancerAttribute | elbtypes.TargetGroupAttribute
}

func fromPairs[P pair](list []P) map[string]string {
	found := make(map[string]string, len(list))
	for _, p := range list {
		found[aws.ToString(elbtypes.Tag(p).Key)] = aws.ToString(elbtypes.Tag(p).Value)
	}
	return found
}

// toPairs returns the pairs sorted by key.
func toPairs[P pair](set map[string]string) []P {
	var list []P
	for _, key := range slices.Sorted(maps.Keys(set)) {
		list = append(list, P(elbtypes.Tag{Key: &key, Value: aws.String(set[key])}))
	}
	return list
}

// observe adds to r what its attributes are, given its tags. Unmarked, they are
// taken to be what AWS makes them; those of one that is gone do not matter.
func (k attributed) observe(ctx context.Context, r lb.Resource, tags map[string]string) error {
	r.Fields["attributes"], r.Fields[fieldMarked] = lb.Set(), lb.Bool(tags[markAttributes] != "")
	if tags[markAttributes] == "" {
		return nil
	}
	found, err := k.read(ctx, r.ID)
	if isCode(err, "LoadBalancerNotFound", "TargetGroupNotFound") {
		return nil
	}
	if err != nil {
		return failed("read attributes of", r.Ref, err)
	}
	if set := k.table.field(found, r.Fields.Text("protocol")); len(set) > 0 {
		r.Fields["attributes"] = set
		return nil
	}
	// Marked with nothing set, it was left in the middle of a change: no value
	// is true of it, so that whatever is wanted, the change is finished.
	delete(r.Fields, "attributes")
	return nil
}

// fresh adds to have, which was made a moment ago as want, what its attributes
// are, those of any new one, and its tags.
func fresh(have, want lb.Resource) {
	have.Fields["tags"] = want.Fields["tags"]
	have.Fields["attributes"], have.Fields[fieldMarked] = lb.Set(), lb.Bool(len(want.Fields["attributes"]) > 0)
}

// setAttributes makes the change of the field "attributes" of c, if it has one,
// in one call. It returns now, the resource after c, with its mark brought up to
// date.
func (p *Provider) setAttributes(ctx context.Context, k attributed, c lb.Change, now lb.Resource) (lb.Resource, error) {
	if !c.Changes("attributes") {
		return now, nil
	}
	want, marked := len(c.After.Fields["attributes"]) > 0, c.Before.Fields.Text(fieldMarked) == "true"
	if want && !marked {
		if err := p.addTags(ctx, c.Ref(), c.Before.ID, map[string]string{markAttributes: "set"}); err != nil {
			return lb.Resource{}, err
		}
	}
	set := k.table.changes(c.Before.Fields["attributes"], c.After.Fields["attributes"], c.After.Fields.Text("protocol"))
	if len(set) > 0 {
		if err := k.modify(ctx, c.Before.ID, set); err != nil {
			return lb.Resource{}, failed("set attributes of", c.Ref(), err)
		}
	}
	if !want && marked {
		if err := p.removeTags(ctx, c.Ref(), c.Before.ID, []string{markAttributes}); err != nil {
			return lb.Resource{}, err
		}
	}
	now.Fields[fieldMarked] = lb.Bool(want)
	return now, nil
}
