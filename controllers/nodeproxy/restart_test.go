package nodeproxy

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// TestUpgradeUnderLoad starts a version whose table is another one, and goes back,
// while requests are made: none fails, and clients keep their endpoints.
func TestUpgradeUnderLoad(t *testing.T) {
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("shared=%v", shared), func(t *testing.T) {
			w := newWorld(t)
			w.shared = shared
			w.start(t)
			objects := append(newTestSlices("web", pod("a"), pod("b"), pod("remote")), newTestService("web", sticky(10800)))
			w.replace(t, objects...)
			before := make([]map[string]string, len(families))
			for family := range families {
				before[family] = make(map[string]string)
				for source, pod := range w.served(t, w.sources(t, family, 12), vip.at(family), "tcp") {
					before[family][source.String()] = pod
				}
			}
			// The endpoints clients would be given anew are others by now.
			w.update(t, newTestSlices("web", pod("a"), pod("b"))...)
			w.update(t, objects...)
			load := w.load(t, tcpUDP, "a", "b", "remote")
			for round := range 6 {
				w.stop()
				load.more(t)
				w.configure = func(c *Config) { c.NATPriorities = nft.Priorities{Destination: -100 - int32(round%2)} }
				w.startWith(t, objects...)
				load.more(t)
				w.resting(t, func() {
					for family := range families {
						if unfit := w.proxy.planes[family].table.Unfit(); (unfit != nil) != (round > 0) {
							t.Errorf("round %d: replaced because: %v", round, unfit)
						}
					}
				})
			}
			load.stop()
			for family := range families {
				now := make(map[string]string)
				for source := range before[family] {
					now[source] = w.askAs(t, "client", netip.MustParseAddr(source), "tcp", vip.at(family), patience).pod
				}
				for source, pod := range before[family] {
					if pod == "remote" { // was gone for a moment
						delete(now, source)
						delete(before[family], source)
					}
				}
				if !maps.Equal(now, before[family]) {
					t.Errorf("%s: clients are served by %v, before by %v", families[family], now, before[family])
				}
			}
			if text := w.list(t); strings.Contains(text, "bridge") {
				t.Errorf("something is left:\n%s", text)
			}
		})
	}
}

// TestForeignChangeRepaired has another program change an element, which neither
// the table's handle nor its size tells.
func TestForeignChangeRepaired(t *testing.T) {
	if verifyEvery > 250*time.Millisecond {
		t.Errorf("foreign changes are looked for every %v only", verifyEvery)
	}
	w := newWorld(t)
	w.shared = true
	w.start(t)
	w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web"))...)
	if w.list(t) == "" {
		t.Skip("NOT CHECKED: there is no nft tool to change the table with")
	}
	for family, name := range families {
		of := []string{"ip fairway", "ip6 fairway"}[family]
		for _, command := range []string{
			"flush map " + of + " endpoints",
			"delete element " + of + " services { " + addresses["cluster"][family] + " . tcp . 80 }",
			"insert rule " + of + " frontends drop",
			"delete table " + of,
		} {
			dumps := w.stats(t).Dumps
			w.nft(t, command)
			for _, network := range []string{"tcp", "udp"} {
				until(t, "the Service is back over "+name+" and "+network+" after "+command, func() bool {
					return w.ask(t, "client", network, clusterIP.at(family), patience/10).pod == "a"
				})
			}
			if now := w.stats(t).Dumps; now > dumps+1 {
				t.Errorf("after %q the kernel was read %d times", command, now-dumps)
			}
		}
	}
}

// TestSteadyStateReadsNothing changes endpoints many times and verifies the table
// in between: the kernel's state is never read.
func TestSteadyStateReadsNothing(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web", sticky(100)))...)
	before := w.stats(t)
	for i := range 50 {
		w.update(t, newTestSlices("web", pod([]string{"a", "b", "remote"}[i%3]))...)
		w.resting(t, func() {
			for _, p := range w.proxy.planes {
				must(t, p.table.Verify())
			}
		})
	}
	after := w.stats(t)
	if after.Dumps != before.Dumps {
		t.Errorf("%d dumps", after.Dumps-before.Dumps)
	}
	// Per change, family and address (two ports at the ClusterIP, the load
	// balancer's, the node's): a slot and the spare go and come.
	if got, most := after.Elements-before.Elements, 50*2*(2*3*4+2); got > most {
		t.Errorf("%d elements for 50 changes, more than %d", got, most)
	}
	if after.Objects != before.Objects {
		t.Errorf("%d sets, maps and chains, %d before", after.Objects, before.Objects)
	}
}

// TestNodeCIDRChanges moves the node's own range of Pods, which decides whose
// source is kept, without a restart.
func TestNodeCIDRChanges(t *testing.T) {
	w := newWorld(t)
	w.configure = func(c *Config) { c.PodCIDRs, c.DetectLocal = nil, DetectByNodeCIDR }
	w.start(t)
	w.replace(t, append(newTestSlices("web", pod("b")), newTestService("web"))...)
	for _, step := range []struct {
		cidrs  []string
		source string
	}{
		{nil, "node"}, // nobody is known to be a Pod
		{[]string{"10.244.1.0/24", "fd00:f4:1::/64"}, "a"},
		{[]string{"10.244.7.0/24", "fd00:f4:7::/64"}, "node"},
		{[]string{"10.244.0.0/20", "fd00:f4::/40"}, "a"},
	} {
		n := newTestNode(addr2("node")...)
		n.Spec.PodCIDRs = step.cidrs
		w.update(t, n)
		w.check(t, []flow{{"a", clusterIP, []string{"b"}, step.source}})
	}
}

// TestMarkOfOthers: bits of the packet's mark that are not ours stay as they are
// on the way to a Pod, with affinity and masquerading.
func TestMarkOfOthers(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	if w.list(t) == "" {
		t.Skip("NOT CHECKED: there is no nft tool to set marks with")
	}
	w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web", sticky(100)))...)
	w.nft(t, `add table inet marks
add chain inet marks early { type filter hook prerouting priority -150; meta l4proto tcp meta mark set 0x00ab0005; }
add chain inet marks late { type filter hook postrouting priority 200; meta l4proto tcp tcp dport 8080 meta mark != 0x00ab0005 counter drop; }`)
	w.checkOne(t, flow{"client", vip, []string{"a"}, "node"}, 0, "tcp")
	w.checkOne(t, flow{"client", vip, []string{"a"}, "node"}, 1, "tcp")
}
