package takeover

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Socket options of legacy iptables, linux/netfilter_ipv4/ip_tables.h; IPv6 has
// the same numbers at another level.
const (
	optionInfo    = 64 // IPT_SO_GET_INFO
	optionEntries = 65 // IPT_SO_GET_ENTRIES
)

// legacyFamily is one of the two legacy iptables.
type legacyFamily struct {
	domain, level int
	names         string // the tables that exist
}

// The directory is the calling thread's: its network namespace may be another
// than the process's.
var legacyFamilies = []legacyFamily{
	{unix.AF_INET, unix.SOL_IP, "/proc/thread-self/net/ip_tables_names"},
	{unix.AF_INET6, unix.SOL_IPV6, "/proc/thread-self/net/ip6_tables_names"},
}

// hasLegacy looks for kube-proxy's chain in the legacy nat tables. A table that
// does not exist is not asked for: that would make it.
func hasLegacy() (bool, error) {
	for _, f := range legacyFamilies {
		names, err := os.ReadFile(f.names)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without legacy iptables
		}
		if err != nil {
			return false, err
		}
		for name := range strings.FieldsSeq(string(names)) {
			if name != "nat" {
				continue
			}
			rules, err := f.rules(name)
			if err != nil {
				return false, err
			}
			// A chain's name is kept in its first entry, with a zero behind.
			if bytes.Contains(rules, []byte(servicesChain+"\x00")) {
				return true, nil
			}
		}
	}
	return false, nil
}

// rules returns a table's entries as the kernel has them.
func (f legacyFamily) rules(table string) ([]byte, error) {
	fd, err := unix.Socket(f.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a socket for legacy iptables: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	// struct ipt_getinfo: a name of 32 bytes, 11 numbers, the number of entries
	// and their size.
	info := make([]byte, 32+13*4)
	copy(info, table)
	if err := getsockopt(fd, f.level, optionInfo, info); err != nil {
		return nil, fmt.Errorf("asking for legacy table %s: %w", table, err)
	}
	size := binary.NativeEndian.Uint32(info[32+12*4:])
	// struct ipt_get_entries: the name, the size, and aligned to eight bytes the entries.
	const header = 40
	entries := make([]byte, header+int(size))
	copy(entries, table)
	binary.NativeEndian.PutUint32(entries[32:], size)
	if err := getsockopt(fd, f.level, optionEntries, entries); err != nil {
		return nil, fmt.Errorf("reading legacy table %s: %w", table, err)
	}
	return entries[header:], nil
}

func getsockopt(fd, level, option int, value []byte) error {
	size := uint32(len(value))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&value[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// hasIPVS looks for the device that carries the Services' addresses in
// kube-proxy's IPVS mode. IPVS itself may be somebody else's.
func hasIPVS() (bool, error) {
	devices, err := net.Interfaces()
	if err != nil {
		return false, err
	}
	for _, d := range devices {
		if d.Name == ipvsDevice {
			return true, nil
		}
	}
	return false, nil
}
