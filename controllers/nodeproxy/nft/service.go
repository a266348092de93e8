package nft

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Protocol is an IP protocol number.
type Protocol uint8

// The protocols that Services have.
const (
	TCP  Protocol = unix.IPPROTO_TCP
	UDP  Protocol = unix.IPPROTO_UDP
	SCTP Protocol = unix.IPPROTO_SCTP
)

// String returns the protocol's name in small letters.
func (p Protocol) String() string {
	return map[Protocol]string{TCP: "tcp", UDP: "udp", SCTP: "sctp"}[p]
}

// Frontend is the destination that packets to a Service have.
type Frontend struct {
	Addr     netip.Addr
	Protocol Protocol
	Port     uint16
}

// String returns address:port/protocol.
func (f Frontend) String() string {
	return fmt.Sprintf("%v/%v", netip.AddrPortFrom(f.Addr, f.Port), f.Protocol)
}

// Policy says which endpoints take a packet and who they see as its source.
type Policy uint8

const (
	// Internal takes any endpoint. Sources that are no Pods are masqueraded, as
	// the reply might not come back through this node.
	Internal Policy = iota
	// InternalLocal is Internal with endpoints of this node only.
	InternalLocal
	// External takes any endpoint and always masquerades.
	External
	// ExternalLocal takes endpoints of this node only and keeps the source.
	// Traffic that starts inside, in a Pod or on the node, gets any endpoint.
	ExternalLocal
	// Direct takes any endpoint and keeps the source.
	Direct
	// Refused takes none: whatever endpoints there are, connections are refused,
	// and counted, see [Table.Refused].
	Refused
)

// Backends is where packets to a frontend go.
type Backends struct {
	Policy Policy
	// Cluster and Local are the usable endpoints anywhere and on this node,
	// each without duplicates. Without any, connections are refused; without
	// a local one that the policy asks for, they are dropped.
	Cluster, Local []netip.AddrPort
	// Affinity sends a client where it was sent before, as long as that
	// endpoint is usable and the client was not away for so many seconds.
	// 0 is no affinity.
	Affinity uint32
	// ServicePort is the port of the Service that this is an address of, by the
	// number it has there: what affinity remembers of a client holds at all
	// frontends of the Service with the same protocol and ServicePort.
	ServicePort uint16
	// Sources are whose packets are taken; others are dropped before anything
	// else is decided about them. None means everybody's. External policies only.
	Sources []netip.Prefix
}

func (b Backends) equal(o Backends) bool {
	return b.Policy == o.Policy && b.Affinity == o.Affinity && b.ServicePort == o.ServicePort &&
		slices.Equal(b.Cluster, o.Cluster) && slices.Equal(b.Local, o.Local) && slices.Equal(b.Sources, o.Sources)
}

// Service is all that one Service needs on this node, in one family. A Service
// handed to a [Table] must not be changed any more.
type Service struct {
	Frontends map[Frontend]Backends
	// ClusterIPs are answered for as a whole: ports that are no frontend are refused.
	ClusterIPs []netip.Addr
	// LocalEndpoints are the addresses of endpoints on this node, which may
	// reach themselves through the Service.
	LocalEndpoints []netip.Addr
}

func (s *Service) wants(f Frontend) bool {
	if s == nil {
		return false
	}
	_, ok := s.Frontends[f]
	return ok
}
