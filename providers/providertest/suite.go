package providertest

import (
	"runtime"
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
	s := &suite{Cloud: c, clean: map[string][]string{}, slots: make(chan struct{}, runtime.GOMAXPROCS(0))}
	s.each(t, []part{
		{"a fault at every call", s.faults}, // first, as it takes longest
		{"converge from nothing", s.converge},
		{"second run writes nothing", s.rest},
		{"invalid input changes nothing", s.invalid},
		{"preview changes nothing", s.preview},
		{"update of every field", s.updates},
		{"delete leaves nothing", s.deletion},
		{"foreign things stay untouched", s.strangers},
		{"strangers come meanwhile", s.meanwhile},
		{"what others took over stays untouched", s.takenOver},
		{"same name, another cluster", s.otherCluster},
		{"drift is repaired", s.drift},
		{"pagination", s.pagination},
		{"throttling", s.throttling},
		{"denied is not gone", s.denied},
		{"eventual consistency", s.lag},
		{"long operations", s.slow},
		{"two Services at once", s.two},
		{"many Services at once", s.many},
		{"crash, then delete", s.crashThenDelete},
		{"an old leader wakes late", s.leaders},
	})
	t.Logf("a fault at every call: %d scenarios with %d calls, %d runs", s.scenarioCount, s.momentCount, s.runs)
	t.Logf("%d cases, %d accounts, %d calls, %d faults that hit, %s", s.cases, s.accounts, s.calls, s.hits, time.Since(started).Round(10*time.Millisecond))
}

// suite is one run of all cases.
type suite struct {
	Cloud

	slots chan struct{} // taken by each account that is open

	mu       sync.Mutex // guards the counts
	cases    int        // named parts that opened an account
	accounts int
	calls    int
	hits     int
	// Of "a fault at every call".
	scenarioCount, momentCount, runs int

	cleaning sync.Mutex // guards clean
	// clean are the snapshots undisturbed runs left behind, by name.
	clean map[string][]string
}

// part is a named part of the suite.
type part struct {
	name string
	run  func(T)
}

// each runs parts, beside each other where time is virtual, and returns when all
// have ended.
func (s *suite) each(t T, parts []part) {
	var all sync.WaitGroup
	for _, p := range parts {
		if s.RealTime {
			t.Run(p.name, p.run)
			continue
		}
		all.Go(func() { t.Run(p.name, p.run) })
	}
	all.Wait()
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
	s.slots <- struct{}{}
	defer func() { <-s.slots }()
	t.Simulate(func(t T) {
		a := s.Open(t, conditions)
		defer a.Close()
		c := newController(t, a, ourCluster)
		defer func() { c.stop() }()
		defer s.count(func() {
			s.accounts++
			s.calls += a.Calls().All()
			s.hits += len(a.Hits())
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
	s.cleaning.Lock()
	defer s.cleaning.Unlock()
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
