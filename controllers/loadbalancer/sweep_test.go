package loadbalancer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"

	"github.com/fairway-lb/fairway/providers/lb"
)

// swept is a world whose cloud can be surveyed, every ten minutes, with events
// about the cluster on a lease.
func swept(w *world) {
	w.cloud.surveyed = true
	w.options.About = &v1.ObjectReference{Kind: "Lease", Namespace: "kube-system", Name: "ccm"}
}

func balancerOf(name string) lb.Ref { return lb.Ref{Kind: "load-balancer", Key: "default/" + name} }

func TestSweepRepairsWhatOthersChangedOfTheServicesConcerned(t *testing.T) {
	in(t, func(w *world) {
		for i := range 20 {
			w.create(service(fmt.Sprintf("web-%d", i)))
		}
		w.pass(time.Minute)
		w.cloud.since()
		w.events.since()
		w.writes()
		before := count(t, "drift_detected_total", map[string]string{"kind": "load-balancer", "field": "scheme"})
		w.cloud.remove(balancerOf("web-7"))
		changed := w.cloud.things[balancerOf("web-3")]
		changed.Fields = lb.Fields{"scheme": lb.Text("internal")}
		w.cloud.put(changed)
		w.pass(11 * time.Minute)
		w.expect("calls, in the order of the alphabet", slices.Sorted(slices.Values(w.cloud.since())), []string{
			"create listener default/web-7:80", "create load-balancer default/web-7", "create targets default/web-7",
			"observe service default/web-3", "observe service default/web-7", "survey", "update load-balancer default/web-3"})
		events := slices.Sorted(slices.Values(w.events.since()))
		w.expect("events", len(events), 2)
		for i, want := range []string{"web-3 LoadBalancerRepaired: The load balancer had been changed from outside and is repaired: scheme of load-balancer default/web-3 is internal instead of internet-facing. To",
			"web-7 LoadBalancerRepaired: The load balancer had been changed from outside and is repaired: load-balancer default/web-7 is missing; "} {
			if !strings.HasPrefix(events[i], want) {
				t.Errorf("event %q, want %q", events[i], want)
			}
		}
		w.expect("writes", w.writes(), 0)
		w.expect("counted", count(t, "drift_detected_total", map[string]string{"kind": "load-balancer", "field": "scheme"})-before, 1)
		w.pass(time.Hour)
		calls := w.cloud.since()
		w.expect("kinds of calls in an hour of rest", slices.Compact(slices.Clone(calls)), []string{"survey"})
		if len(calls) < 6 || len(calls) > 7 {
			t.Errorf("%d surveys in an hour", len(calls))
		}
	}, swept)
}

func TestDriftThatIsRepairedInSeveralAttemptsIsToldOnce(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.pass(time.Minute)
		attempts := refuseBalancers(w, func(n int) error {
			if n < 4 {
				return &lb.Error{Kind: lb.Pending, Op: "create", Message: "under way", RetryAfter: 10 * time.Second}
			}
			return nil
		})
		w.events.since()
		w.cloud.remove(balancerOf("web"))
		w.pass(15 * time.Minute)
		w.expect("attempts", attempts.Load(), 4)
		w.expect("condition", w.condition("web"), "True Ready")
		w.expect("events", w.events.reasons(), []string{"web EnsuringLoadBalancer", "web LoadBalancerRepaired"})
	}, swept)
}

// A change that the owner makes is not drift.
func TestOwnChangesAreNoDrift(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.pass(time.Minute)
		w.events.since()
		w.change("web", annotated("example.com/scheme", "internal"))
		w.removeNode("node-1")
		w.pass(30 * time.Minute)
		w.expect("events", w.events.reasons(), []string{"web UpdatedLoadBalancer"})
	}, swept)
}

// leave puts what a Service that is no more has left into the cloud.
func (w *world) leave(name string, uid types.UID) lb.Ref {
	ref := lb.Ref{Kind: "load-balancer", Key: "default/" + name + "/" + string(uid)}
	w.cloud.put(lb.Resource{Ref: ref, ID: "id-" + ref.Key, Fields: lb.Fields{},
		Owners: []lb.Owner{lb.ByService(lb.ServiceRef{Namespace: "default", Name: name, UID: string(uid)})}})
	return ref
}

func TestOrphansAreReportedOnceAndStay(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		left := []lb.Ref{w.leave("gone", "uid-gone"), w.leave("web", "an-earlier-life")}
		w.pass(9 * time.Minute)
		w.events.since()
		w.pass(3 * time.Minute)
		w.expect("events after one sweep", w.events.since(), []string{})
		w.pass(10 * time.Minute)
		events := w.events.since()
		w.expect("events after two", events, []string{"Lease LoadBalancersOrphaned: Left in the cloud by Services that are no more: " +
			"Service default/gone (1 load-balancer); Service default/web (1 load-balancer). Delete them in the cloud, or run the controller with --delete-orphans."})
		w.expect("counted", count(t, "orphans", map[string]string{"kind": "load-balancer"}), 2)
		w.pass(24 * time.Hour)
		w.expect("events in a day", w.events.since(), []string{})
		for _, ref := range left {
			w.expect(ref.String()+" is there", w.cloud.has(ref.Kind, ref.Key), true)
			w.cloud.remove(ref)
		}
		w.pass(11 * time.Minute)
		w.expect("counted after a person removed them", count(t, "orphans", map[string]string{"kind": "load-balancer"}), 0)
	}, swept)
}

