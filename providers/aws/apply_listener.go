package aws

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairway-lb/fairway/providers/lb"
)

// listeners drives the open ports of a load balancer.
type listeners struct{ *Provider }

func forward(group string) []elbtypes.Action {
	return []elbtypes.Action{{Type: elbtypes.ActionTypeEnumForward, TargetGroupArn: &group}}
}

func (d listeners) create(ctx context.Context, want lb.Resource, known lb.Lookup) (lb.Resource, error) {
	balancer, err := lookup(known, want.Parent.String())
	if err != nil {
		return lb.Resource{}, err
	}
	group, err := lookup(known, want.Fields.Text("target-group"))
	if err != nil {
		return lb.Resource{}, err
	}
	out, err := d.elb.CreateListener(ctx, &elb.CreateListenerInput{
		LoadBalancerArn: &balancer,
		Port:            number(want.Fields, "port"),
		Protocol:        elbtypes.ProtocolEnum(want.Fields.Text("protocol")),
		DefaultActions:  forward(group),
		Tags:            toPairs[elbtypes.Tag](d.marks.tags(want)),
	})
	switch {
	case isCode(err, "DuplicateListener"):
		return d.adopt(ctx, want, balancer, group, known, err)
	case isCode(err, "LoadBalancerNotFound", "TargetGroupNotFound"):
		return lb.Resource{}, notYetVisible("create", want.Ref, err)
	case err != nil:
		return lb.Resource{}, failed("create", want.Ref, err)
	case len(out.Listeners) != 1:
		return lb.Resource{}, &lb.Error{Kind: lb.Unavailable, Op: "create", Resource: want.Ref, Message: "the answer describes no listener"}
	}
	want.ID = aws.ToString(out.Listeners[0].ListenerArn)
	return want, nil
}

// adopt takes over the listener on the wanted port, if it is ours.
func (d listeners) adopt(ctx context.Context, want lb.Resource, balancer, group string, known lb.Lookup, cause error) (lb.Resource, error) {
	all, err := d.listListeners(ctx, balancer)
	if err != nil {
		return lb.Resource{}, err
	}
	for _, l := range all {
		if aws.ToInt32(l.Port) != aws.ToInt32(number(want.Fields, "port")) {
			continue
		}
		arn := aws.ToString(l.ListenerArn)
		tags, err := d.tagsOf(ctx, []string{arn})
		if err != nil {
			return lb.Resource{}, err
		}
		if !d.marks.owns(tags[arn], want) {
			return lb.Resource{}, foreign(want.Ref, "of port "+want.Fields.Text("port"), arn)
		}
		have := lb.Resource{ID: arn, Fields: lb.Fields{
			"protocol": lb.Text(string(l.Protocol)), "port": want.Fields["port"], "target-group": lb.Text(forwardsTo(l)),
			"tags": ourTags(tags[arn]),
		}}
		if forwardsTo(l) == group {
			have.Fields["target-group"] = want.Fields["target-group"]
		}
		return adopt(ctx, d, have, want, known)
	}
	return lb.Resource{}, notYetVisible("create", want.Ref, cause)
}

// update changes protocol and target group at once.
// https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_ModifyListener.html
func (d listeners) update(ctx context.Context, c lb.Change, known lb.Lookup) (lb.Resource, error) {
	if err := unchangeable(c, "port"); err != nil {
		return lb.Resource{}, err
	}
	if c.Changes("protocol") || c.Changes("target-group") {
		if err := d.redirect(ctx, c, known); err != nil {
			return lb.Resource{}, err
		}
	}
	return changed(c), d.retag(ctx, c)
}

func (d listeners) redirect(ctx context.Context, c lb.Change, known lb.Lookup) error {
	group, err := lookup(known, c.After.Fields.Text("target-group"))
	if err != nil {
		return err
	}
	_, err = d.elb.ModifyListener(ctx, &elb.ModifyListenerInput{
		ListenerArn:    &c.Before.ID,
		Protocol:       elbtypes.ProtocolEnum(c.After.Fields.Text("protocol")),
		DefaultActions: forward(group),
	})
	if err != nil {
		return failed("update", c.Ref(), err)
	}
	return nil
}

func (d listeners) delete(ctx context.Context, have lb.Resource, _ lb.Lookup) error {
	_, err := d.elb.DeleteListener(ctx, &elb.DeleteListenerInput{ListenerArn: &have.ID})
	if err == nil || isCode(err, "ListenerNotFound", "LoadBalancerNotFound") {
		return nil
	}
	return failed("delete", have.Ref, err)
}
