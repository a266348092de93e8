//go:build !no_aws

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/fairway-lb/fairway/controllers/loadbalancer"
	"github.com/fairway-lb/fairway/providers/fake"
	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
)

// Three lists per sweep for all Services, and a look only at the one that somebody
// harmed.
func TestSweepsOfTwentyServicesOnAWS(t *testing.T) {
	withServices(t, func(w *serviceWorld) {
		const services = 20
		for n := range services {
			w.create(fmt.Sprintf("web-%d", n))
		}
		pass(12 * time.Minute) // the first sweep reads the tags of what it does not know
		w.expect("load balancers", w.left()["load-balancer"], services)
		w.called()
		w.events.since()
		pass(time.Hour)
		calls := w.called()
		sweeps := calls["DescribeLoadBalancers"]
		w.expect("calls in an hour of rest", calls,
			map[string]int{"DescribeLoadBalancers": sweeps, "DescribeTargetGroups": sweeps, "DescribeSecurityGroups": sweeps})
		if sweeps < 6 || sweeps > 7 {
			w.Errorf("%d sweeps in an hour", sweeps)
		}

		host := w.get("web-7").Status.LoadBalancer.Ingress[0].Hostname
		w.deleteLoadBalancer("web-7")
		w.called()
		pass(11 * time.Minute)
		w.expect("load balancers", w.left()["load-balancer"], services)
		events := w.events.since()
		w.expect("events", short(events), []string{"web-7 LoadBalancerRepaired"})
		if !strings.Contains(events[0], "load-balancer default/web-7/internet-facing@"+nodesVPC+" is missing") {
			w.Errorf("the event does not say what was repaired: %s", events[0])
		}
		if now := w.get("web-7").Status.LoadBalancer.Ingress[0].Hostname; now == host {
			w.Errorf("the status still shows %s", host)
		}
		w.expect("looks at targets", w.called()["DescribeTargetHealth"], 1)
	})
}

// A finalizer that was removed by hand while nobody looked leaves an orphan, which
// is reported; a cluster of the same name in the same account leaves none.
func TestOrphansOnAWS(t *testing.T) {
	withServices(t, func(w *serviceWorld) {
		w.create("web")
		w.create("gone")
		pass(time.Minute)
		w.stop()
		ours := w.client
		w.cluster("uid-2")
		w.start()
		w.create("theirs")
		pass(time.Minute)
		w.stop()
		w.client = ours
		if err := ours.CoreV1().Services("default").Delete(w.Context(), "gone", metav1.DeleteOptions{}); err != nil {
			w.Fatal(err)
		}
		w.events.since()
		w.start()
		pass(3 * time.Hour)
		events := w.events.since()
		w.expect("events", short(events), []string{"Lease LoadBalancersOrphaned"})
		if !strings.Contains(events[0], "no more: Service default/gone (1 load-balancer, 1 security-group, 1 target-group). Delete them") {
			w.Errorf("got %s", events[0])
		}
		w.expect("load balancers", w.left()["load-balancer"], 3)

		w.stop()
		w.options.DeleteOrphans = true
		w.start()
		pass(35 * time.Minute)
		w.expect("events", short(w.events.since()), []string{"Lease LoadBalancersOrphaned", "Lease OrphanedLoadBalancerDeleted"})
		w.expect("load balancers", w.left()["load-balancer"], 2)
		w.expect("condition", w.condition("web"), "True Ready")
	})
}

func TestDeniedForAnHourOnAWS(t *testing.T) {
	withServices(t, func(w *serviceWorld) {
		w.create("web")
		pass(time.Minute)
		w.events.since()
		faults := func(all ...fake.Fault) {
			if err := w.account.Faults().Set(all); err != nil {
				w.Fatal(err)
			}
		}
		faults(fake.Fault{Operation: "elasticloadbalancing:*", Kind: fake.FaultError, Code: "AccessDenied", Status: 403, Times: -1})
		w.called()
		w.create("new")
		w.change("web", func(s *v1.Service) { s.Spec.Ports[0].Port = 81 })
		pass(time.Hour)
		total := 0
		calls := w.called()
		for operation, n := range calls {
			total += n
			if n > 40 {
				w.Errorf("%d calls of %s in an hour", n, operation)
			}
		}
		if total < 20 || total > 150 {
			w.Errorf("%d calls in an hour: %v", total, calls)
		}
		w.expect("conditions", w.condition("web")+", "+w.condition("new"), "False Denied, False Denied")
		w.expect("events", short(w.events.since()), []string{"new SyncLoadBalancerFailed", "web SyncLoadBalancerFailed"})
		w.expect("the address stays", len(w.get("web").Status.LoadBalancer.Ingress), 1)
		faults()
		pass(6 * time.Minute)
		w.expect("conditions once granted", w.condition("web")+", "+w.condition("new"), "True Ready, True Ready")
	})
}

func TestCredentialsFileRotatedUnderTheController(t *testing.T) {
	withServices(t, func(w *serviceWorld) {
		rotate := func(key string) {
			if err := os.WriteFile(w.keys, []byte(credentialsFile(key)), 0o600); err != nil {
				w.Fatal(err)
			}
		}
		w.create("web")
		pass(time.Minute)
		w.events.since()
		rotate("AKIDSECOND")
		w.account.Revoke("AKIDFIRST")
		w.change("web", func(s *v1.Service) { s.Spec.Ports[0].Port = 81 })
		pass(10 * time.Second)
		w.expect("condition", w.condition("web"), "True Ready")
		w.expect("events", short(w.events.since()), []string{"web UpdatedLoadBalancer"})

		// The other way round there is a gap.
		w.account.Revoke("AKIDSECOND")
		w.change("web", func(s *v1.Service) { s.Spec.Ports[0].Port = 82 })
		pass(10 * time.Second)
		w.expect("condition without a key", w.condition("web"), "False Denied")
		rotate("AKIDTHIRD")
		pass(6 * time.Minute)
		w.expect("condition with a new key", w.condition("web"), "True Ready")
	})
}

