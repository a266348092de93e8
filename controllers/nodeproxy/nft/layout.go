package nft

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// PodsBy is a way to tell which packets come from Pods.
type PodsBy uint8

const (
	// PodsUnknown tells nothing: no ClusterIP traffic is masqueraded for where
	// it comes from, and no traffic from Pods gets a short cut.
	PodsUnknown PodsBy = iota
	// PodsByAddress goes by the source address, see [Ranges].
	PodsByAddress
	// PodsByInterface goes by the interface they come in by.
	PodsByInterface
	// PodsByInterfacePrefix goes by how that interface's name begins.
	PodsByInterfacePrefix
)

// Pods says how packets that come from Pods are told from others.
type Pods struct {
	By        PodsBy
	Interface string // its name, or how that begins
}

func (p Pods) known() bool { return p.By != PodsUnknown }

func (p Pods) validate() error {
	if byName := p.By == PodsByInterface || p.By == PodsByInterfacePrefix; byName && (p.Interface == "" || len(p.Interface) >= unix.IFNAMSIZ) {
		return fmt.Errorf("%q is not the name of a network interface, nor its beginning", p.Interface)
	}
	return nil
}

// Priorities are those of the hooks, among other programs' in the packet filter.
type Priorities struct {
	// Destination is where destinations are translated, 0 for -100 (dstnat).
	Destination int32
	// Source is where sources are translated, 0 for 100 (srcnat).
	Source int32
}

// Ranges are address ranges that may change while a Table is there. Those of the
// other family are ignored.
type Ranges struct {
	// Pods are the sources that [PodsByAddress] takes for Pods.
	Pods []netip.Prefix
	// Services are where ClusterIPs come from: packets to one that no Service
	// has are dropped.
	Services []netip.Prefix
}

// DefaultAffinitySize is how many clients session affinity remembers by default.
// Each takes some 150 bytes of the kernel's memory.
const DefaultAffinitySize = 1 << 18

// Config is what a Table needs to know from the start.
type Config struct {
	// IPv6 selects the family.
	IPv6 bool
	// Pods says how packets that come from Pods are told from others.
	Pods Pods
	// Ranges are those of the beginning, see [Table.SetRanges].
	Ranges Ranges
	// MasqueradeAll masquerades all traffic to ClusterIPs, also from Pods.
	MasqueradeAll bool
	// MasqueradeMark is the one bit of the packet mark that the table uses
	// between prerouting and postrouting.
	MasqueradeMark uint32
	// Priorities are those of the hooks.
	Priorities Priorities
	// AffinitySize is how many clients session affinity remembers at most, 0
	// for [DefaultAffinitySize].
	AffinitySize uint32
	// Shared leaves the table open to other programs' changes, as it is anyway
	// before Linux 6.9, instead of making this program its owner.
	Shared bool
}

// layout is all that decides about the table besides the Services.
type layout struct {
	rules        rules
	priorities   Priorities
	flags        uint32 // of the table
	affinitySize uint32
	version      int

	// How many objects (see state.objects) there are of what does not change,
	// and how many more once the table is hooked up.
	fixedObjects, hookObjects int
}

func newLayout(c Config) (layout, error) {
	if c.MasqueradeMark == 0 || c.MasqueradeMark&(c.MasqueradeMark-1) != 0 {
		return layout{}, fmt.Errorf("the masquerade mark %#x is not one bit", c.MasqueradeMark)
	}
	if err := c.Pods.validate(); err != nil {
		return layout{}, err
	}
	l := layout{
		rules:        rules{family: unix.NFPROTO_IPV4, mark: c.MasqueradeMark, masqueradeAll: c.MasqueradeAll, pods: c.Pods},
		priorities:   c.Priorities,
		affinitySize: c.AffinitySize,
		version:      layoutVersion,
	}
	if c.IPv6 {
		l.rules.family = unix.NFPROTO_IPV6
	}
	if l.affinitySize == 0 {
		l.affinitySize = DefaultAffinitySize
	}
	if l.priorities.Destination == 0 {
		l.priorities.Destination = priorityDestinationNAT
	}
	if l.priorities.Source == 0 {
		l.priorities.Source = prioritySourceNAT
	}
	l.fixedObjects, l.hookObjects = len(l.sets())+len(l.chains())+len(l.counters()), len(l.hooks())
	return l, nil
}

// own returns the ranges of the layout's family, as sets want them.
func (l *layout) own(r Ranges) map[string][]netip.Prefix {
	of := func(prefixes []netip.Prefix) []netip.Prefix {
		var out []netip.Prefix
		for _, p := range prefixes {
			if p.Addr().Is6() == (l.rules.family == unix.NFPROTO_IPV6) {
				out = append(out, p)
			}
		}
		return disjoint(out)
	}
	return map[string][]netip.Prefix{setPodCIDRs: of(r.Pods), setServiceCIDRs: of(r.Services)}
}
