package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/fairway-lb/fairway/providers/lb"
)

// refuseBalancers makes the cloud answer the creation of load balancers with
// an error made for each attempt, until it returns nil.
func refuseBalancers(w *world, answer func(attempt int) error) *atomic.Int64 {
	attempts := &atomic.Int64{}
	w.cloud.apply = func(_ context.Context, c lb.Change) error {
		if c.Op != lb.Create || c.Ref().Kind != "load-balancer" {
			return nil
		}
		return answer(int(attempts.Add(1)))
	}
	return attempts
}

func TestPendingIsLookedAtAgainWhenTheCloudSays(t *testing.T) {
	in(t, func(w *world) {
		attempts := refuseBalancers(w, func(n int) error {
			if n < 3 {
				return &lb.Error{Kind: lb.Pending, Op: "create", Message: "provisioning", RetryAfter: 20 * time.Second}
			}
			return nil
		})
		w.create(service("web"))
		w.expect("condition", w.condition("web"), "False Pending")
		w.expect("events", w.events.reasons(), []string{"web EnsuringLoadBalancer"})
		w.pass(18 * time.Second)
		w.expect("attempts before the hint is over", attempts.Load(), 1)
		w.pass(25 * time.Second)
		w.expect("attempts", attempts.Load(), 3)
		w.expect("condition", w.condition("web"), "True Ready")
		w.expect("events", w.events.reasons(), []string{"web EnsuredLoadBalancer"})
	})
}

func TestDeniedIsRetriedSlowlyAndSilently(t *testing.T) {
	in(t, func(w *world) {
		attempts := refuseBalancers(w, func(n int) error {
			if n > 13 {
				return nil
			}
			return &lb.Error{Kind: lb.Denied, Op: "create", Code: "AccessDenied", Message: fmt.Sprintf("not allowed (request %d)", n)}
		})
		w.create(service("web"))
		w.expect("condition", w.condition("web"), "False Denied")
		w.pass(59 * time.Minute)
		w.expect("attempts within the hour", attempts.Load(), 12)
		w.expect("events", w.events.reasons(), []string{"web SyncLoadBalancerFailed"})
		w.expect("writes: finalizer and condition", w.writes(), 2)
		w.pass(15 * time.Minute)
		w.expect("condition once granted", w.condition("web"), "True Ready")
	})
}

func TestQuotaIsRetriedSlowly(t *testing.T) {
	in(t, func(w *world) {
		attempts := refuseBalancers(w, func(int) error {
			return &lb.Error{Kind: lb.Quota, Op: "create", Code: "TooManyLoadBalancers", Message: "50 of 50 used"}
		})
		w.create(service("web"))
		w.pass(29 * time.Minute)
		w.expect("attempts in half an hour", attempts.Load(), 6)
	})
}

func TestUnavailableIsRetriedWithGrowingPauses(t *testing.T) {
	in(t, func(w *world) {
		var at []time.Duration
		start := time.Now()
		refuseBalancers(w, func(int) error {
			at = append(at, time.Since(start))
			return &lb.Error{Kind: lb.Unavailable, Op: "create", Message: "connection reset"}
		})
		w.create(service("web"))
		w.pass(time.Hour)
		for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300} {
			want *= time.Second
			if got := at[i+1] - at[i]; got < want || got > want+want/10+time.Second {
				t.Errorf("pause %d was %s, want about %s", i+1, got, want)
			}
		}
		w.expect("events", w.events.reasons(), []string{"web SyncLoadBalancerFailed"})
	})
}

func TestOwnStatusWriteIsNoReasonToRetry(t *testing.T) {
	in(t, func(w *world) {
		attempts := refuseBalancers(w, func(int) error { return &lb.Error{Kind: lb.Denied, Code: "AccessDenied", Op: "create"} })
		w.create(service("web"))
		w.change("web", func(s *v1.Service) { s.Labels = map[string]string{"touched": "yes"} })
		w.expect("attempts", attempts.Load(), 1)
		w.change("web", func(s *v1.Service) { s.Spec.Ports[0].Port = 81 })
		w.expect("attempts after a real change", attempts.Load(), 2)
	})
}

func TestRestartCostsOneLookAndNoWrite(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.create(service("wrong", annotated("example.com/scheme", "purple")))
		w.stop()
		w.cloud.since()
		w.events.since()
		w.writes()
		w.start()
		w.expect("writes", w.writes(), 0)
		w.expect("events", w.events.reasons(), []string{})
		w.expect("calls", w.cloud.since(), []string{"observe service default/web"})
		w.pass(48 * time.Hour)
		w.expect("calls at resync", w.cloud.since(), []string{})
		w.remove("web")
		w.expect("the cloud is empty", w.cloud.empty(), true)
	})
}

func TestDeletionIsFinishedAfterARestart(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.stop()
		s := w.get("web")
		w.remove(s.Name)
		w.start()
		w.expect("the cloud is empty", w.cloud.empty(), true)
		w.expect("the Service is gone", w.get("web") == nil, true)
	})
}

func TestSlowServiceDelaysNoOther(t *testing.T) {
	in(t, func(w *world) {
		w.cloud.apply = func(ctx context.Context, c lb.Change) error {
			if strings.HasPrefix(c.Ref().Key, "default/slow") {
				<-ctx.Done()
				return &lb.Error{Kind: lb.Unavailable, Op: "create", Err: ctx.Err()}
			}
			return nil
		}
		w.create(service("slow"))
		w.create(service("quick"))
		w.expect("host of the quick one", w.host("quick"), "default-quick.lb.example.com")
		w.expect("condition of the slow one while it hangs", w.condition("slow"), "")
		w.pass(3 * time.Minute)
		w.expect("condition of the slow one after its deadline", w.condition("slow"), "False Unavailable")
	})
}

