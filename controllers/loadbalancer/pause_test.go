package loadbalancer

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPausedControllerTouchesNothingAndCatchesUp(t *testing.T) {
	in(t, func(w *world) {
		for _, name := range []string{"stays", "changes", "goes", "vanishes"} {
			w.create(service(name))
		}
		w.pass(time.Minute)
		w.controller.Pause(true)
		w.controller.Pause(true) // as every look at the lease says
		w.expect("told", w.events.reasons()[4:], []string{"Lease LoadBalancersPaused"})
		w.expect("counted", count(t, "paused", nil), 1)
		w.cloud.since()
		w.writes()

		w.create(service("comes"))
		w.change("changes", func(s *v1.Service) { s.Spec.Ports[0].Port = 81 })
		w.change("stays", func(s *v1.Service) { s.Status = v1.ServiceStatus{} })
		w.remove("goes")
		w.check(w.client.CoreV1().Services("default").Delete(t.Context(), "vanishes", metav1.DeleteOptions{}))
		w.removeNode("node-1")
		w.cloud.remove(balancerOf("stays"))
		orphan := w.leave("gone", "uid-gone")
		w.pass(3 * time.Hour)
		w.expect("calls", w.cloud.since(), []string{})
		w.expect("writes", w.writes(), 0)
		w.expect("events", w.events.since(), []string{})
		w.expect("healthy", w.controller.Check(nil), nil)

		w.controller.Pause(false)
		w.pass(time.Minute)
		w.expect("counted", count(t, "paused", nil), 0)
		w.expect("what came is served", w.host("comes"), "default-comes.lb.example.com")
		w.expect("what changed is", w.cloud.has("listener", "default/changes:81"), true)
		w.expect("what went is gone", w.get("goes") == nil, true)
		for _, name := range []string{"goes", "vanishes"} {
			w.expect(name+" is gone from the cloud", w.cloud.has("load-balancer", "default/"+name), false)
		}
		w.expect("status", w.host("stays"), "default-stays.lb.example.com")
		w.expect("what others deleted is back", w.cloud.has("load-balancer", "default/stays"), true)
		w.expect("nodes", w.cloud.nodes("default/stays"), []string{"node-2"})
		w.expect("an orphan, not seen twice yet, is there", w.cloud.has(orphan.Kind, orphan.Key), true)
	}, swept, func(w *world) { w.options.DeleteOrphans = true })
}

// What has begun when the pause comes is finished.
func TestPauseLeavesNothingHalfDone(t *testing.T) {
	in(t, func(w *world) {
		w.cloud.apply = slowly(2 * time.Second)
		w.create(service("web"))
		w.controller.Pause(true)
		w.pass(time.Minute)
		w.expect("host", w.host("web"), "default-web.lb.example.com")
		w.expect("condition", w.condition("web"), "True Ready")
		w.controller.Pause(false)
	})
}
