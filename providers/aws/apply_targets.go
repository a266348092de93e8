package aws

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/providers/lb"
)

// targets drives the registrations in a target group.
type targets struct{ *Provider }

// targetBatch is how many targets one call registers: the API documents no
// limit, but is known to refuse very large calls now and then
// (https://github.com/kubernetes/kubernetes/pull/101592).
const targetBatch = 100

func (d targets) create(ctx context.Context, want lb.Resource, known lb.Lookup) (lb.Resource, error) {
	id, err := lookup(known, want.Parent.String())
	if err != nil {
		return lb.Resource{}, err
	}
	want.ID = id
	refused, err := d.register(ctx, want.Ref, id, want.Fields["instances"])
	if err != nil {
		return lb.Resource{}, err
	}
	if len(refused) > 0 {
		if len(refused) == len(want.Fields["instances"]) {
			return lb.Resource{}, refusal(want.Ref, refused)
		}
		// The listener need not wait for the odd one out; it is still missing
		// at the next look, and is reported then.
		klog.FromContext(ctx).Info("AWS refused some targets", "targetGroup", want.Key, "instances", refused)
		want.Fields = lb.Fields{"instances": lb.Set(missing(want.Fields["instances"], refused)...)}
	}
	return want, nil
}

// update registers before it deregisters, so that capacity does not dip, unless
// the quota leaves no room for that.
func (d targets) update(ctx context.Context, c lb.Change, _ lb.Lookup) (lb.Resource, error) {
	group := c.Before.ID
	come := missing(c.After.Fields["instances"], c.Before.Fields["instances"])
	leave := missing(c.Before.Fields["instances"], c.After.Fields["instances"])
	refused, err := d.register(ctx, c.Ref(), group, come)
	if isCode(err, "TooManyTargets", "TooManyRegistrationsForTargetId") && len(leave) > 0 {
		if err := d.deregister(ctx, c.Ref(), group, leave); err != nil {
			return lb.Resource{}, err
		}
		leave = nil
		refused, err = d.register(ctx, c.Ref(), group, come)
	}
	if err != nil {
		return lb.Resource{}, err
	}
	if err := d.deregister(ctx, c.Ref(), group, leave); err != nil {
		return lb.Resource{}, err
	}
	if len(refused) > 0 {
		return lb.Resource{}, refusal(c.Ref(), refused)
	}
	return changed(c), nil
}

// delete is for a group that stays; with the group its targets go by themselves.
func (d targets) delete(ctx context.Context, have lb.Resource, _ lb.Lookup) error {
	err := d.deregister(ctx, have.Ref, have.ID, have.Fields["instances"])
	if lb.KindOf(err) == lb.NotFound {
		return nil
	}
	return err
}

func refusal(ref lb.Ref, ids []string) error {
	return &lb.Error{Kind: lb.Invalid, Op: "register", Resource: ref, Code: "InvalidTarget",
		Message: fmt.Sprintf("AWS refused %s (not running, of a type that cannot be a target, or not in this network); all others are registered", abridged(ids))}
}

var instanceInText = regexp.MustCompile(`\bi-[0-9a-f]+\b`)

// register registers items and returns those that AWS refused. One bad target
// fails its whole call, which names it: the others are tried again without it.
func (d targets) register(ctx context.Context, ref lb.Ref, group string, items []string) (refused []string, err error) {
	for chunk := range slices.Chunk(items, targetBatch) {
		for len(chunk) > 0 {
			_, err := d.elb.RegisterTargets(ctx, &elb.RegisterTargetsInput{TargetGroupArn: &group, Targets: descriptions(chunk)})
			if err == nil {
				break
			}
			e := failed("register targets in", ref, err)
			bad := offenders(e, chunk)
			if len(bad) == 0 {
				return refused, e
			}
			refused = append(refused, bad...)
			chunk = missing(chunk, bad)
		}
	}
	return refused, nil
}

// offenders returns which of the items an error is about: InvalidTarget for an
// instance that cannot be one, ValidationError for a malformed id.
func offenders(e *lb.Error, items []string) []string {
	if e.Kind != lb.Invalid {
		return nil
	}
	named := instanceInText.FindAllString(e.Message, -1)
	return slices.DeleteFunc(slices.Clone(items), func(item string) bool { return !slices.Contains(named, item) })
}

func (d targets) deregister(ctx context.Context, ref lb.Ref, group string, items []string) error {
	for chunk := range slices.Chunk(items, targetBatch) {
		_, err := d.elb.DeregisterTargets(ctx, &elb.DeregisterTargetsInput{TargetGroupArn: &group, Targets: descriptions(chunk)})
		if err != nil {
			return failed("deregister targets in", ref, err)
		}
	}
	return nil
}

// targetItem is a target's text form: its id, and a port that is not the
// group's own (0), which only somebody else registers.
func targetItem(id string, port int32) string {
	if port == 0 {
		return id
	}
	return fmt.Sprintf("%s:%d", id, port)
}

func descriptions(items []string) []elbtypes.TargetDescription {
	list := make([]elbtypes.TargetDescription, 0, len(items))
	for _, item := range items {
		id, port, _ := strings.Cut(item, ":")
		t := elbtypes.TargetDescription{Id: aws.String(id)}
		if n, err := strconv.ParseInt(port, 10, 32); err == nil {
			t.Port = aws.Int32(int32(n))
		}
		list = append(list, t)
	}
	return list
}
