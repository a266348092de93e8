package datapath

import (
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Offsets in the IPv4, TCP and UDP headers.
const (
	sourceOffset      = 12
	destinationOffset = 16
	portOffset        = 2
)

func loadSource(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: sourceOffset, Len: 4}
}

func loadDestination(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: destinationOffset, Len: 4}
}

func loadPort(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: portOffset, Len: 2}
}

func loadMark(reg uint32) expr.Any {
	return &expr.Ct{Key: expr.CtKeyMARK, Register: reg}
}

// loadFrontendKey loads destination address . protocol . destination port, in
// the order of frontendKey.bytes.
func loadFrontendKey() []expr.Any {
	return []expr.Any{
		loadDestination(reg1),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg2},
		loadPort(reg3),
	}
}

// bytes is the key as the kernel's maps hold it, each field padded to 4 bytes.
func (k frontendKey) bytes() []byte {
	return append(k.addr.AsSlice(), append([]byte{k.proto, 0, 0, 0}, padded(k.port)...)...)
}

// padded is a port, in network byte order, as a field of a key.
func padded(port uint16) []byte { return append(binaryutil.BigEndian.PutUint16(port), 0, 0) }

// native is a number that the kernel keeps in the machine's own byte order.
func native(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }

func gotoElement(key []byte, chain string) nftables.SetElement {
	return nftables.SetElement{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

// lookup replaces the key that starts in reg1 by the map's value; the rule ends
// here if there is none.
func lookup(name string, dest uint32) expr.Any {
	return &expr.Lookup{SourceRegister: reg1, DestRegister: dest, IsDestRegSet: true, SetName: name}
}

// lookupVerdict goes where the map says for the key that starts in reg1.
func lookupVerdict(name string) expr.Any {
	return &expr.Lookup{SourceRegister: reg1, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: name}
}

// member ends the rule here unless reg1 is in the set.
func member(name string) expr.Any { return &expr.Lookup{SourceRegister: reg1, SetName: name} }

func protocolIs(proto uint8) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{proto}},
	}
}

func portWithin(ports [2]uint16) []expr.Any {
	return []expr.Any{
		loadPort(reg1),
		&expr.Cmp{Op: expr.CmpOpGte, Register: reg1, Data: binaryutil.BigEndian.PutUint16(ports[0])},
		&expr.Cmp{Op: expr.CmpOpLte, Register: reg1, Data: binaryutil.BigEndian.PutUint16(ports[1])},
	}
}

// tracked matches what belongs to a connection that was let in before, ICMP
// errors about it included.
func tracked() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg1},
		&expr.Bitwise{
			SourceRegister: reg1, DestRegister: reg1, Len: 4,
			Mask: native(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED), Xor: native(0),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: native(0)},
	}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }
