package aws

import (
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"

	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/lb"
)

// TestDeniedIsNotGone: what may not be deleted is said to be denied, and stays.
func TestDeniedIsNotGone(t *testing.T) {
	simulate(t, func(b *bench) {
		s := service()
		if _, err := b.engine.Reconcile(b.Context(), s); err != nil {
			t.Fatal(err)
		}
		if _, err := b.engine.Delete(b.Context(), s.ServiceRef); lb.KindOf(err) != lb.Denied {
			t.Errorf("got %v, want Denied", err)
		}
		if !slices.ContainsFunc(b.account.Leftovers(), func(r fakeaws.Resource) bool { return r.Kind == "target-group" }) {
			t.Errorf("left: %v", b.account.Leftovers())
		}
	}, func(w *fakeaws.World) {
		policy := readPolicy(t)
		for i, s := range policy.Statement {
			policy.Statement[i].Action = slices.DeleteFunc(s.Action, func(a string) bool { return a == "elasticloadbalancing:DeleteTargetGroup" })
		}
		policy.bound(w)
	})
}

// TestGoneBehindOurBack: a change of what somebody has deleted since it was seen is
// denied by the policy, and is no more than a reason to look again.
func TestGoneBehindOurBack(t *testing.T) {
	simulate(t, func(b *bench) {
		s := service()
		b.reconcile(s)
		observed, err := b.provider.Observe(b.Context(), lb.ByService(s.ServiceRef))
		if err != nil {
			t.Fatal(err)
		}
		was := observed[slices.IndexFunc(observed, func(r lb.Resource) bool { return r.Kind == kindLoadBalancer })]
		if _, err := b.operator.elb.DeleteLoadBalancer(b.Context(), &elb.DeleteLoadBalancerInput{LoadBalancerArn: aws.String(was.ID)}); err != nil {
			t.Fatal(err)
		}
		known := func(lb.Ref) (lb.Resource, bool) { return lb.Resource{}, false }
		after := was
		after.Fields = lb.Fields{"subnets": was.Fields["subnets"][:1]}
		if _, err := b.provider.Apply(b.Context(), lb.Change{Op: lb.Update, Before: was, After: after, Fields: []string{"subnets"}}, known); lb.KindOf(err) != lb.NotFound {
			t.Errorf("update: got %v, want NotFound", err)
		}
		if _, err := b.provider.Apply(b.Context(), lb.Change{Op: lb.Delete, Before: was}, known); err != nil {
			t.Errorf("delete: %v", err)
		}
		b.reconcile(s)
		b.remove(s)
	})
}
