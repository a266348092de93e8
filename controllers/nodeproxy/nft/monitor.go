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
	own    []uint32 // netlink addresses of this program
}

// newMonitor listens in the network namespace of the calling thread. What own
// sends is filtered out.
func newMonitor(own *socket, family byte) (*monitor, error) {
	s, err := openSocket()
	if err != nil {
		return nil, err
	}
	m := &monitor{socket: s, family: family}
	if err = m.trust(own); err == nil {
		err = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		_ = s.close()
		return nil, fmt.Errorf("listening for changes of nftables: %w", err)
	}
	return m, nil
}

// trust lets the kernel filter out what another socket sends: of a large load,
// this one would hold only a part, and so would have to take the rest for
// anything. It replaces the filter there is at once.
func (m *monitor) trust(other *socket) error {
	address, err := unix.Getsockname(other.fd)
	if err != nil {
		return fmt.Errorf("asking for our own netlink address: %w", err)
	}
	us, ok := address.(*unix.SockaddrNetlink)
	if !ok {
		return fmt.Errorf("our own netlink address is a %T", address)
	}
	m.own = append(m.own, us.Pid)
	// The classic packet filter reads the sender, the fourth word of a netlink
	// header, in network byte order.
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 12}}
	for i, pid := range m.own {
		sender := binary.BigEndian.Uint32(native32(pid))
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(len(m.own) - i), K: sender})
	}
	filter = append(filter,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0})
	err = unix.SetsockoptSockFprog(m.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	if err != nil {
		return fmt.Errorf("filtering our own changes out: %w", err)
	}
	return nil
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
