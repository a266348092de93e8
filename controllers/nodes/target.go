package nodes

import (
	"maps"
	"net/netip"
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/fairway-lb/fairway/providers/lb"
)

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

// unchanged reports whether an update of a node leaves all alone that its target
// and the reason for its state are made from. Nearly all updates are a kubelet's
// heartbeat, so it allocates nothing for those.
func (f Filter) unchanged(old, now *v1.Node) bool {
	if old.Spec.ProviderID != now.Spec.ProviderID || !maps.Equal(old.Labels, now.Labels) {
		return false
	}
	state, reason := f.Judge(old)
	stateNow, reasonNow := f.Judge(now)
	return state == stateNow && reason == reasonNow &&
		(slices.Equal(old.Status.Addresses, now.Status.Addresses) || slices.Equal(internalIPs(old), internalIPs(now)))
}

func sameTarget(a, b lb.Target) bool {
	return a.Node == b.Node && a.Zone == b.Zone && a.State == b.State &&
		sameMachine(a, b) && maps.Equal(a.Labels, b.Labels)
}

func sameMachine(a, b lb.Target) bool {
	return a.ProviderID == b.ProviderID && slices.Equal(a.Addresses, b.Addresses)
}

// anyActive reports whether any target takes new connections.
func anyActive(targets []lb.Target) bool {
	return slices.ContainsFunc(targets, func(t lb.Target) bool { return t.State == lb.TargetActive })
}
