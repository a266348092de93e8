package aws

import (
	"fmt"
	"testing"

	"github.com/fairway-lb/fairway/providers/fake"
	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

// TestFaultAtEveryCall runs the life of a Service once to count its calls, and
// then once for each call and each kind of fault at it. Whatever happened, it
// ends where the undisturbed run does: nothing to do, nothing twice, and after
// the deletion nothing left.
func TestFaultAtEveryCall(t *testing.T) {
	before, after := service(), service(annotate("scheme", "internal"), func(s *lb.Service) {
		s.Ports[0].NodePort = 30081
		s.Targets = s.Targets[1:]
	})
	life := func(b *bench) {
		for _, s := range []lb.Service{before, after} {
			b.settle(func() (plan.Result, error) { return b.engine.Reconcile(b.Context(), s) })
		}
		b.settle(func() (plan.Result, error) { return b.engine.Delete(b.Context(), after.ServiceRef) })
		b.expectLeft()
	}
	calls := 0
	simulate(t, func(b *bench) {
		life(b)
		calls = len(b.account.Calls().Calls())
	})
	faults := map[string]fake.Fault{
		"error":              {Kind: fake.FaultError},
		"error after effect": {Kind: fake.FaultError, AfterEffect: true},
		"throttled":          {Kind: fake.FaultThrottle, Times: 3},
		"answer lost":        {Kind: fake.FaultLost},
		// More often than the SDK tries: the queue has to come back.
		"answers lost": {Kind: fake.FaultLost, Times: maxAttempts},
		"hangs":        {Kind: fake.FaultHang},
		"fails long":   {Kind: fake.FaultError, Code: "InternalFailure", Status: 500, Times: maxAttempts},
	}
	runs := 0
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			for k := 1; k <= calls; k++ {
				fault.Nth = k
				t.Run(fmt.Sprint(k), func(t *testing.T) {
					simulate(t, func(b *bench) {
						if err := b.account.Faults().Set([]fake.Fault{fault}); err != nil {
							t.Fatal(err)
						}
						life(b)
					})
				})
				runs++
			}
		})
	}
	t.Logf("%d calls, %d runs", calls, runs)
}

// TestRestartAfterEveryCall: the controller dies after each of its calls, and a
// new one that remembers nothing goes on.
func TestRestartAfterEveryCall(t *testing.T) {
	s := service()
	calls := 0
	simulate(t, func(b *bench) {
		b.reconcile(s)
		b.remove(s)
		calls = len(b.account.Calls().Calls())
	})
	for k := 1; k <= calls; k++ {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			simulate(t, func(b *bench) {
				// Everything from call k on fails; the effect of call k stays.
				if err := b.account.Faults().Set([]fake.Fault{{Kind: fake.FaultError, Nth: k, AfterEffect: true}, {Kind: fake.FaultError, Nth: k, Times: -1}}); err != nil {
					t.Fatal(err)
				}
				if _, err := b.engine.Reconcile(b.Context(), s); err == nil {
					_, _ = b.engine.Delete(b.Context(), s.ServiceRef)
				}
				if err := b.account.Faults().Set(nil); err != nil {
					t.Fatal(err)
				}
				b.restart("demo-uid")
				b.settle(func() (plan.Result, error) { return b.engine.Reconcile(b.Context(), s) })
				b.settled(s)
				b.remove(s)
			})
		})
	}
}
