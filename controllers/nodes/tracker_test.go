package nodes

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"
)

// cluster is an API server with Nodes and a tracker that follows them, all in
// virtual time.
type cluster struct {
	t       *testing.T
	client  *fake.Clientset
	tracker *Tracker
	log     ktesting.Buffer

	mu   sync.Mutex
	list []told
}

type told struct {
	after  time.Duration // since the cluster was started
	change Change
}

func inCluster(t *testing.T, nodes []*v1.Node, test func(*cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t, client: fake.NewSimpleClientset()}
		for _, n := range nodes {
			c.add(n)
		}
		factory := informers.NewSharedInformerFactory(c.client, 0)
		start := time.Now()
		var err error
		c.tracker, err = NewTracker(factory.Core().V1().Nodes(), Filter{}, func(change Change) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.list = append(c.list, told{time.Since(start), change})
		})
		if err != nil {
			t.Fatal(err)
		}
		if c.tracker.Snapshot() != nil {
			t.Error("a snapshot before the Nodes were listed")
		}
		log := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true)))
		c.log = log.GetSink().(ktesting.Underlier).GetBuffer()
		ctx, stop := context.WithCancel(klog.NewContext(t.Context(), log))
		done := make(chan struct{})
		go func() { defer close(done); c.tracker.Run(ctx) }()
		factory.Start(ctx.Done())
		// The informer's poll for its first list runs in steps of 100 ms.
		pass(time.Second)
		c.mu.Lock()
		start = time.Now()
		c.mu.Unlock()
		test(c)
		stop()
		<-done
		factory.Shutdown()
	})
}

