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

func withTaint(key string) func(*v1.Node) {
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
	onAWS := Filter{ProviderIDPrefix: "aws://"}
	cases := []struct {
		name   string
		node   *v1.Node
		want   lb.TargetState
		reason Reason
	}{
		{"healthy", node("a"), lb.TargetActive, ""},
		{"without providerID", node("a", provided("")), lb.TargetGone, WithoutProviderID},
		{"not initialised", node("a", provided(""), withTaint("node.cloudprovider.kubernetes.io/uninitialized")), lb.TargetGone, Uninitialized},
		{"not initialised, by a kubelet that knows its providerID", node("a", withTaint("node.cloudprovider.kubernetes.io/uninitialized")), lb.TargetGone, Uninitialized},
		{"excluded with an empty value", node("a", labelled(exclude, "")), lb.TargetGone, ExcludedByLabel},
		{"excluded with true", node("a", labelled(exclude, "true")), lb.TargetGone, ExcludedByLabel},
		{"excluded with a word", node("a", labelled(exclude, "yes")), lb.TargetGone, ExcludedByLabel},
		{"exclude label false", node("a", labelled(exclude, "false")), lb.TargetActive, ""},
		{"exclude label 0", node("a", labelled(exclude, "0")), lb.TargetActive, ""},
		{"being deleted", node("a", deleting), lb.TargetDraining, Deleting},
		{"cluster autoscaler deletes it", node("a", withTaint("ToBeDeletedByClusterAutoscaler")), lb.TargetDraining, AutoscalerDeletes},
		{"cluster autoscaler might delete it", node("a", withTaint("DeletionCandidateOfClusterAutoscaler")), lb.TargetActive, ""},
		{"karpenter disrupts it", node("a", withTaint("karpenter.sh/disrupted")), lb.TargetDraining, KarpenterDisrupts},
		{"karpenter has not registered it yet", node("a", withTaint("karpenter.sh/unregistered")), lb.TargetActive, ""},
		{"out of service", node("a", withTaint("node.kubernetes.io/out-of-service")), lb.TargetGone, DeclaredOutOfService},
		{"out of service while draining", node("a", withTaint("karpenter.sh/disrupted"), withTaint("node.kubernetes.io/out-of-service")), lb.TargetGone, DeclaredOutOfService},
		{"a taint that says nothing about it", node("a", withTaint("dedicated")), lb.TargetActive, ""},
		{"shut down: the health check decides", node("a", withTaint("node.cloudprovider.kubernetes.io/shutdown")), lb.TargetActive, ""},
		{"not ready: the health check decides", node("a", func(n *v1.Node) {
			n.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionFalse}}
		}), lb.TargetActive, ""},
		{"unreachable: the health check decides", node("a", withTaint(v1.TaintNodeUnreachable)), lb.TargetActive, ""},
		{"cordoned: running Pods stay", node("a", func(n *v1.Node) { n.Spec.Unschedulable = true }), lb.TargetActive, ""},
		{"a control plane node", node("a", labelled("node-role.kubernetes.io/control-plane", ""), withTaint("node-role.kubernetes.io/control-plane")), lb.TargetActive, ""},
		{"of kind", node("a", provided("kind://docker/kind/kind-worker")), lb.TargetGone, Foreign},
		{"of k3s", node("a", provided("k3s://node")), lb.TargetGone, Foreign},
		{"a hybrid node of EKS", node("a", provided("eks-hybrid:///eu-west-1/demo/mi-0123"), labelled("eks.amazonaws.com/compute-type", "hybrid")), lb.TargetGone, Foreign},
		{"of another cloud", node("a", provided("azure:///subscriptions/x")), lb.TargetGone, Foreign},
		{"foreign and not initialised by anyone", node("a", provided("kind://a"), withTaint(TaintUninitialized)), lb.TargetGone, Foreign},
		{"of EKS Auto Mode", node("a", labelled("eks.amazonaws.com/compute-type", "auto")), lb.TargetActive, ""},
		{"a Pod on Fargate", node("a", provided("aws:///eu-west-1a/3f2c-4d/fargate-ip-10-0-0-11"), labelled("eks.amazonaws.com/compute-type", "fargate")), lb.TargetGone, Virtual},
		{"a virtual kubelet, by label", node("a", provided(""), labelled("type", "virtual-kubelet")), lb.TargetGone, Virtual},
		{"a virtual kubelet, by taint", node("a", withTaint("virtual-kubelet.io/provider")), lb.TargetGone, Virtual},
		{"a type of the owner's own", node("a", labelled("type", "worker")), lb.TargetActive, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, reason := onAWS.Judge(c.node)
			if got != c.want || reason != c.reason {
				t.Errorf("%s %q, want %s %q", got, reason, c.want, c.reason)
			}
		})
	}
	if got, _ := (Filter{}).Judge(node("a", provided("kind://a"))); got != lb.TargetActive {
		t.Errorf("without a prefix no node is foreign; got %s", got)
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
	if diff := cmp.Diff(want, Filter{}.TargetOf(n), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("target (-want +got):\n%s", diff)
	}
}

