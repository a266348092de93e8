package nodes

import (
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/fairway-lb/fairway/providers/lb"
)

// Taints by which others announce that a node is about to go, or is none yet.
const (
	// TaintAutoscalerDelete is set by the Cluster Autoscaler on a node it is
	// about to delete (autoscaler: cluster-autoscaler/utils/taints).
	TaintAutoscalerDelete = "ToBeDeletedByClusterAutoscaler"
	// TaintKarpenterDisrupted is set by Karpenter v1 on a node it drains
	// (karpenter: pkg/apis/v1/taints.go).
	TaintKarpenterDisrupted = "karpenter.sh/disrupted"
	// TaintUninitialized is set by the kubelet until a cloud controller has
	// seen the node (k8s.io/cloud-provider/api).
	TaintUninitialized = "node.cloudprovider.kubernetes.io/uninitialized"
	// TaintVirtualKubelet is set by Virtual Kubelet on its nodes, which are no
	// machines (virtual-kubelet: cmd/virtual-kubelet/internal/commands/root).
	TaintVirtualKubelet = "virtual-kubelet.io/provider"
)

// Labels of nodes that are no machines a load balancer could send to.
const (
	labelVirtualKubelet = "type" // of value virtual-kubelet
	// labelComputeType is fargate on a node that is a single Pod
	// (https://docs.aws.amazon.com/eks/latest/userguide/fargate.html).
	labelComputeType = "eks.amazonaws.com/compute-type"
)

// Reason says in a word why a node is draining or no target.
type Reason string

// The reasons. An active target has none.
const (
	Deleting             Reason = "deleting"
	AutoscalerDeletes    Reason = "autoscaler-deletes"
	KarpenterDisrupts    Reason = "karpenter-disrupts"
	WithoutProviderID    Reason = "without-provider-id"
	Uninitialized        Reason = "uninitialized"
	Foreign              Reason = "foreign"
	Virtual              Reason = "virtual"
	ExcludedByLabel      Reason = "excluded-by-label"
	DeclaredOutOfService Reason = "out-of-service"
)

// Filter decides which Nodes can be targets. The zero value is usable.
type Filter struct {
	// ProviderIDPrefix is what the spec.providerID of each of the cloud's own
	// machines begins with, such as "aws://". A node with another providerID
	// belongs to another cloud, or to none, and is no target. Empty: no node is
	// foreign.
	ProviderIDPrefix string
}

// Targets returns the nodes that are load balancer targets, in order of their
// name, active and draining ones. Nodes that are gone or can be no target are
// left out: a load balancer forgets what is not listed.
func (f Filter) Targets(nodes []*v1.Node) []lb.Target {
	var targets []lb.Target
	for _, n := range nodes {
		if t := f.TargetOf(n); t.State != lb.TargetGone {
			targets = append(targets, t)
		}
	}
	slices.SortFunc(targets, func(a, b lb.Target) int { return strings.Compare(a.Node, b.Node) })
	return targets
}

// TargetOf returns a node as a load balancer sees it; its state is lb.TargetGone
// when it is no target. It shares the node's label map.
func (f Filter) TargetOf(n *v1.Node) lb.Target {
	state, _ := f.Judge(n)
	return lb.Target{
		Node:       n.Name,
		ProviderID: n.Spec.ProviderID,
		Addresses:  internalIPs(n),
		Zone:       n.Labels[v1.LabelTopologyZone],
		Labels:     n.Labels,
		State:      state,
	}
}

// Judge returns what a load balancer shall do with a node, and why if that is
// not to send traffic to it. What lasts is named before what passes: a virtual
// node is never initialised.
func (f Filter) Judge(n *v1.Node) (lb.TargetState, Reason) {
	switch {
	case virtual(n):
		return lb.TargetGone, Virtual
	case n.Spec.ProviderID != "" && !strings.HasPrefix(n.Spec.ProviderID, f.ProviderIDPrefix):
		return lb.TargetGone, Foreign
	case Excluded(n):
		return lb.TargetGone, ExcludedByLabel
	case tainted(n, v1.TaintNodeOutOfService):
		return lb.TargetGone, DeclaredOutOfService
	case tainted(n, TaintUninitialized):
		return lb.TargetGone, Uninitialized
	case n.Spec.ProviderID == "":
		return lb.TargetGone, WithoutProviderID
	case n.DeletionTimestamp != nil: // a finalizer holds it while its Pods are moved away
		return lb.TargetDraining, Deleting
	case tainted(n, TaintAutoscalerDelete):
		return lb.TargetDraining, AutoscalerDeletes
	case tainted(n, TaintKarpenterDisrupted):
		return lb.TargetDraining, KarpenterDisrupts
	}
	return lb.TargetActive, ""
}

func tainted(n *v1.Node, key string) bool {
	for i := range n.Spec.Taints {
		if n.Spec.Taints[i].Key == key {
			return true
		}
	}
	return false
}

func virtual(n *v1.Node) bool {
	return n.Labels[labelVirtualKubelet] == "virtual-kubelet" || tainted(n, TaintVirtualKubelet) || n.Labels[labelComputeType] == "fargate"
}

// Excluded reports whether the node's owner keeps it out of load balancers with
// the label node.kubernetes.io/exclude-from-external-load-balancers. As in the
// stock controller, a value that reads as false does not exclude; any other
// value, the empty one included, does.
func Excluded(n *v1.Node) bool {
	value, labelled := n.Labels[v1.LabelNodeExcludeBalancers]
	if !labelled {
		return false
	}
	excluded, err := strconv.ParseBool(value)
	return err != nil || excluded
}
