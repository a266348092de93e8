package loadbalancer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/fairway-lb/fairway/providers/lb"
)

// outage makes every look at and change of the cloud fail until it is ended.
func (w *world) outage(err func() error) (end func()) {
	w.cloud.mu.Lock()
	w.cloud.look = err
	w.cloud.mu.Unlock()
	w.cloud.apply = func(context.Context, lb.Change) error {
		w.cloud.mu.Lock()
		defer w.cloud.mu.Unlock()
		if w.cloud.look == nil {
			return nil
		}
		return w.cloud.look()
	}
	return func() {
		w.cloud.mu.Lock()
		defer w.cloud.mu.Unlock()
		w.cloud.look = nil
	}
}

func unavailable() error {
	return &lb.Error{Kind: lb.Unavailable, Op: "observe", Message: "connection refused"}
}

func throttled() error {
	return &lb.Error{Kind: lb.Throttled, Op: "observe", Code: "Throttling", Message: "rate exceeded", RetryAfter: 20 * time.Second}
}

func TestShortOutageOfTheCloudLeavesReadyServicesReady(t *testing.T) {
	for name, err := range map[string]func() error{"unavailable": unavailable, "throttled": throttled} {
		t.Run(name, func(t *testing.T) {
			in(t, func(w *world) {
				w.create(service("web"))
				w.events.since()
				w.writes()
				end := w.outage(err)
				w.removeNode("node-1")
				for range 4 {
					w.pass(time.Minute)
					w.expect("condition", w.condition("web"), "True Ready")
				}
				w.expect("host", w.host("web"), "default-web.lb.example.com")
				w.expect("events", w.events.since(), []string{})
				w.expect("writes", w.writes(), 0)
				end()
				w.pass(5 * time.Minute)
				w.expect("nodes once it is over", w.cloud.nodes("default/web"), []string{"node-2"})
				w.expect("events once it is over", w.events.reasons(), []string{})
			})
		})
	}
}

func TestLongOutageOfTheCloudIsUnknownAndSaidOnce(t *testing.T) {
	for name, c := range map[string]struct {
		err  func() error
		cure string
	}{
		"Unavailable": {unavailable, "look at the cloud's status page, the controller's network and its log."},
		"Throttled":   {throttled, "look for what else uses up the account's request rate."},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(w *world) {
				w.create(service("web"))
				w.events.since()
				w.writes()
				end := w.outage(c.err)
				w.removeNode("node-1")
				w.pass(12 * time.Hour)
				w.expect("condition", w.condition("web"), "Unknown "+name)
				if m := readyCondition(w.get("web")).Message; !strings.Contains(m, c.cure) || !strings.HasSuffix(m, "the load balancer is left as it was.") {
					t.Errorf("message %q", m)
				}
				w.expect("host", w.host("web"), "default-web.lb.example.com")
				w.expect("events", w.events.reasons(), []string{"web SyncLoadBalancerFailed"})
				w.expect("writes in half a day", w.writes(), 1)
				end()
				w.pass(6 * time.Minute)
				w.expect("condition once it is over", w.condition("web"), "True Ready")
				w.expect("events once it is over", w.events.reasons(), []string{"web EnsuredLoadBalancer"})
			})
		})
	}
}

// Of a Service that never had a load balancer it is known that it has none.
func TestOutageDuringCreationIsNotReady(t *testing.T) {
	in(t, func(w *world) {
		end := w.outage(unavailable)
		w.create(service("web"))
		w.expect("condition", w.condition("web"), "False Unavailable")
		w.pass(time.Hour)
		w.expect("condition", w.condition("web"), "False Unavailable")
		w.expect("events", w.events.reasons(), []string{"web SyncLoadBalancerFailed"})
		end()
		w.pass(6 * time.Minute)
		w.expect("condition once it is over", w.condition("web"), "True Ready")
	})
}

func TestRestartDuringAnOutageKeepsWhatIsShown(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		end := w.outage(unavailable)
		w.stop()
		w.events.since()
		w.writes()
		w.start()
		w.pass(3 * time.Minute)
		w.expect("condition", w.condition("web"), "True Ready")
		w.pass(7 * time.Minute)
		w.expect("condition after ten minutes", w.condition("web"), "Unknown Unavailable")
		w.stop()
		w.start()
		w.pass(time.Minute)
		w.expect("condition after another restart", w.condition("web"), "Unknown Unavailable")
		w.expect("events", w.events.reasons(), []string{"web SyncLoadBalancerFailed"})
		w.expect("writes", w.writes(), 1)
		w.expect("host", w.host("web"), "default-web.lb.example.com")
		end()
		w.pass(6 * time.Minute)
		w.expect("condition once it is over", w.condition("web"), "True Ready")
	})
}

