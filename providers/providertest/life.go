package providertest

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

func (s *suite) converge(t T) {
	nothing := s.wantNothing(t)
	s.on(t, Conditions{}, func(c *controller) {
		service := s.Service(0)
		o := c.settle(reconcile(service))
		if len(o.first.Status.Addresses) == 0 {
			c.Errorf("the status names no address")
		}
		if slices.Equal(c.account.Snapshot(), nothing) {
			c.Fatalf("the account is still empty")
		}
		observed, err := c.instance.Provider.Observe(c.ctx, lb.ByService(service.ServiceRef))
		if err != nil {
			c.Fatalf("observe: %v", err)
		}
		for _, want := range c.desired(service) {
			i := slices.IndexFunc(observed, func(r lb.Resource) bool { return r.Ref == want.Ref })
			switch {
			case i < 0:
				c.Errorf("%s is desired but not observed", want.Ref)
			case attached(want):
			case !slices.Equal(observed[i].Owners, want.Owners):
				c.Errorf("%s is observed with owners %v, want %v", want.Ref, observed[i].Owners, want.Owners)
			case observed[i].Parent != want.Parent:
				c.Errorf("%s is observed inside %q, want %q", want.Ref, observed[i].Parent, want.Parent)
			}
		}
	})
}

func (s *suite) rest(t T) {
	s.part(t, "same controller", Conditions{}, func(c *controller) {
		c.settle(reconcile(s.Service(0)))
		c.expectRest(s.Service(0))
	})
	s.part(t, "restarted controller", Conditions{}, func(c *controller) {
		c.settle(reconcile(s.Service(0)))
		c.restart()
		c.expectRest(s.Service(0))
	})
}

func (s *suite) invalid(t T) {
	want := s.wantBase(t)
	s.on(t, Conditions{}, func(c *controller) {
		c.settle(reconcile(s.Service(0)))
		before := c.account.Calls().Writes
		r, err := c.attempt(reconcile(s.edited(s.Invalid)))
		if lb.KindOf(err) != lb.Invalid || !r.Plan.Empty() {
			c.Errorf("got %v and the plan %q, want an Invalid error and no plan", err, r.Plan)
		}
		if n := c.account.Calls().Writes - before; n > 0 {
			c.Errorf("it makes %d calls that write", n)
		}
		c.expect("after invalid input", want)
	})
}

func (s *suite) preview(t T) {
	want := s.wantBase(t)
	s.on(t, Conditions{}, func(c *controller) {
		c.settle(reconcile(s.Service(0)))
		before := c.account.Calls().Writes
		r, err := c.attempt(func(ctx context.Context, e *plan.Engine) (plan.Result, error) { return e.Preview(ctx, s.updated()) })
		if err != nil || r.Plan.Empty() {
			c.Errorf("got the error %v and the plan %q, want a plan", err, r.Plan)
		}
		if n := c.account.Calls().Writes - before; n > 0 {
			c.Errorf("it makes %d calls that write", n)
		}
		c.expect("after a preview", want)
	})
}

// updates goes from the plain Service to each edited one and back, and then
// sees that no field was left out.
func (s *suite) updates(t T) {
	missing := map[string]bool{}
	base := s.wantBase(t)
	for _, u := range s.Updates {
		after := s.edited(u.Edit)
		want := s.want(t, "update "+u.Name, after)
		s.part(t, u.Name, Conditions{}, func(c *controller) {
			if slices.Equal(want, base) {
				c.Fatalf("it makes no difference in the account")
			}
			before := c.desired(s.Service(0))
			for field := range fields(before) {
				if _, seen := missing[field]; !seen {
					missing[field] = true
				}
			}
			for _, field := range changed(before, c.desired(after)) {
				missing[field] = false
			}
			c.settle(reconcile(s.Service(0)))
			c.settle(reconcile(after))
			c.expect("after the update", want)
			c.expectRest(after)
			c.settle(reconcile(s.Service(0)))
			c.expect("after going back", base)
			c.expectRest(s.Service(0))
		})
	}
	t.Run("none is left out", func(t T) {
		for _, field := range slices.Sorted(maps.Keys(missing)) {
			_, constant := s.Constant[field]
			if missing[field] != constant {
				t.Errorf("%s: changed by an update: %t, declared constant: %t", field, !missing[field], constant)
			}
		}
	})
}

