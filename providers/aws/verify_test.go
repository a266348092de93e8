package aws

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/providers/fake"
	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/lb"
)

// TestBrake: the nodes that a list lost stay targets as long as their instances
// run, and go when those are really gone.
func TestBrake(t *testing.T) {
	simulate(t, func(b *bench) {
		b.reconcile(service())
		none := service(func(s *lb.Service) { s.Targets = nil })
		held := func(say string, want ...int) {
			t.Helper()
			time.Sleep(sightingTTL)
			_, err := b.engine.Reconcile(b.Context(), none)
			if lb.KindOf(err) != lb.Held || !strings.Contains(err.Error(), say) {
				t.Errorf("got %v, want Held with %q", err, say)
			}
			b.expectTargets(want...)
		}
		held("the cloud still has "+instanceOf(1), 1, 2, 3)
		if err := b.account.SetInstanceState(instanceOf(1), fakeaws.Stopped); err != nil {
			t.Fatal(err)
		}
		held("the cloud still has "+instanceOf(1), 1, 2, 3)
		for _, fault := range []fake.Fault{
			{Operation: "DescribeInstances", Kind: fake.FaultError, Code: "UnauthorizedOperation", Status: 403, Times: -1},
			{Operation: "DescribeInstances", Kind: fake.FaultError, Code: "InternalError", Status: 500, Times: -1},
		} {
			if err := b.account.Faults().Set([]fake.Fault{fault}); err != nil {
				t.Fatal(err)
			}
			held("whether they are really gone cannot be told", 1, 2, 3)
		}
		if err := b.account.Faults().Set(nil); err != nil {
			t.Fatal(err)
		}
		if err := b.account.SetInstanceState(instanceOf(2), fakeaws.Terminated); err != nil {
			t.Fatal(err)
		}
		if err := b.account.RemoveInstance(instanceOf(3)); err != nil {
			t.Fatal(err)
		}
		held("the cloud still has "+instanceOf(1), 1)
		if err := b.account.SetInstanceState(instanceOf(1), fakeaws.Terminated); err != nil {
			t.Fatal(err)
		}
		time.Sleep(sightingTTL)
		b.reconcile(none)
		b.expectTargets()
	})
}

// TestGone: each instance is looked for by its own id, many in few calls.
func TestGone(t *testing.T) {
	simulate(t, func(b *bench) {
		if err := b.account.SetInstanceState(instanceOf(2), fakeaws.Terminated); err != nil {
			t.Fatal(err)
		}
		items := []string{instanceOf(1), instanceOf(2), targetItem(instanceOf(3), 8080), targetItem(instanceOf(2), 8080)}
		for n := range 300 {
			items = append(items, instanceOf(1000+n))
		}
		b.account.Calls().Reset()
		gone, err := b.provider.Gone(b.Context(), lb.Resource{Ref: lb.Ref{Kind: kindTargets}}, items)
		if err != nil {
			t.Fatal(err)
		}
		if want := slices.Concat(items[1:2], items[3:]); !slices.Equal(gone, want) {
			t.Errorf("gone: %v\nwant: %v", gone, want)
		}
		if n := len(b.account.Calls().Calls()); n != 2 {
			t.Errorf("%d calls, want 2", n)
		}
		// The next Service asks for the same in the same moment, and later again.
		for wait, want := range []int{0, 2} {
			time.Sleep(time.Duration(wait) * sightingTTL)
			b.account.Calls().Reset()
			if again, err := b.provider.Gone(b.Context(), lb.Resource{Ref: lb.Ref{Kind: kindTargets}}, items); err != nil || !slices.Equal(again, gone) {
				t.Errorf("after %d: %v, error %v", wait, again, err)
			}
			if n := len(b.account.Calls().Calls()); n != want {
				t.Errorf("after %d: %d calls, want %d", wait, n, want)
			}
		}
		if _, err := b.provider.Gone(b.Context(), lb.Resource{Ref: lb.Ref{Kind: kindListener}}, items); lb.KindOf(err) != lb.Invalid {
			t.Errorf("looking for a listener's: got %v, want Invalid", err)
		}
	})
}

// expectTargets compares the targets of default/web's only group with these
// nodes' instances.
func (b *bench) expectTargets(nodes ...int) {
	b.Helper()
	var want []string
	for _, n := range nodes {
		want = append(want, instanceOf(n))
	}
	for _, r := range b.observe(service()) {
		if r.Kind == kindTargets && !r.Fields["instances"].Equal(lb.Set(want...)) {
			b.Errorf("targets %v, want %v", r.Fields["instances"], want)
		}
	}
}
