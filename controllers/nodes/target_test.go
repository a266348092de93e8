package nodes

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairway-lb/fairway/providers/lb"
)

// node returns a healthy node that is a target.
func node(name string, edits ...func(*v1.Node)) *v1.Node {
	n := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelTopologyZone: "eu-west-1a"}},
		Spec:       v1.NodeSpec{ProviderID: "aws:///eu-west-1a/i-" + name},
		Status:     v1.NodeStatus{Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "10.0.0.11"}}},
	}
	for _, edit := range edits {
		edit(n)
	}
	return n
}

func labelled(key, value string) func(*v1.Node) {
	return func(n *v1.Node) { n.Labels[key] = value }
}

func tainted(key string) func(*v1.Node) {
	return func(n *v1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, v1.Taint{Key: key, Effect: v1.TaintEffectNoSchedule})
	}
}

func deleting(n *v1.Node) {
	now := metav1.Now()
	n.DeletionTimestamp = &now
}

func TestTargetState(t *testing.T) {
	const exclude = v1.LabelNodeExcludeBalancers
	cases := []struct {
		name string
		node *v1.Node
		want lb.TargetState
	}{
		{"healthy", node("a"), lb.TargetActive},
		{"without providerID", node("a", func(n *v1.Node) { n.Spec.ProviderID = "" }), lb.TargetGone},
		{"not initialised", node("a", tainted("node.cloudprovider.kubernetes.io/uninitialized")), lb.TargetGone},
		{"excluded with an empty value", node("a", labelled(exclude, "")), lb.TargetGone},
		{"excluded with true", node("a", labelled(exclude, "true")), lb.TargetGone},
		{"excluded with a word", node("a", labelled(exclude, "yes")), lb.TargetGone},
		{"exclude label false", node("a", labelled(exclude, "false")), lb.TargetActive},
		{"exclude label 0", node("a", labelled(exclude, "0")), lb.TargetActive},
		{"being deleted", node("a", deleting), lb.TargetDraining},
		{"cluster autoscaler deletes it", node("a", tainted("ToBeDeletedByClusterAutoscaler")), lb.TargetDraining},
		{"karpenter disrupts it", node("a", tainted("karpenter.sh/disrupted")), lb.TargetDraining},
		{"out of service", node("a", tainted("node.kubernetes.io/out-of-service")), lb.TargetGone},
		{"out of service while draining", node("a", tainted("karpenter.sh/disrupted"), tainted("node.kubernetes.io/out-of-service")), lb.TargetGone},
		{"a taint that says nothing about it", node("a", tainted("dedicated")), lb.TargetActive},
		{"not ready: the health check decides", node("a", func(n *v1.Node) {
			n.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionFalse}}
		}), lb.TargetActive},
		{"cordoned: running Pods stay", node("a", func(n *v1.Node) { n.Spec.Unschedulable = true }), lb.TargetActive},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := TargetOf(c.node).State; got != c.want {
				t.Errorf("state %q, want %q", got, c.want)
			}
		})
	}
}

func TestTargetFields(t *testing.T) {
	n := node("node-1", func(n *v1.Node) {
		n.Status.Addresses = []v1.NodeAddress{
			{Type: v1.NodeHostName, Address: "node-1"},
			{Type: v1.NodeExternalIP, Address: "203.0.113.9"},
			{Type: v1.NodeInternalIP, Address: "10.0.0.11"},
			{Type: v1.NodeInternalIP, Address: "2001:db8::1"},
			{Type: v1.NodeInternalIP, Address: "10.0.0.11"},
			{Type: v1.NodeInternalIP, Address: "not an address"},
		}
	})
	want := lb.Target{
		Node:       "node-1",
		ProviderID: "aws:///eu-west-1a/i-node-1",
		Addresses:  []netip.Addr{netip.MustParseAddr("10.0.0.11"), netip.MustParseAddr("2001:db8::1")},
		Zone:       "eu-west-1a",
		Labels:     map[string]string{v1.LabelTopologyZone: "eu-west-1a"},
		State:      lb.TargetActive,
	}
	if diff := cmp.Diff(want, TargetOf(n), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("target (-want +got):\n%s", diff)
	}
}

func TestTargetsAreSortedAndKeepDrainingNodes(t *testing.T) {
	got := Targets([]*v1.Node{node("c"), node("a", deleting), node("b", tainted(v1.TaintNodeOutOfService))})
	if len(got) != 2 || got[0].Node != "a" || got[0].State != lb.TargetDraining || got[1].Node != "c" {
		t.Errorf("got %+v", got)
	}
}

func TestChange(t *testing.T) {
	moved := func(n *v1.Node) { n.Status.Addresses[0].Address = "10.0.0.99" }
	cases := []struct {
		name          string
		before, after []*v1.Node
		want          Change
	}{
		{"nothing", []*v1.Node{node("a")}, []*v1.Node{node("a")}, Change{}},
		{"a join waits", []*v1.Node{node("a")}, []*v1.Node{node("a"), node("b")}, Change{Added: []string{"b"}}},
		{"a removal is urgent", []*v1.Node{node("a"), node("b")}, []*v1.Node{node("a")}, Change{Removed: []string{"b"}, Urgent: true}},
		{"a drain is urgent", []*v1.Node{node("a")}, []*v1.Node{node("a", deleting)}, Change{Drained: []string{"a"}, Urgent: true}},
		{"an exclusion is a removal", []*v1.Node{node("a")}, []*v1.Node{node("a", labelled(v1.LabelNodeExcludeBalancers, ""))},
			Change{Removed: []string{"a"}, Urgent: true}},
		{"the end of a drain waits", []*v1.Node{node("a", deleting)}, []*v1.Node{node("a")}, Change{Changed: []string{"a"}}},
		{"another address is urgent", []*v1.Node{node("a")}, []*v1.Node{node("a", moved)}, Change{Changed: []string{"a"}, Urgent: true}},
		{"another machine is urgent", []*v1.Node{node("a")}, []*v1.Node{node("a", func(n *v1.Node) { n.Spec.ProviderID = "aws:///eu-west-1a/i-2" })},
			Change{Changed: []string{"a"}, Urgent: true}},
		{"another zone waits", []*v1.Node{node("a")}, []*v1.Node{node("a", labelled(v1.LabelTopologyZone, "eu-west-1b"))}, Change{Changed: []string{"a"}}},
		{"another label waits", []*v1.Node{node("a")}, []*v1.Node{node("a", labelled("pool", "edge"))}, Change{Changed: []string{"a"}}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, between(Targets(c.before), Targets(c.after))); diff != "" {
				t.Errorf("change (-want +got):\n%s", diff)
			}
		})
	}
}