// fields returns the values of each "kind field" among resources that are not
// someone else's.
func fields(resources []lb.Resource) map[string][]string {
	values := map[string][]string{}
	for _, r := range resources {
		if attached(r) {
			continue
		}
		for name, v := range r.Fields {
			field := string(r.Kind) + " " + name
			values[field] = append(values[field], v.String())
		}
	}
	for _, v := range values {
		slices.Sort(v)
	}
	return values
}

// changed returns each "kind field" that has other values in b than in a.
func changed(a, b []lb.Resource) []string {
	before, after := fields(a), fields(b)
	var differ []string
	for field := range before {
		if !slices.Equal(before[field], after[field]) {
			differ = append(differ, field)
		}
	}
	return differ
}

func (s *suite) deletion(t T) {
	nothing, other := s.wantNothing(t), s.want(t, "second alone", s.Service(1))
	s.part(t, "same controller", Conditions{}, func(c *controller) {
		c.settle(reconcile(s.Service(0)))
		c.settle(remove(s.Service(0)))
		c.expect("after the deletion", nothing)
		before := c.account.Calls().Writes
		c.settle(remove(s.Service(0)))
		if n := c.account.Calls().Writes - before; n > 0 {
			c.Errorf("deleting what is gone makes %d calls that write", n)
		}
	})
	s.part(t, "restarted controller", Conditions{}, func(c *controller) {
		c.settle(reconcile(s.updated()))
		c.restart()
		c.settle(remove(s.Service(0)))
		c.expect("after the deletion", nothing)
	})
	s.part(t, "of one among two", Conditions{}, func(c *controller) {
		c.settle(reconcile(s.Service(0)))
		c.settle(reconcile(s.Service(1)))
		c.settle(remove(s.Service(0)))
		c.expect("with another Service in place", other)
		c.expectRest(s.Service(1))
		c.settle(remove(s.Service(1)))
		c.expect("after the last deletion", nothing)
	})
}

// settled is after how long nothing in an account is new any more, and what is
// missing can be missing only because somebody took it away.
const settled = 10 * time.Minute

// drift harms all that a Service owns, one thing at a time, and then sees that
// nothing was left out.
func (s *suite) drift(t T) {
	missing := map[string]bool{}
	base, nothing := s.wantBase(t), s.wantNothing(t)
	for _, d := range s.Drifts {
		s.part(t, d.Name, Conditions{}, func(c *controller) {
			service := s.Service(0)
			c.settle(reconcile(service))
			for _, r := range c.desired(service) {
				if attached(r) {
					continue
				}
				for _, aspect := range append(keysOf(r), string(r.Kind)) {
					if _, seen := missing[aspect]; !seen {
						missing[aspect] = true
					}
				}
			}
			time.Sleep(settled)
			if err := d.Do(c.account, service); err != nil {
				c.Fatalf("cannot do the harm: %v", err)
			}
			if slices.Equal(c.account.Snapshot(), base) {
				c.Fatalf("the harm cannot be seen in the snapshot")
			}
			o := c.settle(reconcile(service))
			if o.first.Plan.Empty() {
				c.Errorf("the harm was not found")
			}
			for _, change := range o.first.Plan.Changes {
				if change.Op == lb.Create {
					missing[string(change.After.Kind)] = false
				}
				for _, field := range change.Fields {
					missing[string(change.After.Kind)+" "+field] = false
				}
			}
			c.expect("after the repair", base)
			c.expectRest(service)
			c.settle(remove(service))
			c.expect("after the deletion", nothing)
		})
	}
	t.Run("none is left out", func(t T) {
		for _, aspect := range slices.Sorted(maps.Keys(missing)) {
			kind, _, _ := strings.Cut(aspect, " ")
			_, immutable := s.Immutable[aspect]
			_, whole := s.Immutable[kind+" *"]
			if missing[aspect] && !immutable && !whole {
				t.Errorf("no drift of %q was found", aspect)
			}
			if !missing[aspect] && immutable {
				t.Errorf("%q is declared immutable, but a drift of it was found", aspect)
			}
		}
	})
}

func keysOf(r lb.Resource) []string {
	var names []string
	for name := range r.Fields {
		names = append(names, string(r.Kind)+" "+name)
	}
	return names
}
