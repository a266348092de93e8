package loadbalancer

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairway-lb/fairway/controllers/nodes"
	"github.com/fairway-lb/fairway/providers/lb"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// pools returns Services that select the nodes of a pool.
func pools(prefix, pool string, count int) []*v1.Service {
	var all []*v1.Service
	for i := range count {
		all = append(all, service(fmt.Sprintf("%s-%03d", prefix, i), annotated("example.com/pool", pool)))
	}
	return all
}

func inPools(w *world) {
	for _, name := range []string{"node-1", "node-2"} {
		w.changeNode(name, inPool("apps"))
	}
	w.addNode("edge-1", inPool("edge"))
	w.addNode("edge-2", inPool("edge"))
}

// Of 1,000 Services, ten send to the pool in which nodes come and go. The other
// 990 cost nothing at all: no call to the cloud, no write, no event, and no line
// in the log but the one that tells of the nodes.
func TestNodeChangeReachesOnlyServicesThatSelectIt(t *testing.T) {
	in(t, func(w *world) {
		w.createAll(slices.Concat(pools("apps", "apps", 990), pools("edge", "edge", 10))...)
		w.expect("targets", w.cloud.nodes("default/edge-009"), []string{"edge-1", "edge-2"})
		steps := []struct {
			what   string
			change func()
			want   []string
		}{
			{"a node joins", func() { w.addNode("edge-3", inPool("edge")) }, []string{"edge-1", "edge-2", "edge-3"}},
			{"a node drains", func() { w.changeNode("edge-1", withTaint(nodes.TaintKarpenterDisrupted)) }, []string{"edge-2", "edge-3"}},
			{"a node leaves the pool", func() { w.changeNode("edge-2", inPool("none")) }, []string{"edge-3"}},
		}
		for _, step := range steps {
			w.pass(10 * time.Minute)
			w.quiet()
			step.change()
			w.pass(5 * time.Second)
			calls := w.cloud.since()
			w.expect(step.what+": targets", w.cloud.nodes("default/edge-009"), step.want)
			w.expect(step.what+": Services that cost calls", touched(calls), 10)
			w.expect(step.what+": target updates", howMany(calls, "update targets"), 10)
			w.expect(step.what+": events", w.events.reasons(), []string{})
			w.expect(step.what+": writes at once", w.writes(), 0)
			// Each of the ten has its plan in the log; one line tells of the nodes.
			if lines := w.lines(); lines > 11 {
				t.Errorf("%s: %d lines in the log:\n%s", step.what, lines, w.logs.String())
			}
			w.pass(time.Minute)
			w.expect(step.what+": checkpoints written", w.writes(), 10)
		}

		// A node that was drained is a target no more: its end costs nobody anything.
		w.pass(10 * time.Minute)
		w.quiet()
		w.removeNode("edge-1")
		w.pass(time.Minute)
		w.expect("a drained node ends: calls", len(w.cloud.since()), 0)
		w.expect("a drained node ends: writes", w.writes(), 0)
		w.expect("a drained node ends: events", w.events.reasons(), []string{})
		w.expect("a drained node ends: lines", w.lines(), 1)
	}, inPools)
}

// touched counts the Services that calls were made for.
func touched(calls []string) int {
	keys := map[string]bool{}
	for _, c := range calls {
		key, _, _ := strings.Cut(c[strings.LastIndex(c, " ")+1:], ":")
		keys[key] = true
	}
	return len(keys)
}

