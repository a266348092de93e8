package nodeproxy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// DetectLocal is a way to tell packets of Pods from others. The names are
// kube-proxy's.
type DetectLocal uint8

const (
	// DetectByClusterCIDR takes sources in Config.PodCIDRs for Pods. In a family
	// of which there is none, nothing is known about sources.
	DetectByClusterCIDR DetectLocal = iota
	// DetectByNodeCIDR takes sources in the Node's own ranges for Pods.
	DetectByNodeCIDR
	// DetectByBridge takes what comes in by Config.PodInterface for Pods'.
	DetectByBridge
	// DetectByInterfacePrefix takes what comes in by an interface whose name
	// begins with Config.PodInterface for Pods'.
	DetectByInterfacePrefix
)

// pods returns what the packet filter goes by in one family.
func (c Config) pods(ipv6 bool) nft.Pods {
	switch c.DetectLocal {
	case DetectByBridge:
		return nft.Pods{By: nft.PodsByInterface, Interface: c.PodInterface}
	case DetectByInterfacePrefix:
		return nft.Pods{By: nft.PodsByInterfacePrefix, Interface: c.PodInterface}
	case DetectByClusterCIDR:
		if !slices.ContainsFunc(c.PodCIDRs, func(p netip.Prefix) bool { return p.Addr().Is6() == ipv6 }) {
			return nft.Pods{}
		}
	}
	return nft.Pods{By: nft.PodsByAddress}
}

// podCIDRs returns the ranges to tell Pods by, if they are told by ranges.
func (c Config) podCIDRs(n node) []netip.Prefix {
	if c.DetectLocal == DetectByNodeCIDR {
		return n.podCIDRs
	}
	return c.PodCIDRs
}

// surroundings is what of the node decides about all Services.
type surroundings struct {
	zone      string
	addresses []netip.Addr // the Node's own
	named     []netip.Addr // all its status has
	nodePorts []netip.Addr // where NodePorts are answered
	checks    []netip.Addr // where healthCheckNodePorts are, in no particular order
}

// equal tells whether all Services look the same from both. The servers of health
// checks follow their addresses by themselves.
func (s surroundings) equal(o surroundings) bool {
	return s.zone == o.zone && slices.Equal(s.addresses, o.addresses) && slices.Equal(s.named, o.named) && slices.Equal(s.nodePorts, o.nodePorts)
}

// interfaces knows the addresses of this node's interfaces.
type interfaces struct {
	handle  *netlink.Handle
	changed chan netlink.AddrUpdate
	done    chan struct{}
}

// newInterfaces works in the network namespace of the calling thread.
func newInterfaces() (*interfaces, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening the addresses of this node: %w", err)
	}
	i := &interfaces{handle: h, changed: make(chan netlink.AddrUpdate, 64), done: make(chan struct{})}
	if err := netlink.AddrSubscribe(i.changed, i.done); err != nil {
		h.Close()
		return nil, fmt.Errorf("following the addresses of this node: %w", err)
	}
	return i, nil
}

func (i *interfaces) close() {
	close(i.done)
	i.handle.Close()
}

// within returns this node's addresses in the ranges, each sorted: of a family of
// which there is no range, all, unless others are chosen besides. Loopback addresses are apart, as no packet from one
// may be forwarded to a Pod. Those that mean nothing beyond one link are left out.
func (i *interfaces) within(ranges []netip.Prefix, besides bool) (routed, loopback []netip.Addr, err error) {
	all, err := i.handle.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, nil, fmt.Errorf("listing the addresses of this node: %w", err)
	}
	for _, a := range all {
		addr, _ := netip.AddrFromSlice(a.IP)
		addr = addr.Unmap()
		named, in := besides, false
		for _, r := range ranges {
			named = named || r.Addr().Is6() == addr.Is6()
			in = in || r.Contains(addr)
		}
		switch {
		case named && !in, addr.IsLinkLocalUnicast():
		case addr.IsLoopback():
			loopback = append(loopback, addr)
		default:
			routed = append(routed, addr)
		}
	}
	return sortedOnce(routed), sortedOnce(loopback), nil
}

func sortedOnce(addrs []netip.Addr) []netip.Addr {
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}
