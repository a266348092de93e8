package providertest

import (
	"fmt"
	"maps"
	"slices"
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

// moment is one call of a scenario. Calls that run at the same time come in any
// order, so it is told by its operation: with a number alone, some call would
// now and then meet no fault.
type moment struct {
	operation string
	nth       int // of that operation, from 1
}

func (m moment) String() string { return fmt.Sprintf("call %d of %s", m.nth, m.operation) }

// on returns f at the moment.
func (m moment) on(f Fault) Fault {
	f.Operation, f.At = m.operation, m.nth
	return f
}

// moments returns every call an undisturbed run of the scenario makes.
func (s *suite) moments(t T, sc scenario) []moment {
	t.Helper()
	var all []moment
	s.account(t, Conditions{Slow: sc.slow}, func(c *controller) {
		sc.ready(c)
		before := c.account.Calls().Of
		c.settle(sc.act)
		c.expect("after an undisturbed run", sc.want)
		after := c.account.Calls().Of
		for _, operation := range slices.Sorted(maps.Keys(after)) {
			for n := range after[operation] - before[operation] {
				all = append(all, moment{operation, n + 1})
			}
		}
	})
	return all
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

var (
	// allKinds are the faults that any call may meet.
	allKinds = []FaultKind{ErrorBefore, Lost, Throttle, Timeout, Gone, Denied}
	// unsure are those after which the controller does not know what it did.
	unsure = []FaultKind{Lost, Gone}
)

// faults runs each scenario once to learn its calls, and then once for each call
// and each kind of fault at it. Those in which operations take time, and each
// update alone, which is often made in place where all together replace
// everything, are put through the kinds that leave the controller unsure.
func (s *suite) faults(t T) {
	for _, sc := range s.scenarios(t) {
		kinds := allKinds
		if sc.slow > 0 {
			kinds = unsure
		}
		t.Run(sc.name, func(t T) { s.faultAtEveryCall(t, sc, kinds) })
	}
	base := s.Service(0)
	for _, u := range s.Updates {
		after := s.edited(u.Edit)
		sc := scenario{prepare: []task{reconcile(base)}, act: reconcile(after), want: s.want(t, "update "+u.Name, after), service: &after}
		t.Run("update of "+u.Name, func(t T) { s.faultAtEveryCall(t, sc, unsure) })
	}
}

func (s *suite) faultAtEveryCall(t T, sc scenario, kinds []FaultKind) {
	all, runs, hits := s.moments(t, sc), 0, 0
	for _, kind := range kinds {
		t.Run(string(kind), func(t T) {
			s.count(func() { s.cases++ })
			for _, at := range all {
				for _, times := range s.repetitions(kind) {
					hits += s.faulted(t, sc, at, Fault{Kind: kind, Times: times, Hint: 20 * time.Second})
					runs++
				}
			}
		})
	}
	t.Logf("%d calls, %d runs with a fault, %d calls hit", len(all), runs, hits)
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

// faulted runs sc with the fault f at a moment and expects the clean result. It returns how
// many calls the fault hit.
func (s *suite) faulted(t T, sc scenario, at moment, f Fault) int {
	t.Helper()
	hits := 0
	s.account(t, Conditions{Slow: sc.slow}, func(c *controller) {
		sc.ready(c)
		c.account.Inject(at.on(f))
		c.settle(sc.act)
		hits = c.account.Hits()
		c.account.Inject(Fault{})
		c.expect(fmt.Sprintf("after %q at %s, %d times", f.Kind, at, max(f.Times, 1)), sc.want)
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
	for _, at := range s.moments(t, create) {
		s.account(t, Conditions{}, func(c *controller) {
			c.account.Inject(at.on(Fault{Kind: Gone}))
			_, _ = c.attempt(create.act)
			if !c.instance.Dead() {
				return
			}
			c.restart()
			c.settle(remove(s.Service(0)))
			c.expect(fmt.Sprintf("after a crash at %s and a deletion", at), nothing)
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
			for _, at := range s.moments(t, rivalry.old) {
				s.account(t, Conditions{}, func(c *controller) {
					rivalry.old.ready(c)
					old := newController(c.T, c.account, ourCluster)
					defer old.stop()
					c.account.Inject(at.on(Fault{Kind: Pause, For: attemptTime - 10*time.Second}))
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
					c.expect(fmt.Sprintf("after the old leader slept over %s", at), rivalry.want)
					if rivalry.survivor != nil {
						c.expectRest(*rivalry.survivor)
					}
				})
			}
		})
	}
}
