package providertest

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

func (s *suite) pagination(t T) {
	const n = 7
	all, nothing := s.want(t, fmt.Sprint("first ", n), s.first(n)...), s.wantNothing(t)
	s.on(t, Conditions{PageSize: 2}, func(c *controller) {
		for _, service := range s.first(n) {
			c.settle(reconcile(service))
		}
		c.expect("with short pages", all)
		for _, service := range s.first(n) {
			c.expectRest(service)
		}
		c.restart()
		for _, service := range s.first(n) {
			c.settle(remove(service))
		}
		c.expect("after the deletion", nothing)
	})
}

// throttling throttles each call of a creation once. What the server said about
// when to come back is kept to: by the provider, which then takes that long, or
// by the error that asks the queue to.
func (s *suite) throttling(t T) {
	const hint = 40 * time.Second
	want := s.wantBase(t)
	create := scenario{act: reconcile(s.Service(0)), want: want}
	s.count(func() { s.cases++ })
	for _, at := range s.moments(t, create) {
		s.account(t, Conditions{}, func(c *controller) {
			started := time.Now()
			var o outcome
			s.strike(c, at, Fault{Kind: Throttle, Hint: hint, Times: s.Attempts}, func() { o = c.settle(create.act) })
			c.expect(fmt.Sprintf("after a throttled %s", at), want)
			if s.Hints && time.Since(started) < hint {
				c.Errorf("%s was throttled for %s, but all was done after %s", at, hint, time.Since(started))
			}
			if s.Attempts <= 1 && len(o.failures) == 0 {
				c.Errorf("%s was throttled, but no attempt failed", at)
			}
			for _, err := range o.failures {
				if lb.KindOf(err) != lb.Throttled || s.Hints && lb.RetryAfterOf(err) != hint {
					c.Errorf("%s was throttled: the error is %v of kind %s, to be retried after %s", at, err, lb.KindOf(err), lb.RetryAfterOf(err))
				}
			}
		})
	}
}

// denied takes the permissions away, from each call of a creation and of a
// deletion on: no attempt may report success, or take away what it cannot see.
func (s *suite) denied(t T) {
	base, nothing := s.wantBase(t), s.wantNothing(t)
	service := s.Service(0)
	for _, sc := range []scenario{
		{name: "create", act: reconcile(service), want: base},
		{name: "delete", prepare: []task{reconcile(service)}, act: remove(service), want: nothing},
	} {
		t.Run(sc.name, func(t T) {
			s.count(func() { s.cases++ })
			for _, at := range s.moments(t, sc) {
				s.account(t, Conditions{}, func(c *controller) {
					sc.ready(c)
					c.account.Inject(Fault{Kind: Denied, At: at.number, Times: -1})
					_, err := c.attempt(sc.act)
					if len(c.account.Hits()) == 0 || lb.KindOf(err) != lb.Denied {
						c.Errorf("from %s on all was denied, which hit %d calls, but the error is: %v", at, len(c.account.Hits()), err)
					}
					c.account.Inject(Fault{})
					c.settle(sc.act)
					c.expect(fmt.Sprintf("after permissions came back, lost at %s", at), sc.want)
				})
			}
		})
	}
}

func (s *suite) lag(t T) {
	base, updated, nothing := s.wantBase(t), s.wantUpdated(t), s.wantNothing(t)
	lagging := Conditions{Lag: 5 * time.Second, Latency: 100 * time.Millisecond}
	// after waits until everything can be seen, tries once more, and expects.
	after := func(c *controller, what string, do task, want []string) {
		c.Helper()
		time.Sleep(lagging.Lag + time.Second)
		c.settle(do)
		c.expect(what, want)
	}
	s.part(t, "create", lagging, func(c *controller) {
		c.settle(reconcile(s.Service(0)))
		c.expect("at once after the creation", base)
		c.settle(reconcile(s.Service(0)))
		after(c, "when all is visible", reconcile(s.Service(0)), base)
		c.expectRest(s.Service(0))
	})
	s.part(t, "update", lagging, func(c *controller) {
		c.settle(reconcile(s.Service(0)))
		c.settle(reconcile(s.updated()))
		after(c, "after the update", reconcile(s.updated()), updated)
		c.expectRest(s.updated())
	})
	s.part(t, "delete", lagging, func(c *controller) {
		c.settle(reconcile(s.Service(0)))
		c.settle(remove(s.Service(0)))
		c.expect("after a deletion right after the creation", nothing)
	})
	s.part(t, "delete and create", lagging, func(c *controller) {
		c.settle(reconcile(s.Service(0)))
		c.settle(remove(s.Service(0)))
		c.settle(reconcile(s.Service(0)))
		after(c, "after the second creation", reconcile(s.Service(0)), base)
	})
}

