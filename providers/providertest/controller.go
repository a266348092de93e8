package providertest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

const (
	// attemptTime is a controller's deadline for one run of the engine.
	attemptTime = 2 * time.Minute
	// patience is how long a Service may take to become what it shall be.
	patience = time.Hour
	// slowRetry is when a controller tries again what the cloud refused.
	slowRetry = time.Minute
)

// ourCluster is the cluster the suite plays.
var ourCluster = lb.Cluster{Name: "demo", UID: "cluster-uid-1"}

// controller plays a controller: an engine on a provider, and a queue that
// tries again what failed.
type controller struct {
	T
	account  Account
	cluster  lb.Cluster
	instance Instance
	engine   *plan.Engine
	ctx      context.Context
	cancel   context.CancelFunc
	// trust is how long its engine, from the next start on, believes what it
	// remembers.
	trust time.Duration
}

func newController(t T, a Account, cluster lb.Cluster) *controller {
	t.Helper()
	c := &controller{T: t, account: a, cluster: cluster}
	c.start()
	return c
}

func (c *controller) start() {
	c.Helper()
	c.ctx, c.cancel = context.WithCancel(context.Background())
	var err error
	if c.instance, err = c.account.Provider(c.ctx, c.cluster); err != nil {
		c.Fatalf("open a provider: %v", err)
	}
	c.engine = plan.NewEngine(c.instance.Provider, plan.Options{Trust: c.trust})
}

// forget makes the controller look at the cloud before it does anything else.
func (c *controller) forget() { c.engine = plan.NewEngine(c.instance.Provider, plan.Options{}) }

// stop makes the controller die; the zero controller is dead already.
func (c *controller) stop() {
	if c.cancel != nil {
		c.instance.Kill()
		c.cancel()
	}
}

// restart replaces the controller by a new one that remembers nothing.
func (c *controller) restart() {
	c.Helper()
	c.stop()
	c.start()
}

// task is one run of an engine.
type task func(ctx context.Context, e *plan.Engine) (plan.Result, error)

func reconcile(s lb.Service) task {
	return func(ctx context.Context, e *plan.Engine) (plan.Result, error) { return e.Reconcile(ctx, s) }
}

func remove(s lb.Service) task {
	return func(ctx context.Context, e *plan.Engine) (plan.Result, error) { return e.Delete(ctx, s.ServiceRef) }
}

// attempt runs do once.
func (c *controller) attempt(do task) (plan.Result, error) {
	ctx, cancel := context.WithTimeout(c.ctx, attemptTime)
	defer cancel()
	return do(ctx, c.engine)
}

// outcome is what came of a task that was tried until it succeeded.
type outcome struct {
	// first is the first attempt's result, with the last one's status.
	first plan.Result
	// failures are the errors on the way, of controllers that lived on.
	failures []error
	// err is nil on success, and the last error when patience ended.
	err error
}

// try runs do again and again, as a queue would, until it succeeds or patience
// ends. A controller that dies is replaced. It may be called from several
// goroutines as long as no controller dies.
func (c *controller) try(do task) outcome {
	var o outcome
	deadline := time.Now().Add(patience)
	for n := 0; ; n++ {
		r, err := c.attempt(do)
		if n == 0 {
			o.first = r
		}
		o.first.Status = r.Status
		dead := c.instance.Dead()
		switch {
		case err == nil && !dead:
			return o
		case time.Now().After(deadline):
			o.err = fmt.Errorf("after %s and %d attempts: %w", patience, n+1, err)
			return o
		case dead:
			c.restart()
			continue
		}
		o.failures = append(o.failures, err)
		time.Sleep(wait(err, n))
	}
}

// wait is how long a controller waits after its n-th error in a row, n from 0.
func wait(err error, n int) time.Duration {
	hint := lb.RetryAfterOf(err)
	switch lb.KindOf(err) {
	case lb.Pending, lb.Throttled:
		return max(hint, time.Second)
	case lb.Invalid, lb.Denied, lb.Quota:
		return max(hint, slowRetry)
	default:
		return max(hint, min(time.Second<<min(n, 6), slowRetry))
	}
}

// settle runs do until it succeeds.
func (c *controller) settle(do task) outcome {
	c.Helper()
	o := c.try(do)
	if o.err != nil {
		c.Fatalf("it never succeeds: %v", o.err)
	}
	return o
}

// expect compares what is in the account with want.
func (c *controller) expect(what string, want []string) {
	c.Helper()
	if got := c.account.Snapshot(); !slices.Equal(got, want) {
		c.Fatalf("%s, the account is not as it should be:\n%s", what, difference(want, got))
	}
}

// expectRest checks that nothing is left to do for s, and that finding that out
// writes nothing.
func (c *controller) expectRest(s lb.Service) {
	c.Helper()
	before := c.account.Calls()
	r, err := c.attempt(reconcile(s))
	if err != nil {
		c.Fatalf("a run with nothing to do fails: %v", err)
	}
	if !r.Plan.Empty() {
		c.Fatalf("a second run finds something to do:\n%s", r.Plan)
	}
	if n := c.account.Calls().Writes - before.Writes; n > 0 {
		c.Fatalf("a run with nothing to do makes %d calls that write", n)
	}
}

// difference shows lines that are missing in got ("-") or too many ("+"). A
// line may be there several times.
func difference(want, got []string) string {
	count := map[string]int{}
	for _, line := range want {
		count[line]--
	}
	for _, line := range got {
		count[line]++
	}
	var text string
	for _, line := range slices.Sorted(maps.Keys(count)) {
		for range -count[line] {
			text += "  - " + line + "\n"
		}
		for range count[line] {
			text += "  + " + line + "\n"
		}
	}
	return text
}
