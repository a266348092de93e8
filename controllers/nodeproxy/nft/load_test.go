package nft

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// modes are the two in which everything must work: the kernel keeps others from
// the table, or it cannot.
func modes(t *testing.T, f func(t *testing.T, owned bool)) {
	for _, owned := range []bool{true, false} {
		t.Run(fmt.Sprintf("owned=%v", owned), func(t *testing.T) { f(t, owned) })
	}
}

// versatile are Services of all kinds of chains, with elements in every set.
func versatile(count int) map[string]*Service {
	out := many(count, 5)
	for i, name := range slices.Sorted(maps.Keys(out)) {
		for f, b := range out[name].Frontends {
			b.Policy = []Policy{Internal, InternalLocal, External, ExternalLocal, Direct}[i%5]
			if b.Policy == InternalLocal || b.Policy == ExternalLocal {
				b.Local = b.Cluster[:i%3]
			}
			if i%7 < 2 && b.Policy != Direct {
				b.Affinity = uint32(100 * (i%2 + 1))
			}
			if i%11 < 3 && (b.Policy == External || b.Policy == ExternalLocal) {
				b.Sources = []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("192.0.%d.0/24", i%256)), netip.MustParsePrefix("198.51.100.7/32"), netip.MustParsePrefix("0.0.0.0/1")}
			}
			if i%13 == 12 {
				b.Cluster, b.Local = nil, nil
			}
			out[name].Frontends[f] = b
		}
		out[name].LocalEndpoints = []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 200, byte(i % 50)})}
	}
	return out
}

func reopen(t *testing.T, host *sandbox.NetNS, old *Table, owned bool) *Table {
	t.Helper()
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, host, owned)
}

// TestTakeOver restarts on a table: nothing is written where nothing changed, and
// else what changed.
func TestTakeOver(t *testing.T) {
	modes(t, func(t *testing.T, owned bool) {
		for _, size := range []int{30, 1500} {
			host := newHost(t)
			table := open(t, host, owned)
			services := versatile(size)
			mustLoad(t, table, services)
			mustApply(t, table, map[string]*Service{"ns/s3": nil, "ns/s4": with(services["ns/s4"], endpoints(900, 901))})
			services["ns/s4"] = with(services["ns/s4"], endpoints(900, 901))
			gone := services["ns/s3"]
			delete(services, "ns/s3")
			before := elementsOf(t, host)

			table = reopen(t, host, table, owned)
			mustLoad(t, table, services)
			if s := table.Stats(); s.Elements != 0 || s.Dumps != 1 || table.Unfit() != nil {
				t.Errorf("nothing changed: %d elements written, %d dumps, %v", s.Elements, s.Dumps, table.Unfit())
			}
			if after := elementsOf(t, host); after != before {
				t.Errorf("nothing changed, but the elements did")
			}

			next := maps.Clone(services)
			next["ns/s3"] = gone                                           // comes back
			next["ns/s10"] = with(services["ns/s10"], endpoints(77))       // shrinks
			next["ns/new"] = ofSize(40000, 9)                              // a class there was not
			delete(next, "ns/s11")                                         // goes, and with it its class
			next["ns/renamed"], next["ns/s12"] = services["ns/s12"], nil   // another owner, same addresses
			next["ns/s15"] = with(services["ns/s15"], endpoints(75, 9999)) // others
			delete(next, "ns/s12")
			table = reopen(t, host, table, owned)
			mustLoad(t, table, next)
			if s := table.Stats(); s.Elements == 0 || s.Elements > 80 || table.Unfit() != nil {
				t.Errorf("six of %d changed: %d elements written, %v", size, s.Elements, table.Unfit())
			}
			fresh := newHost(t)
			mustLoad(t, open(t, fresh, owned), next)
			if got, want := keysOf(t, host, mapServices), keysOf(t, fresh, mapServices); got != want {
				t.Errorf("the frontends are\n%s\nwhere a fresh table has\n%s", got, want)
			}
			for _, set := range []string{setClusterIPs, setHairpin, setSources} {
				if got, want := keysOf(t, host, set), keysOf(t, fresh, set); got != want {
					t.Errorf("the set %s is\n%s\nwhere a fresh table has\n%s", set, got, want)
				}
			}
			if err := table.Verify(); err != nil {
				t.Error(err)
			}
			for name := range next {
				next[name] = nil
			}
			mustApply(t, table, next)
			if rest := elementsOf(t, host); strings.Contains(strings.ReplaceAll(rest, "elements = { 10.244.0.0/16 }", ""), "elements") {
				t.Errorf("elements are left:\n%s", rest)
			}
		}
	})
}

