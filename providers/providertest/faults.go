package providertest

import (
	"fmt"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// scenario is one step in the life of a Service.
type scenario struct {
	name string
	// slow is how long the cloud's operations take, trust how long the controller
	// believes what it remembers.
	slow, trust time.Duration
	prepare     []task
	// fresh says that another controller acts than the one that prepared.
	fresh bool
	act   task
	want  []string
	// service is what the account then serves; nil after a deletion.
	service *lb.Service
}

func (sc scenario) conditions() Conditions { return Conditions{Slow: sc.slow} }

// ready brings the account to where the scenario begins.
func (sc scenario) ready(c *controller) {
	c.Helper()
	c.trust = sc.trust
	c.restart()
	for _, do := range sc.prepare {
		c.settle(do)
	}
	if sc.fresh {
		c.restart()
	}
}

// moment is one call of a scenario. It is told by its operation, so that in real
// time, where calls come in any order, each of them still meets its fault.
type moment struct {
	number    int // among all calls, from 1
	operation string
	nth       int // of that operation, from 1
}

func (m moment) String() string {
	return fmt.Sprintf("call %d (%s, number %d)", m.number, m.operation, m.nth)
}

// moments returns every call an undisturbed run of the scenario makes.
func (s *suite) moments(t T, sc scenario) []moment {
	t.Helper()
	var all []moment
	s.account(t, sc.conditions(), func(c *controller) {
		sc.ready(c)
		before := c.account.Calls().All()
		c.settle(sc.act)
		c.expect("after an undisturbed run", sc.want)
		of := map[string]int{}
		for i, operation := range c.account.Calls().Operations[before:] {
			of[operation]++
			all = append(all, moment{i + 1, operation, of[operation]})
		}
	})
	return all
}

// strike lets act meet the fault f at a moment, and sees that it did.
func (s *suite) strike(c *controller, at moment, f Fault, act func()) {
	c.Helper()
	f.Operation, f.At = at.operation, at.nth
	c.account.Inject(f)
	act()
	hits := c.account.Hits()
	c.account.Inject(Fault{})
	switch {
	case len(hits) != max(f.Times, 1):
		c.Errorf("%q was to hit %s %d times, but did %d times", f.Kind, at, max(f.Times, 1), len(hits))
	case !s.RealTime && hits[0] != at.number:
		c.Errorf("%q was to hit %s, but hit call %d: the calls came in another order than before", f.Kind, at, hits[0])
	}
}

const (
	// slowly is how long operations take in the scenarios in which they take time.
	slowly = 20 * time.Second
	// trusting is how long a controller believes its memory in the scenarios in
	// which it has one.
	trusting = time.Hour
)

// scenarios are the steps in the life of a Service.
func (s *suite) scenarios(t T) []scenario {
	base, updated, moved := s.Service(0), s.updated(), s.edited(s.NodeChange)
	there := []task{reconcile(base)}
	create := scenario{act: reconcile(base), want: s.wantBase(t), service: &base}
	update := scenario{prepare: there, act: reconcile(updated), want: s.wantUpdated(t), service: &updated}
	move := scenario{prepare: there, act: reconcile(moved), want: s.want(t, "moved "+moved.Name, moved), service: &moved}
	deletion := scenario{prepare: there, act: remove(base), want: s.wantNothing(t)}
	oneOfTwo := scenario{prepare: append(there, reconcile(s.Service(1))), act: remove(base), want: s.want(t, "second alone", s.Service(1))}
	var all []scenario
	add := func(sc scenario, name string, slow, trust time.Duration) {
		sc.name, sc.slow, sc.trust = name, slow, trust
		all = append(all, sc)
	}
	add(create, "create", 0, 0)
	add(update, "update", 0, 0)
	add(move, "node change", 0, 0)
	add(deletion, "delete", 0, 0)
	add(oneOfTwo, "delete one of two", 0, 0)
	add(create, "slow create", slowly, 0)
	add(update, "slow update", slowly, 0)
	add(deletion, "slow delete", slowly, 0)
	add(update, "update from memory", 0, trusting)
	add(move, "node change from memory", 0, trusting)
	add(deletion, "delete from memory", 0, trusting)
	add(oneOfTwo, "delete one of two from memory", 0, trusting)
	for _, u := range s.Updates {
		after := s.edited(u.Edit)
		add(scenario{prepare: there, act: reconcile(after), want: s.want(t, "update "+u.Name, after), service: &after}, "update of "+u.Name, 0, 0)
	}
	return all
}

// faultKinds are the faults that any call may meet.
var faultKinds = []FaultKind{ErrorBefore, ErrorAfter, Lost, Throttle, Timeout, Gone, Denied}

// faults runs each scenario once to learn its calls, and then once for each call
// and each kind of fault at it.
func (s *suite) faults(t T) {
	var parts []part
	for _, sc := range s.scenarios(t) {
		parts = append(parts, part{sc.name, func(t T) { s.faultAtEveryCall(t, sc) }})
	}
	s.each(t, parts)
}

func (s *suite) faultAtEveryCall(t T, sc scenario) {
	all, runs := s.moments(t, sc), 0
	for _, kind := range faultKinds {
		t.Run(string(kind), func(t T) {
			s.count(func() { s.cases++ })
			for _, at := range all {
				for _, times := range s.repetitions(kind) {
					s.faulted(t, sc, at, Fault{Kind: kind, Times: times, Hint: 20 * time.Second})
					runs++
				}
			}
		})
	}
	s.count(func() {
		s.scenarioCount, s.momentCount, s.runs = s.scenarioCount+1, s.momentCount+len(all), s.runs+runs
	})
	t.Logf("%d calls, %d runs with a fault", len(all), runs)
}

// repetitions are how often in a row a fault comes: as often as the provider
// itself tries, for otherwise nobody but the provider would notice; a lost
// answer also once, because the provider's own second try meets what the first
// one did. What is denied, or gets no answer in time, it does not try again: that
// keeps a worker for minutes.
func (s *suite) repetitions(kind FaultKind) []int {
	switch {
	case kind == Gone || kind == Denied || kind == Timeout || s.Attempts <= 1:
		return []int{1}
	case kind == Lost:
		return []int{1, s.Attempts}
	default:
		return []int{s.Attempts}
	}
}

// faulted runs sc with the fault f at a moment and expects the clean result.
func (s *suite) faulted(t T, sc scenario, at moment, f Fault) {
	t.Helper()
	s.account(t, sc.conditions(), func(c *controller) {
		sc.ready(c)
		s.strike(c, at, f, func() { c.settle(sc.act) })
		c.expect(fmt.Sprintf("after %q at %s %d times", f.Kind, at, max(f.Times, 1)), sc.want)
		if sc.service != nil {
			c.forget()
			c.expectRest(*sc.service)
		}
	})
}

// crashThenDelete lets the controller die at each call of a creation, and the
// Service be deleted before the next one looks at it.
func (s *suite) crashThenDelete(t T) {
	nothing := s.wantNothing(t)
	create := scenario{act: reconcile(s.Service(0)), want: s.wantBase(t)}
	s.count(func() { s.cases++ })
	for _, at := range s.moments(t, create) {
		s.account(t, Conditions{}, func(c *controller) {
			s.strike(c, at, Fault{Kind: Gone}, func() { _, _ = c.attempt(create.act) })
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
	rivalries := []struct {
		name     string
		old      scenario
		new      task
		want     []string
		survivor *lb.Service
	}{
		{"create against update", scenario{act: reconcile(base), want: s.wantBase(t)}, reconcile(updated), s.wantUpdated(t), &updated},
		{"create against delete", scenario{act: reconcile(base), want: s.wantBase(t)}, remove(base), s.wantNothing(t), nil},
		{"update against going back", scenario{prepare: []task{reconcile(base)}, fresh: true, act: reconcile(updated), want: s.wantUpdated(t)},
			reconcile(base), s.wantBase(t), &base},
	}
	for _, rivalry := range rivalries {
		t.Run(rivalry.name, func(t T) {
			s.count(func() { s.cases++ })
			for _, at := range s.moments(t, rivalry.old) {
				s.account(t, Conditions{}, func(c *controller) {
					rivalry.old.ready(c)
					old := newController(c.T, c.account, ourCluster)
					defer old.stop()
					s.strike(c, at, Fault{Kind: Pause, For: attemptTime - 10*time.Second}, func() {
						ended := make(chan struct{})
						go func() {
							defer close(ended)
							_, _ = old.attempt(rivalry.old.act)
						}()
						time.Sleep(leaseTime)
						c.settle(rivalry.new)
						<-ended
					})
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