// pass lets virtual time go by and everything come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (c *cluster) add(n *v1.Node) {
	c.t.Helper()
	if _, err := c.client.CoreV1().Nodes().Create(c.t.Context(), n, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) update(n *v1.Node) {
	c.t.Helper()
	if _, err := c.client.CoreV1().Nodes().Update(c.t.Context(), n, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) remove(name string) {
	c.t.Helper()
	if err := c.client.CoreV1().Nodes().Delete(c.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// told returns what the tracker has told all subscribers so far.
func (c *cluster) told() []told {
	return slices.DeleteFunc(c.all(), func(t told) bool { return t.change.Waits })
}

// all returns in addition what it has told those who cannot wait.
func (c *cluster) all() []told {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.list)
}

func (c *cluster) targets() []string {
	var names []string
	for _, t := range c.tracker.Snapshot().Targets {
		names = append(names, t.Node)
	}
	return names
}

func TestFirstListIsPublishedWithoutDelay(t *testing.T) {
	inCluster(t, []*v1.Node{node("a"), node("b")}, func(c *cluster) {
		if s := c.tracker.Snapshot(); s == nil || s.Generation != 1 || len(s.Targets) != 2 {
			t.Errorf("snapshot %+v", s)
		}
		if len(c.told()) > 0 {
			t.Errorf("the first snapshot is no change: %v", c.told())
		}
	})
}

func TestJoinsWithinASecondAreOneChange(t *testing.T) {
	inCluster(t, []*v1.Node{node("a")}, func(c *cluster) {
		for i := range 5 {
			c.add(node(fmt.Sprintf("new-%d", i)))
			pass(500 * time.Millisecond)
		}
		if len(c.told()) > 0 {
			t.Errorf("told too early: %v", c.told())
		}
		pass(time.Minute)
		if len(c.told()) != 1 || len(c.told()[0].change.Added) != 5 || c.told()[0].after != 3*time.Second {
			t.Errorf("want one change of five nodes, 1 s after the last of them at 2 s; got %v", c.told())
		}
		if s := c.tracker.Snapshot(); s != c.tracker.Latest() || len(s.Targets) != 6 {
			t.Errorf("snapshot %+v", s)
		}
	})
}

func TestSteadyJoinsArePublishedEveryTenSeconds(t *testing.T) {
	inCluster(t, []*v1.Node{node("a")}, func(c *cluster) {
		for i := range 50 {
			c.add(node(fmt.Sprintf("new-%02d", i)))
			pass(500 * time.Millisecond)
		}
		pass(time.Minute)
		if len(c.told()) != 3 || c.told()[0].after != 10*time.Second {
			t.Errorf("50 nodes in 25 s: want three changes, the first after 10 s; got %v", c.told())
		}
		if got := len(c.targets()); got != 51 {
			t.Errorf("%d targets", got)
		}
	})
}

func TestRemovalIsPublishedAtOnceAndTakesWaitingJoinsAlong(t *testing.T) {
	inCluster(t, []*v1.Node{node("a"), node("b")}, func(c *cluster) {
		c.add(node("c"))
		pass(100 * time.Millisecond)
		c.remove("b")
		pass(together)
		if got := c.targets(); !slices.Equal(got, []string{"a", "c"}) {
			t.Errorf("targets %v", got)
		}
		pass(time.Minute)
		if len(c.told()) != 1 || c.told()[0].after != 200*time.Millisecond || !c.told()[0].change.Urgent {
			t.Errorf("told %v", c.told())
		}
	})
}

func TestDrainIsPublishedAtOnce(t *testing.T) {
	inCluster(t, []*v1.Node{node("a"), node("b")}, func(c *cluster) {
		c.update(node("b", withTaint(TaintAutoscalerDelete)))
		pass(together)
		if len(c.told()) != 1 || !slices.Equal(c.told()[0].change.Drained, []string{"b"}) {
			t.Errorf("told %v", c.told())
		}
	})
}

func TestFirstTargetIsPublishedAtOnce(t *testing.T) {
	inCluster(t, []*v1.Node{node("a", deleting)}, func(c *cluster) {
		c.add(node("b"))
		pass(together)
		if got := c.targets(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("targets %v", got)
		}
	})
}

// A list that has come out short, or empty, is one change.
func TestManyRemovalsAreOneChange(t *testing.T) {
	var all []*v1.Node
	for i := range 90 { // a watch of the fake client buffers 100 events
		all = append(all, node(fmt.Sprintf("node-%02d", i)))
	}
	inCluster(t, all, func(c *cluster) {
		for _, n := range all {
			c.remove(n.Name)
		}
		pass(time.Minute)
		if told := c.told(); len(told) != 1 || len(told[0].change.Removed) != 90 || told[0].after != together {
			t.Errorf("told %v", told)
		}
	})
}

// Who has no target at all need not wait: the first is there at once.
func TestWaitingJoinsAreInTheLatestSnapshot(t *testing.T) {
	inCluster(t, []*v1.Node{node("a")}, func(c *cluster) {
		c.add(node("b"))
		synctest.Wait()
		if s, l := c.tracker.Snapshot(), c.tracker.Latest(); len(s.Targets) != 1 || len(l.Targets) != 2 || l.Generation <= s.Generation {
			t.Errorf("snapshot %+v, latest %+v", s, l)
		}
		if all := c.all(); len(all) != 1 || !all[0].change.Waits || !slices.Equal(all[0].change.Added, []string{"b"}) {
			t.Errorf("told %v", all)
		}
	})
}

// What was only in Latest may be in use: its end is told like any other.
func TestJoinUndoneIsToldAtOnce(t *testing.T) {
	inCluster(t, []*v1.Node{node("a")}, func(c *cluster) {
		c.add(node("b"))
		c.add(node("c"))
		synctest.Wait()
		c.remove("b")
		c.remove("c")
		pass(time.Minute)
		told := c.told()
		if len(told) != 1 || told[0].after != together || !told[0].change.Empty() {
			t.Errorf("told %v", told)
		}
		if got := c.targets(); !slices.Equal(got, []string{"a"}) || c.tracker.Snapshot() != c.tracker.Latest() {
			t.Errorf("targets %v", got)
		}
	})
}

// 300 nodes report every 10 s: nothing is made of that.
func TestHeartbeatsMakeNoSnapshot(t *testing.T) {
	var all []*v1.Node
	for i := range 300 {
		all = append(all, node(fmt.Sprintf("node-%03d", i)))
	}
	inCluster(t, all, func(c *cluster) {
		before := c.tracker.Latest()
		for beat := range 2 {
			for _, n := range all {
				c.update(beating(n, beat))
				synctest.Wait() // a watch of the fake client buffers 100 events
			}
			pass(10 * time.Second)
		}
		if c.tracker.Latest() != before || c.tracker.Snapshot() != before || len(c.all()) > 0 {
			t.Errorf("generation %d, told %v", c.tracker.Latest().Generation, c.all())
		}
	})
}

// beating returns n with all that a kubelet, the scheduler and others change of a
// node all day long.
func beating(n *v1.Node, beat int) *v1.Node {
	n = n.DeepCopy()
	n.ResourceVersion = fmt.Sprint(beat + 2)
	n.Annotations = map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": fmt.Sprint(beat)}
	n.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue, LastHeartbeatTime: metav1.Now()}}
	if beat%2 == 1 {
		n.Status.Conditions[0].Status = v1.ConditionFalse
		n.Spec.Unschedulable = true
		n.Spec.Taints = []v1.Taint{{Key: v1.TaintNodeNotReady}, {Key: v1.TaintNodeUnschedulable}}
	}
	n.Status.Addresses = append(n.Status.Addresses, v1.NodeAddress{Type: v1.NodeExternalIP, Address: fmt.Sprintf("203.0.113.%d", beat)})
	n.Status.Images = []v1.ContainerImage{{Names: []string{"example.com/app"}, SizeBytes: int64(beat)}}
	n.Status.VolumesInUse = []v1.UniqueVolumeName{v1.UniqueVolumeName(fmt.Sprint(beat))}
	return n
}

func TestHeartbeatAllocatesNothing(t *testing.T) {
	old := node("a", withTaint("dedicated"))
	now := old.DeepCopy()
	now.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, LastHeartbeatTime: metav1.Now()}}
	tracker := &Tracker{dirty: make(chan struct{}, 1)}
	var before, after any = old, now
	if n := testing.AllocsPerRun(100, func() { tracker.onUpdate(before, after) }); n > 0 || len(tracker.dirty) > 0 {
		t.Errorf("%v allocations for a heartbeat, %d looks", n, len(tracker.dirty))
	}
}