func TestTargetsAreSortedAndKeepDrainingNodes(t *testing.T) {
	got := Filter{}.Targets([]*v1.Node{node("c"), node("a", deleting), node("b", withTaint(v1.TaintNodeOutOfService))})
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
			if diff := cmp.Diff(c.want, between(Filter{}.Targets(c.before), Filter{}.Targets(c.after))); diff != "" {
				t.Errorf("change (-want +got):\n%s", diff)
			}
		})
	}
}

// TestUpdateIsNoticed has the cases of the stock controller's
// Test_shouldSyncUpdatedNode_individualPredicates and _compoundedPredicates, and
// those it does not notice. Where stock differs from noticed, the reason is given.
func TestUpdateIsNoticed(t *testing.T) {
	const exclude = v1.LabelNodeExcludeBalancers
	excluded, doomed, nameless := labelled(exclude, ""), withTaint(TaintAutoscalerDelete), provided("")
	ready := func(status v1.ConditionStatus) func(*v1.Node) {
		return func(n *v1.Node) { n.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: status}} }
	}
	addressed := func(addresses ...v1.NodeAddress) func(*v1.Node) {
		return func(n *v1.Node) { n.Status.Addresses = addresses }
	}
	internal := v1.NodeAddress{Type: v1.NodeInternalIP, Address: "10.0.0.11"}
	cases := []struct {
		name           string
		before, after  []func(*v1.Node)
		noticed, stock bool
		because        string // where they differ
	}{
		{name: "nothing"},
		{name: "excluded", after: edits(excluded), noticed: true, stock: true},
		{name: "no longer excluded", before: edits(excluded), noticed: true, stock: true},
		{name: "excluded still", before: edits(excluded), after: edits(excluded)},
		{name: "excluded with another word", before: edits(excluded), after: edits(labelled(exclude, "yes")), noticed: true, because: "a label is looked at as any other is"},
		{name: "a taint of others", after: edits(withTaint("other"))},
		{name: "a taint of others gone", before: edits(withTaint("other"))},
		{name: "a label", after: edits(labelled("other", "")), noticed: true, because: "a Service may select by it"},
		{name: "a label gone", before: edits(labelled("other", "")), noticed: true, because: "a Service may select by it"},
		{name: "zone", after: edits(labelled(v1.LabelTopologyZone, "eu-west-1b")), noticed: true, because: "a load balancer serves zones"},
		{name: "ready", before: edits(ready(v1.ConditionFalse)), after: edits(ready(v1.ConditionTrue))},
		{name: "not ready", before: edits(ready(v1.ConditionTrue)), after: edits(ready(v1.ConditionFalse))},
		{name: "readiness unknown", before: edits(ready(v1.ConditionFalse))},
		{name: "disk pressure", after: edits(func(n *v1.Node) {
			n.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeDiskPressure, Status: v1.ConditionTrue}}
		})},
		{name: "marked as deleted", after: edits(deleting), noticed: true, because: "it drains from now on, not from the next change of another node"},
		{name: "providerID set", before: edits(nameless), noticed: true, stock: true},
		{name: "providerID taken away", after: edits(nameless), noticed: true, stock: true},
		{name: "another providerID", after: edits(provided("aws:///eu-west-1a/i-2")), noticed: true, stock: true},
		{name: "the autoscaler's taint", after: edits(doomed), noticed: true, because: "it drains from now on"},
		{name: "the autoscaler's taint gone", before: edits(doomed), noticed: true, because: "it may be sent to again"},
		{name: "karpenter's taint", after: edits(withTaint(TaintKarpenterDisrupted)), noticed: true, because: "it drains from now on"},
		{name: "out of service", after: edits(withTaint(v1.TaintNodeOutOfService)), noticed: true, because: "it is shut down for good"},
		{name: "initialised", before: edits(withTaint(TaintUninitialized)), noticed: true, because: "it can be sent to now"},
		{name: "another InternalIP", after: edits(addressed(v1.NodeAddress{Type: v1.NodeInternalIP, Address: "10.0.0.99"})), noticed: true, because: "it is sent to by address in some clouds"},
		{name: "a second InternalIP", after: edits(addressed(internal, v1.NodeAddress{Type: v1.NodeInternalIP, Address: "2001:db8::1"})), noticed: true, because: "another family"},
		{name: "an ExternalIP", after: edits(addressed(internal, v1.NodeAddress{Type: v1.NodeExternalIP, Address: "203.0.113.1"}))},
		{name: "a host name", after: edits(addressed(v1.NodeAddress{Type: v1.NodeHostName, Address: "a"}, internal))},
		{name: "cordoned", after: edits(func(n *v1.Node) { n.Spec.Unschedulable = true })},

		{name: "doomed, and excluded", before: edits(doomed), after: edits(doomed, excluded), noticed: true, stock: true},
		{name: "doomed, and no longer excluded", before: edits(doomed, excluded), after: edits(doomed), noticed: true, stock: true},
		{name: "doomed, providerID set", before: edits(doomed, nameless), after: edits(doomed), noticed: true, stock: true},
		{name: "doomed, providerID taken away", before: edits(doomed), after: edits(doomed, nameless), noticed: true, stock: true},
		{name: "doomed, another providerID", before: edits(doomed), after: edits(doomed, provided("aws:///x/i-2")), noticed: true, stock: true},
		{name: "doomed, ready", before: edits(doomed, ready(v1.ConditionFalse)), after: edits(doomed, ready(v1.ConditionTrue))},
		{name: "doomed, not ready", before: edits(doomed, ready(v1.ConditionTrue)), after: edits(doomed, ready(v1.ConditionFalse))},
		{name: "excluded, and doomed", before: edits(excluded), after: edits(excluded, doomed)},
		{name: "excluded, and no longer doomed", before: edits(excluded, doomed), after: edits(excluded)},
		{name: "excluded, ready", before: edits(excluded, ready(v1.ConditionFalse)), after: edits(excluded, ready(v1.ConditionTrue))},
		{name: "excluded, providerID set", before: edits(excluded, nameless), after: edits(excluded), noticed: true, stock: true},
		{name: "excluded, another providerID", before: edits(excluded), after: edits(excluded, provided("aws:///x/i-2")), noticed: true, stock: true},
		{name: "not ready, and excluded", before: edits(ready(v1.ConditionFalse)), after: edits(ready(v1.ConditionFalse), excluded), noticed: true, stock: true},
		{name: "not ready, and doomed", before: edits(ready(v1.ConditionFalse)), after: edits(ready(v1.ConditionFalse), doomed), noticed: true, because: "it drains from now on"},
		{name: "without providerID, and excluded", before: edits(nameless), after: edits(nameless, excluded), noticed: true, stock: true},
		{name: "without providerID, ready", before: edits(nameless, ready(v1.ConditionFalse)), after: edits(nameless, ready(v1.ConditionTrue))},
		{name: "without providerID, and doomed", before: edits(nameless), after: edits(nameless, doomed)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := !(Filter{}).unchanged(node("a", c.before...), node("a", c.after...)); got != c.noticed {
				t.Errorf("noticed %v, want %v", got, c.noticed)
			}
			if (c.noticed != c.stock) != (c.because != "") {
				t.Errorf("the stock controller's answer is %v, because: %q", c.stock, c.because)
			}
		})
	}
}

func edits(all ...func(*v1.Node)) []func(*v1.Node) { return all }

func provided(id string) func(*v1.Node) { return func(n *v1.Node) { n.Spec.ProviderID = id } }
