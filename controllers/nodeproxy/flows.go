package nodeproxy

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// flows asks the kernel for the flows to one frontend. The kernel walks through
// its table by itself (Linux 5.8; before, it hands out all of it): the usual
// change of a few endpoints must not copy a hundred thousand flows.
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

// tracked is one flow: where it went to and who answers, and what names it to the
// kernel.
type tracked struct {
	to     nft.Frontend
	answer netip.AddrPort
	name   []syscall.NetlinkRouteAttr
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

func (f *flows) request(family netlink.InetFamily, command, flags int) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(int(netlink.ConntrackTable)<<8|command, flags)
	r.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: f.socket}
	r.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(family), Version: nl.NFNETLINK_V0})
	return r
}

// to returns the flows to a frontend.
func (f *flows) to(family netlink.InetFamily, to nft.Frontend) ([]tracked, error) {
	kind, by := nl.CTA_IP_V4_DST, uint32(filterDestination|filterProtocol|filterPort)
	if to.Addr.Is6() {
		// Kernels up to 6.18 at least take the flows to other addresses for
		// those to this one, and the other way round.
		kind, by = nl.CTA_IP_V6_DST, filterProtocol|filterPort
	}
	tuple := nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_ORIG, nil)
	ip := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil)
	ip.AddRtAttr(kind, to.Addr.AsSlice())
	proto := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_PROTO, nil)
	proto.AddRtAttr(nl.CTA_PROTO_NUM, []byte{byte(to.Protocol)})
	proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, binary.BigEndian.AppendUint16(nil, to.Port))
	filter := nl.NewRtAttr(unix.NLA_F_NESTED|attrFilter, nil)
	filter.AddRtAttr(attrFilterOrig, binary.NativeEndian.AppendUint32(nil, by))

	r := f.request(family, nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	r.AddData(tuple)
	r.AddData(filter)
	messages, err := r.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return nil, fmt.Errorf("listing the flows to %v: %w", to, err)
	}
	var out []tracked
	for _, m := range messages {
		flow, err := parseFlow(m)
		if err != nil {
			return nil, fmt.Errorf("reading the flows to %v: %w", to, err)
		}
		if flow.to == to {
			out = append(out, flow)
		}
	}
	return out, nil
}

// forget takes a flow out of the kernel. One that is gone already is no error.
func (f *flows) forget(family netlink.InetFamily, flow tracked) error {
	r := f.request(family, nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
	for _, a := range flow.name {
		r.AddData(nl.NewRtAttr(int(a.Attr.Type), a.Value))
	}
	if _, err := r.Execute(unix.NETLINK_NETFILTER, 0); err != nil && err != unix.ENOENT { //nolint:errorlint // the library returns it bare
		return fmt.Errorf("deleting a flow to %v: %w", flow.to, err)
	}
	return nil
}

func parseFlow(message []byte) (tracked, error) {
	var out tracked
	if len(message) < nl.SizeofNfgenmsg {
		return out, unix.EBADMSG
	}
	attrs, err := nl.ParseRouteAttr(message[nl.SizeofNfgenmsg:])
	if err != nil {
		return out, err
	}
	for _, a := range attrs {
		switch a.Attr.Type &^ unix.NLA_F_NESTED {
		case nl.CTA_TUPLE_ORIG:
			out.name = append(out.name, a)
			_, to, protocol, err := parseTuple(a.Value)
			if err != nil {
				return out, err
			}
			out.to = nft.Frontend{Addr: to.Addr(), Protocol: protocol, Port: to.Port()}
		case nl.CTA_TUPLE_REPLY:
			if out.answer, _, _, err = parseTuple(a.Value); err != nil {
				return out, err
			}
		case nl.CTA_ID, nl.CTA_ZONE:
			out.name = append(out.name, a)
		}
	}
	return out, nil
}

// parseTuple reads one direction of a flow.
func parseTuple(p []byte) (from, to netip.AddrPort, protocol nft.Protocol, err error) {
	parts, err := nl.ParseRouteAttr(p)
	if err != nil {
		return from, to, 0, err
	}
	var addrs [2]netip.Addr
	var ports [2]uint16
	for _, part := range parts {
		fields, err := nl.ParseRouteAttr(part.Value)
		if err != nil {
			return from, to, 0, err
		}
		isIP := part.Attr.Type&^unix.NLA_F_NESTED == nl.CTA_TUPLE_IP
		for _, field := range fields {
			kind := int(field.Attr.Type)
			switch {
			case isIP && slices.Contains([]int{nl.CTA_IP_V4_SRC, nl.CTA_IP_V6_SRC}, kind):
				addrs[0], _ = netip.AddrFromSlice(field.Value)
			case isIP && slices.Contains([]int{nl.CTA_IP_V4_DST, nl.CTA_IP_V6_DST}, kind):
				addrs[1], _ = netip.AddrFromSlice(field.Value)
			case !isIP && kind == nl.CTA_PROTO_NUM && len(field.Value) > 0:
				protocol = nft.Protocol(field.Value[0])
			case !isIP && kind == nl.CTA_PROTO_SRC_PORT && len(field.Value) > 1:
				ports[0] = binary.BigEndian.Uint16(field.Value)
			case !isIP && kind == nl.CTA_PROTO_DST_PORT && len(field.Value) > 1:
				ports[1] = binary.BigEndian.Uint16(field.Value)
			}
		}
	}
	return netip.AddrPortFrom(addrs[0], ports[0]), netip.AddrPortFrom(addrs[1], ports[1]), protocol, nil
}
