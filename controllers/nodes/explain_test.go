package nodes

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-base/metrics/testutil"

	"github.com/fairway-lb/fairway/providers/lb"
)

func TestNodesThatAreNoTargetsAreExplainedOnce(t *testing.T) {
	inCluster(t, []*v1.Node{
		node("a"), node("b", deleting),
		node("f1", provided("aws:///x/fargate-1"), labelled(labelComputeType, "fargate")),
		node("f2", provided("aws:///x/fargate-2"), labelled(labelComputeType, "fargate")),
	}, func(c *cluster) {
		lines := func() []string {
			var list []string
			for line := range strings.Lines(c.log.String()) {
				if strings.Contains(line, "Nodes are no load balancer targets") {
					list = append(list, line)
				}
			}
			return list
		}
		count := func(state lb.TargetState, reason Reason) int {
			t.Helper()
			n, err := testutil.GetGaugeMetricValue(known.WithLabelValues(string(state), string(reason)))
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		if l := lines(); len(l) != 1 || !strings.Contains(l[0], `reason="virtual" count=2 nodes=["f1","f2"]`) {
			t.Errorf("logged %q", l)
		}
		if active, draining, gone := count(lb.TargetActive, ""), count(lb.TargetDraining, Deleting), count(lb.TargetGone, Virtual); active != 1 || draining != 1 || gone != 2 {
			t.Errorf("%d active, %d draining, %d virtual; want 1, 1, 2", active, draining, gone)
		}
		// Whatever else happens, it is not said again; another reason is.
		c.add(node("new"))
		pass(time.Minute)
		c.update(node("a", labelled(v1.LabelNodeExcludeBalancers, "")))
		synctest.Wait()
		if l := lines(); len(l) != 2 || !strings.Contains(l[1], `reason="excluded-by-label" count=1 nodes=["a"]`) {
			t.Errorf("logged %q", l)
		}
		if active, excluded := count(lb.TargetActive, ""), count(lb.TargetGone, ExcludedByLabel); active != 1 || excluded != 1 {
			t.Errorf("%d active, %d excluded", active, excluded)
		}
		// A change of the reason alone is no change of the targets.
		generation := c.tracker.Latest().Generation
		c.update(node("a", withTaint(v1.TaintNodeOutOfService)))
		synctest.Wait()
		if count(lb.TargetGone, ExcludedByLabel) != 0 || count(lb.TargetGone, DeclaredOutOfService) != 1 || c.tracker.Latest().Generation != generation {
			t.Errorf("the metric still shows the old reason, or there is a new snapshot")
		}
	})
}
