package nft

import (
	"encoding/binary"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// attributes walks through netlink attributes: type without flags, and payload.
func attributes(p []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(p) >= unix.NLA_HDRLEN {
			size := int(binary.NativeEndian.Uint16(p))
			if size < unix.NLA_HDRLEN || size > len(p) {
				return
			}
			typ := binary.NativeEndian.Uint16(p[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(typ, p[unix.NLA_HDRLEN:size]) {
				return
			}
			p = p[min((size+3)&^3, len(p)):]
		}
	}
}

// attribute returns the payload of the attribute of a type, nil if there is none.
func attribute(p []byte, typ uint16) []byte {
	for t, data := range attributes(p) {
		if t == typ {
			return data
		}
	}
	return nil
}

func attributeString(p []byte, typ uint16) string {
	data := attribute(p, typ)
	if len(data) == 0 {
		return ""
	}
	return string(data[:len(data)-1])
}

func attributeU32(p []byte, typ uint16) uint32 {
	if data := attribute(p, typ); len(data) == 4 {
		return binary.BigEndian.Uint32(data)
	}
	return 0
}

// element is one element of a set or map, as dumped.
type element struct {
	key, keyEnd, data []byte
	target            string // of a verdict
	last              bool   // the end of an interval
	comment           string
	timeout, expires  time.Duration
}

func parseElement(p []byte) element {
	var e element
	for typ, data := range attributes(p) {
		switch typ {
		case unix.NFTA_SET_ELEM_KEY:
			e.key = attribute(data, unix.NFTA_DATA_VALUE)
		case attrElementKeyEnd:
			e.keyEnd = attribute(data, unix.NFTA_DATA_VALUE)
		case unix.NFTA_SET_ELEM_DATA:
			e.data = attribute(data, unix.NFTA_DATA_VALUE)
			if v := attribute(data, unix.NFTA_DATA_VERDICT); v != nil {
				e.target = attributeString(v, unix.NFTA_VERDICT_CHAIN)
				if e.target == "" {
					e.target = targetDrop
				}
			}
		case unix.NFTA_SET_ELEM_FLAGS:
			e.last = len(data) == 4 && binary.BigEndian.Uint32(data)&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_USERDATA:
			e.comment = udComment(data)
		case unix.NFTA_SET_ELEM_TIMEOUT:
			e.timeout = milliseconds(data)
		case unix.NFTA_SET_ELEM_EXPIRATION:
			e.expires = milliseconds(data)
		}
	}
	return e
}

func milliseconds(data []byte) time.Duration {
	if len(data) != 8 {
		return 0
	}
	return time.Duration(binary.BigEndian.Uint64(data)) * time.Millisecond
}

// elements dumps a set or map.
func (t *Table) elements(table, set string) ([]element, error) {
	messages, err := t.kernel.list(unix.NFT_MSG_GETSETELEM, t.layout.rules.family,
		attrString(unix.NFTA_SET_ELEM_LIST_TABLE, table), attrString(unix.NFTA_SET_ELEM_LIST_SET, set))
	if err != nil {
		return nil, fmt.Errorf("reading the elements of %q: %w", set, err)
	}
	var out []element
	for _, m := range messages {
		for _, p := range attributes(attribute(m, unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
			out = append(out, parseElement(p))
		}
	}
	return out, nil
}

// readTries bounds how often a set is read until two lists of it agree.
const readTries = 10

// settled dumps a set or map that only this program changes. The kernel lets a
// set's hash table grow or shrink by itself a while after a change, and the list
// is made in pieces: those made before and after that do not fit together, and
// elements may be missing. So it is read until two lists agree.
func (t *Table) settled(set string) ([]element, error) {
	var before map[string]bool
	for range readTries {
		all, err := t.elements(TableName, set)
		if err != nil {
			return nil, err
		}
		keys := make(map[string]bool, len(all))
		for _, e := range all {
			keys[string(e.key)+map[bool]string{true: "end"}[e.last]] = true
		}
		if before != nil && maps.Equal(keys, before) {
			return all, nil
		}
		before = keys
	}
	return nil, fmt.Errorf("the elements of %q differ each time they are read", set)
}

// cutAddr, cutFrontend and cutSlot read the beginning of a key, as their
// counterparts lay them out, and return what follows. A key too short gives an
// address that is not valid.
func (r rules) cutAddr(key []byte) (netip.Addr, []byte) {
	n := int(r.addrSize())
	if len(key) < n {
		return netip.Addr{}, nil
	}
	a, _ := netip.AddrFromSlice(key[:n])
	return a, key[n:]
}

func (r rules) cutFrontend(key []byte) (Frontend, []byte) {
	a, rest := r.cutAddr(key)
	if len(rest) < 8 {
		return Frontend{}, nil
	}
	return Frontend{Addr: a, Protocol: Protocol(rest[0]), Port: binary.BigEndian.Uint16(rest[4:])}, rest[8:]
}

// cutClient reads a key of the affinity map: the source, the number of the Service
// port, and which of its pools.
func (r rules) cutClient(key []byte) (source netip.Addr, port uint32, local bool) {
	source, rest := r.cutAddr(key)
	if len(rest) != 4 {
		return netip.Addr{}, 0, false
	}
	n := nativeU32(rest)
	return source, n &^ localSlot, n&localSlot != 0
}

func (r rules) cutEndpoint(data []byte) netip.AddrPort {
	a, rest := r.cutAddr(data)
	if len(rest) < 2 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(rest))
}
