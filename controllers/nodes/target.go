package nodes

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/fairway-lb/fairway/providers/lb"
)

// Taints by which others announce that a node is about to go, or is gone.
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
)

// Targets returns the nodes that are load balancer targets, in order of their
// name, active and draining ones. Nodes that are gone or can be no target are
// left out: a load balancer forgets what is not listed.
func Targets(nodes []*v1.Node) []lb.Target {
	var targets []lb.Target
	for _, n := range nodes {
		if t := TargetOf(n); t.State != lb.TargetGone {
			targets = append(targets, t)
		}
	}
	slices.SortFunc(targets, func(a, b lb.Target) int { return strings.Compare(a.Node, b.Node) })
	return targets
}

// TargetOf returns a node as a load balancer sees it. The target's state is
// lb.TargetGone when the node is no target: it has no providerID yet, is not
// initialised, is excluded by its owner or was declared out of service. It
// shares the node's label map.
func TargetOf(n *v1.Node) lb.Target {
	return lb.Target{
		Node:       n.Name,
		ProviderID: n.Spec.ProviderID,
		Addresses:  internalIPs(n),
		Zone:       n.Labels[v1.LabelTopologyZone],
		Labels:     n.Labels,
		State:      stateOf(n),
	}
}

func stateOf(n *v1.Node) lb.TargetState {
	if n.Spec.ProviderID == "" || Excluded(n) {
		return lb.TargetGone
	}
	state := lb.TargetActive
	if n.DeletionTimestamp != nil {
		// A finalizer holds the node while its Pods are moved away.
		state = lb.TargetDraining
	}
	for _, t := range n.Spec.Taints {
		switch t.Key {
		case TaintUninitialized, v1.TaintNodeOutOfService:
			return lb.TargetGone
		case TaintAutoscalerDelete, TaintKarpenterDisrupted:
			state = lb.TargetDraining
		}
	}
	return state
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

// internalIPs returns the node's InternalIP addresses in the order the node
// lists them, which puts the primary family first. What is not an IP is left
// out.
func internalIPs(n *v1.Node) []netip.Addr {
	var ips []netip.Addr
	for _, a := range n.Status.Addresses {
		if a.Type != v1.NodeInternalIP {
			continue
		}
		if ip, err := netip.ParseAddr(a.Address); err == nil && !slices.Contains(ips, ip.Unmap()) {
			ips = append(ips, ip.Unmap())
		}
	}
	return ips
}
