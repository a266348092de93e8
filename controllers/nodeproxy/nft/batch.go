package nft

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// maxElements bounds the element list of one message: an attribute's length is
// sixteen bits wide, and one element takes at most some 120 bytes.
const maxElements = 60 << 10

// section orders the messages of a transaction. The kernel works through them
// in order, so that chains exist before elements go to them, and a key that
// moves from one value to another is free before it is taken again.
type section int

const (
	sectionCreate section = iota // tables, sets, chains, rules
	sectionDelete                // elements that go
	sectionInsert                // elements that come
	sectionFinish                // base chains, chains that go
	sections
)

// batch is an append-only encoder for one nftables transaction. It remembers
// for whom each message was written, so that an error, which the kernel reports
// by the message's sequence number, finds its Service.
type batch struct {
	family  byte
	table   string
	parts   [sections][]byte
	open    [sections]openMessage
	owners  []string // owner of the message with sequence number i+1
	entries int      // elements written, for Stats
}

// openMessage is the last message of a section while it can take more elements.
type openMessage struct {
	typ    uint16
	set    string
	owner  string
	start  int // of the netlink header
	list   int // of the element list's attribute header
	isOpen bool
}

func newBatch(family byte, table string) *batch { return &batch{family: family, table: table} }

// empty tells whether the transaction would change nothing.
func (b *batch) empty() bool { return len(b.owners) == 0 }

// message starts a message and returns the offset of its header.
func (b *batch) message(s section, typ, flags uint16, owner string) int {
	b.closeElements(s)
	b.owners = append(b.owners, owner)
	start := len(b.parts[s])
	b.parts[s] = appendHeader(b.parts[s], unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags, uint32(len(b.owners)), b.family, 0)
	return start
}

// end writes the final length of the message that starts at start.
func (b *batch) end(s section, start int) {
	binary.NativeEndian.PutUint32(b.parts[s][start:], uint32(len(b.parts[s])-start))
}

// put writes a whole message: type, flags and attributes.
func (b *batch) put(s section, typ, flags uint16, owner string, attrs ...attr) {
	start := b.message(s, typ, flags, owner)
	for _, a := range attrs {
		b.parts[s] = a.append(b.parts[s])
	}
	b.end(s, start)
}

// insert adds an element to a set or map; see [value] for what it maps to.
func (b *batch) insert(owner, set string, key []byte, v value) {
	b.element(sectionInsert, unix.NFT_MSG_NEWSETELEM, owner, set, key, v)
}

// remove takes an element out of a set or map.
func (b *batch) remove(owner, set string, key []byte) {
	b.element(sectionDelete, unix.NFT_MSG_DELSETELEM, owner, set, key, value{})
}

// removeInterval takes one end of an interval, or an interval of several fields, out
// of a set. Of the value only what tells it from others counts.
func (b *batch) removeInterval(owner, set string, key []byte, v value) {
	b.element(sectionDelete, unix.NFT_MSG_DELSETELEM, owner, set, key, v)
}

// value is what a map's element holds: bytes, a verdict, or (zero) nothing.
// last marks the end of an interval, exclusive; in sets of several fields keyEnd
// is the last key of one, inclusive. The comment is for people who list the
// table, at most 127 bytes.
type value struct {
	data    []byte
	verdict bool
	code    int32
	chain   string
	last    bool
	keyEnd  []byte
	comment string
	// timeout is how long an element stays, expires how much of that is left.
	timeout, expires time.Duration
}

// element appends one element, to the open message where that is of the same
// kind, set and owner.
func (b *batch) element(s section, typ uint16, owner, set string, key []byte, v value) {
	b.entries++
	o := &b.open[s]
	if !o.isOpen || o.typ != typ || o.set != set || o.owner != owner || len(b.parts[s])-o.list > maxElements {
		start := b.message(s, typ, unix.NLM_F_CREATE, owner)
		p := attrString(unix.NFTA_SET_ELEM_LIST_TABLE, b.table).append(b.parts[s])
		p = attrString(unix.NFTA_SET_ELEM_LIST_SET, set).append(p)
		*o = openMessage{typ: typ, set: set, owner: owner, start: start, list: len(p), isOpen: true}
		b.parts[s] = append(p, 0, 0, 0, 0)
	}
	p := b.parts[s]
	p, elem := openAttr(p, unix.NFTA_LIST_ELEM)
	if v.last {
		p = attr{typ: unix.NFTA_SET_ELEM_FLAGS, data: be32(unix.NFT_SET_ELEM_INTERVAL_END)}.append(p)
	}
	p, at := openAttr(p, unix.NFTA_SET_ELEM_KEY)
	p = attr{typ: unix.NFTA_DATA_VALUE, data: key}.append(p)
	closeAttr(p, at)
	if v.keyEnd != nil {
		p, at = openAttr(p, attrElementKeyEnd)
		p = attr{typ: unix.NFTA_DATA_VALUE, data: v.keyEnd}.append(p)
		closeAttr(p, at)
	}
	if v.timeout > 0 {
		p = attr{typ: unix.NFTA_SET_ELEM_TIMEOUT, data: be64(uint64(v.timeout.Milliseconds()))}.append(p)
		p = attr{typ: unix.NFTA_SET_ELEM_EXPIRATION, data: be64(uint64(v.expires.Milliseconds()))}.append(p)
	}
	if v.verdict || v.data != nil {
		p, at = openAttr(p, unix.NFTA_SET_ELEM_DATA)
		p = v.append(p)
		closeAttr(p, at)
	}
	if v.comment != "" {
		p = attr{typ: unix.NFTA_SET_ELEM_USERDATA, data: udRecord(udElementComment, append([]byte(v.comment), 0))}.append(p)
	}
	closeAttr(p, elem)
	b.parts[s] = p
}

