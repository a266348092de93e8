package loadbalancer

import (
	"context"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairway-lb/fairway/providers/lb"
)

// slowly makes each change take a while.
func slowly(d time.Duration) func(context.Context, lb.Change) error {
	return func(ctx context.Context, _ lb.Change) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// The API server lets loadBalancerClass be set only with the type: a live Service
// goes through another type, which clears its addresses. Both changes may be one
// for whoever watches.
func TestClassSetOnALiveService(t *testing.T) {
	const theirs = "example.com/other"
	classed := func(class string) func(*v1.Service) {
		return func(s *v1.Service) {
			s.Spec.Type, s.Spec.LoadBalancerClass = v1.ServiceTypeLoadBalancer, &class
			s.Status.LoadBalancer = v1.LoadBalancerStatus{}
		}
	}
	t.Run("to another's", func(t *testing.T) {
		in(t, func(w *world) {
			w.create(service("web"))
			w.change("web", classed(theirs))
			s := w.get("web")
			w.expect("finalizers", s.Finalizers, []string{})
			w.expect("conditions", len(s.Status.Conditions), 0)
			w.expect("the cloud is empty", w.cloud.empty(), true)
			w.writes()
			w.pass(time.Hour)
			w.expect("writes afterwards", w.writes(), 0)
		})
	})
	t.Run("to another's, which was faster", func(t *testing.T) {
		in(t, func(w *world) {
			w.create(service("web"))
			w.change("web", func(s *v1.Service) {
				classed(theirs)(s)
				s.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{Hostname: "web.example.org"}}
				s.Finalizers = append(s.Finalizers, "example.com/cleanup")
			})
			w.expect("the other's address", w.host("web"), "web.example.org")
			w.expect("the other's finalizer", w.get("web").Finalizers, []string{"example.com/cleanup"})
			w.expect("the cloud is empty", w.cloud.empty(), true)
		})
	})
	t.Run("to ours", func(t *testing.T) {
		in(t, func(w *world) {
			w.create(service("web"))
			w.expect("host without a class", w.host("web"), "")
			w.change("web", classed("fairway.io/nlb"))
			w.expect("host", w.host("web"), "default-web.lb.example.com")
			w.expect("finalizers", w.get("web").Finalizers, []string{ClassFinalizer})
			w.change("web", func(s *v1.Service) {
				s.Spec.Type, s.Spec.LoadBalancerClass, s.Status.LoadBalancer = v1.ServiceTypeNodePort, nil, v1.LoadBalancerStatus{}
			})
			w.expect("finalizers without the class", w.get("web").Finalizers, []string{})
			w.expect("the cloud is empty", w.cloud.empty(), true)
		}, func(w *world) { w.options.Class = "fairway.io/nlb" })
	})
}

func TestDeletionWhileTheCloudIsDown(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.events.since()
		end := w.outage(unavailable)
		w.remove("web")
		w.pass(3 * time.Hour)
		w.expect("finalizers", w.get("web").Finalizers, []string{StockFinalizer})
		w.expect("condition", w.condition("web"), "False Unavailable")
		w.expect("events", w.events.reasons(), []string{"web DeletingLoadBalancer", "web DeleteLoadBalancerFailed"})
		// A restart in the middle of it forgets nothing.
		w.stop()
		w.start()
		w.pass(time.Hour)
		w.expect("finalizers after a restart", w.get("web").Finalizers, []string{StockFinalizer})
		end()
		w.pass(6 * time.Minute)
		w.expect("the Service is gone", w.get("web") == nil, true)
		w.expect("the cloud is empty", w.cloud.empty(), true)
	})
}