// What may matter of a node to a load balancer reaches it, whatever it makes of
// its nodes; what does not costs nothing.
func TestWhatMattersOfANode(t *testing.T) {
	address := func(ip string) func(*v1.Node) {
		return func(n *v1.Node) { n.Status.Addresses[0].Address = ip }
	}
	cases := []struct {
		name   string
		by     string // what the cloud takes as targets
		change func(*v1.Node)
		want   []string // nil for no call
	}{
		{"InternalIP", "address", address("10.0.0.99"), []string{"10.0.0.1", "10.0.0.99"}},
		{"InternalIP, where names are targets", "", address("10.0.0.99"), nil},
		{"zone", "zone", inZone("b"), []string{"node-1@b", "node-2@"}},
		{"providerID", "provider-id", func(n *v1.Node) { n.Spec.ProviderID = "memory:///again" }, []string{"memory:///again", "memory:///node-2"}},
		{"label that none selects", "", inPool("apps"), nil},
		{"autoscaler's taint", "", withTaint(nodes.TaintAutoscalerDelete), []string{"node-2"}},
		{"karpenter's taint", "", withTaint(nodes.TaintKarpenterDisrupted), []string{"node-2"}},
		{"out of service", "", withTaint(v1.TaintNodeOutOfService), []string{"node-2"}},
		{"not initialised any more", "", withTaint(nodes.TaintUninitialized), []string{"node-2"}},
		{"excluded", "", func(n *v1.Node) { metav1.SetMetaDataLabel(&n.ObjectMeta, v1.LabelNodeExcludeBalancers, "") }, []string{"node-2"}},
		{"being deleted", "", func(n *v1.Node) {
			now := metav1.Now()
			n.DeletionTimestamp = &now
			n.Finalizers = []string{"example.com/drain"}
		}, []string{"node-2"}},
		{"of another cloud", "", func(n *v1.Node) { n.Spec.ProviderID = "kind://docker/node-1" }, []string{"node-2"}},
		{"not ready", "", func(n *v1.Node) {
			n.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionFalse}}
			n.Spec.Taints = []v1.Taint{{Key: v1.TaintNodeNotReady}}
		}, nil},
		{"cordoned", "", func(n *v1.Node) { n.Spec.Unschedulable = true }, nil},
		{"ExternalIP", "address", func(n *v1.Node) {
			n.Status.Addresses = append(n.Status.Addresses, v1.NodeAddress{Type: v1.NodeExternalIP, Address: "203.0.113.1"})
		}, nil},
		{"annotation", "", func(n *v1.Node) { metav1.SetMetaDataAnnotation(&n.ObjectMeta, "any", "thing") }, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(w *world) {
				w.create(service("web", annotated("example.com/targets-by", c.by)))
				w.quiet()
				before := w.cloud.nodes("default/web")
				w.changeNode("node-1", c.change)
				w.pass(10 * time.Second)
				if c.want == nil {
					w.expect("calls", w.cloud.since(), []string{})
					w.expect("writes", w.writes(), 0)
					w.expect("targets", w.cloud.nodes("default/web"), before)
				} else {
					w.expect("target updates", howMany(w.cloud.since(), "update targets"), 1)
					w.expect("targets", w.cloud.nodes("default/web"), c.want)
				}
			}, func(w *world) {
				w.options.NodeFilter.ProviderIDPrefix = "memory://"
				w.changeNode("node-2", address("10.0.0.1"))
			})
		})
	}
}

// A Service whose pool is empty says so, and gets its first node at once, even
// while others are joining.
func TestFirstNodeOfAPoolDoesNotWait(t *testing.T) {
	in(t, func(w *world) {
		w.createAll(service("apps"), service("edge", annotated("example.com/pool", "edge")))
		w.expect("condition without a node in the pool", w.condition("edge"), "False NoTargets")
		w.expect("condition of the other", w.condition("apps"), "True Ready")
		w.quiet()
		w.addNode("node-3")
		w.addNode("edge-1", inPool("edge"))
		synctest.Wait()
		w.expect("condition with a node", w.condition("edge"), "True Ready")
		w.expect("targets", w.cloud.nodes("default/edge"), []string{"edge-1"})
		w.expect("targets of the other, which can wait", w.cloud.nodes("default/apps"), []string{"node-1", "node-2"})
		w.pass(500 * time.Millisecond)
		w.addNode("edge-2", inPool("edge"))
		touched := w.get("edge")
		touched.Labels = map[string]string{"looked-at": "again"}
		w.must(w.client.CoreV1().Services("default").Update(t.Context(), touched, metav1.UpdateOptions{}))
		w.pass(500 * time.Millisecond)
		w.expect("targets before all have joined", w.cloud.nodes("default/edge"), []string{"edge-1"})
		w.pass(10 * time.Second)
		w.expect("targets", w.cloud.nodes("default/edge"), []string{"edge-1", "edge-2"})
		w.expect("targets of the other", len(w.cloud.nodes("default/apps")), 5)
		calls := w.cloud.since()
		w.expect("updates", howMany(calls, "update targets default/edge"), 2)
		w.expect("updates of the other", howMany(calls, "update targets default/apps"), 1)
	})
}

