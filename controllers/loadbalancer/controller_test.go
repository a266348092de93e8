package loadbalancer

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairway-lb/fairway/providers/lb"
)

func TestCreatedServiceGetsALoadBalancer(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		s := w.get("web")
		w.expect("finalizers", s.Finalizers, []string{StockFinalizer})
		w.expect("host, in lower case", w.host("web"), "default-web.lb.example.com")
		w.expect("ports", s.Status.LoadBalancer.Ingress[0].Ports, []v1.PortStatus{{Port: 80, Protocol: v1.ProtocolTCP}})
		w.expect("condition", w.condition("web"), "True Ready")
		w.expect("nodes", w.cloud.nodes("default/web"), []string{"node-1", "node-2"})
		w.expect("events", w.events.reasons(), []string{"web EnsuredLoadBalancer"})
		w.expect("writes", w.writes(), 2) // finalizer, then all of the status
	})
}

func TestServiceOfAnotherTypeOrClassIsLeftAlone(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("plain", func(s *v1.Service) { s.Spec.Type = v1.ServiceTypeNodePort }))
		w.create(service("theirs", func(s *v1.Service) {
			s.Spec.LoadBalancerClass = new("example.com/other")
			s.Finalizers = []string{StockFinalizer}
		}))
		w.remove("theirs")
		w.expect("writes", w.writes(), 0)
		w.expect("calls", w.cloud.since(), []string{})
		w.expect("finalizers of another class", w.get("theirs").Finalizers, []string{StockFinalizer})
	})
}

func TestClassModeServesItsClassUnderItsOwnFinalizer(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("classless"))
		w.create(service("ours", func(s *v1.Service) { s.Spec.LoadBalancerClass = new("fairway.io/nlb") }))
		w.expect("host of a classless Service", w.host("classless"), "")
		w.expect("host of ours", w.host("ours"), "default-ours.lb.example.com")
		w.expect("finalizers", w.get("ours").Finalizers, []string{ClassFinalizer})
	}, func(w *world) { w.options.Class = "fairway.io/nlb" })
}

func TestWrongAnnotationIsOneEventAndLeavesOthersAlone(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("wrong", annotated("example.com/scheme", "purple")))
		w.create(service("right"))
		w.expect("condition", w.condition("wrong"), "False Invalid")
		if m := readyCondition(w.get("wrong")).Message; !strings.Contains(m, `example.com/scheme: "purple": must be internal`) {
			t.Errorf("the condition does not name annotation, value and cure: %s", m)
		}
		w.expect("host of the other", w.host("right"), "default-right.lb.example.com")
		w.expect("events", w.events.reasons(), []string{"wrong SyncLoadBalancerFailed", "right EnsuredLoadBalancer"})
		w.cloud.since()
		w.writes()
		w.pass(24 * time.Hour)
		w.expect("calls while nothing changes", w.cloud.since(), []string{})
		w.expect("events while nothing changes", w.events.reasons(), []string{})
		w.expect("writes while nothing changes", w.writes(), 0)

		w.change("wrong", annotated("example.com/scheme", "internal"))
		w.expect("condition once cured", w.condition("wrong"), "True Ready")
		w.expect("events once cured", w.events.reasons(), []string{"wrong EnsuredLoadBalancer"})
	})
}

func TestBadSourceRangeIsToldBeforeAnythingIsMade(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web", annotated(v1.AnnotationLoadBalancerSourceRangesKey, "10.0.0.0/8, everyone")))
		w.expect("condition", w.condition("web"), "False Invalid")
		w.expect("finalizers", w.get("web").Finalizers, []string{})
		w.expect("calls", w.cloud.since(), []string{})
	})
}

func TestNodesComeAndGo(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.addNode("node-3")
		w.pass(3 * time.Second)
		w.expect("after a join", w.cloud.nodes("default/web"), []string{"node-1", "node-2", "node-3"})
		w.events.reasons()
		w.cloud.since()
		w.removeNode("node-1")
		w.settle()
		w.expect("after a removal", w.cloud.nodes("default/web"), []string{"node-2", "node-3"})
		w.expect("events, of which 1,000 Services would make 1,000", w.events.reasons(), []string{})
		w.expect("calls", w.cloud.since(), []string{"observe service default/web", "update targets default/web"})
	})
}

