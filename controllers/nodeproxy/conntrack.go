package nodeproxy

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// staleFlows selects conntrack entries of UDP flows that would go on reaching an
// endpoint that is no more. UDP has no end of connection: as long as a client
// keeps sending, its packets follow the entry and never see the table again.
// Entries made before a Service had its first endpoint count too; they have no
// translation at all.
type staleFlows map[nft.Frontend][]netip.AddrPort // to the endpoints whose flows may stay

var _ netlink.CustomConntrackFilter = staleFlows(nil)

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s staleFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != uint8(nft.UDP) {
		return false
	}
	keep, ours := s[nft.Frontend{Addr: addrOf(flow.Forward.DstIP), Protocol: nft.UDP, Port: flow.Forward.DstPort}]
	return ours && !slices.Contains(keep, netip.AddrPortFrom(addrOf(flow.Reverse.SrcIP), flow.Reverse.SrcPort))
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// add notes what a change of one Service makes stale: the flows of frontends
// that lost an endpoint, got their first or are no more.
func (s staleFlows) add(before, after forwarding) {
	for f, was := range before.serving {
		now, still := after.serving[f]
		lost := slices.ContainsFunc(was, func(e netip.AddrPort) bool { return !slices.Contains(now, e) })
		if !still || lost {
			s[f] = now
		}
	}
	for f, now := range after.serving {
		if len(before.serving[f]) == 0 && len(now) > 0 {
			s[f] = now
		}
	}
}

// conntrack deletes entries of the connection tracking table.
type conntrack struct {
	handle *netlink.Handle
}

// newConntrack works in the network namespace of the calling thread.
func newConntrack() (*conntrack, error) {
	// Without the family named, every other one would have to be there too.
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("opening connection tracking: %w", err)
	}
	return &conntrack{handle: h}, nil
}

// purge deletes the stale flows and returns how many there were. Without any
// frontend it does nothing; otherwise it reads the family's whole table.
func (c *conntrack) purge(stale staleFlows, ipv6 bool) (uint, error) {
	if len(stale) == 0 {
		return 0, nil
	}
	family := netlink.InetFamily(unix.AF_INET)
	if ipv6 {
		family = unix.AF_INET6
	}
	n, err := c.handle.ConntrackDeleteFilters(netlink.ConntrackTable, family, stale)
	if err != nil {
		return n, fmt.Errorf("deleting stale UDP flows: %w", err)
	}
	return n, nil
}

func (c *conntrack) close() { c.handle.Close() }
