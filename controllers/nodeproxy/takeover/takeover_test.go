package takeover

import (
	"encoding/binary"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

func TestMain(m *testing.M) { sandbox.Main(m) }

func newHost(t *testing.T) *sandbox.NetNS {
	t.Helper()
	host, err := sandbox.NewNetNS(strings.ReplaceAll(t.Name(), "/", "-"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	return host
}

// tool runs the distribution's nft on a host and returns what it says.
func tool(t *testing.T, host *sandbox.NetNS, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		if os.Getenv("CI") == "true" || os.Getenv("FAIRWAY_REQUIRE_NFT") == "1" {
			t.Fatal("the nft tool is missing (apt-get install nftables)")
		}
		t.Skip("NOT CHECKED, for there is no nft tool (apt-get install nftables): that kube-proxy's rules are found and removed")
	}
	var out strings.Builder
	cmd := exec.Command("nft", args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := host.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("nft %v: %v\n%s", args, err, out.String())
	}
	return out.String()
}

func open(t *testing.T, host *sandbox.NetNS) *Node {
	t.Helper()
	var n *Node
	if err := host.Do(func() (err error) { n, err = Open(); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func find(t *testing.T, host *sandbox.NetNS, n *Node) []Backend {
	t.Helper()
	var found []Backend
	if err := host.Do(func() (err error) { found, err = n.Find(); return err }); err != nil {
		t.Fatal(err)
	}
	return found
}

func TestFind(t *testing.T) {
	for _, c := range []struct {
		name    string
		install func(*testing.T, *sandbox.NetNS)
		want    []Backend
	}{
		{"nothing", func(*testing.T, *sandbox.NetNS) {}, nil},
		{"nftables", func(t *testing.T, h *sandbox.NetNS) { tool(t, h, "-f", "testdata/kube-proxy.nft") }, []Backend{NFTables}},
		{"nftables, IPv6 only", func(t *testing.T, h *sandbox.NetNS) { tool(t, h, "add", "table", "ip6", "kube-proxy") }, []Backend{NFTables}},
		{"iptables-nft", func(t *testing.T, h *sandbox.NetNS) { tool(t, h, "-f", "testdata/iptables-nft.nft") }, []Backend{IPTablesNFT}},
		{"the kubelet's chains only", func(t *testing.T, h *sandbox.NetNS) {
			tool(t, h, "add table ip nat; add chain ip nat KUBE-KUBELET-CANARY; add table ip mangle; add chain ip mangle KUBE-IPTABLES-HINT")
		}, nil},
		{"legacy iptables", func(t *testing.T, h *sandbox.NetNS) { installLegacy(t, h, servicesChain) }, []Backend{IPTablesLegacy}},
		{"legacy iptables of others", func(t *testing.T, h *sandbox.NetNS) { installLegacy(t, h, "DOCKER") }, nil},
		{"IPVS", func(t *testing.T, h *sandbox.NetNS) {
			device := netlink.NewLinkAttrs()
			device.Name = ipvsDevice
			// kube-proxy's is a dummy device, which not every kernel has.
			if err := h.Netlink().LinkAdd(&netlink.Veth{LinkAttrs: device, PeerName: "peer"}); err != nil {
				t.Fatal(err)
			}
		}, []Backend{IPVS}},
	} {
		t.Run(c.name, func(t *testing.T) {
			host := newHost(t)
			c.install(t, host)
			if got := find(t, host, open(t, host)); !slices.Equal(got, c.want) {
				t.Errorf("found %v, want %v", got, c.want)
			}
		})
	}
}

// TestRemove takes kube-proxy's rules out and leaves everybody else's.
func TestRemove(t *testing.T) {
	host := newHost(t)
	tool(t, host, "-f", "testdata/kube-proxy.nft")
	tool(t, host, "-f", "testdata/iptables-nft.nft")
	tool(t, host, "chain ip filter FORWARD { policy drop; }")
	tool(t, host, "add table ip6 kube-proxy")
	n := open(t, host)
	droppers, err := n.Remove()
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"ip filter FORWARD"}; !slices.Equal(droppers, want) {
		t.Errorf("chains that drop: %v, want %v", droppers, want)
	}
	if found := find(t, host, n); found != nil {
		t.Errorf("still there: %v", found)
	}
	left := tool(t, host, "list", "ruleset")
	for _, want := range []string{"KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "jump KUBE-FIREWALL", "jump CNI-HOSTPORT-DNAT", "dport 9999 dnat", "ct status dnat drop"} {
		if !strings.Contains(left, want) {
			t.Errorf("%q went too", want)
		}
	}
	for _, gone := range []string{"KUBE-SERVICES", "KUBE-SVC", "KUBE-SEP", "KUBE-FORWARD", "KUBE-PROXY", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "kube-proxy"} {
		if strings.Contains(left, gone) {
			t.Errorf("%q is still there", gone)
		}
	}
	if t.Failed() {
		t.Log(left)
	}
	if _, err := n.Remove(); err != nil {
		t.Errorf("with nothing to remove: %v", err)
	}
}

func TestAdvice(t *testing.T) {
	for _, c := range []struct {
		found []Backend
		want  string
	}{
		{[]Backend{NFTables, IPTablesNFT}, "(nftables, iptables-nft). Take kube-proxy's DaemonSet away from this node, then start node-proxy with --takeover"},
		{[]Backend{IPTablesNFT, IPTablesLegacy}, `Those of iptables-legacy can only be removed by kube-proxy itself`},
		{[]Backend{IPVS}, `run "kube-proxy --cleanup" here, then start node-proxy`},
	} {
		if got := Advice(c.found); !strings.Contains(got, c.want) {
			t.Errorf("%v: %q does not say %q", c.found, got, c.want)
		}
	}
}

// installLegacy makes the legacy nat table and a chain of that name in it, the
// way the iptables-legacy program does.
func installLegacy(t *testing.T, host *sandbox.NetNS, chain string) {
	t.Helper()
	err := host.Do(func() error {
		f := legacyFamilies[0]
		rules, err := f.rules("nat") // asking for it makes it
		if err != nil {
			return err
		}
		fd, err := unix.Socket(f.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		info := make([]byte, 32+13*4)
		copy(info, "nat")
		if err := getsockopt(fd, f.level, optionInfo, info); err != nil {
			return err
		}
		// A chain is an entry that names it and one that returns, before the
		// entry that ends the table.
		const entry, errorTarget, standardTarget = 112, 64, 40
		last := len(rules) - entry - errorTarget
		head := slices.Clone(rules[last:])
		clear(head[entry+32 : entry+62])
		copy(head[entry+32:], chain)
		back := make([]byte, entry+standardTarget)
		binary.NativeEndian.PutUint16(back[88:], entry)
		binary.NativeEndian.PutUint16(back[90:], entry+standardTarget)
		binary.NativeEndian.PutUint16(back[entry:], standardTarget)
		const xtReturn = -5 // XT_RETURN of linux/netfilter/x_tables.h
		binary.NativeEndian.PutUint32(back[entry+32:], uint32(0xffffffff+xtReturn+1))
		blob := slices.Concat(rules[:last], head, back, rules[last:])

		entries := binary.NativeEndian.Uint32(info[32+11*4:])
		replace := make([]byte, 96, 96+len(blob))
		copy(replace, "nat")
		copy(replace[32:], info[32:36])                                // valid hooks
		binary.NativeEndian.PutUint32(replace[36:], entries+2)         // entries
		binary.NativeEndian.PutUint32(replace[40:], uint32(len(blob))) // their size
		copy(replace[44:84], info[36:76])                              // where hooks begin and end
		binary.NativeEndian.PutUint32(replace[84:], entries)           // counters of the old table
		counters := make([]byte, 16*entries)                           // which the kernel fills in
		*(*uintptr)(unsafe.Pointer(&replace[88])) = uintptr(unsafe.Pointer(&counters[0]))
		replace = append(replace, blob...)
		const optionReplace = 64 // IPT_SO_SET_REPLACE
		_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(f.level), optionReplace,
			uintptr(unsafe.Pointer(&replace[0])), uintptr(len(replace)), 0)
		runtime.KeepAlive(counters)
		if errno != 0 {
			return errno
		}
		return nil
	})
	if err != nil {
		t.Fatalf("installing a legacy chain: %v", err)
	}
}
