package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// watched is a kernel of which a test sees what is asked and done.
type watched struct {
	kernel
	lists     int
	sent      func(*batch) // before each transaction
	committed func()       // after it
}

func (w *watched) list(typ uint16, family byte, attrs ...attr) ([][]byte, error) {
	w.lists++
	return w.kernel.list(typ, family, attrs...)
}

func (w *watched) commit(b *batch) error {
	if w.sent != nil {
		w.sent(b)
	}
	err := w.kernel.commit(b)
	if err == nil && w.committed != nil {
		w.committed()
	}
	return err
}

// churn changes arbitrary Services of a table, some of them ones the kernel
// refuses.
func churn(t *testing.T, table *Table, r *rand.Rand, steps int) {
	t.Helper()
	for range steps {
		changes := make(map[string]*Service)
		for range 1 + r.IntN(4) {
			changes[fmt.Sprintf("ns/s%d", r.IntN(12))] = arbitrary(r)
		}
		if r.IntN(5) == 0 {
			changes[fmt.Sprintf("ns/s%d", r.IntN(12))] = nil
		}
		mustApply(t, table, changes)
	}
}

// TestNeverLists counts how often the kernel's state is read: at the start once,
// and never again, whatever happens short of another program's change.
func TestNeverLists(t *testing.T) {
	modes(t, func(t *testing.T, owned bool) {
		host := newHost(t)
		table := open(t, host, owned)
		mustLoad(t, table, versatile(50))
		table = reopen(t, host, table, owned)
		kernel := &watched{kernel: table.kernel}
		table.kernel = kernel
		mustLoad(t, table, versatile(50))
		if kernel.lists == 0 || table.Unfit() != nil {
			t.Fatalf("%d lists to take a table over (%v): they are not counted", kernel.lists, table.Unfit())
		}
		kernel.lists = 0
		r := rand.New(rand.NewPCG(8, 9))
		for i := range 40 {
			churn(t, table, r, 5)
			bad := map[string]*Service{"ns/bad": {Frontends: map[Frontend]Backends{{Addr: netip.MustParseAddr("fd00::1"), Protocol: TCP, Port: 1}: {}}}}
			rejected, err := table.Apply(bad)
			expectOnly(t, rejected, err, "ns/bad")
			if i%10 == 0 {
				if out, err := nft(t, host, fmt.Sprintf("add table ip other%d", i)); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			ranges := Ranges{Pods: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16)}}
			_, err = table.AffinityFull()
			if err := errors.Join(err, table.Verify(), table.Sweep(), table.SetRanges(ranges)); err != nil {
				t.Fatal(err)
			}
		}
		if kernel.lists != 0 {
			t.Errorf("the kernel's state was read %d times", kernel.lists)
		}
	})
}

// TestEachTransactionIsWhole looks, after every single transaction, whether what
// the kernel then has is what packets need: the chain that each frontend goes to
// draws from as many slots as the frontend has, no more than a quarter of them
// are holes, and the last resort never is one.
func TestEachTransactionIsWhole(t *testing.T) {
	host := newHost(t)
	table := open(t, host, true)
	mustLoad(t, table, nil)
	looks, frontends, holes := 0, 0, 0
	table.kernel = &watched{kernel: table.kernel, committed: func() {
		looks++
		f, h := expectWhole(t, host)
		frontends += f
		holes += h
	}}
	r := rand.New(rand.NewPCG(5, 6))
	churn(t, table, r, 50)
	// One pool grows and shrinks by a few at a time.
	var have []netip.AddrPort
	for step := range 100 {
		if grow := r.IntN(2) == 0; grow && len(have) < 40 {
			have = append(have, endpoints(1000+step)...)
		} else if len(have) > 0 {
			have = slices.Delete(slices.Clone(have), 0, 1+r.IntN(min(4, len(have))))
		}
		s := ofSize(300, 0)
		for f, b := range s.Frontends {
			b.Cluster, b.Local, b.Policy = have, have[:len(have)/2], ExternalLocal
			b.Affinity = []uint32{0, 600}[step/50]
			s.Frontends[f] = b
		}
		before := table.Stats()
		mustApply(t, table, map[string]*Service{"ns/pool": s})
		after := table.Stats()
		// Chains of a size that was not there come before, without users.
		most := 1
		if after.Chains > before.Chains {
			most = 2
		}
		if n := after.Transactions - before.Transactions; n > most {
			t.Errorf("a change took %d transactions", n)
		}
	}
	if looks < 150 || frontends < 10*looks || holes == 0 {
		t.Errorf("%d looks at %d frontends with %d holes: not enough to tell", looks, frontends, holes)
	}
}

