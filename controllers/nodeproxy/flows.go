package nodeproxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// flows asks the kernel for tracked flows and takes them out. Each question has
// the kernel walk through its whole hash table, which takes it some 10 ms even
// where that is empty; so there is one for all frontends of a family.
type flows struct{ socket *nl.SocketHandle }

// newFlows works in the network namespace of the calling thread.
func newFlows() (*flows, error) {
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("opening connection tracking: %w", err)
	}
	return &flows{&nl.SocketHandle{Socket: s}}, nil
}

func (f *flows) close() { f.socket.Close() }

// tracked is one flow: where it went to, who answers, whether that has happened,
// and what names it to the kernel.
type tracked struct {
	to      nft.Frontend
	answer  netip.AddrPort
	replied bool
	name    []*nl.RtAttr
}

// Attributes of linux/netfilter/nfnetlink_conntrack.h that the library lacks, and
// the bits of a filter (of the kernel's net/netfilter/nf_internals.h).
const (
	attrFilter        = 25
	attrFilterOrig    = 1
	filterDestination = 1 << 1
	filterProtocol    = 1 << 3
	filterPort        = 1 << 5
)

// statusSeenReply is IPS_SEEN_REPLY of linux/netfilter/nf_conntrack_common.h.
const statusSeenReply = 1 << 1

func (f *flows) request(family netlink.InetFamily, command, flags int) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(int(netlink.ConntrackTable)<<8|command, flags)
	r.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: f.socket}
	r.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(family), Version: nl.NFNETLINK_V0})
	return r
}

// stale returns the flows that are, to frontends of one protocol.
func (f *flows) stale(family netlink.InetFamily, stale staleFlows) ([]tracked, error) {
	r := f.request(family, nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	for _, a := range stale.filter() {
		r.AddData(a)
	}
	var out []tracked
	if err := r.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
		if flow := parseFlow(message); stale.has(flow) {
			flow.name = nameOf(message)
			out = append(out, flow)
		}
		return true
	}); err != nil {
		return nil, fmt.Errorf("listing flows: %w", err)
	}
	return out, nil
}

// filter has the kernel leave out what is none of the frontends' (Linux 5.8;
// before, it hands out all): what they have in common, always the protocol.
func (s staleFlows) filter() []*nl.RtAttr {
	var first nft.Frontend
	by := uint32(0)
	for f := range s {
		if by == 0 {
			first, by = f, filterProtocol|filterDestination|filterPort
		}
		if f.Addr != first.Addr || f.Addr.Is6() {
			// Of IPv6, kernels up to 6.18 at least take the flows to other
			// addresses for those to this one, and the other way round.
			by &^= filterDestination
		}
		if f.Port != first.Port {
			by &^= filterPort
		}
	}
	tuple := nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_ORIG, nil)
	if by&filterDestination != 0 {
		ip := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil)
		ip.AddRtAttr(nl.CTA_IP_V4_DST, first.Addr.AsSlice())
	}
	proto := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_PROTO, nil)
	proto.AddRtAttr(nl.CTA_PROTO_NUM, []byte{byte(first.Protocol)})
	if by&filterPort != 0 {
		proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, binary.BigEndian.AppendUint16(nil, first.Port))
	}
	filter := nl.NewRtAttr(unix.NLA_F_NESTED|attrFilter, nil)
	filter.AddRtAttr(attrFilterOrig, binary.NativeEndian.AppendUint32(nil, by))
	return []*nl.RtAttr{tuple, filter}
}

// forget takes a flow out of the kernel. One that is gone already is no error.
func (f *flows) forget(family netlink.InetFamily, flow tracked) error {
	r := f.request(family, nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
	for _, a := range flow.name {
		r.AddData(a)
	}
	if _, err := r.Execute(unix.NETLINK_NETFILTER, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("deleting a flow to %v: %w", flow.to, err)
	}
	return nil
}

// parseFlow returns a flow without its name. What it cannot read is left zero.
func parseFlow(message []byte) (out tracked) {
	for kind, value := range attributesOf(message) {
		switch kind {
		case nl.CTA_TUPLE_ORIG:
			_, to, protocol := parseTuple(value)
			out.to = nft.Frontend{Addr: to.Addr(), Protocol: protocol, Port: to.Port()}
		case nl.CTA_TUPLE_REPLY:
			out.answer, _, _ = parseTuple(value)
		case nl.CTA_STATUS:
			out.replied = len(value) == 4 && binary.BigEndian.Uint32(value)&statusSeenReply != 0
		}
	}
	return out
}

// nameOf returns the attributes that name a flow.
func nameOf(message []byte) (out []*nl.RtAttr) {
	for kind, value := range attributesOf(message) {
		switch kind {
		case nl.CTA_TUPLE_ORIG:
			out = append(out, nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_ORIG, value))
		case nl.CTA_ID, nl.CTA_ZONE:
			out = append(out, nl.NewRtAttr(kind, value))
		}
	}
	return out
}

// parseTuple reads one direction of a flow.
func parseTuple(tuple []byte) (from, to netip.AddrPort, protocol nft.Protocol) {
	var addrs [2]netip.Addr
	var ports [2]uint16
	for part, fields := range attributes(tuple) {
		for kind, value := range attributes(fields) {
			switch {
			case part == nl.CTA_TUPLE_IP && (kind == nl.CTA_IP_V4_SRC || kind == nl.CTA_IP_V6_SRC):
				addrs[0], _ = netip.AddrFromSlice(value)
			case part == nl.CTA_TUPLE_IP && (kind == nl.CTA_IP_V4_DST || kind == nl.CTA_IP_V6_DST):
				addrs[1], _ = netip.AddrFromSlice(value)
			case part == nl.CTA_TUPLE_PROTO && kind == nl.CTA_PROTO_NUM && len(value) > 0:
				protocol = nft.Protocol(value[0])
			case part == nl.CTA_TUPLE_PROTO && kind == nl.CTA_PROTO_SRC_PORT && len(value) > 1:
				ports[0] = binary.BigEndian.Uint16(value)
			case part == nl.CTA_TUPLE_PROTO && kind == nl.CTA_PROTO_DST_PORT && len(value) > 1:
				ports[1] = binary.BigEndian.Uint16(value)
			}
		}
	}
	return netip.AddrPortFrom(addrs[0], ports[0]), netip.AddrPortFrom(addrs[1], ports[1]), protocol
}

// attributesOf yields the attributes of a message about a flow.
func attributesOf(message []byte) iter.Seq2[int, []byte] {
	return attributes(message[min(nl.SizeofNfgenmsg, len(message)):])
}

// attributes yields types and values, without copying: there may be a hundred
// thousand flows.
func attributes(p []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for len(p) >= unix.SizeofRtAttr {
			size := int(binary.NativeEndian.Uint16(p))
			if size < unix.SizeofRtAttr || size > len(p) {
				return
			}
			kind := int(binary.NativeEndian.Uint16(p[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER))
			if !yield(kind, p[unix.SizeofRtAttr:size]) {
				return
			}
			p = p[min((size+3)&^3, len(p)):]
		}
	}
}
