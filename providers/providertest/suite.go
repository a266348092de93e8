package providertest

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// Run holds a provider to the contract. Each case is a subtest with a name of
// its own.
func Run(t *testing.T, c Cloud) { RunOn(testingT{t}, c) }

// RunOn is Run on any T.
func RunOn(t T, c Cloud) {
	started := time.Now()
	s := &suite{Cloud: c, clean: map[string][]string{}}
	for _, part := range []struct {
		name string
		run  func(*suite, T)
	}{
		{"converge from nothing", (*suite).converge},
		{"second run writes nothing", (*suite).rest},
		{"invalid input changes nothing", (*suite).invalid},
		{"preview changes nothing", (*suite).preview},
		{"update of every field", (*suite).updates},
		{"delete leaves nothing", (*suite).deletion},
		{"foreign things stay untouched", (*suite).strangers},
		{"strangers come meanwhile", (*suite).meanwhile},
		{"same name, another cluster", (*suite).otherCluster},
		{"drift is repaired", (*suite).drift},
		{"pagination", (*suite).pagination},
		{"throttling", (*suite).throttling},
		{"denied is not gone", (*suite).denied},
		{"eventual consistency", (*suite).lag},
		{"long operations", (*suite).slow},
		{"two Services at once", (*suite).two},
		{"many Services at once", (*suite).many},
		{"crash, then delete", (*suite).crashThenDelete},
		{"a fault at every call", (*suite).faults},
		{"an old leader wakes late", (*suite).leaders},
	} {
		t.Run(part.name, func(t T) { part.run(s, t) })
	}
	t.Logf("%d cases, %d accounts, %d calls, %d faults that hit, %s", s.cases, s.accounts, s.calls, s.hits, time.Since(started).Round(10*time.Millisecond))
}

// suite is one run of all cases.
type suite struct {
	Cloud

	mu       sync.Mutex // guards the counts
	cases    int        // named parts that opened an account
	accounts int
	calls    int
	hits     int

	// clean are the snapshots undisturbed runs left behind, by name.
	clean map[string][]string
}

// part runs f as a named part with an account of its own.
func (s *suite) part(t T, name string, conditions Conditions, f func(*controller)) {
	t.Run(name, func(t T) { s.on(t, conditions, f) })
}

// on runs f with an account of its own, in virtual time.
func (s *suite) on(t T, conditions Conditions, f func(*controller)) {
	t.Helper()
	s.count(func() { s.cases++ })
	s.account(t, conditions, f)
}

// account is on without counting a case.
func (s *suite) account(t T, conditions Conditions, f func(*controller)) {
	t.Helper()
	t.Simulate(func(t T) {
		a := s.Open(t, conditions)
		defer a.Close()
		c := newController(t, a, ourCluster)
		defer func() { c.stop() }()
		defer s.count(func() {
			s.accounts++
			s.calls += a.Calls().All
			s.hits += a.Hits()
		})
		f(c)
	})
}

func (s *suite) count(add func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	add()
}

// edited returns the first Service with edits.
func (s *suite) edited(edits ...func(*lb.Service)) lb.Service {
	service := s.Service(0)
	for _, edit := range edits {
		edit(&service)
	}
	return service
}

// updated returns the first Service with all updates at once.
func (s *suite) updated() lb.Service {
	service := s.Service(0)
	for _, u := range s.Updates {
		u.Edit(&service)
	}
	return service
}

// want returns what an undisturbed run leaves in an ideal account when the
// Services are made one after the other. The name stands for the Services.
func (s *suite) want(t T, name string, services ...lb.Service) []string {
	t.Helper()
	if _, done := s.clean[name]; !done {
		s.account(t, Conditions{}, func(c *controller) {
			for _, service := range services {
				c.settle(reconcile(service))
			}
			s.clean[name] = c.account.Snapshot()
		})
	}
	return s.clean[name]
}

func (s *suite) wantBase(t T) []string {
	t.Helper()
	return s.want(t, "base", s.Service(0))
}

func (s *suite) wantUpdated(t T) []string {
	t.Helper()
	return s.want(t, "updated", s.updated())
}

func (s *suite) wantNothing(t T) []string {
	t.Helper()
	return s.want(t, "nothing")
}

func (s *suite) first(n int) []lb.Service {
	var services []lb.Service
	for i := range n {
		services = append(services, s.Service(i))
	}
	return services
}

// desired returns what the provider wants for a Service.
func (c *controller) desired(s lb.Service) []lb.Resource {
	c.Helper()
	d, err := c.instance.Provider.Desired(c.ctx, s)
	if err != nil {
		c.Fatalf("desired: %v", err)
	}
	return d.Resources
}

// attached reports whether r was made by someone else.
func attached(r lb.Resource) bool {
	return slices.ContainsFunc(r.Owners, func(o lb.Owner) bool { return o.Kind == lb.Attached })
}