// expectWhole reads all frontends from the kernel and returns how many there are,
// and how many holes their pools have.
func expectWhole(t *testing.T, host *sandbox.NetNS) (frontends, holes int) {
	t.Helper()
	var s *socket
	if err := host.Do(func() (err error) { s, err = openSocket(); return err }); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.close() }()
	reader := &Table{kernel: s, layout: layout{rules: rules{family: unix.NFPROTO_IPV4}}}
	read := func(set string) []element {
		out, err := reader.settled(set)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	slots := make(map[Frontend]map[int]bool)
	for _, e := range read(mapEndpoints) {
		f, number, err := reader.layout.rules.cutSlot(e.key)
		if err != nil {
			t.Fatal(err)
		}
		if slots[f] == nil {
			slots[f] = make(map[int]bool)
		}
		slots[f][int(number)] = true
	}
	for _, e := range read(mapServices) {
		frontends++
		f, _ := reader.layout.rules.cutFrontend(e.key)
		c, known := parseTarget(strings.TrimPrefix(e.target, "ranged-"))
		if !known { // refused or dropped
			if len(slots[f]) > 0 && !strings.HasSuffix(e.target, targetDrop) {
				t.Errorf("%v goes to %s and has %d slots", f, e.target, len(slots[f]))
			}
			continue
		}
		if c.policy != InternalLocal {
			holes += expectPool(t, f, slots[f], c.cluster(), 0)
		}
		holes += expectPool(t, f, slots[f], c.ofNode(), localSlot)
	}
	return frontends, holes
}

// expectPool returns how many holes a pool has.
func expectPool(t *testing.T, f Frontend, have map[int]bool, p pick, first int) (holes int) {
	t.Helper()
	for i := range p.slots {
		if !have[first+i] {
			holes++
		}
	}
	last := first
	if p.affinity > 0 {
		last += spareSlot
	}
	if p.slots > 0 && !have[last] {
		t.Errorf("%v goes to %s, whose last resort is a hole: %v", f, p, slices.Sorted(maps.Keys(have)))
	}
	if holes > p.slots/4 {
		t.Errorf("%v goes to %s, of which %d are holes: %v", f, p, holes, slices.Sorted(maps.Keys(have)))
	}
	return holes
}

// TestHooksGoBeforeTheTable replaces tables, also where an earlier run was killed
// while it did that, and removes them. A packet that is on its way through a table
// at the moment it goes finds no element any more, but still addresses to refuse:
// so the hooks must be gone by then.
func TestHooksGoBeforeTheTable(t *testing.T) {
	modes(t, func(t *testing.T, owned bool) {
		host := newHost(t)
		table := open(t, host, owned)
		services := versatile(30)
		mustLoad(t, table, services)
		deleted := 0
		next := func() {
			table = reopen(t, host, table, owned)
			table.layout.priorities.Destination--
			table.kernel = &watched{kernel: table.kernel, sent: func(b *batch) {
				if !deletesTable(b) {
					return
				}
				deleted++
				text, err := nft(t, host, "list", "table", "ip", b.table)
				if err != nil || strings.Contains(text, "hook") {
					t.Errorf("the table %s goes with its hooks (%v)", b.table, err)
				}
			}}
		}
		next()
		mustLoad(t, table, services) // the table, then the one beside it
		next()
		bridge := newState()
		accepted(t)(writer{table, bridgeName, &bridge}.create(services, nil)) // killed here
		next()
		table.layout.priorities.Destination-- // another one again
		mustLoad(t, table, services)          // the one that was left, and again two
		if err := table.Remove(); err != nil {
			t.Fatal(err)
		}
		if deleted != 2+3+1 {
			t.Errorf("%d tables were deleted, want 6", deleted)
		}
	})
}

// deletesTable tells whether a transaction begins with that.
func deletesTable(b *batch) bool {
	p := b.parts[sectionCreate]
	return len(p) > 6 && binary.NativeEndian.Uint16(p[4:]) == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE
}

