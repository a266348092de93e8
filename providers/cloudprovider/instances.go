package cloudprovider

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/api"

	"github.com/fairway-lb/fairway/providers/lb"
)

// How the machines of nodes are looked for.
const (
	// sweepAge is how old a list may be that nodes are looked for in: the nodes of
	// one sweep share one, though it writes to each of them.
	sweepAge = 30 * time.Second
	// watchAge is that for the machines of nodes that are not ready, which the
	// framework asks for every five seconds.
	watchAge = 10 * time.Second
	// missAge is how old it may be when the node is not in it: a node that joins
	// waits no longer than that, and fifty that join together cost few lists.
	missAge = 2 * time.Second
	// instanceDeadline bounds one question of the framework, which sets no limit.
	instanceDeadline = time.Minute
)

// instances implements the framework's InstancesV2 on any provider that is an
// lb.Instances. Which machine a node runs on is decided here, the same for all
// clouds:
//
//   - by spec.providerID, and by nothing else once a node has one: an address may
//     be another machine's by now;
//   - else by its InternalIPs, else by its private DNS names, if exactly one machine
//     has them.
//
// A node of another cloud and a virtual one are left alone. A node is said to be
// gone only when the cloud says so of its machine's ID at that moment: a machine
// that is not listed, a cloud that does not answer or denies to, a node without a
// providerID and one that several machines could be are no reason.
type instances struct{ *Cloud }

// InstanceMetadata implements the framework's contract. What several machines
// could be is an error, an event and a condition on the Node.
func (i instances) InstanceMetadata(ctx context.Context, node *v1.Node) (*cloudprovider.InstanceMetadata, error) {
	ctx, cancel := context.WithTimeout(ctx, instanceDeadline)
	defer cancel()
	source, err := i.source(ctx)
	if err != nil {
		return nil, err
	}
	if foreign(source, node) {
		return leftAlone(node), nil
	}
	found, _, err := find(ctx, source, node, sweepAge)
	i.tellAmbiguity(ctx, node, err)
	if err != nil {
		return nil, err
	}
	if found.State == lb.InstanceTerminated {
		return nil, fmt.Errorf("instance %s of node %s is terminated: %w", found.ID, node.Name, cloudprovider.InstanceNotFound)
	}
	metadata := &cloudprovider.InstanceMetadata{ProviderID: found.ProviderID, InstanceType: found.Type, Zone: found.Zone, Region: found.Region}
	for _, a := range found.Addresses {
		metadata.NodeAddresses = append(metadata.NodeAddresses, v1.NodeAddress{Type: v1.NodeAddressType(a.Type), Address: a.Address})
	}
	return metadata, nil
}

// leftAlone is the metadata with which the framework does nothing to a node:
// none at all for one that it would initialise, none but empty ones for one whose
// addresses it would update, where it follows the pointer unseen
// (controllers/node/node_controller.go, updateNodeAddress).
func leftAlone(node *v1.Node) *cloudprovider.InstanceMetadata {
	if slices.ContainsFunc(node.Spec.Taints, func(t v1.Taint) bool { return t.Key == api.TaintExternalCloudProvider }) {
		return nil
	}
	return &cloudprovider.InstanceMetadata{}
}

// InstanceExists implements the framework's contract: it deletes the Node when
// this is false. The framework asks for nodes that are not ready only.
func (i instances) InstanceExists(ctx context.Context, node *v1.Node) (bool, error) {
	if i.paused.Load() {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, instanceDeadline)
	defer cancel()
	source, err := i.source(ctx)
	if err != nil {
		return true, err
	}
	id, ours := source.InstanceID(node.Spec.ProviderID)
	if !ours {
		return true, nil
	}
	found, listed, err := find(ctx, source, node, watchAge)
	if err == nil && listed && found.State == lb.InstanceTerminated {
		found, err = source.GetInstance(ctx, id)
	}
	if lb.KindOf(err) == lb.NotFound {
		return stillThere(ctx, source, err)
	}
	if err != nil {
		return true, err
	}
	return found.State != lb.InstanceTerminated, nil
}

