package nft

import (
	"encoding/binary"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rules builds the expressions of rules for one family. Matching registers:
// the 16-byte register 1 overlays the 4-byte ones from 8 on.
type rules struct {
	family        byte
	mark          uint32
	masqueradeAll bool
	pods          Pods
}

const (
	reg1   = 1 // sixteen bytes
	reg32  = 8 // four bytes each, the first is where reg1 begins
	tcp    = unix.IPPROTO_TCP
	offSrc = 0
	offDst = 1
)

// addrSize is the length of an address and, in registers, of a field that holds one.
func (r rules) addrSize() uint32 {
	if r.family == unix.NFPROTO_IPV4 {
		return 4
	}
	return 16
}

// after returns the register that follows an address and n four-byte fields.
func (r rules) after(n uint32) uint32 { return reg32 + r.addrSize()/4 + n }

func (r rules) join(parts ...[]expr.Any) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// loadAddr puts the packet's source (which 0) or destination (1) into a register.
func (r rules) loadAddr(which, register uint32) expr.Any {
	base := uint32(12) // of the IPv4 header
	if r.family == unix.NFPROTO_IPV6 {
		base = 8
	}
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: base + which*r.addrSize(), Len: r.addrSize()}
}

// loadFrontend puts destination, protocol and port into the registers, as the
// keys of services and (with a slot number behind) of endpoints are laid out.
func (r rules) loadFrontend() []expr.Any {
	return []expr.Any{
		r.loadAddr(offDst, reg1),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: r.after(0)},
		&expr.Payload{DestRegister: r.after(1), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// dispatch looks the packet's frontend up and follows its verdict.
func (r rules) dispatch() []expr.Any {
	return append(r.loadFrontend(), &expr.Lookup{SourceRegister: reg1, DestRegister: 0, IsDestRegSet: true, SetName: mapServices})
}

// translate draws one of n slots and rewrites the destination to its endpoint;
// at a hole the packet goes on with the next rule.
func (r rules) translate(n, first int) []expr.Any {
	return r.slot(&expr.Numgen{Register: r.after(2), Modulus: uint32(n), Type: unix.NFT_NG_RANDOM, Offset: uint32(first)})
}

// slot rewrites the destination to the endpoint in the slot whose number the
// expression puts behind the frontend.
func (r rules) slot(number expr.Any) []expr.Any {
	return append(r.loadFrontend(), number,
		&expr.Lookup{SourceRegister: reg1, DestRegister: reg1, IsDestRegSet: true, SetName: mapEndpoints},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(r.family), RegAddrMin: reg1, RegProtoMin: r.after(0)},
	)
}

// inSet matches packets whose source or destination is in a set.
func (r rules) inSet(which uint32, set string, member bool) []expr.Any {
	return []expr.Any{r.loadAddr(which, reg1), &expr.Lookup{SourceRegister: reg1, SetName: set, Invert: !member}}
}

// fromPods matches packets that come from Pods, or those that do not.
func (r rules) fromPods(yes bool) []expr.Any {
	if r.pods.By == PodsByAddress {
		return r.inSet(offSrc, setPodCIDRs, yes)
	}
	name := []byte(r.pods.Interface)
	if r.pods.By == PodsByInterface {
		name = append(name, make([]byte, unix.IFNAMSIZ-len(name))...) // as a whole, not as a beginning
	}
	op := expr.CmpOpEq
	if !yes {
		op = expr.CmpOpNeq
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1},
		&expr.Cmp{Op: op, Register: reg1, Data: name},
	}
}

// local matches packets whose destination is an address of this node.
func (r rules) local() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: native32(unix.RTN_LOCAL)},
	}
}

// fromNode matches packets the node itself sends.
func (r rules) fromNode() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg1, FlagSADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: native32(unix.RTN_LOCAL)},
	}
}

// fromItself matches connections that were sent back to the Pod they came from.
func (r rules) fromItself() []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: reg1, Key: expr.CtKeySTATUS},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: native32(statusDestinationNAT), Xor: native32(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: native32(0)},
		r.loadAddr(offSrc, reg1), r.loadAddr(offDst, r.after(0)),
		&expr.Lookup{SourceRegister: reg1, SetName: setHairpin},
	}
}

// statusDestinationNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const statusDestinationNAT = 1 << 5

// markForMasquerade sets our bit of the packet's mark; masqueradeMarked acts on it.
func (r rules) markForMasquerade() []expr.Any { return r.setMark(^r.mark, r.mark) }

// masqueradeMarked clears the bit, so that it means nothing to who sees the
// packet later (an encapsulating tunnel keeps the mark), and masquerades.
func (r rules) masqueradeMarked() []expr.Any {
	return r.join([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: native32(r.mark), Xor: native32(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: native32(r.mark)},
	}, r.setMark(^uint32(0), r.mark), r.masquerade())
}

func (r rules) setMark(mask, xor uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: native32(mask), Xor: native32(xor)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg1},
	}
}

func (r rules) masquerade() []expr.Any { return []expr.Any{&expr.Masq{FullyRandom: true}} }

// refuseTCP answers with a reset: unlike ICMP errors, resets have no rate limit.
func (r rules) refuseTCP() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{tcp}},
		&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
	}
}

// count counts packets of a protocol for a frontend of the policy Refused.
func (r rules) count(p Protocol) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{byte(p)}},
		&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: refusedCounters[p]},
	}
}

// refuse answers "port unreachable".
func (r rules) refuse() []expr.Any {
	code := uint8(3) // ICMP_PORT_UNREACH
	if r.family == unix.NFPROTO_IPV6 {
		code = 4 // ICMPV6_PORT_UNREACH
	}
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code}}
}

func (r rules) goTo(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

func (r rules) jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

func (r rules) leave() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}} }

func (r rules) drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

func native32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func nativeU32(p []byte) uint32 { return binary.NativeEndian.Uint32(p) }