// SIGTERM: what has begun is finished, then a standby may lead.
func TestStopFinishesWorkThenGivesTheLeaseBack(t *testing.T) {
	withServices(t, func(w *serviceWorld) {
		w.create("web")
		pass(5 * time.Second)
		w.create("late")
		w.client.ClearActions()
		w.stop()
		if len(w.get("web").Status.LoadBalancer.Ingress) == 0 || w.condition("web") != "True Ready" {
			w.Errorf("the work was not finished: %s", w.condition("web"))
		}
		lease, err := w.client.CoordinationV1().Leases(metav1.NamespaceSystem).Get(w.Context(), leaseName, metav1.GetOptions{})
		if err != nil || *lease.Spec.HolderIdentity != "" {
			w.Errorf("lease %v, error %v", lease.Spec, err)
		}
		last := func(verb, resource string) int {
			actions := w.client.Actions()
			for i := len(actions) - 1; i >= 0; i-- {
				if actions[i].Matches(verb, resource) {
					return i
				}
			}
			return -1
		}
		if status, released := last("patch", "services"), last("update", "leases"); status < 0 || released < status {
			w.Errorf("the lease went in action %d, the last status in %d", released, status)
		}
		// Whoever leads next does the rest.
		w.start()
		pass(time.Minute)
		w.expect("condition of what had not begun", w.condition("late"), "True Ready")
	}, func(world *fakeaws.World) { world.Timing.Latency = fake.Duration(2 * time.Second) })
}

func TestPausedByAnAnnotationOnTheLease(t *testing.T) {
	withServices(t, func(w *serviceWorld) {
		annotate := func(annotations map[string]string) {
			leases := w.client.CoordinationV1().Leases(metav1.NamespaceSystem)
			lease, err := leases.Get(w.Context(), leaseName, metav1.GetOptions{})
			if err != nil {
				w.Fatal(err)
			}
			lease.Annotations = annotations
			if _, err := leases.Update(w.Context(), lease, metav1.UpdateOptions{}); err != nil {
				w.Fatal(err)
			}
			pass(11 * time.Second)
		}
		annotate(map[string]string{loadbalancer.PauseAnnotation: "true"})
		w.called()
		w.create("web")
		pass(time.Hour)
		w.stop() // and a restart does not end it
		w.start()
		pass(time.Hour)
		w.expect("calls", len(w.called()), 0)
		w.expect("finalizers", w.get("web").Finalizers, []string{})
		w.expect("events", short(w.events.since()), []string{"Lease LoadBalancersPaused", "Lease LoadBalancersPaused"})
		annotate(nil)
		pass(time.Minute)
		w.expect("condition", w.condition("web"), "True Ready")
	})
}

func TestTypeChangedAwayAndBackOnAWS(t *testing.T) {
	withServices(t, func(w *serviceWorld) {
		w.create("web")
		pass(time.Minute)
		w.change("web", func(s *v1.Service) {
			s.Spec.Type, s.Status.LoadBalancer = v1.ServiceTypeClusterIP, v1.LoadBalancerStatus{}
		})
		pass(5 * time.Minute)
		w.expect("left in the account", w.left(), map[string]int{})
		w.expect("finalizers", w.get("web").Finalizers, []string{})
		w.change("web", func(s *v1.Service) { s.Spec.Type = v1.ServiceTypeLoadBalancer })
		pass(time.Minute)
		w.expect("condition", w.condition("web"), "True Ready")
	}, func(world *fakeaws.World) {
		world.Timing.InterfaceLinger, world.Timing.ReleaseLag = fake.Duration(90*time.Second), fake.Duration(5*time.Second)
	})
}

func TestServiceRecreatedWithTheSameNameOnAWS(t *testing.T) {
	withServices(t, func(w *serviceWorld) {
		w.create("web")
		pass(time.Minute)
		first := w.get("web").Status.LoadBalancer.Ingress[0].Hostname
		if err := w.client.CoreV1().Services("default").Delete(w.Context(), "web", metav1.DeleteOptions{}); err != nil {
			w.Fatal(err)
		}
		w.create("web", func(s *v1.Service) { s.UID = types.UID("another") })
		pass(5 * time.Minute)
		w.expect("load balancers", w.left()["load-balancer"], 1)
		w.expect("condition", w.condition("web"), "True Ready")
		if second := w.get("web").Status.LoadBalancer.Ingress[0].Hostname; second == first {
			w.Errorf("it has the address %s of its former life", first)
		}
	})
}

func TestDeletionWhileAWSIsDown(t *testing.T) {
	withServices(t, func(w *serviceWorld) {
		w.create("web")
		pass(time.Minute)
		if err := w.account.Faults().Set([]fake.Fault{{Kind: fake.FaultError, Status: 503, Code: "ServiceUnavailable", Times: -1}}); err != nil {
			w.Fatal(err)
		}
		w.change("web", func(s *v1.Service) { s.DeletionTimestamp = ptr.To(metav1.Now()) })
		pass(2 * time.Hour)
		w.expect("finalizers", w.get("web").Finalizers, []string{loadbalancer.StockFinalizer})
		w.expect("condition", w.condition("web"), "False Unavailable")
		if err := w.account.Faults().Set(nil); err != nil {
			w.Fatal(err)
		}
		pass(10 * time.Minute)
		w.expect("the Service is gone", w.get("web") == nil, true)
		w.expect("left in the account", w.left(), map[string]int{})
	})
}
