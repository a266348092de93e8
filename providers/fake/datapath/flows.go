package datapath

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Flow is one connection through a load balancer, as connection tracking has
// it: also one that ended within the last two minutes or so.
type Flow struct {
	// Protocol is tcp or udp.
	Protocol string `json:"protocol"`
	// Client is who connected, LoadBalancer the address connected to.
	Client       netip.AddrPort `json:"client"`
	LoadBalancer netip.AddrPort `json:"loadBalancer"`
	// Source is the address that the target sees: the client's, or the load
	// balancer's where client addresses are not preserved or are told by the proxy
	// protocol.
	Source netip.AddrPort `json:"source"`
	// Target is the node and NodePort the load balancer chose.
	Target netip.AddrPort `json:"target"`
	// Name is the load balancer's ID, Zone where its node is. Empty when it is
	// gone meanwhile.
	Name string `json:"name,omitempty"`
	Zone string `json:"zone,omitempty"`
}

// key is the frontend that the flow came in by.
func (f Flow) key() frontendKey {
	proto := uint8(unix.IPPROTO_TCP)
	if f.Protocol == "udp" {
		proto = unix.IPPROTO_UDP
	}
	return frontendKey{f.LoadBalancer.Addr(), proto, f.LoadBalancer.Port()}
}

// Flows lists the connections that the load balancers forward or forwarded a
// moment ago, sorted by client. What a filter dropped is not among them.
func (d *Datapath) Flows() ([]Flow, error) {
	d.mu.Lock()
	frontends := d.carried
	d.mu.Unlock()
	entries, err := d.conntrack.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("listing tracked connections: %w", err)
	}
	flows := append([]Flow{}, d.relays.flows()...)
	for _, entry := range entries {
		flow, ok := flowOf(entry)
		if !ok {
			continue
		}
		if f, known := frontends[flow.key()]; known {
			flow.Name, flow.Zone = f.loadBalancer, f.zone
			flows = append(flows, flow)
		}
	}
	slices.SortFunc(flows, func(a, b Flow) int {
		return cmp.Or(a.Client.Compare(b.Client), a.LoadBalancer.Compare(b.LoadBalancer), cmp.Compare(a.Protocol, b.Protocol))
	})
	return flows, nil
}

// flowOf reads a connection tracking entry; false if it is of a protocol that
// load balancers do not carry or was sent nowhere else than it was meant to.
func flowOf(entry *netlink.ConntrackFlow) (Flow, bool) {
	var flow Flow
	switch entry.Forward.Protocol {
	case unix.IPPROTO_TCP:
		flow.Protocol = "tcp"
	case unix.IPPROTO_UDP:
		flow.Protocol = "udp"
	default:
		return Flow{}, false
	}
	addr := func(ip []byte, port uint16) netip.AddrPort {
		a, _ := netip.AddrFromSlice(ip)
		return netip.AddrPortFrom(a.Unmap(), port)
	}
	flow.Client = addr(entry.Forward.SrcIP, entry.Forward.SrcPort)
	flow.LoadBalancer = addr(entry.Forward.DstIP, entry.Forward.DstPort)
	flow.Target = addr(entry.Reverse.SrcIP, entry.Reverse.SrcPort)
	flow.Source = addr(entry.Reverse.DstIP, entry.Reverse.DstPort)
	return flow, flow.LoadBalancer != flow.Target
}

// severed picks the tracked connections that must end: they came in by a
// frontend of before, and that is gone now or their target is no longer
// registered. (A draining target still is, for its deregistration delay.) Without
// its entry a TCP connection is reset by whoever gets its next packet, and a UDP
// flow gets a new target.
type severed struct{ before, now map[frontendKey]frontend }

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s severed) MatchConntrackFlow(entry *netlink.ConntrackFlow) bool {
	flow, ok := flowOf(entry)
	if !ok {
		return false
	}
	if _, ok := s.before[flow.key()]; !ok {
		return false
	}
	now, ok := s.now[flow.key()]
	return !ok || !slices.Contains(now.bound, flow.Target)
}

// losesAny says whether any connection could have to end at all.
func (s severed) losesAny() bool {
	for key, before := range s.before {
		now, ok := s.now[key]
		if !ok {
			return true
		}
		for _, target := range before.bound {
			if !slices.Contains(now.bound, target) {
				return true
			}
		}
	}
	return false
}
