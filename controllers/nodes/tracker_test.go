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
)

// cluster is an API server with Nodes and a tracker that follows them, all in
// virtual time.
type cluster struct {
	t       *testing.T
	client  *fake.Clientset
	tracker *Tracker

	mu   sync.Mutex
	list []told
}

type told struct {
	after  time.Duration // since the cluster was started
	change Change
}

func inCluster(t *testing.T, nodes []*v1.Node, test func(*cluster)) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t, client: fake.NewClientset()}
		for _, n := range nodes {
			c.add(n)
		}
		factory := informers.NewSharedInformerFactory(c.client, 0)
		start := time.Now()
		var err error
		c.tracker, err = NewTracker(factory.Core().V1().Nodes(), func(change Change) {
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
		ctx, stop := context.WithCancel(t.Context())
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

// told returns what the tracker has told its subscriber so far.
func (c *cluster) told() []told {
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
		if c.tracker.Snapshot().Generation != 2 {
			t.Errorf("generation %d", c.tracker.Snapshot().Generation)
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
		synctest.Wait()
		if got := c.targets(); !slices.Equal(got, []string{"a", "c"}) {
			t.Errorf("targets %v", got)
		}
		pass(time.Minute)
		if len(c.told()) != 1 || c.told()[0].after != 100*time.Millisecond || !c.told()[0].change.Urgent {
			t.Errorf("told %v", c.told())
		}
	})
}

func TestDrainIsPublishedAtOnce(t *testing.T) {
	inCluster(t, []*v1.Node{node("a"), node("b")}, func(c *cluster) {
		c.update(node("b", tainted(TaintAutoscalerDelete)))
		synctest.Wait()
		if len(c.told()) != 1 || !slices.Equal(c.told()[0].change.Drained, []string{"b"}) {
			t.Errorf("told %v", c.told())
		}
	})
}

func TestFirstTargetIsPublishedAtOnce(t *testing.T) {
	inCluster(t, []*v1.Node{node("a", deleting)}, func(c *cluster) {
		c.add(node("b"))
		synctest.Wait()
		if got := c.targets(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("targets %v", got)
		}
	})
}

func TestHeartbeatsAndJoinsUndoneChangeNothing(t *testing.T) {
	inCluster(t, []*v1.Node{node("a")}, func(c *cluster) {
		c.update(node("a", func(n *v1.Node) {
			n.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionFalse}}
		}))
		c.add(node("b"))
		synctest.Wait()
		c.remove("b")
		pass(time.Minute)
		if len(c.told()) > 0 || c.tracker.Snapshot().Generation != 1 {
			t.Errorf("told %v", c.told())
		}
	})
}
