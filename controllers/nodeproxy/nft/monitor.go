package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// monitor hears of the changes that others make to our table, where the kernel
// cannot keep them from it. A nil monitor hears nothing.
type monitor struct {
	*socket
	family byte
}

// newMonitor listens in the network namespace of the calling thread. What own
// sends is filtered out by the kernel: a large load would drown the rest.
func newMonitor(own *socket, family byte) (*monitor, error) {
	address, err := unix.Getsockname(own.fd)
	if err != nil {
		return nil, fmt.Errorf("asking for our own netlink address: %w", err)
	}
	us, ok := address.(*unix.SockaddrNetlink)
	if !ok {
		return nil, fmt.Errorf("our own netlink address is a %T", address)
	}
	s, err := openSocket()
	if err != nil {
		return nil, err
	}
	// The classic packet filter reads the sender, the fourth word of a netlink
	// header, in network byte order.
	sender := binary.BigEndian.Uint32(native32(us.Pid))
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 12},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: sender},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
	}
	err = errFirst(
		unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES),
	)
	if err != nil {
		_ = s.close()
		return nil, fmt.Errorf("listening for changes of nftables: %w", err)
	}
	return &monitor{socket: s, family: family}, nil
}

func (m *monitor) close() {
	if m != nil {
		_ = m.socket.close()
	}
}

// drain returns whether somebody else changed our table since the last call. When
// there was more than the socket holds, somebody may have.
func (m *monitor) drain() bool {
	if m == nil {
		return false
	}
	changed := false
	for {
		messages, err := m.receive()
		if err != nil {
			if !errors.Is(err, unix.ENOBUFS) {
				return true
			}
			changed = true
			continue
		}
		if len(messages) == 0 {
			return changed
		}
		for _, msg := range messages {
			if len(msg.Data) < 4 || msg.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
				continue
			}
			// The name of the table is the first attribute of every kind.
			changed = changed || msg.Data[0] == m.family && attributeString(msg.Data[4:], unix.NFTA_TABLE_NAME) == TableName
		}
	}
}