// Parts of a load balancer that cannot be deleted keep the Service.
func TestLeftoversNeverLoseTheirFinalizer(t *testing.T) {
	for _, stuck := range []lb.Kind{"load-balancer", "leftover"} {
		t.Run(string(stuck), func(t *testing.T) {
			in(t, func(w *world) {
				w.create(service("web"))
				leftover := lb.Ref{Kind: "leftover", Key: "of an earlier attempt"}
				w.cloud.put(lb.Resource{Ref: leftover, ID: "id", Fields: lb.Fields{},
					Owners: []lb.Owner{lb.ByService(lb.ServiceRef{Namespace: "default", Name: "web", UID: "uid-web"})}})
				held := true
				w.cloud.apply = func(_ context.Context, c lb.Change) error {
					if held && c.Op == lb.Delete && c.Ref().Kind == stuck {
						return &lb.Error{Kind: lb.Denied, Op: "delete", Resource: c.Ref(), Code: "AccessDenied"}
					}
					return nil
				}
				w.remove("web")
				w.pass(24 * time.Hour)
				w.expect("finalizers", w.get("web").Finalizers, []string{StockFinalizer})
				w.expect("condition", w.condition("web"), "False Denied")
				held = false
				w.pass(6 * time.Minute)
				w.expect("the Service is gone", w.get("web") == nil, true)
				w.expect("the cloud is empty", w.cloud.empty(), true)
			})
		})
	}
}

func TestStatusWiped(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.cloud.since()
		w.events.since()
		for range 3 {
			w.change("web", func(s *v1.Service) { s.Status = v1.ServiceStatus{} })
			w.expect("host", w.host("web"), "default-web.lb.example.com")
			w.expect("condition", w.condition("web"), "True Ready")
		}
		w.expect("calls", w.cloud.since(), []string{})
		w.expect("events", w.events.since(), []string{})
	})
}

func TestStatusWipedWhileTheControllerWasDown(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.stop()
		w.change("web", func(s *v1.Service) { s.Status = v1.ServiceStatus{} })
		w.start()
		w.expect("host", w.host("web"), "default-web.lb.example.com")
		w.expect("condition", w.condition("web"), "True Ready")
	}, swept)
}

func TestFinalizerRemovedByHandIsPutBack(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.cloud.since()
		for range 3 {
			w.change("web", func(s *v1.Service) { s.Finalizers = []string{"example.com/other"} })
			w.expect("finalizers", w.get("web").Finalizers, []string{"example.com/other", StockFinalizer})
		}
		w.expect("calls", w.cloud.since(), []string{})
		w.stop()
		w.change("web", func(s *v1.Service) { s.Finalizers = nil })
		w.start()
		w.expect("finalizers after a restart", w.get("web").Finalizers, []string{StockFinalizer})
	}, swept)
}

// Finalizer removed and type changed at once: what is left behind is deleted by
// whoever remembers it.
func TestFinalizerRemovedWithTheType(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.change("web", func(s *v1.Service) {
			s.Spec.Type, s.Finalizers, s.Status = v1.ServiceTypeClusterIP, nil, v1.ServiceStatus{}
		})
		w.expect("the cloud is empty", w.cloud.empty(), true)
	})
}

func TestServiceRecreatedWithTheSameName(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		for life, down := range []bool{false, true, false} {
			uid := types.UID("life-" + string(rune('1'+life)))
			if down {
				w.stop()
			}
			w.check(w.client.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}))
			w.create(service("web", func(s *v1.Service) { s.UID = uid }))
			if down {
				w.cloud.remove(balancerOf("web")) // this cloud has one place for both lives
				w.start()
			}
			w.pass(time.Minute)
			w.expect("condition", w.condition("web"), "True Ready")
			w.expect("owner", w.cloud.things[balancerOf("web")].Owners[0].Service.UID, uid)
		}
	})
}

func TestDeniedForAnHour(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("ready"))
		w.events.since()
		w.writes()
		end := w.outage(func() error {
			return &lb.Error{Kind: lb.Denied, Op: "observe", Code: "AccessDenied", Message: "not allowed"}
		})
		w.cloud.since()
		w.create(service("new"))
		w.remove("ready")
		w.pass(time.Hour)
		if calls := len(w.cloud.since()); calls > 2*13 {
			t.Errorf("%d calls in an hour for two Services", calls)
		}
		w.expect("events", w.events.reasons(), []string{"new SyncLoadBalancerFailed", "ready DeletingLoadBalancer", "ready DeleteLoadBalancerFailed"})
		w.expect("writes: finalizer and two conditions", w.writes(), 3)
		w.expect("condition", w.condition("new"), "False Denied")
		end()
		w.pass(6 * time.Minute)
		w.expect("condition once granted", w.condition("new"), "True Ready")
		w.expect("what was deleted meanwhile is gone", w.get("ready") == nil, true)
	})
}
