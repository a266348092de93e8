package lb

import (
	"context"
	"net/netip"
	"strings"
	"time"
)

// Instances is implemented by a Provider that knows the machines which a
// cluster's nodes run on. It tells what is there; which node a machine is, and
// what follows from it, is decided for all clouds in one place.
type Instances interface {
	// InstanceID returns the ID, in the form of Instance.ID, of the machine that
	// a node's spec.providerID names. It is false for what can be no machine of
	// this account and region: another cloud's, a virtual node, a wrong form.
	InstanceID(providerID string) (id string, ok bool)

	// ListInstances returns the machines that may be nodes of the cluster, as
	// they were less than maxAge ago; calls that come together share one
	// look at the cloud. A partial answer is an error, and so is a network of
	// which it is not known yet whether it is the cluster's (Pending). What is
	// terminated may be left out.
	ListInstances(ctx context.Context, maxAge time.Duration) (*Inventory, error)

	// GetInstance looks for one machine by its own ID, in the cloud and not in
	// what was listed before. The error is NotFound only if the cloud says that
	// there is no such machine.
	GetInstance(ctx context.Context, id string) (Instance, error)
}

// InstanceState tells whether a machine can be a node.
type InstanceState string

// A machine runs (or is on its way from or to one of the other states), is off
// but may run again, or never will.
const (
	InstanceRunning    InstanceState = "running"
	InstanceStopped    InstanceState = "stopped"
	InstanceTerminated InstanceState = "terminated"
)

// Instance is a machine of a cloud.
type Instance struct {
	// ID is the cloud's own, unique in the account and region.
	ID string
	// ProviderID is what spec.providerID of its node shall be.
	ProviderID string
	State      InstanceState
	// Type, Zone and Region are in the cloud's words; "" is not known.
	Type, Zone, Region string
	// Addresses are in the order in which the node shall have them.
	Addresses []InstanceAddress
}

// AddressType is one of core/v1 NodeAddressType.
type AddressType string

// The types of a node's addresses, spelled as Kubernetes spells them.
const (
	InternalIP  AddressType = "InternalIP"
	ExternalIP  AddressType = "ExternalIP"
	Hostname    AddressType = "Hostname"
	InternalDNS AddressType = "InternalDNS"
	ExternalDNS AddressType = "ExternalDNS"
)

// InstanceAddress is an IP or a name of a machine.
type InstanceAddress struct {
	Type    AddressType
	Address string
}

// Inventory is what a cloud listed at one moment. It does not change and is safe
// for concurrent use.
type Inventory struct {
	instances []Instance
	byID      map[string]int
	byAddress map[netip.Addr][]int
	byName    map[string][]int
}

// NewInventory returns an inventory of these instances, which it keeps.
func NewInventory(instances []Instance) *Inventory {
	v := &Inventory{instances: instances, byID: map[string]int{}, byAddress: map[netip.Addr][]int{}, byName: map[string][]int{}}
	for n, i := range instances {
		v.byID[i.ID] = n
		for _, a := range i.Addresses {
			switch a.Type {
			case InternalIP:
				if ip, err := netip.ParseAddr(a.Address); err == nil {
					v.byAddress[ip.Unmap()] = append(v.byAddress[ip.Unmap()], n)
				}
			case InternalDNS, Hostname:
				full := canonicalName(a.Address)
				v.byName[full] = append(v.byName[full], n)
				if host, _, long := strings.Cut(full, "."); long {
					v.byName[host] = append(v.byName[host], n)
				}
			}
		}
	}
	return v
}

func canonicalName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// Len returns how many instances were listed.
func (v *Inventory) Len() int { return len(v.instances) }

// Get returns the instance with this ID, if it was listed.
func (v *Inventory) Get(id string) (Instance, bool) {
	n, ok := v.byID[id]
	if !ok {
		return Instance{}, false
	}
	return v.instances[n], true
}

// Match returns the instances that have one of the internal addresses or, when
// none has, one of the private DNS names, each in full or without its domain.
// More than one is an ambiguity that the caller must not resolve by guessing.
func (v *Inventory) Match(addresses []netip.Addr, names []string) []Instance {
	var found []int
	for _, a := range addresses {
		found = append(found, v.byAddress[a.Unmap()]...)
	}
	if len(found) == 0 {
		for _, name := range names {
			found = append(found, v.byName[canonicalName(name)]...)
		}
	}
	var matches []Instance
	seen := map[int]bool{}
	for _, n := range found {
		if !seen[n] {
			matches = append(matches, v.instances[n])
		}
		seen[n] = true
	}
	return matches
}