// TestLookedUpTwice reads the rules of all chains there can be: before a packet
// is refused or dropped, what would have sent it somewhere is looked up once more.
func TestLookedUpTwice(t *testing.T) {
	for _, family := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		l := layout{rules: rules{family: family, mark: 1 << 14, pods: Pods{By: PodsByAddress}}}
		chains := make(map[string]chainSpec)
		var add func(chainSpec)
		add = func(c chainSpec) {
			chains[c.name] = c
			for _, need := range c.needs {
				add(need)
			}
		}
		for _, c := range l.chains() {
			add(c)
		}
		for _, policy := range []Policy{Internal, InternalLocal, External, ExternalLocal, Direct} {
			for _, n := range []int{1, 2, 3, 4, 5, 40} {
				for _, affinity := range []uint32{0, 600} {
					c := class{policy: policy, slots: n, affinity: affinity, ranged: n%2 == 0}
					if policy == InternalLocal || policy == ExternalLocal {
						c.local = n
					}
					if policy == ExternalLocal && n == 40 {
						c.local = 0 // who is not from inside is dropped
					}
					spec, ok := l.rules.spec(c.target())
					if !ok {
						t.Fatalf("no chain %s", c.target())
					}
					add(spec)
				}
			}
		}
		picks, drops := 0, 0
		for name, c := range chains {
			var set string
			switch {
			case name == chainFrontends:
				set = mapServices
			case strings.HasPrefix(name, "pick-"):
				set = mapEndpoints
				picks++
			case strings.HasPrefix(name, "ranged-"):
				set = setSources
			case strings.HasPrefix(name, "external-local-40-0"):
				set = setPodCIDRs
				drops++
			default:
				continue // looks nothing up that may be on its way, or is where refused packets go
			}
			if n := looksBeforeEnd(c, set); n < 2 {
				t.Errorf("%s looks %d times into %s before it ends a packet's way", name, n, set)
			}
		}
		if picks != 6*2*2 || drops != 2 {
			t.Errorf("%d chains that pick, want one for each size, pool and affinity; %d that drop who is from outside, want 2", picks, drops)
		}
	}
}

// looksBeforeEnd counts the rules that look something up in a set, up to the
// first that ends a packet's way or sends it where that is refused.
func looksBeforeEnd(c chainSpec, set string) (looks int) {
	for _, rule := range c.rules {
		looked := slices.ContainsFunc(rule, func(e expr.Any) bool {
			lookup, ok := e.(*expr.Lookup)
			return ok && lookup.SetName == set
		})
		if looked {
			looks++
			continue
		}
		for _, e := range rule {
			if v, ok := e.(*expr.Verdict); ok && (v.Kind == expr.VerdictDrop || v.Kind == expr.VerdictGoto) {
				return looks
			}
			if _, ok := e.(*expr.Reject); ok {
				return looks
			}
		}
	}
	return looks
}

// TestChainsAreBounded changes pools through many sizes: there are never more
// chains than the classes in use need, and those that were since the last sweep.
func TestChainsAreBounded(t *testing.T) {
	host := newHost(t)
	table := open(t, host, true)
	services := many(20, 1)
	mustLoad(t, table, services)
	names := slices.Sorted(maps.Keys(services))
	r := rand.New(rand.NewPCG(4, 2))
	sizes := make(map[int]bool) // since the last sweep
	for step := range 200 {
		name := names[r.IntN(len(names))]
		services[name] = with(services[name], endpoints(r.Perm(200)[:1+r.IntN(70)]...))
		mustApply(t, table, map[string]*Service{name: services[name]})
		for _, s := range table.known.frontends {
			sizes[s.cluster.draws()] = true
		}
		if got := table.Stats().Chains; got > 2*len(sizes) { // one for the policy, one that picks
			t.Fatalf("step %d: %d chains for %d sizes", step, got, len(sizes))
		}
		if step%20 < 19 {
			continue
		}
		if err := table.Sweep(); err != nil {
			t.Fatal(err)
		}
		clear(sizes)
		for _, s := range table.known.frontends {
			sizes[s.cluster.draws()] = true
		}
		text, err := nft(t, host, "list", "chains", "ip")
		if err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		kernel := strings.Count(text, "chain pick-") + strings.Count(text, "chain internal-")
		if got := table.Stats().Chains; got != 2*len(sizes) || kernel != got {
			t.Fatalf("step %d: after the sweep %d chains, %d in the kernel, for %d sizes", step, got, kernel, len(sizes))
		}
	}
}