func TestStatusWipedDuringAnOutageIsRepaired(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.outage(unavailable)
		w.removeNode("node-1")
		w.settle()
		w.change("web", func(s *v1.Service) { s.Status, s.Finalizers = v1.ServiceStatus{}, nil })
		w.pass(time.Minute)
		w.expect("host", w.host("web"), "default-web.lb.example.com")
		w.expect("condition", w.condition("web"), "True Ready")
		w.expect("finalizers", w.get("web").Finalizers, []string{StockFinalizer})
	})
}

// After a change that was carried out in part nobody may believe that what was
// verified before is there still.
func TestHalfAChangeTakesTheCheckpointAway(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.expect("a checkpoint is there", w.get("web").Annotations[CheckpointAnnotation] != "", true)
		w.cloud.apply = func(_ context.Context, c lb.Change) error {
			if c.Op == lb.Delete {
				return unavailable()
			}
			return nil
		}
		w.change("web", func(s *v1.Service) { s.Spec.Ports[0].Port = 81 })
		w.expect("both listeners are there", w.cloud.has("listener", "default/web:80") && w.cloud.has("listener", "default/web:81"), true)
		w.expect("condition", w.condition("web"), "True Ready")
		w.expect("checkpoint", w.get("web").Annotations[CheckpointAnnotation], "")
		w.stop()
		w.cloud.apply = nil
		w.change("web", func(s *v1.Service) { s.Spec.Ports[0].Port = 80 }) // as it was
		w.start()
		w.expect("the other is gone", w.cloud.has("listener", "default/web:81"), false)
	}, swept)
}

// Trouble that needs a person is told at once, also of a Service that is served.
func TestDeniedChangeOfAReadyServiceIsToldAtOnce(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.events.since()
		end := w.outage(func() error {
			return &lb.Error{Kind: lb.Denied, Op: "update", Code: "AccessDenied", Message: "not allowed"}
		})
		w.removeNode("node-1")
		w.settle()
		w.expect("condition", w.condition("web"), "False Denied")
		w.expect("host", w.host("web"), "default-web.lb.example.com")
		w.cloud.since()
		w.writes()
		w.pass(time.Hour)
		if calls := len(w.cloud.since()); calls < 10 || calls > 13 {
			t.Errorf("%d calls in an hour", calls)
		}
		w.expect("events", w.events.reasons(), []string{"web SyncLoadBalancerFailed"})
		w.expect("writes in an hour", w.writes(), 0)
		end()
		w.pass(6 * time.Minute)
		w.expect("condition once granted", w.condition("web"), "True Ready")
		w.expect("nodes", w.cloud.nodes("default/web"), []string{"node-2"})
	})
}

// Whatever goes wrong, the message ends with what to do, or that there is nothing
// to do but wait.
func TestEveryMessageSaysWhatToDo(t *testing.T) {
	kinds := []lb.ErrorKind{lb.NotFound, lb.Conflict, lb.Throttled, lb.Quota, lb.Denied, lb.Invalid, lb.Pending, lb.Held, lb.Unavailable}
	seen := map[string]lb.ErrorKind{}
	for _, kind := range kinds {
		for _, ours := range []bool{true, false} {
			v := judge(&lb.Error{Kind: kind, Op: "create", Message: "something is wrong"}, ours, 0)
			advice := strings.TrimPrefix(v.message, "create: something is wrong. ")
			if advice == v.message || len(advice) < 20 || !strings.HasSuffix(advice, ".") {
				t.Errorf("%s: %q", kind, v.message)
			}
			if other, taken := seen[advice]; taken && other != kind {
				t.Errorf("%s and %s have the same advice: %q", kind, other, advice)
			}
			seen[advice] = kind
		}
	}
}

// Which of several denied calls is met first changes with the weather; what was
// told once is not told again, and a passing trouble in between is not confused
// with it.
func TestSeveralTroublesAreToldOnceEach(t *testing.T) {
	in(t, func(w *world) {
		denied := func(op string) error {
			return &lb.Error{Kind: lb.Denied, Op: op, Code: "AccessDenied", Message: "not allowed"}
		}
		troubles := []error{errors.Join(denied("list a"), denied("list b")), denied("list b"), unavailable(), denied("list a"), unavailable(), denied("list c")}
		refuseBalancers(w, func(n int) error {
			if n > 20*len(troubles) {
				return nil
			}
			return troubles[(n-1)%len(troubles)]
		})
		w.create(service("web"))
		w.pass(3 * time.Hour)
		w.expect("events: a and b, no answer, c", w.events.reasons(), slices.Repeat([]string{"web SyncLoadBalancerFailed"}, 3))
		w.pass(12 * time.Hour)
		w.expect("condition", w.condition("web"), "True Ready")
	})
}