func TestOneServiceIsInOneWorker(t *testing.T) {
	in(t, func(w *world) {
		var now, most atomic.Int64
		w.cloud.apply = func(_ context.Context, c lb.Change) error {
			if c.Ref().Kind != "load-balancer" {
				return nil
			}
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			time.Sleep(10 * time.Second)
			return nil
		}
		w.create(service("web"))
		for port := range int32(5) {
			w.change("web", func(s *v1.Service) { s.Spec.Ports[0].Port = 90 + port })
		}
		w.pass(time.Minute)
		w.expect("most at a time", most.Load(), 1)
		w.expect("the last port is served", w.cloud.has("listener", "default/web:94"), true)
		w.expect("the first port is not", w.cloud.has("listener", "default/web:80"), false)
	})
}

func TestStopFinishesWhatIsUnderWay(t *testing.T) {
	in(t, func(w *world) {
		w.cloud.apply = func(ctx context.Context, _ lb.Change) error {
			select {
			case <-time.After(2 * time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		w.create(service("web"))
		w.expect("host while under way", w.host("web"), "")
		w.stop()
		w.expect("host after the stop", w.host("web"), "default-web.lb.example.com")
		w.start()
	})
}

func TestStopDoesNotWaitForever(t *testing.T) {
	in(t, func(w *world) {
		w.cloud.apply = func(ctx context.Context, _ lb.Change) error { <-ctx.Done(); return ctx.Err() }
		w.create(service("web"))
		start := time.Now()
		w.stop()
		if took := time.Since(start); took > 21*time.Second {
			t.Errorf("stopping took %s", took)
		}
		w.cloud.apply = nil
		w.start()
	})
}

func TestQueueOrder(t *testing.T) {
	q := newWorkQueue()
	defer q.ShutDown()
	q.add("sweep-1", bySweep)
	q.add("node-1", byNode)
	q.add("sweep-2", bySweep)
	q.add("user-1", byUser)
	q.add("sweep-2", byUser) // its owner changed it meanwhile
	q.add("user-1", bySweep) // which makes it no less urgent
	var got []string
	for q.Len() > 0 {
		key, _ := q.Get()
		got = append(got, key)
		q.Done(key)
	}
	if want := []string{"user-1", "sweep-2", "node-1", "sweep-1"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// What comes back after a while has the urgency it was given, unless something
// more urgent brought it there first.
func TestQueueOrderOfWhatComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newWorkQueue()
		q.addAfter("verify", bySweep, time.Minute)
		q.addAfter("retry", byNode, time.Minute)
		q.addAfter("changed", bySweep, time.Minute)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		q.add("changed", byUser)
		var got []string
		for q.Len() > 0 {
			key, _ := q.Get()
			got = append(got, key)
			q.Done(key)
		}
		if want := []string{"changed", "retry", "verify"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		q.ShutDown()
	})
}

// One worker has 100 Services to give a new node, each of which takes a second.
// A Service made meanwhile, and a change of another's ports, come next.
func TestUserGoesBeforeNodes(t *testing.T) {
	in(t, func(w *world) {
		var all []*v1.Service
		for i := range 100 {
			all = append(all, service(fmt.Sprintf("web-%02d", i)))
		}
		w.createAll(all...)
		w.cloud.apply = func(_ context.Context, c lb.Change) error {
			if c.Ref().Kind == "targets" {
				time.Sleep(time.Second)
			}
			return nil
		}
		w.quiet()
		w.addNode("node-3")
		w.pass(10 * time.Second)
		w.create(service("new"))
		w.change("web-99", func(s *v1.Service) { s.Spec.Ports[0].Port = 8080 })
		w.pass(10 * time.Second)
		w.expect("the new one is ready", w.condition("new"), "True Ready")
		w.expect("the changed one is changed", w.cloud.has("listener", "default/web-99:8080"), true)
		if n := howMany(w.cloud.since(), "update targets"); n < 10 || n > 30 {
			t.Errorf("%d Services have the node by then", n)
		}
		w.pass(2 * time.Minute)
		w.expect("all have the node", len(w.cloud.nodes("default/web-50")), 3)
	}, func(w *world) { w.options.Workers = 1 })
}

func TestFailedWritesAreRetriedWithGrowingPauses(t *testing.T) {
	in(t, func(w *world) {
		writes := 0
		w.client.PrependReactor("patch", "services", func(clienttesting.Action) (bool, runtime.Object, error) {
			writes++
			return writes <= 6, nil, apierrors.NewInternalError(errors.New("etcd is away"))
		})
		w.create(service("web"))
		w.pass(10 * time.Second)
		w.expect("writes after 10 s", writes, 4)
		w.expect("nothing is made without a finalizer", w.cloud.empty(), true)
		w.pass(2 * time.Minute)
		w.expect("condition", w.condition("web"), "True Ready")
	})
}

func TestAfterARestartTheEndOfWaitingIsStillTold(t *testing.T) {
	in(t, func(w *world) {
		var ready atomic.Bool
		refuseBalancers(w, func(int) error {
			if ready.Load() {
				return nil
			}
			return &lb.Error{Kind: lb.Pending, Op: "create", Message: "provisioning"}
		})
		w.create(service("web"))
		w.stop()
		w.events.since()
		ready.Store(true)
		w.start()
		w.expect("events", w.events.reasons(), []string{"web EnsuredLoadBalancer"})
	})
}
