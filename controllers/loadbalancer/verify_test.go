package loadbalancer

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/fairway-lb/fairway/providers/lb"
)

func TestDriftIsRepairedWithinTheInterval(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		listener := lb.Ref{Kind: "listener", Key: "default/web:80"}
		w.cloud.since()
		w.cloud.remove(listener)
		w.pass(44 * time.Minute)
		w.expect("looks before it is due", w.cloud.since(), []string{})
		w.pass(32 * time.Minute) // a quarter more than the hour, in all
		w.expect("what was done", w.cloud.since(), []string{"observe service default/web", "create listener default/web:80"})
		w.expect("events", w.events.reasons(), []string{"web EnsuredLoadBalancer", "web LoadBalancerRepaired"})
	}, func(w *world) { w.options.VerifyEvery = time.Hour })
}

// A restart costs one survey for all Services that are as they were, and a look
// for each that is not.
func TestRestartIsConfirmedByOneSurvey(t *testing.T) {
	in(t, func(w *world) {
		const n = 40
		for i := range n {
			w.create(service(fmt.Sprintf("web-%d", i)))
		}
		w.stop()
		w.cloud.remove(lb.Ref{Kind: "load-balancer", Key: "default/web-7"})
		w.cloud.since()
		w.events.since()
		w.writes()
		w.start()
		w.expect("calls, in the order of the alphabet", slices.Sorted(slices.Values(w.cloud.since())), []string{
			"create listener default/web-7:80", "create load-balancer default/web-7", "create targets default/web-7",
			"observe service default/web-7", "survey"})
		w.expect("writes", w.writes(), 0)

		// What was believed is known well enough to be changed and deleted.
		w.change("web-3", func(s *v1.Service) { s.Spec.Ports[0].NodePort = 30081 })
		w.expect("calls for a change", w.cloud.since(), []string{"observe service default/web-3", "update listener default/web-3:80"})
		w.remove("web-4")
		w.expect("web-4", w.get("web-4") == nil, true)
	}, func(w *world) { w.cloud.surveyed = true })
}

func TestTheEndOfWhatIsPendingWakes(t *testing.T) {
	in(t, func(w *world) {
		ended := make(chan struct{})
		var attempts atomic.Int32
		w.cloud.apply = func(_ context.Context, c lb.Change) error {
			if c.Ref().Kind == "load-balancer" && attempts.Add(1) == 1 {
				return &lb.Error{Kind: lb.Pending, Op: "create", Resource: c.Ref(), Message: "provisioning", RetryAfter: time.Hour, Done: ended}
			}
			return nil
		}
		w.create(service("web"))
		w.pass(10 * time.Minute)
		w.expect("attempts while it is under way", attempts.Load(), 1)
		close(ended)
		w.settle()
		w.expect("attempts once it has ended", attempts.Load(), 2)
		w.expect("condition", w.condition("web"), "True Ready")
	})
}