func TestWhatAServiceMayOwnIsNoOrphan(t *testing.T) {
	cases := []struct {
		name string
		edit func(*v1.Service)
	}{
		{"of another class", func(s *v1.Service) { s.Spec.LoadBalancerClass = new("example.com/other") }},
		{"of another type, held by our finalizer", func(s *v1.Service) {
			s.Spec.Type, s.Finalizers = v1.ServiceTypeClusterIP, []string{ClassFinalizer}
		}},
		{"paused", annotated(PauseAnnotation, "true")},
		{"refused", annotated("example.com/scheme", "purple")},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(w *world) {
				w.create(service("web", c.edit))
				ref := w.leave("web", "uid-web")
				w.events.since()
				w.pass(time.Hour)
				w.expect("events", w.events.reasons(), []string{})
				w.expect("it is there", w.cloud.has(ref.Kind, ref.Key), true)
			}, swept, func(w *world) { w.options.DeleteOrphans = true })
		})
	}
}

func TestOrphansAreDeletedWhereThatIsWanted(t *testing.T) {
	in(t, func(w *world) {
		var left []lb.Ref
		for i := range 5 {
			left = append(left, w.leave(fmt.Sprintf("gone-%d", i), types.UID(fmt.Sprintf("uid-%d", i))))
		}
		remaining := func() (n int) {
			for _, ref := range left {
				if w.cloud.has(ref.Kind, ref.Key) {
					n++
				}
			}
			return n
		}
		w.pass(22 * time.Minute)
		w.expect("when they were reported", remaining(), 5)
		if got := w.events.since(); len(got) != 1 || !strings.Contains(got[0], "They are deleted, a few at each sweep") {
			t.Errorf("events %v", got)
		}
		w.pass(10 * time.Minute)
		w.expect("at the next sweep", remaining(), 2)
		w.pass(10 * time.Minute)
		w.expect("at the one after", remaining(), 0)
		w.expect("events", w.events.reasons(), slices.Repeat([]string{"Lease OrphanedLoadBalancerDeleted"}, 5))
	}, swept, func(w *world) { w.options.DeleteOrphans = true })
}

// The cache is no proof that a Service is gone, and neither is no answer.
func TestOrphansAreDeletedOnlyIfTheAPIServerSaysTheyAre(t *testing.T) {
	for name, answer := range map[string]func() (*v1.Service, error){
		"it is there": func() (*v1.Service, error) { return service("gone"), nil },
		"no answer":   func() (*v1.Service, error) { return nil, errors.New("etcd is away") },
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(w *world) {
				ref := w.leave("gone", "uid-gone")
				w.client.PrependReactor("get", "services", func(clienttesting.Action) (bool, runtime.Object, error) {
					svc, err := answer()
					return true, svc, err
				})
				w.pass(3 * time.Hour)
				w.expect("it is there", w.cloud.has(ref.Kind, ref.Key), true)
			}, swept, func(w *world) { w.options.DeleteOrphans = true })
		})
	}
}

// What the cluster owns is left behind by a controller that died before it took
// it away with the last Service.
func TestWhatTheClusterOwnsIsAnOrphanWithoutServices(t *testing.T) {
	group := lb.Ref{Kind: "group", Key: "shared"}
	for _, wanted := range []bool{false, true} {
		t.Run(fmt.Sprintf("delete %v", wanted), func(t *testing.T) {
			in(t, func(w *world) {
				w.cloud.put(lb.Resource{Ref: group, ID: "id", Owners: []lb.Owner{lb.ByCluster()}, Fields: lb.Fields{}})
				w.pass(40 * time.Minute)
				if got := w.events.since(); len(got) == 0 || !strings.Contains(got[0], "the cluster's last Service (1 group)") {
					t.Errorf("events %v", got)
				}
				w.expect("it is there", w.cloud.has(group.Kind, group.Key), !wanted)
			}, swept, func(w *world) { w.options.DeleteOrphans = wanted })
		})
	}
}

func TestADryRunTellsOfOrphansInTheLogOnly(t *testing.T) {
	in(t, func(w *world) {
		ref := w.leave("gone", "uid-gone")
		w.pass(3 * time.Hour)
		w.expect("events", w.events.since(), []string{})
		w.expect("it is there", w.cloud.has(ref.Kind, ref.Key), true)
		w.expect("counted", count(t, "orphans", map[string]string{"kind": "load-balancer"}), 1)
	}, swept, func(w *world) { w.options.DeleteOrphans, w.options.DryRun = true, true })
}

// An orphan is told from a Service that was only not seen yet by its age.
func TestAFailedSweepProvesNothing(t *testing.T) {
	in(t, func(w *world) {
		ref := w.leave("gone", "uid-gone")
		w.pass(11 * time.Minute)
		w.cloud.look = func() error { return &lb.Error{Kind: lb.Denied, Op: "survey", Code: "AccessDenied"} }
		w.pass(3 * time.Hour)
		w.expect("events while the lists are denied", w.events.since(), []string{})
		w.expect("it is there", w.cloud.has(ref.Kind, ref.Key), true)
		w.expect("healthy", w.controller.Check(nil), nil)
		w.cloud.look = nil
		w.pass(25 * time.Minute)
		w.expect("events", len(w.events.since()), 1)
	}, swept)
}

// count returns the value of one of our metrics, 0 when it has none.
func count(t *testing.T, name string, with map[string]string) float64 {
	t.Helper()
	return value(t, "fairway_loadbalancer_"+name, with)
}

// A node that comes back before the checkpoint of its leaving is written wants
// what the old checkpoint says, and has not drifted.
func TestReturningNodeIsNoDrift(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.pass(time.Minute)
		w.events.since()
		w.removeNode("node-1")
		w.settle()
		w.addNode("node-1")
		w.pass(20 * time.Second)
		w.expect("nodes", w.cloud.nodes("default/web"), []string{"node-1", "node-2"})
		w.pass(time.Hour)
		w.expect("events", w.events.reasons(), []string{})
	}, swept)
}