// Nodes that come and go are no reason to try again what they have nothing to do
// with, and none to press a cloud that asks for patience.
func TestNodeChangesDoNotHurryFailures(t *testing.T) {
	cases := []struct {
		name   string
		answer error
		pool   string
		want   int64 // attempts after a join, for which it failed once before
	}{
		{"denied, another pool's node", &lb.Error{Kind: lb.Denied, Op: "create", Code: "AccessDenied"}, "apps", 1},
		{"denied, a node of its own", &lb.Error{Kind: lb.Denied, Op: "create", Code: "AccessDenied"}, "", 2},
		{"unavailable, another pool's node", &lb.Error{Kind: lb.Unavailable, Op: "create", RetryAfter: time.Hour}, "apps", 1},
		{"unavailable, a node of its own", &lb.Error{Kind: lb.Unavailable, Op: "create", RetryAfter: time.Hour}, "", 2},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(w *world) {
				attempts := refuseBalancers(w, func(int) error { return c.answer })
				edits := []func(*v1.Service){}
				if c.pool != "" {
					edits = append(edits, annotated("example.com/pool", c.pool))
				}
				w.create(service("web", edits...))
				w.expect("attempts", attempts.Load(), 1)
				w.addNode("edge-1", inPool("edge"))
				w.pass(time.Minute)
				w.expect("attempts after a join", attempts.Load(), c.want)
			}, func(w *world) { w.changeNode("node-1", inPool("apps")) })
		})
	}
}

func TestThrottledServiceIsNotHurriedByNodes(t *testing.T) {
	in(t, func(w *world) {
		attempts := refuseBalancers(w, func(n int) error {
			if n > 1 {
				return nil
			}
			return &lb.Error{Kind: lb.Throttled, Op: "create", RetryAfter: 5 * time.Minute}
		})
		w.create(service("web"))
		w.addNode("node-3")
		w.pass(4 * time.Minute)
		w.expect("attempts within the time the cloud asked for", attempts.Load(), 1)
		w.pass(2 * time.Minute)
		w.expect("attempts after it", attempts.Load(), 2)
		w.expect("targets", len(w.cloud.nodes("default/web")), 3)
	})
}

// A mistake of the user is told once, however many nodes come and go.
func TestNodeChangesDoNotRepeatAMistake(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web", annotated("example.com/scheme", "purple")))
		w.expect("condition", w.condition("web"), "False Invalid")
		w.quiet()
		for i := range 3 {
			w.addNode(fmt.Sprintf("new-%d", i))
			w.pass(10 * time.Second)
		}
		w.expect("events", w.events.reasons(), []string{})
		w.expect("writes", w.writes(), 0)
		w.expect("calls", w.cloud.since(), []string{})
		w.expect("lines: what changed about the nodes", w.lines(), 3)
	})
}

// 50 nodes join while 100 Services are served: each target set is updated once.
func TestBurstOfJoiningNodesIsOneUpdatePerService(t *testing.T) {
	in(t, func(w *world) {
		var all []*v1.Service
		for i := range 100 {
			all = append(all, service(fmt.Sprintf("web-%02d", i)))
		}
		w.createAll(all...)
		w.quiet()
		for i := range 50 {
			w.addNode(fmt.Sprintf("burst-%02d", i))
			w.pass(100 * time.Millisecond)
		}
		w.pass(time.Minute)
		calls := w.cloud.since()
		w.expect("target updates", howMany(calls, "update targets"), 100)
		w.expect("Services", touched(calls), 100)
		w.expect("targets", len(w.cloud.nodes("default/web-99")), 52)
	})
}

// Before all Nodes were listed, nothing is concluded from those that are known.
func TestNothingIsDoneWhileNodesAreUnknown(t *testing.T) {
	in(t, func(w *world) {
		w.createAll(service("web"), service("leaves"))
		w.stop()
		w.remove("leaves")
		w.quiet()
		w.nodesLater = true
		w.start()
		w.pass(time.Hour)
		w.expect("calls", w.cloud.since(), []string{})
		w.expect("writes", w.writes(), 0)
		w.expect("targets", w.cloud.nodes("default/web"), []string{"node-1", "node-2"})
		w.expect("what is to be deleted", w.cloud.has("load-balancer", "default/leaves"), true)
		w.listNodes()
		w.settle()
		w.expect("what is to be deleted, once they are known", w.cloud.has("load-balancer", "default/leaves"), false)
		w.expect("targets", w.cloud.nodes("default/web"), []string{"node-1", "node-2"})
	})
}

