package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// socket is a netlink socket to the network namespace of the thread that opened
// it. Tables with an owner belong to it, so it lives as long as the Table.
type socket struct {
	fd      int
	sendBuf int
	recv    []byte
}

func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("opening a netfilter netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("binding the netfilter netlink socket: %w", err)
	}
	// Both only make errors shorter and clearer; kernels since 4.12 have them.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	s := &socket{fd: fd, recv: make([]byte, 64<<10)}
	s.sendBuf, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF) // to grow from, never to shrink
	return s, nil
}

func (s *socket) close() error { return unix.Close(s.fd) }

// send hands one buffer to the kernel, in one system call: for nfnetlink that is
// what makes a transaction. The socket's send buffer grows as far as privileges
// allow; beyond that the error is EMSGSIZE and nothing was changed.
func (s *socket) send(p []byte) error {
	if want := len(p) + 4096; want > s.sendBuf {
		if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, want) != nil {
			_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, want)
		}
		s.sendBuf = want
	}
	return unix.Sendto(s.fd, p, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// receive returns the waiting messages, or none. nfnetlink answers within the
// system call that sends, so there is nothing to wait for.
func (s *socket) receive() ([]netlink.Message, error) {
	n, _, err := unix.Recvfrom(s.fd, s.recv, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
	if errors.Is(err, unix.EAGAIN) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if n > len(s.recv) {
		return nil, unix.EMSGSIZE
	}
	var out []netlink.Message
	for p := s.recv[:n]; len(p) >= unix.NLMSG_HDRLEN; {
		size := int(binary.NativeEndian.Uint32(p))
		if size < unix.NLMSG_HDRLEN || size > len(p) {
			return nil, unix.EBADMSG
		}
		var m netlink.Message
		m.Header.Type = netlink.HeaderType(binary.NativeEndian.Uint16(p[4:]))
		m.Header.Flags = netlink.HeaderFlags(binary.NativeEndian.Uint16(p[6:]))
		m.Header.Sequence = binary.NativeEndian.Uint32(p[8:])
		m.Data = append([]byte(nil), p[unix.NLMSG_HDRLEN:size]...)
		out = append(out, m)
		p = p[min((size+3)&^3, len(p)):]
	}
	return out, nil
}

// commit sends a transaction. Either all of it takes effect, or the error says
// why none did: a *[batchError] with what the kernel refused, or the transport's.
func (s *socket) commit(b *batch) error {
	p, acked := b.bytes()
	if err := s.send(p); err != nil {
		return fmt.Errorf("sending a transaction of %d bytes: %w", len(p), err)
	}
	var refused batchError
	done := false
	for {
		messages, err := s.receive()
		if err != nil {
			return fmt.Errorf("reading the answer to a transaction: %w", err)
		}
		if len(messages) == 0 {
			break
		}
		for _, m := range messages {
			if m.Header.Type != netlink.Error || len(m.Data) < 4 {
				continue
			}
			errno := unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
			if errno == 0 {
				done = done || m.Header.Sequence == acked
				continue
			}
			refused.add(b, m, errno)
		}
	}
	switch {
	case refused.causes != nil:
		return &refused
	case !done:
		return errors.New("the kernel did not answer a transaction")
	}
	return nil
}

// batchError is a transaction the kernel refused. Nothing of it took effect.
type batchError struct {
	causes []cause
}

type cause struct {
	owner string // for whom the refused message was written; "" when for all
	err   error
}

func (e *batchError) add(b *batch, m netlink.Message, errno unix.Errno) {
	c := cause{err: errno}
	if i := int(m.Header.Sequence) - 1; i >= 0 && i < len(b.owners) {
		c.owner = b.owners[i]
	}
	if text := extendedAck(m); text != "" {
		c.err = fmt.Errorf("%w (%s)", errno, text)
	}
	e.causes = append(e.causes, c)
}

// extendedAck returns the kernel's own words, if it gave any.
func extendedAck(m netlink.Message) string {
	const errorAndHeader = 4 + unix.NLMSG_HDRLEN
	if m.Header.Flags&unix.NLM_F_ACK_TLVS == 0 || m.Header.Flags&unix.NLM_F_CAPPED == 0 || len(m.Data) < errorAndHeader {
		return ""
	}
	d, err := netlink.NewAttributeDecoder(m.Data[errorAndHeader:])
	if err != nil {
		return ""
	}
	for d.Next() {
		if d.Type() == unix.NLMSGERR_ATTR_MSG {
			return d.String()
		}
	}
	return ""
}

func (e *batchError) Error() string {
	var b strings.Builder
	b.WriteString("the kernel refused a transaction")
	for i, c := range e.causes {
		if i == 3 {
			fmt.Fprintf(&b, " and %d more", len(e.causes)-i)
			break
		}
		fmt.Fprintf(&b, "; %s: %v", c.owner, c.err)
	}
	return b.String()
}

// Unwrap gives the kernel's error numbers to errors.Is.
func (e *batchError) Unwrap() []error {
	out := make([]error, len(e.causes))
	for i, c := range e.causes {
		out[i] = c.err
	}
	return out
}

// get sends a request for one object and returns the attributes of the answer.
func (s *socket) get(typ uint16, family byte, attrs ...attr) (*netlink.AttributeDecoder, error) {
	p := appendHeader(nil, unix.NFNL_SUBSYS_NFTABLES<<8|typ, 0, 1, family, 0)
	for _, a := range attrs {
		p = a.append(p)
	}
	binary.NativeEndian.PutUint32(p, uint32(len(p)))
	if err := s.send(p); err != nil {
		return nil, err
	}
	messages, err := s.receive()
	if err != nil {
		return nil, err
	}
	if len(messages) == 0 || len(messages[0].Data) < 4 {
		return nil, errors.New("the kernel did not answer")
	}
	m := messages[0]
	if m.Header.Type == netlink.Error {
		return nil, unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
	}
	d, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return nil, err
	}
	d.ByteOrder = binary.BigEndian
	return d, nil
}

// Attributes of a table that golang.org/x/sys/unix lacks, from linux/netfilter/nf_tables.h.
const (
	attrTableUse    = 3
	attrTableHandle = 4
)

// tableInfo is what the kernel says about a table.
type tableInfo struct {
	handle  uint64
	use     uint32 // chains, sets and objects in it
	flags   uint32
	comment string
}

// getTable returns ok false when there is no table of that name in the family.
func (s *socket) getTable(family byte, name string) (t tableInfo, ok bool, err error) {
	d, err := s.get(unix.NFT_MSG_GETTABLE, family, attrString(unix.NFTA_TABLE_NAME, name))
	if errors.Is(err, unix.ENOENT) {
		return tableInfo{}, false, nil
	}
	if err != nil {
		return tableInfo{}, false, fmt.Errorf("asking for the table %q: %w", name, err)
	}
	for d.Next() {
		switch d.Type() {
		case attrTableHandle:
			t.handle = d.Uint64()
		case attrTableUse:
			t.use = d.Uint32()
		case unix.NFTA_TABLE_FLAGS:
			t.flags = d.Uint32()
		case attrTableUserdata:
			t.comment = udComment(d.Bytes())
		}
	}
	return t, true, d.Err()
}

// counter returns the packets that a named counter has seen.
func (s *socket) counter(family byte, table, name string) (packets uint64, err error) {
	d, err := s.get(unix.NFT_MSG_GETOBJ, family, attrString(unix.NFTA_OBJ_TABLE, table),
		attrString(unix.NFTA_OBJ_NAME, name), attrU32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER))
	if err != nil {
		return 0, fmt.Errorf("asking for the counter %q: %w", name, err)
	}
	for d.Next() {
		if d.Type() == unix.NFTA_OBJ_DATA {
			d.Nested(func(d *netlink.AttributeDecoder) error {
				d.ByteOrder = binary.BigEndian
				for d.Next() {
					if d.Type() == unix.NFTA_COUNTER_PACKETS {
						packets = d.Uint64()
					}
				}
				return nil
			})
		}
	}
	return packets, d.Err()
}

// generation returns the ruleset's generation, which every change of any table
// of the namespace moves.
func (s *socket) generation() (uint32, error) {
	d, err := s.get(unix.NFT_MSG_GETGEN, unix.AF_UNSPEC)
	if err != nil {
		return 0, fmt.Errorf("asking for the ruleset's generation: %w", err)
	}
	for d.Next() {
		if d.Type() == unix.NFTA_GEN_ID {
			return d.Uint32(), nil
		}
	}
	return 0, errors.New("the ruleset's generation is missing from the kernel's answer")
}
