package providertest

import (
	"fmt"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// scenario is one step in the life of a Service.
type scenario struct {
	name    string
	slow    time.Duration // how long the cloud's operations take
	prepare []task
	act     task
	want    []string
	// service is what the account then serves; nil after a deletion.
	service *lb.Service
}

func (sc scenario) ready(c *controller) {
	c.Helper()
	for _, do := range sc.prepare {
		c.settle(do)
	}
}

// length returns how many calls an undisturbed run of the scenario takes.
func (s *suite) length(t T, sc scenario) int {
	t.Helper()
	n := 0
	s.account(t, Conditions{Slow: sc.slow}, func(c *controller) {
		sc.ready(c)
		before := c.account.Calls().All
		c.settle(sc.act)
		n = c.account.Calls().All - before
		c.expect("after an undisturbed run", sc.want)
	})
	return n
}

// slowly is how long operations take in the scenarios in which they take time.
const slowly = 20 * time.Second

// scenarios are the steps in the life of a Service.
func (s *suite) scenarios(t T) []scenario {
	base, updated := s.Service(0), s.updated()
	moved := s.edited(s.NodeChange)
	return []scenario{
		{name: "create", act: reconcile(base), want: s.wantBase(t), service: &base},
		{name: "update", prepare: []task{reconcile(base)}, act: reconcile(updated), want: s.wantUpdated(t), service: &updated},
		{name: "node change", prepare: []task{reconcile(base)}, act: reconcile(moved), want: s.want(t, "moved "+moved.Name, moved), service: &moved},
		{name: "delete", prepare: []task{reconcile(base)}, act: remove(base), want: s.wantNothing(t)},
		{name: "delete one of two", prepare: []task{reconcile(base), reconcile(s.Service(1))}, act: remove(base),
			want: s.want(t, "second alone", s.Service(1))},
		{name: "slow create", slow: slowly, act: reconcile(base), want: s.wantBase(t), service: &base},
		{name: "slow update", slow: slowly, prepare: []task{reconcile(base)}, act: reconcile(updated), want: s.wantUpdated(t), service: &updated},
		{name: "slow delete", slow: slowly, prepare: []task{reconcile(base)}, act: remove(base), want: s.wantNothing(t)},
	}
}

// allKinds are the faults that any call may meet.
var allKinds = []FaultKind{ErrorBefore, Lost, Throttle, Timeout, Gone, Denied}

// faults runs each scenario once to count its calls, and then once for each call
// and each kind of fault at it. Each update alone, which is often made in place
// where all together replace everything, is put through the two kinds after
// which nobody knows what happened.
func (s *suite) faults(t T) {
	for _, sc := range s.scenarios(t) {
		t.Run(sc.name, func(t T) { s.faultAtEveryCall(t, sc, allKinds) })
	}
	base := s.Service(0)
	for _, u := range s.Updates {
		after := s.edited(u.Edit)
		sc := scenario{prepare: []task{reconcile(base)}, act: reconcile(after), want: s.want(t, "update "+u.Name, after), service: &after}
		t.Run("update of "+u.Name, func(t T) { s.faultAtEveryCall(t, sc, []FaultKind{Lost, Gone}) })
	}
}

func (s *suite) faultAtEveryCall(t T, sc scenario, kinds []FaultKind) {
	n, runs, hits := s.length(t, sc), 0, 0
	for _, kind := range kinds {
		t.Run(string(kind), func(t T) {
			s.count(func() { s.cases++ })
			for k := 1; k <= n; k++ {
				for _, times := range s.repetitions(kind) {
					hits += s.faulted(t, sc, Fault{Kind: kind, At: k, Times: times, Hint: 20 * time.Second})
					runs++
				}
			}
		})
	}
	t.Logf("%d calls, %d runs with a fault, %d calls hit", n, runs, hits)
}

// repetitions are how often in a row a fault comes: as often as the provider
// itself tries, for otherwise nobody but the provider would notice; a lost
// answer also once, because the provider's own second try meets what the first
// one did.
func (s *suite) repetitions(kind FaultKind) []int {
	switch {
	case kind == Gone || s.Attempts <= 1:
		return []int{1}
	case kind == Lost:
		return []int{1, s.Attempts}
	default:
		return []int{s.Attempts}
	}
}

// faulted runs sc with the fault f and expects the clean result. It returns how
// many calls the fault hit.
func (s *suite) faulted(t T, sc scenario, f Fault) int {
	t.Helper()
	hits := 0
	s.account(t, Conditions{Slow: sc.slow}, func(c *controller) {
		sc.ready(c)
		c.account.Inject(f)
		c.settle(sc.act)
		hits = c.account.Hits()
		c.account.Inject(Fault{})
		c.expect(fmt.Sprintf("after %q at call %d, %d times", f.Kind, f.At, max(f.Times, 1)), sc.want)
		if sc.service != nil {
			c.expectRest(*sc.service)
		}
	})
	return hits
}

// crashThenDelete lets the controller die at each call of a creation, and the
// Service be deleted before the next one looks at it.
func (s *suite) crashThenDelete(t T) {
	nothing := s.wantNothing(t)
	create := scenario{act: reconcile(s.Service(0)), want: s.wantBase(t)}
	s.count(func() { s.cases++ })
	for k := 1; k <= s.length(t, create); k++ {
		s.account(t, Conditions{}, func(c *controller) {
			c.account.Inject(Fault{Kind: Gone, At: k})
			_, _ = c.attempt(create.act)
			if !c.instance.Dead() {
				return
			}
			c.restart()
			c.settle(remove(s.Service(0)))
			c.expect(fmt.Sprintf("after a crash at call %d and a deletion", k), nothing)
		})
	}
}

// leaseTime is after how long without a sign of life a leader is replaced.
const leaseTime = 15 * time.Second

// leaders plays two replicas: the old leader is paused at each of its calls,
// another one takes over and finishes, the old one wakes late, goes on with what
// it believes, and is gone. What the new leader's next sweep leaves must be what
// the user asked for last.
func (s *suite) leaders(t T) {
	base, updated := s.Service(0), s.updated()
	for _, rivalry := range []struct {
		name     string
		old      scenario
		new      task
		want     []string
		survivor *lb.Service
	}{
		{"create against update", scenario{act: reconcile(base), want: s.wantBase(t)}, reconcile(updated), s.wantUpdated(t), &updated},
		{"create against delete", scenario{act: reconcile(base), want: s.wantBase(t)}, remove(base), s.wantNothing(t), nil},
		{"update against going back", scenario{prepare: []task{reconcile(base)}, act: reconcile(updated), want: s.wantUpdated(t)},
			reconcile(base), s.wantBase(t), &base},
	} {
		t.Run(rivalry.name, func(t T) {
			s.count(func() { s.cases++ })
			for k := 1; k <= s.length(t, rivalry.old); k++ {
				s.account(t, Conditions{}, func(c *controller) {
					rivalry.old.ready(c)
					old := newController(c.T, c.account, ourCluster)
					defer old.stop()
					c.account.Inject(Fault{Kind: Pause, At: k, For: attemptTime - 10*time.Second})
					ended := make(chan struct{})
					go func() {
						defer close(ended)
						_, _ = old.attempt(rivalry.old.act)
					}()
					time.Sleep(leaseTime)
					c.settle(rivalry.new)
					<-ended
					old.stop()
					c.settle(rivalry.new)
					c.expect(fmt.Sprintf("after the old leader slept over its call %d", k), rivalry.want)
					if rivalry.survivor != nil {
						c.expectRest(*rivalry.survivor)
					}
				})
			}
		})
	}
}