func (v value) append(p []byte) []byte {
	if !v.verdict {
		return attr{typ: unix.NFTA_DATA_VALUE, data: v.data}.append(p)
	}
	p, at := openAttr(p, unix.NFTA_DATA_VERDICT)
	p = attr{typ: unix.NFTA_VERDICT_CODE, data: be32(uint32(v.code))}.append(p)
	if v.chain != "" {
		p = attrString(unix.NFTA_VERDICT_CHAIN, v.chain).append(p)
	}
	closeAttr(p, at)
	return p
}

func (b *batch) closeElements(s section) {
	o := &b.open[s]
	if !o.isOpen {
		return
	}
	p := b.parts[s]
	binary.NativeEndian.PutUint16(p[o.list:], uint16(len(p)-o.list))
	binary.NativeEndian.PutUint16(p[o.list+2:], unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED)
	b.end(s, o.start)
	o.isOpen = false
}

// bytes returns the transaction as it goes to the kernel. The last message asks
// for an acknowledgement; its sequence number is the second result.
func (b *batch) bytes() ([]byte, uint32) {
	size := 64
	for s := range sections {
		b.closeElements(s)
		size += len(b.parts[s])
	}
	end := uint32(len(b.owners) + 1)
	out := make([]byte, 0, size)
	out = appendHeader(out, unix.NFNL_MSG_BATCH_BEGIN, 0, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	var last int
	for s := range sections {
		base := len(out)
		out = append(out, b.parts[s]...)
		for at := base; at < len(out); at += int(binary.NativeEndian.Uint32(out[at:])) {
			last = at
		}
	}
	flags := binary.NativeEndian.Uint16(out[last+6:])
	binary.NativeEndian.PutUint16(out[last+6:], flags|unix.NLM_F_ACK)
	acked := binary.NativeEndian.Uint32(out[last+8:])
	return appendHeader(out, unix.NFNL_MSG_BATCH_END, 0, end, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES), acked
}

// appendHeader appends a netlink header and an nfgenmsg, with the length of a
// message that has no attributes.
func appendHeader(p []byte, typ, flags uint16, seq uint32, family byte, resource uint16) []byte {
	p = binary.NativeEndian.AppendUint32(p, 20)
	p = binary.NativeEndian.AppendUint16(p, typ)
	p = binary.NativeEndian.AppendUint16(p, flags|unix.NLM_F_REQUEST)
	p = binary.NativeEndian.AppendUint32(p, seq)
	p = binary.NativeEndian.AppendUint32(p, 0)
	p = append(p, family, unix.NFNETLINK_V0)
	return binary.BigEndian.AppendUint16(p, resource)
}

// attr is a netlink attribute: bytes, or (nested) attributes.
type attr struct {
	typ    uint16
	data   []byte
	nested []attr
}

func (a attr) append(p []byte) []byte {
	if a.nested == nil {
		p = binary.NativeEndian.AppendUint16(p, uint16(4+len(a.data)))
		p = binary.NativeEndian.AppendUint16(p, a.typ)
		p = append(p, a.data...)
		return append(p, zeroes[:-len(a.data)&3]...)
	}
	p, at := openAttr(p, a.typ)
	for _, n := range a.nested {
		p = n.append(p)
	}
	closeAttr(p, at)
	return p
}

var zeroes [4]byte

// openAttr starts a nested attribute, closeAttr writes its length.
func openAttr(p []byte, typ uint16) ([]byte, int) {
	at := len(p)
	p = append(p, 0, 0)
	return binary.NativeEndian.AppendUint16(p, typ|unix.NLA_F_NESTED), at
}

func closeAttr(p []byte, at int) {
	binary.NativeEndian.PutUint16(p[at:], uint16(len(p)-at))
}

func attrString(typ uint16, s string) attr { return attr{typ: typ, data: append([]byte(s), 0)} }

func attrU32(typ uint16, v uint32) attr { return attr{typ: typ, data: be32(v)} }

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func be64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// appendPort, appendFrontend and appendSlot lay keys out the way the registers
// of the lookups do: each field padded to four bytes.
func appendPort(p []byte, port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(p, port), 0, 0)
}

func appendFrontend(p []byte, f Frontend) []byte {
	p = appendAddr(p, f.Addr)
	p = append(p, byte(f.Protocol), 0, 0, 0)
	return appendPort(p, f.Port)
}

func appendSlot(p []byte, f Frontend, slot int) []byte {
	return binary.NativeEndian.AppendUint32(appendFrontend(p, f), uint32(slot))
}

func appendEndpoint(p []byte, e netip.AddrPort) []byte {
	return appendPort(appendAddr(p, e.Addr()), e.Port())
}

// appendClient appends a key of the affinity map, the counterpart of cutClient.
func appendClient(p []byte, source netip.Addr, port uint32) []byte {
	return append(appendAddr(p, source), native32(port)...)
}

func appendAddr(p []byte, a netip.Addr) []byte {
	if a.Is4() {
		four := a.As4()
		return append(p, four[:]...)
	}
	sixteen := a.As16()
	return append(p, sixteen[:]...)
}