// stillThere doubts that a machine is gone of which the cloud does not even
// remember that it was: in the wrong account, no machine exists. It is believed
// when that account has any other machine in the cluster's network.
func stillThere(ctx context.Context, source lb.Instances, notFound error) (bool, error) {
	all, err := source.ListInstances(ctx, watchAge)
	if err != nil {
		return true, err
	}
	if all.Len() == 0 {
		return true, &lb.Error{Kind: lb.Unavailable, Op: "confirm that an instance is gone", Err: notFound,
			Message: "no other instance is there either, so these may be another account's credentials; delete the Node by hand if it is really gone"}
	}
	return false, nil
}

// InstanceShutdown implements the framework's contract: it taints the Node.
func (i instances) InstanceShutdown(ctx context.Context, node *v1.Node) (bool, error) {
	if i.paused.Load() {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, instanceDeadline)
	defer cancel()
	source, err := i.source(ctx)
	if err != nil {
		return false, err
	}
	if _, ours := source.InstanceID(node.Spec.ProviderID); !ours {
		return false, nil
	}
	found, _, err := find(ctx, source, node, watchAge)
	return err == nil && found.State == lb.InstanceStopped, err
}

// source returns the provider's instances.
func (i instances) source(ctx context.Context) (lb.Instances, error) {
	s, err := i.session(ctx)
	if err != nil {
		return nil, err
	}
	source, ok := s.provider.(lb.Instances)
	if !ok {
		return nil, cloudprovider.NotImplemented
	}
	return source, nil
}

// foreign reports whether a node has a providerID that is none of this cloud's.
func foreign(source lb.Instances, node *v1.Node) bool {
	_, ours := source.InstanceID(node.Spec.ProviderID)
	return node.Spec.ProviderID != "" && !ours
}

// find returns the machine of a node that is not foreign, and whether that is from
// a list, of that age at most. What is not listed is listed again, and then looked for by its own ID if
// there is one: it may be in a network that is not listed.
func find(ctx context.Context, source lb.Instances, node *v1.Node, age time.Duration) (found lb.Instance, listed bool, err error) {
	id, hasID := source.InstanceID(node.Spec.ProviderID)
	for _, maxAge := range []time.Duration{age, missAge} {
		all, err := source.ListInstances(ctx, maxAge)
		if lb.KindOf(err) == lb.Pending && hasID {
			break // what to list is not known, but what to look for is
		}
		if err != nil {
			return lb.Instance{}, false, err
		}
		if hasID {
			if found, listed = all.Get(id); listed {
				return found, true, nil
			}
			continue
		}
		if fit := all.Match(internalIPs(node), privateNames(node)); len(fit) == 1 {
			return fit[0], true, nil
		} else if len(fit) > 1 {
			return lb.Instance{}, false, ambiguous(node, fit)
		}
	}
	if hasID {
		found, err = source.GetInstance(ctx, id)
		return found, false, err
	}
	return lb.Instance{}, false, fmt.Errorf("node %s: no instance has one of its addresses %v or names %v: %w",
		node.Name, internalIPs(node), privateNames(node), cloudprovider.InstanceNotFound)
}

func ambiguous(node *v1.Node, found []lb.Instance) error {
	ids := make([]string, len(found))
	for n, f := range found {
		ids[n] = f.ID
	}
	return &lb.Error{Kind: lb.Conflict, Op: "find the instance of node " + node.Name, Message: fmt.Sprintf(
		"instances %s all fit its addresses %v or names %v; start its kubelet with --provider-id to say which it is",
		strings.Join(ids, ", "), internalIPs(node), privateNames(node))}
}

func internalIPs(node *v1.Node) []netip.Addr {
	var ips []netip.Addr
	for _, a := range node.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == v1.NodeInternalIP {
			ips = append(ips, ip)
		}
	}
	return ips
}

func privateNames(node *v1.Node) []string {
	names := []string{node.Name}
	for _, a := range node.Status.Addresses {
		if (a.Type == v1.NodeInternalDNS || a.Type == v1.NodeHostName) && !slices.Contains(names, a.Address) {
			names = append(names, a.Address)
		}
	}
	return names
}