func TestFiftyJoiningNodesAreFewUpdates(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.cloud.since()
		for i := range 50 {
			w.addNode("burst-" + string(rune('a'+i/26)) + string(rune('a'+i%26)))
			w.pass(100 * time.Millisecond)
		}
		w.pass(time.Minute)
		w.expect("targets", len(w.cloud.nodes("default/web")), 52)
		updates := 0
		for _, c := range w.cloud.since() {
			if strings.HasPrefix(c, "update targets") {
				updates++
			}
		}
		w.expect("target updates for 50 nodes within 5 s", updates, 1)
	})
}

func TestNoNodesIsSaidOnce(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.expect("condition", w.condition("web"), "False NoTargets")
		w.expect("host", w.host("web"), "default-web.lb.example.com")
		if got := w.events.reasons(); !slices.Contains(got, "web UnAvailableLoadBalancer") {
			t.Errorf("events %v", got)
		}
		w.addNode("node-1")
		w.settle()
		w.expect("condition with the first node, at once", w.condition("web"), "True Ready")
	}, func(w *world) { w.removeNode("node-1"); w.removeNode("node-2") })
}

func TestDeletedServiceLeavesNothing(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.events.reasons()
		w.remove("web")
		w.expect("the cloud is empty", w.cloud.empty(), true)
		w.expect("the Service is gone", w.get("web") == nil, true)
		w.expect("events", w.events.reasons(), []string{"web DeletingLoadBalancer", "web DeletedLoadBalancer"})
	})
}

func TestFinalizerStaysWhileTheCloudIsNotEmpty(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.events.reasons()
		var broken atomic.Bool
		broken.Store(true)
		w.cloud.apply = func(context.Context, lb.Change) error {
			if broken.Load() {
				return &lb.Error{Kind: lb.Unavailable, Op: "delete", Message: "connection refused"}
			}
			return nil
		}
		w.remove("web")
		w.pass(10 * time.Minute)
		w.expect("finalizers", w.get("web").Finalizers, []string{StockFinalizer})
		w.expect("condition", w.condition("web"), "False Unavailable")
		w.expect("events", w.events.reasons(), []string{"web DeletingLoadBalancer", "web DeleteLoadBalancerFailed"})
		broken.Store(false)
		w.pass(6 * time.Minute)
		w.expect("the Service is gone", w.get("web") == nil, true)
		w.expect("the cloud is empty", w.cloud.empty(), true)
	})
}

func TestTypeChangedAwayAndBack(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.change("web", func(s *v1.Service) {
			s.Spec.Type = v1.ServiceTypeClusterIP
			s.Status.LoadBalancer = v1.LoadBalancerStatus{} // as the API server does
		})
		s := w.get("web")
		w.expect("finalizers", s.Finalizers, []string{})
		w.expect("conditions", len(s.Status.Conditions), 0)
		w.expect("the cloud is empty", w.cloud.empty(), true)
		w.change("web", func(s *v1.Service) { s.Spec.Type = v1.ServiceTypeLoadBalancer })
		w.expect("host", w.host("web"), "default-web.lb.example.com")
		w.expect("finalizers", w.get("web").Finalizers, []string{StockFinalizer})
	})
}

func TestFinalizerTakenOffAndServiceDeleted(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.check(w.client.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}))
		w.settle()
		w.expect("the cloud is empty", w.cloud.empty(), true)
	})
}

func TestServiceMadeAgainUnderTheSameName(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.check(w.client.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}))
		w.create(service("web", func(s *v1.Service) { s.UID = "another" }))
		w.settle()
		w.expect("condition", w.condition("web"), "True Ready")
		w.expect("owner", w.cloud.things[lb.Ref{Kind: "load-balancer", Key: "default/web"}].Owners[0].Service.UID, "another")
	})
}

func TestWipedStatusAndFinalizerAreRepairedWithoutACall(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.cloud.since()
		w.change("web", func(s *v1.Service) { s.Status = v1.ServiceStatus{}; s.Finalizers = nil })
		w.expect("host", w.host("web"), "default-web.lb.example.com")
		w.expect("condition", w.condition("web"), "True Ready")
		w.expect("finalizers", w.get("web").Finalizers, []string{StockFinalizer})
		w.expect("calls", w.cloud.since(), []string{})
	})
}

