package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// netnsDir is where the ip command looks for named network namespaces.
const netnsDir = "/run/netns"

// NetNS is a network namespace: a host's or a Pod's own devices, addresses,
// routes, sockets and packet filter. Its methods may be called concurrently.
type NetNS struct {
	name   string
	path   string
	open   sync.RWMutex // held to close file; a dial that nobody awaits may still enter
	file   *os.File
	handle *netlink.Handle
	named  bool
}

// NewNetNS makes a network namespace with its loopback device up. Inside the
// sandbox "ip netns exec name" finds it. The name must be new and a valid file
// name. Outside of a sandbox it refuses.
func NewNetNS(name string) (*NetNS, error) {
	if !Inside() {
		return nil, fmt.Errorf("making network namespace %s: only inside a sandbox, which Enter makes", name)
	}
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return nil, fmt.Errorf("network namespace name %q is not a file name", name)
	}
	path := filepath.Join(netnsDir, name)
	mountPoint, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return nil, fmt.Errorf("making network namespace %s: %w", name, err)
	}
	mountPoint.Close()
	if err := withThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount(threadNetNS, path, "", unix.MS_BIND, "")
	}); err != nil {
		return nil, errors.Join(fmt.Errorf("making network namespace %s: %w", name, err), os.Remove(path))
	}
	n, err := openNetNS(name, path)
	if err != nil {
		return nil, errors.Join(err, unix.Unmount(path, unix.MNT_DETACH), os.Remove(path))
	}
	n.named = true
	if err := n.up("lo"); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Current gives the network namespace that the caller runs in, normally the
// sandbox's main one. Outside of a sandbox it refuses: nobody shall change the
// machine's own network by mistake.
func Current() (*NetNS, error) {
	if !Inside() {
		return nil, errors.New("opening the current network namespace: only inside a sandbox, which Enter makes")
	}
	return openNetNS("current", threadNetNS)
}

// threadNetNS is the calling thread's network namespace.
const threadNetNS = "/proc/thread-self/ns/net"

func openNetNS(name, path string) (*NetNS, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening network namespace %s: %w", name, err)
	}
	handle, err := netlink.NewHandleAt(netns.NsHandle(file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening netlink in network namespace %s: %w", name, err), file.Close())
	}
	return &NetNS{name: name, path: path, file: file, handle: handle}, nil
}

// Name is the name it was made with, "current" for Current.
func (n *NetNS) Name() string { return n.name }

// Path is a file that stands for the namespace, for nsenter --net=… or setns.
// For Current it depends on the thread that reads it.
func (n *NetNS) Path() string { return n.path }

// Netlink is a route netlink handle that works in the namespace.
func (n *NetNS) Netlink() *netlink.Handle { return n.handle }

// Close gives up the namespace and takes its name away. The kernel removes it
// with its devices once no process and no open socket is left in it.
func (n *NetNS) Close() error {
	n.handle.Close()
	n.open.Lock()
	err := n.file.Close()
	n.open.Unlock()
	if n.named {
		err = errors.Join(err, unix.Unmount(n.path, unix.MNT_DETACH), os.Remove(n.path))
	}
	if err != nil {
		return fmt.Errorf("closing network namespace %s: %w", n.name, err)
	}
	return nil
}

// Do calls f on a thread that is in the namespace. Sockets opened and processes
// started by f are in it, and stay there. Goroutines started by f are not.
func (n *NetNS) Do(f func() error) error {
	return withThread(func() error {
		n.open.RLock()
		err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET)
		n.open.RUnlock()
		if err != nil {
			return fmt.Errorf("entering network namespace %s: %w", n.name, err)
		}
		return f()
	})
}

// withThread calls f with the goroutine bound to its thread, and puts the
// thread back into its network namespace afterwards. Should that fail, the
// goroutine stays bound, and the runtime ends the thread with the goroutine
// rather than let another one run in the wrong namespace.
func withThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open(threadNetNS)
		if err != nil {
			result <- err
			return
		}
		defer home.Close()
		err = f()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// DialContext connects from within the namespace; it fits http.Transport. The
// address must be a numeric one: there is no name resolution in a sandbox.
func (n *NetNS) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dialling from network namespace %s: %w", n.name, err)
	}
	err = n.Do(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen opens a stream listener in the namespace, as net.Listen does.
func (n *NetNS) Listen(ctx context.Context, network, address string) (listener net.Listener, err error) {
	err = n.Do(func() error {
		listener, err = new(net.ListenConfig).Listen(ctx, network, address)
		return err
	})
	return listener, err
}

// ListenPacket opens a datagram socket in the namespace, as net.ListenPacket
// does.
func (n *NetNS) ListenPacket(ctx context.Context, network, address string) (conn net.PacketConn, err error) {
	err = n.Do(func() error {
		conn, err = new(net.ListenConfig).ListenPacket(ctx, network, address)
		return err
	})
	return conn, err
}

// Start starts a command in the namespace. Waiting for it is up to the caller.
func (n *NetNS) Start(cmd *exec.Cmd) error {
	return n.Do(cmd.Start)
}

// Sysctl sets a network setting of the namespace, Sysctl("net.ipv4.ip_forward",
// "1") for instance. Parts that contain a dot themselves, as device names may,
// are written with slashes: "net/ipv4/conf/eth0.1/rp_filter".
func (n *NetNS) Sysctl(name, value string) error {
	if !strings.Contains(name, "/") {
		name = strings.ReplaceAll(name, ".", "/")
	}
	return n.Do(func() error {
		if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644); err != nil {
			return fmt.Errorf("setting sysctl in network namespace %s: %w", n.name, err)
		}
		return nil
	})
}
