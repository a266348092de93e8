package nft

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// The kernel does not look at a set's userdata; the nft tool keeps there how a
// set was declared. It cannot list a map with a bare integer in its key without:
// the slot number has to be said to be of the type of "numgen random mod 65536".
// The format is nft's own (its include/rule.h and netlink.c): records of type,
// length and payload, a byte for each of the first two.
const (
	udKeyByteOrder  = 0
	udDataByteOrder = 1
	udKeyTypeof     = 3
	udDataTypeof    = 4

	udElementComment = 0 // of an element, where the others are of a set

	udTypeofExpr = 0 // a number of nft's enum expr_types
	udTypeofData = 1 // what that expression needs

	exprPayload = 7
	exprMeta    = 9
	exprConcat  = 13
	exprNumgen  = 23

	protocolTransport = 11 // enum proto_desc_id
	protocolIPv4      = 12
	protocolIPv6      = 13
	fieldPort         = 2 // destination port among the transport header's fields
	fieldIPv4Dst      = 12
	fieldIPv6Dst      = 9
)

// maxComment is the longest comment the nft tool shows. A namespace and a name
// of 63 bytes each just fit.
const maxComment = 127

// slotTypes declares the endpoints map: typeof ip daddr . meta l4proto . th
// dport . numgen random mod 65536 : ip daddr . th dport.
func slotTypes(family byte) []byte {
	address := udPayload(protocolIPv4, fieldIPv4Dst)
	if family == unix.NFPROTO_IPV6 {
		address = udPayload(protocolIPv6, fieldIPv6Dst)
	}
	port := udPayload(protocolTransport, fieldPort)
	protocol := udExpr(exprMeta, udNumber(0, unix.NFT_META_L4PROTO))
	slot := udExpr(exprNumgen, udNumber(0, unix.NFT_NG_RANDOM), udNumber(1, 1<<16), udNumber(2, 0))
	return udJoin(
		udNumber(udKeyByteOrder, 0), udNumber(udDataByteOrder, 0),
		udRecord(udKeyTypeof, udConcat(address, protocol, port, slot)),
		udRecord(udDataTypeof, udConcat(address, port)),
	)
}

func udConcat(parts ...[]byte) []byte {
	var fields [][]byte
	for i, p := range parts {
		fields = append(fields, udRecord(byte(i), p))
	}
	return udExpr(exprConcat, fields...)
}

func udPayload(protocol, field uint32) []byte {
	return udExpr(exprPayload, udNumber(0, protocol), udNumber(1, field))
}

func udExpr(kind uint32, data ...[]byte) []byte {
	return udJoin(udNumber(udTypeofExpr, kind), udRecord(udTypeofData, udJoin(data...)))
}

func udNumber(typ byte, v uint32) []byte {
	return udRecord(typ, binary.NativeEndian.AppendUint32(nil, v))
}

func udRecord(typ byte, payload []byte) []byte {
	return append([]byte{typ, byte(len(payload))}, payload...)
}

func udJoin(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