// The API server lists no Node any more, or none of a zone, while their machines
// run: the load balancer keeps them, and the Service says why.
func TestNodesThatVanishAreHeldWhileTheirMachinesRun(t *testing.T) {
	denied := &lb.Error{Kind: lb.Denied, Op: "read instances", Code: "UnauthorizedOperation"}
	all := []string{"a-1", "a-2", "b-1", "b-2", "b-3"}
	cases := []struct {
		name       string
		vanish     []string
		terminated []string
		blind      error
		left       []string
		condition  string
	}{
		{name: "the list is suddenly empty", vanish: all, left: all, condition: "False Held"},
		{name: "a zone is gone from the list", vanish: all[2:], left: all, condition: "False Held"},
		{name: "a zone is gone, and its machines too", vanish: all[2:], terminated: all[2:], left: all[:2], condition: "True Ready"},
		{name: "a smaller zone is gone from the list", vanish: all[:2], left: all[2:], condition: "True Ready"},
		{name: "all are gone, and one machine still runs", vanish: all, terminated: all[1:], left: all[:1], condition: "False Held"},
		{name: "all are gone, and their machines too", vanish: all, terminated: all, left: nil, condition: "False NoTargets"},
		{name: "the cloud may not be asked", vanish: all, terminated: all, blind: denied, left: all, condition: "False Held"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(w *world) {
				w.create(service("web"))
				w.expect("targets before", w.cloud.nodes("default/web"), all)
				w.cloud.set(func() {
					w.cloud.blind, w.cloud.terminated = c.blind, map[string]bool{}
					for _, name := range c.terminated {
						w.cloud.terminated[name] = true
					}
				})
				for _, name := range c.vanish {
					w.removeNode(name)
				}
				w.pass(time.Minute)
				w.expect("targets", w.cloud.nodes("default/web"), c.left)
				w.expect("condition", w.condition("web"), c.condition)
				if c.condition == "False Held" {
					w.expectHeld()
				}
				for _, name := range c.vanish { // the list is as it was
					w.addNode(name)
				}
				w.pass(10 * time.Second)
				w.expect("targets once they are back", w.cloud.nodes("default/web"), all)
				w.expect("condition once they are back", w.condition("web"), "True Ready")
			}, func(w *world) {
				w.removeNode("node-1")
				w.removeNode("node-2")
				for _, name := range all {
					w.addNode(name, inZone(name[:1]))
				}
			})
		})
	}
}

// howMany counts the calls that begin so.
func howMany(calls []string, prefix string) int {
	n := 0
	for _, c := range calls {
		if strings.HasPrefix(c, prefix) {
			n++
		}
	}
	return n
}

// Nodes come and go all day. Each time the targets follow at once, and the
// checkpoint when there is a pause, or every ten minutes; a restart after it
// looks at no Service.
func TestCheckpointsWaitForNodesToSettle(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.quiet()
		last := ""
		for i := range 90 { // half an hour
			w.addNode(fmt.Sprintf("new-%02d", i))
			w.pass(10 * time.Second)
			w.terminate(cmp.Or(last, "node-1"))
			w.pass(10 * time.Second)
			last = fmt.Sprintf("new-%02d", i)
		}
		w.expect("target updates", howMany(w.cloud.since(), "update targets"), 180)
		if n := w.writes(); n < 2 || n > 3 {
			t.Errorf("%d writes in half an hour, want one every ten minutes", n)
		}
		w.pass(noteIdle * 2)
		w.expect("writes after a pause", w.writes(), 1)
		w.stop()
		w.quiet()
		w.start()
		w.expect("calls after a restart", w.cloud.since(), []string{"survey"})
		w.expect("writes after a restart", w.writes(), 0)
	}, func(w *world) { w.cloud.surveyed = true; w.options.SweepEvery = -1 })
}

// The owner's next wish is written with its checkpoint at once.
func TestWishAfterANodeChangeIsNotedAtOnce(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.addNode("node-3")
		w.pass(5 * time.Second)
		before := w.get("web").Annotations[CheckpointAnnotation]
		w.change("web", func(s *v1.Service) { s.Spec.Ports[0].Port = 81 })
		after := w.get("web").Annotations[CheckpointAnnotation]
		w.expect("it is another", before != after && after != "", true)
		w.pass(time.Hour)
		w.expect("it stays", w.get("web").Annotations[CheckpointAnnotation], after)
	})
}

// expectHeld checks what is told of web while its targets are held, and what that
// costs in an hour.
func (w *world) expectHeld() {
	w.t.Helper()
	var told []string
	for _, e := range w.events.since() {
		if strings.Contains(e, "would go in one step") {
			told = append(told, e)
		}
	}
	if len(told) != 1 || !strings.Contains(told[0], "Look at why the cluster's Nodes") {
		w.t.Errorf("told %q, want once what is held and what to do", told)
	}
	w.expect("address", w.host("web"), "default-web.lb.example.com")
	w.quiet()
	w.pass(time.Hour)
	if n := howMany(w.cloud.since(), "look for"); n < 10 || n > 20 {
		w.t.Errorf("the cloud was asked for the machines %d times in an hour", n)
	}
	w.expect("writes while it is held", w.writes(), 0)
	w.expect("events while it is held", w.events.reasons(), []string{})
}