// elementsOf lists the table.
func elementsOf(t *testing.T, host *sandbox.NetNS) string {
	t.Helper()
	text, err := nft(t, host, "list", "table", "ip", TableName)
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	_, elements, _ := strings.Cut(text, "map services")
	elements, _, _ = strings.Cut(elements, "chain ")
	return elements
}

// keysOf lists a set's elements in order.
func keysOf(t *testing.T, host *sandbox.NetNS, set string) string {
	t.Helper()
	kind := "set"
	if set == mapServices {
		kind = "map"
	}
	text, err := nft(t, host, "list", kind, "ip", TableName, set)
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	_, text, _ = strings.Cut(text, "elements = {")
	lines := strings.Split(strings.NewReplacer("\t", "", "\n", " ").Replace(text), ",")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestTakeOverDamaged finds a table that somebody was at while nobody watched.
func TestTakeOverDamaged(t *testing.T) {
	for _, c := range []struct {
		commands string
		replaced bool
	}{
		{"flush chain ip fairway frontends", false},
		{"add chain ip fairway stranger; add rule ip fairway nat-output jump stranger", false},
		{"add rule ip fairway nat-prerouting ip daddr 10.96.0.2 drop", false},
		{"flush set ip fairway cluster-ips; flush set ip fairway sources", false},
		{"flush map ip fairway services", true},
		{"flush map ip fairway endpoints", false},
		{"add set ip fairway strange { type ipv4_addr; }", true},
		{"delete chain ip fairway nat-postrouting", true},
		{"flush ruleset; add table ip fairway", true},
		{"flush ruleset; add table ip fairway-bridge", false},
	} {
		t.Run(c.commands, func(t *testing.T) {
			host := newHost(t)
			table := open(t, host, false)
			services := versatile(40)
			mustLoad(t, table, services)
			whole := normal(elementsOf(t, host))
			if err := table.Close(); err != nil {
				t.Fatal(err)
			}
			if out, err := nft(t, host, c.commands); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			table = open(t, host, false)
			mustLoad(t, table, services)
			if got := table.Unfit() != nil; got != c.replaced {
				t.Errorf("replaced: %v (%v), want %v", got, table.Unfit(), c.replaced)
			}
			if got := normal(elementsOf(t, host)); got != whole {
				t.Errorf("the table is\n%s\nwant\n%s", got, whole)
			}
			if text, _ := nft(t, host, "list", "ruleset"); strings.Contains(text, "strange") || strings.Contains(text, "bridge") {
				t.Errorf("foreign things are left:\n%s", text)
			}
			if err := table.Verify(); err != nil {
				t.Error(err)
			}
		})
	}
}

// normal sorts what has no order of its own.
func normal(text string) string {
	parts := strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '\n' || r == '{' || r == '}' })
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	slices.Sort(parts)
	return strings.Join(parts, "\n")
}

