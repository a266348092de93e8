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
	udTableComment   = 0 // of a table

	byteOrderHost = 1

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
	address, port := udAddress(family, false), udPayload(protocolTransport, fieldPort)
	slot := udExpr(exprNumgen, udNumber(0, unix.NFT_NG_RANDOM), udNumber(1, 1<<16), udNumber(2, 0))
	return udJoin(
		udNumber(udKeyByteOrder, 0), udNumber(udDataByteOrder, 0),
		udRecord(udKeyTypeof, udConcat(address, udMeta(unix.NFT_META_L4PROTO), port, slot)),
		udRecord(udDataTypeof, udConcat(address, port)),
	)
}

// servicePortTypes declares the map of Service ports: typeof ip daddr . meta
// l4proto . th dport : meta priority.
func servicePortTypes(family byte) []byte {
	return udJoin(
		udNumber(udKeyByteOrder, 0), udNumber(udDataByteOrder, byteOrderHost),
		udRecord(udKeyTypeof, udConcat(udAddress(family, false), udMeta(unix.NFT_META_L4PROTO), udPayload(protocolTransport, fieldPort))),
		udRecord(udDataTypeof, udMeta(unix.NFT_META_PRIORITY)),
	)
}

// affinityTypes declares the affinity map: typeof ip saddr . meta priority : meta
// priority.
func affinityTypes(family byte) []byte {
	return udJoin(
		udNumber(udKeyByteOrder, 0), udNumber(udDataByteOrder, byteOrderHost),
		udRecord(udKeyTypeof, udConcat(udAddress(family, true), udMeta(unix.NFT_META_PRIORITY))),
		udRecord(udDataTypeof, udMeta(unix.NFT_META_PRIORITY)),
	)
}

func udAddress(family byte, source bool) []byte {
	protocol, field := uint32(protocolIPv4), uint32(fieldIPv4Dst)
	if family == unix.NFPROTO_IPV6 {
		protocol, field = protocolIPv6, fieldIPv6Dst
	}
	if source {
		field-- // it comes before in the header
	}
	return udPayload(protocol, field)
}

func udMeta(key uint32) []byte { return udExpr(exprMeta, udNumber(0, key)) }

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

// udComment returns the comment in an element's or a table's userdata, if any.
func udComment(userdata []byte) string {
	for p := userdata; len(p) >= 2 && len(p) >= 2+int(p[1]); p = p[2+int(p[1]):] {
		if p[0] == udElementComment && p[1] > 0 {
			return string(p[2 : 1+int(p[1])]) // without the final zero
		}
	}
	return ""
}