func TestPausedServiceIsNotTouched(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.change("web", annotated(PauseAnnotation, "true"))
		w.cloud.since()
		w.writes()
		w.removeNode("node-1")
		w.settle()
		w.remove("web")
		w.expect("calls", w.cloud.since(), []string{})
		w.expect("writes", w.writes(), 0)
		w.expect("finalizers", w.get("web").Finalizers, []string{StockFinalizer})
		w.change("web", annotated(PauseAnnotation, "false"))
		w.expect("the cloud is empty", w.cloud.empty(), true)
	})
}

func TestServiceOfAnotherControllerIsLeftAloneUntilItsStatusIsCleared(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web", func(s *v1.Service) {
			s.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{Hostname: "old.example.org"}}
		}))
		w.expect("calls", w.cloud.since(), []string{})
		w.expect("host", w.host("web"), "old.example.org")
		w.expect("condition", w.condition("web"), "False ServedByAnotherController")
		w.expect("events", w.events.reasons(), []string{"web LoadBalancerServedElsewhere"})
		w.change("web", func(s *v1.Service) { s.Status.LoadBalancer = v1.LoadBalancerStatus{} })
		w.expect("host", w.host("web"), "default-web.lb.example.com")
		w.expect("condition", w.condition("web"), "True Ready")
	})
}

// Clients of an adopted Service go on using the old address until there is a new
// one, and only the controller's own things go with the Service.
func TestServiceOfAnotherControllerIsAdoptedWhenAsked(t *testing.T) {
	others := func(s *v1.Service) {
		s.Finalizers = []string{StockFinalizer}
		s.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{Hostname: "old.example.org"}}
	}
	in(t, func(w *world) {
		w.create(service("web", others, annotated(AdoptAnnotation, "perhaps")))
		w.expect("events", w.events.reasons(), []string{"web LoadBalancerServedElsewhere"})
		answer := error(&lb.Error{Kind: lb.Unavailable, Op: "create", Message: "not now"})
		w.cloud.set(func() { w.cloud.apply = func(context.Context, lb.Change) error { return answer } })
		w.change("web", annotated(AdoptAnnotation, "true"))
		w.expect("host while there is none of ours", w.host("web"), "old.example.org")
		w.cloud.set(func() { w.cloud.apply = nil })
		w.pass(time.Minute)
		w.expect("host", w.host("web"), "default-web.lb.example.com")
		w.expect("condition", w.condition("web"), "True Ready")
		told := w.events.since()
		if n := strings.Count(strings.Join(told, "\n"), "The load balancer at old.example.org was another controller's"); n != 1 {
			t.Errorf("told %d times whose it was: %v", n, told)
		}
		w.stop()
		w.start()
		w.expect("events of a restart", w.events.reasons(), []string{})
		w.remove("web")
		w.expect("the cloud is empty", w.cloud.empty(), true)
	})
	// Deleted while its controller was gone already: nobody else would let it go.
	in(t, func(w *world) {
		w.create(service("web", others))
		w.remove("web")
		w.expect("finalizers", w.get("web").Finalizers, []string{StockFinalizer})
		w.change("web", annotated(AdoptAnnotation, "true"))
		if left := w.get("web"); left != nil && len(left.Finalizers) > 0 {
			t.Errorf("it is kept by %v", left.Finalizers)
		}
	})
}

func TestNoticesAreOneEventEach(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web", annotated("example.com/later", "yes")))
		w.expect("events", w.events.reasons(), []string{"web AnnotationIgnored", "web EnsuredLoadBalancer"})
		w.removeNode("node-1")
		w.settle()
		w.expect("events of a node change", w.events.reasons(), []string{})
	})
}

func TestDryRunChangesNothing(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.create(service("wrong", annotated("example.com/scheme", "purple")))
		w.pass(time.Hour)
		w.expect("the cloud is empty", w.cloud.empty(), true)
		w.expect("writes", w.writes(), 0)
		w.expect("events", w.events.reasons(), []string{})
		w.expect("calls", w.cloud.since(), []string{"observe service default/web"})
	}, func(w *world) { w.options.DryRun = true })
}