// TestTakeOverInPieces does the same through a socket that takes little at once.
func TestTakeOverInPieces(t *testing.T) {
	modes(t, func(t *testing.T, owned bool) {
		host := newHost(t)
		small := func(table *Table) *Table {
			table.kernel.(*socket).sendBuf = 1 << 30 // as if it had grown already: it stays at the default
			return table
		}
		table := small(open(t, host, owned))
		services := versatile(3000)
		mustLoad(t, table, services)
		table = small(reopen(t, host, table, owned))
		for name, s := range services {
			services[name] = with(s, endpoints(1, 2, 3))
		}
		for i := range 500 {
			delete(services, fmt.Sprintf("ns/s%d", i))
		}
		mustLoad(t, table, services)
		if s := table.Stats(); s.Transactions < 4 || table.Unfit() != nil {
			t.Errorf("%d transactions (%v): the buffer was no limit", s.Transactions, table.Unfit())
		}
		fresh := newHost(t)
		mustLoad(t, open(t, fresh, owned), services)
		if keysOf(t, host, mapServices) != keysOf(t, fresh, mapServices) {
			t.Error("the frontends differ from those of a fresh table")
		}
	})
}

// TestRefusedAtRestart finds a Service that became one the kernel cannot take: it
// keeps what it had, until it can be taken or is gone.
func TestRefusedAtRestart(t *testing.T) {
	host := newHost(t)
	table := open(t, host, true)
	services := many(30, 4)
	mustLoad(t, table, services)
	before := keysOf(t, host, mapServices)
	bad := with(services["ns/s7"], endpoints(1))
	bad.Frontends[Frontend{Addr: netip.MustParseAddr("fd00::1"), Protocol: TCP, Port: 80}] = Backends{}
	good := services["ns/s7"]
	services["ns/s7"] = bad
	table = reopen(t, host, table, true)
	rejected, err := table.Load(services)
	expectOnly(t, rejected, err, "ns/s7")
	if now := keysOf(t, host, mapServices); now != before {
		t.Errorf("the frontends are\n%s\nbefore\n%s", now, before)
	}
	for _, next := range []*Service{with(good, nil), good, nil} {
		mustApply(t, table, map[string]*Service{"ns/s7": next})
		fresh := newHost(t)
		wanted := maps.Clone(services)
		wanted["ns/s7"] = next
		if next == nil {
			delete(wanted, "ns/s7")
		}
		mustLoad(t, open(t, fresh, true), wanted)
		if got, want := keysOf(t, host, mapServices), keysOf(t, fresh, mapServices); got != want {
			t.Errorf("the frontends are\n%s\nwhere a fresh table has\n%s", got, want)
		}
	}
	if err := table.Verify(); err != nil {
		t.Error(err)
	}
}

// TestOtherLayout replaces a table of another version and of another
// configuration, there and back.
func TestOtherLayout(t *testing.T) {
	modes(t, func(t *testing.T, owned bool) {
		for name, change := range map[string]func(*layout){
			"newer version": func(l *layout) { l.version++ },
			"older version": func(l *layout) { l.version-- },
			"other hooks":   func(l *layout) { l.priorities.Destination-- },
		} {
			t.Run(name, func(t *testing.T) {
				host := newHost(t)
				table := open(t, host, owned)
				services := versatile(50)
				mustLoad(t, table, services)
				for i := range 3 {
					table = reopen(t, host, table, owned)
					if i != 1 {
						change(&table.layout)
					}
					mustLoad(t, table, services)
					if table.Unfit() == nil {
						t.Error("it was taken over")
					}
					if text, _ := nft(t, host, "list", "ruleset"); !strings.Contains(text, table.layout.comment()) || strings.Contains(text, bridgeName) {
						t.Errorf("the kernel has another table:\n%s", text)
					}
				}
			})
		}
	})
}