func (s *suite) slow(t T) {
	base, updated, nothing := s.wantBase(t), s.wantUpdated(t), s.wantNothing(t)
	conditions := Conditions{Slow: 10 * time.Minute, Latency: 50 * time.Millisecond}
	// brisk is do, held to its promise to wait for no operation.
	brisk := func(c *controller, do task) {
		c.Helper()
		for deadline := time.Now().Add(patience); ; {
			started := time.Now()
			_, err := c.attempt(do)
			if took := time.Since(started); took > conditions.Slow/10 {
				c.Errorf("one attempt took %s: it waited for the operation", took)
			}
			if err == nil {
				return
			}
			if lb.KindOf(err) != lb.Pending || time.Now().After(deadline) {
				c.Fatalf("an operation is under way, but the error is %v of kind %s", err, lb.KindOf(err))
			}
			time.Sleep(wait(err, 0))
		}
	}
	for _, restarts := range []bool{false, true} {
		name, again := "same controller", func(*controller) {}
		if restarts {
			name, again = "restarted in between", func(c *controller) {
				_, _ = c.attempt(reconcile(s.updated()))
				c.restart()
			}
		}
		s.part(t, name, conditions, func(c *controller) {
			brisk(c, reconcile(s.Service(0)))
			c.expect("after the creation", base)
			again(c)
			brisk(c, reconcile(s.updated()))
			c.expect("after the update", updated)
			c.expectRest(s.updated())
			brisk(c, remove(s.updated()))
			c.expect("after the deletion", nothing)
		})
	}
	t.Run("deleted while under way", func(t T) {
		s.count(func() { s.cases++ })
		for attempts, done := 1, false; !done; attempts++ {
			s.account(t, conditions, func(c *controller) {
				for n := range attempts {
					_, err := c.attempt(reconcile(s.Service(0)))
					if done = err == nil || attempts > 20; !done && n < attempts-1 {
						time.Sleep(wait(err, 0))
					}
				}
				_, _ = c.attempt(reconcile(s.updated()))
				c.restart()
				c.settle(remove(s.Service(0)))
				time.Sleep(2 * conditions.Slow)
				c.expect(fmt.Sprintf("after a deletion that came after %d attempts to create", attempts), nothing)
			})
		}
	})
	s.part(t, "failing at the end", conditions, func(c *controller) {
		for _, step := range []struct {
			name string
			act  task
			want []string
		}{
			{"creation", reconcile(s.Service(0)), base},
			{"update", reconcile(s.updated()), updated},
			{"deletion", remove(s.updated()), nothing},
		} {
			begun := c.account.FailOperation()
			if begun == nil {
				c.Logf("this cloud has no operation that fails at its end: nothing is shown here")
				return
			}
			c.settle(step.act)
			if !begun() {
				c.Errorf("the %s had no operation that could fail", step.name)
			}
			// A controller may have been content with what was accepted. It looks
			// again from time to time.
			time.Sleep(2 * conditions.Slow)
			c.settle(step.act)
			time.Sleep(2 * conditions.Slow)
			c.expect("after an operation of the "+step.name+" failed", step.want)
		}
	})
}

func (s *suite) two(t T) {
	s.crowd(t, 2, Conditions{Latency: 50 * time.Millisecond})
}

func (s *suite) many(t T) {
	n := s.Many
	if n == 0 {
		n = 200
	}
	s.crowd(t, n, Conditions{Latency: 50 * time.Millisecond, Slow: 5 * time.Second})
}

// crowd makes n Services at once, moves their nodes at once, and deletes the
// odd ones and then the even ones at once.
func (s *suite) crowd(t T, n int, conditions Conditions) {
	all, moved, nothing := s.wantEach(t, "first", s.first(n)), s.wantEach(t, "moved", s.moved(n)), s.wantNothing(t)
	_, even := split(s.moved(n))
	half := s.wantEach(t, "moved", even)
	s.on(t, conditions, func(c *controller) {
		each := func(services []lb.Service, do func(lb.Service) task) {
			before, started := c.account.Calls(), time.Now()
			outcomes := make([]outcome, len(services))
			var wg sync.WaitGroup
			for i, service := range services {
				wg.Go(func() { outcomes[i] = c.try(do(service)) })
			}
			wg.Wait()
			failures := 0
			for i, o := range outcomes {
				failures += len(o.failures)
				if o.err != nil {
					c.Errorf("%s: %v", services[i], o.err)
				}
			}
			c.Logf("%d at once: %d calls, %d that write, %d attempts more, %s of virtual time", len(services),
				c.account.Calls().All()-before.All(), c.account.Calls().Writes-before.Writes, failures, time.Since(started).Round(time.Millisecond))
		}
		each(s.first(n), reconcile)
		c.expect("after all were made", all)
		each(s.moved(n), reconcile)
		c.expect("after all nodes changed", moved)
		odd, even := split(s.moved(n))
		each(odd, remove)
		c.expect("after half are gone", half)
		each(even, remove)
		c.expect("after all are gone", nothing)
	})
}

func (s *suite) moved(n int) []lb.Service {
	services := s.first(n)
	for i := range services {
		s.NodeChange(&services[i])
	}
	return services
}

// wantEach returns what several Services amount to: all that each of them alone
// does. That takes accounts with one Service instead of one with very many.
func (s *suite) wantEach(t T, name string, services []lb.Service) []string {
	t.Helper()
	union := map[string]bool{}
	for _, service := range services {
		for _, line := range s.want(t, name+" "+service.Name, service) {
			union[line] = true
		}
	}
	return slices.Sorted(maps.Keys(union))
}

// split returns the Services at odd and at even places.
func split(services []lb.Service) (odd, even []lb.Service) {
	for pair := range slices.Chunk(services, 2) {
		even = append(even, pair[0])
		odd = append(odd, pair[1:]...)
	}
	return odd, even
}
