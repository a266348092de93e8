package sandbox_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

func newNetNS(t *testing.T, name string) *sandbox.NetNS {
	t.Helper()
	n, err := sandbox.NewNetNS(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func host(n *sandbox.NetNS, address, router string) sandbox.End {
	return sandbox.End{
		NetNS: n, Device: "eth0",
		Addresses: []netip.Prefix{netip.MustParsePrefix(address)},
		Routes:    []sandbox.Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr(router)}},
	}
}

func port(n *sandbox.NetNS, device, router, to string) sandbox.End {
	return sandbox.End{
		NetNS: n, Device: device,
		Addresses: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(router), 32)},
		Routes:    []sandbox.Route{{To: netip.MustParsePrefix(to)}},
	}
}

// TestTwoHostsAndARouter is the shape of every network we build: no two hosts
// share a link, a router carries every packet between them.
func TestTwoHostsAndARouter(t *testing.T) {
	a, b, router := newNetNS(t, "a"), newNetNS(t, "b"), newNetNS(t, "router")
	if err := router.Sysctl("net.ipv4.ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	for _, cable := range [][2]sandbox.End{
		{port(router, "a", "10.0.0.1", "10.0.0.11/32"), host(a, "10.0.0.11/32", "10.0.0.1")},
		{port(router, "b", "10.0.0.1", "10.0.16.11/32"), host(b, "10.0.16.11/32", "10.0.0.1")},
	} {
		if err := sandbox.Connect(cable[0], cable[1]); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	listener, err := b.Listen(ctx, "tcp", "10.0.16.11:80")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	seen := make(chan string, 1)
	go func() {
		if conn, err := listener.Accept(); err == nil {
			seen <- conn.RemoteAddr().(*net.TCPAddr).IP.String()
			conn.Close()
		}
	}()
	conn, err := a.DialContext(ctx, "tcp", "10.0.16.11:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := <-seen; got != "10.0.0.11" {
		t.Errorf("the listener saw %s, want 10.0.0.11", got)
	}

	if err := router.DeleteDevice("a"); err != nil {
		t.Fatal(err)
	}
	if err := a.DeleteDevice("eth0"); err == nil {
		t.Error("the other end of a removed cable is still there")
	}
}

func TestConnectLeavesNothingOnError(t *testing.T) {
	a, b := newNetNS(t, "a"), newNetNS(t, "b")
	wrong := host(b, "10.0.0.2/32", "10.0.0.1")
	wrong.Routes[0].Source = netip.MustParseAddr("192.0.2.7") // not an address of this host
	if err := sandbox.Connect(port(a, "b", "10.0.0.1", "10.0.0.2/32"), wrong); err == nil {
		t.Fatal("a route with a foreign source address was accepted")
	}
	for n, device := range map[*sandbox.NetNS]string{a: "b", b: "eth0"} {
		if err := n.DeleteDevice(device); err == nil {
			t.Errorf("device %s is left in %s", device, n.Name())
		}
	}
}

// TestDoReturnsTheThread runs many functions side by side in a namespace and
// checks that none of the runtime's threads stays there.
func TestDoReturnsTheThread(t *testing.T) {
	n := newNetNS(t, "a")
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			err := n.Do(func() error {
				if inside, _ := os.Readlink("/proc/thread-self/ns/net"); inside == home {
					t.Error("Do ran in the namespace it was called from")
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if after, _ := os.Readlink("/proc/thread-self/ns/net"); after != home {
				t.Error("a goroutine ended up in the wrong namespace")
			}
		})
	}
	wg.Wait()
}

func TestProcessesInside(t *testing.T) {
	n := newNetNS(t, "a")
	cmd := exec.CommandContext(t.Context(), "cat", "/proc/net/dev")
	var out strings.Builder
	cmd.Stdout = &out
	if err := n.Do(cmd.Run); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "lo:") || strings.Contains(out.String(), "eth0:") {
		t.Errorf("devices seen by a process inside: %s", out.String())
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Log("no ip command: not checking that it finds the namespace by name")
		return
	}
	if answer, err := exec.CommandContext(t.Context(), "ip", "netns", "exec", "a", "true").CombinedOutput(); err != nil {
		t.Errorf("ip netns exec: %v: %s", err, answer)
	}
}

func TestBadInput(t *testing.T) {
	n := newNetNS(t, "a")
	for name, err := range map[string]error{
		"name taken":   second(sandbox.NewNetNS("a")),
		"name empty":   second(sandbox.NewNetNS("")),
		"name a path":  second(sandbox.NewNetNS("../x")),
		"host name":    second(n.DialContext(t.Context(), "tcp", "localhost:1")),
		"no such key":  n.Sysctl("net.ipv4.no_such", "1"),
		"no device":    n.AddAddress("eth7", netip.MustParsePrefix("10.0.0.1/32")),
		"long devices": sandbox.Connect(port(n, "a-name-of-16-xxx", "10.0.0.1", "10.0.0.2/32"), host(n, "10.0.0.2/32", "10.0.0.1")),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