// TestConfigurationChanges takes a table over with other rules.
func TestConfigurationChanges(t *testing.T) {
	host := newHost(t)
	config := Config{MasqueradeMark: 1 << 14}
	for _, c := range []struct {
		change func(*Config)
		has    string
		lacks  string
	}{
		{func(*Config) {}, "0x00004000", "pod-cidrs goto"},
		{func(c *Config) { c.MasqueradeMark = 1 << 20 }, "0x00100000", "0x00004000"},
		{func(c *Config) { c.Pods = Pods{By: PodsByInterface, Interface: "cni0"} }, `iifname != "cni0"`, "nothing"},
		{func(c *Config) { c.Pods = Pods{By: PodsByInterfacePrefix, Interface: "veth"} }, `iifname != "veth*"`, "cni0"},
		{func(c *Config) {
			c.Pods, c.Ranges = Pods{By: PodsByAddress}, Ranges{Pods: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}, Services: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}}
		}, "10.9.0.0/16", "veth"},
		{func(c *Config) { c.Ranges.Pods = append(c.Ranges.Pods, netip.MustParsePrefix("10.10.0.0/16")) }, "10.10.0.0/16", "nothing"},
	} {
		c.change(&config)
		var table *Table
		if err := host.Do(func() (err error) { table, err = Open(config); return err }); err != nil {
			t.Fatal(err)
		}
		mustLoad(t, table, versatile(20))
		if table.Unfit() != nil {
			t.Errorf("replaced: %v", table.Unfit())
		}
		if text, err := nft(t, host, "list", "ruleset"); err != nil || !strings.Contains(text, c.has) || strings.Contains(text, c.lacks) {
			t.Errorf("%v; want %q and no %q in\n%s", err, c.has, c.lacks, text)
		}
		if err := table.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestForeignElements lets another program at the elements of a table that the
// kernel does not protect: neither the table's handle nor its size changes.
func TestForeignElements(t *testing.T) {
	for _, command := range []string{
		"flush map ip fairway endpoints",
		"add element ip fairway cluster-ips { 192.0.2.1 }",
		"flush chain ip fairway frontends",
		"add rule ip fairway frontends drop",
	} {
		t.Run(command, func(t *testing.T) {
			host := newHost(t)
			table := open(t, host, false)
			services := many(20, 3)
			mustLoad(t, table, services)
			before := normal(elementsOf(t, host))
			for _, harmless := range []string{"add table ip other", "add table ip6 fairway", "add set ip other cluster-ips { type ipv4_addr; }"} {
				if out, err := nft(t, host, harmless); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			mustApply(t, table, map[string]*Service{"ns/own": ofSize(300, 4)})
			mustApply(t, table, map[string]*Service{"ns/own": nil})
			if err := table.Verify(); err != nil {
				t.Fatalf("others' tables and our own changes: %v", err)
			}
			if out, err := nft(t, host, command); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if err := table.Verify(); !errors.Is(err, ErrLost) {
				t.Fatalf("not noticed: %v", err)
			}
			mustLoad(t, table, services)
			if table.Unfit() != nil {
				t.Errorf("replaced for so little: %v", table.Unfit())
			}
			if err := table.Verify(); err != nil {
				t.Error(err)
			}
			if after := normal(elementsOf(t, host)); after != before {
				t.Errorf("the table is\n%s\nwant\n%s", after, before)
			}
		})
	}
}

// TestTargets names the chains of all classes and reads the names again.
func TestTargets(t *testing.T) {
	r := rules{pods: Pods{By: PodsByAddress}}
	for _, policy := range []Policy{Internal, InternalLocal, External, ExternalLocal, Direct} {
		for _, affinity := range []uint32{0, 10800} {
			for _, ranged := range []bool{false, true} {
				for _, local := range []int{0, 2} {
					c := class{policy: policy, slots: 5, affinity: affinity, ranged: ranged}
					if policy == InternalLocal {
						c.slots = 1
					}
					if policy == InternalLocal || policy == ExternalLocal {
						c.local = local
					}
					name := c.target()
					if name == targetDrop {
						continue
					}
					spec, ok := r.spec(name)
					if !ok || spec.name != name {
						t.Errorf("%+v is %q, which means %q (%v)", c, name, spec.name, ok)
					}
					c.ranged = false
					if got, ok := parseTarget(strings.TrimPrefix(name, "ranged-")); !ok || got != c {
						t.Errorf("%q is read as %+v, want %+v", name, got, c)
					}
				}
			}
		}
	}
	for _, name := range []string{"", "stranger", "pick-", "pick-0", "internal-5-3", "external-local-5", "ranged-", "ranged-stranger", chainFrontends} {
		if _, ok := r.spec(name); ok {
			t.Errorf("%q is taken for ours", name)
		}
	}
}
