package datapath

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is the one table of the data path, family ip.
const tableName = "fairway-fakecloud"

// The constant part of the table. Connections that are already tracked pass
// guards and filters and keep their translation, whatever the rules say by now;
// only a connection's first packet is judged and given a target:
//
//	chain guard       prerouting, before translation: may this client reach this load balancer?
//	chain translate   prerouting: a target for the connection, the mark of who forwards it
//	chain hide        postrouting: the load balancer's address as source, for marks that ask for it
//	chain forward     may this packet enter this instance?
//	chain output      the same for what the load balancers originate: health checks
//	map guards        load balancer address → its chain
//	map frontends     address . protocol . port → chain of pools with that many targets
//	map marks         address . protocol . port → connection mark
//	map targets       address . protocol . port . slot → target address . port
//	set addresses     of load balancers: what no frontend takes is dropped
//	map sources       connection mark → source address
//	map filters       device → its chain
type transaction struct {
	conn  *nftables.Conn
	table *nftables.Table
	err   error
	sets  int
}

// A key of several fields starts in reg1; each field takes a multiple of 4 bytes.
const (
	reg1 = unix.NFT_REG_1
	reg2 = unix.NFT_REG32_01
	reg3 = unix.NFT_REG32_02
	reg4 = unix.NFT_REG32_03
)

// write replaces the table by r, in one transaction: no packet sees a mixture.
func (r ruleset) write(conn *nftables.Conn) error {
	t := &transaction{conn: conn}
	t.begin()
	t.chains(r)
	t.frontends(r)
	t.addressSet("addresses", r.addresses)
	t.guards(r.guards)
	t.filters(r.filters)
	t.baseRules()
	if t.err != nil {
		return t.err
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("committing the nftables table: %w", err)
	}
	return nil
}

// removeTable takes the table away. A table that is not there is no error.
func removeTable(conn *nftables.Conn) error {
	table := &nftables.Table{Name: tableName, Family: nftables.TableFamilyIPv4}
	conn.AddTable(table) // deleting needs one; older kernels know no "destroy"
	conn.DelTable(table)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("removing the nftables table: %w", err)
	}
	return nil
}

func (t *transaction) begin() {
	t.table = &nftables.Table{Name: tableName, Family: nftables.TableFamilyIPv4}
	t.conn.AddTable(t.table)
	t.conn.DelTable(t.table)
	t.conn.AddTable(t.table)
}

// chains adds all chains, so that maps and rules may name them.
func (t *transaction) chains(r ruleset) {
	filterType, natType := nftables.ChainTypeFilter, nftables.ChainTypeNAT
	t.base("guard", filterType, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle)
	t.base("translate", natType, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	t.base("hide", natType, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	t.base("forward", filterType, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	t.base("output", filterType, nftables.ChainHookOutput, nftables.ChainPriorityFilter)
	t.chain("refuse")
	for _, size := range r.poolSizes() {
		t.chain(poolChain(size))
	}
	for i := range r.guards {
		t.chain(guardChain(i))
	}
	for i := range r.filters {
		t.chain(filterChain(i))
	}
}

func (t *transaction) base(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) {
	policy := nftables.ChainPolicyAccept
	t.conn.AddChain(&nftables.Chain{
		Name: name, Table: t.table, Type: kind, Hooknum: hook, Priority: priority, Policy: &policy,
	})
}

func (t *transaction) chain(name string) {
	t.conn.AddChain(&nftables.Chain{Name: name, Table: t.table})
}

func poolChain(size int) string {
	if size == 0 {
		return "refuse"
	}
	return fmt.Sprintf("pool-%d", size)
}

func guardChain(i int) string  { return fmt.Sprintf("guard-%d", i) }
func filterChain(i int) string { return fmt.Sprintf("filter-%d", i) }

// poolSizes are the distinct numbers of targets, without zero.
func (r ruleset) poolSizes() []int {
	sizes := map[int]bool{}
	for _, f := range r.frontends {
		if len(f.pool) > 0 {
			sizes[len(f.pool)] = true
		}
	}
	return slices.Sorted(maps.Keys(sizes))
}

// frontends adds the maps that translate, and the chains that use them.
func (t *transaction) frontends(r ruleset) {
	key := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	slot := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeMark)
	target := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	var verdicts, marks, targets, sources []nftables.SetElement
	for _, f := range r.frontends {
		k := f.bytes()
		verdicts = append(verdicts, gotoElement(k, poolChain(len(f.pool))))
		marks = append(marks, nftables.SetElement{Key: k, Val: native(f.mark)})
		for i, to := range f.pool {
			targets = append(targets, nftables.SetElement{
				Key: slices.Concat(k, native(uint32(i))),
				Val: slices.Concat(to.Addr().AsSlice(), padded(to.Port())),
			})
		}
	}
	for _, mark := range slices.Sorted(maps.Keys(r.sources)) {
		sources = append(sources, nftables.SetElement{Key: native(mark), Val: r.sources[mark].AsSlice()})
	}
	t.set(&nftables.Set{Name: "frontends", IsMap: true, Concatenation: true, KeyType: key, DataType: nftables.TypeVerdict}, verdicts)
	t.set(&nftables.Set{Name: "marks", IsMap: true, Concatenation: true, KeyType: key, DataType: nftables.TypeMark}, marks)
	t.set(&nftables.Set{Name: "targets", IsMap: true, Concatenation: true, KeyType: slot, DataType: target}, targets)
	t.set(&nftables.Set{Name: "sources", IsMap: true, KeyType: nftables.TypeMark, DataType: nftables.TypeIPAddr}, sources)

	for _, size := range r.poolSizes() {
		t.rule(poolChain(size), loadFrontendKey(), []expr.Any{
			lookup("marks", reg1),
			&expr.Ct{Key: expr.CtKeyMARK, Register: reg1, SourceRegister: true},
		})
		t.rule(poolChain(size), loadFrontendKey(), []expr.Any{
			&expr.Numgen{Register: reg4, Modulus: uint32(size), Type: unix.NFT_NG_RANDOM},
			lookup("targets", reg1),
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg1, RegProtoMin: reg2},
		})
	}
	// AWS does not document what a listener without any registered target does;
	// its metric TCP_ELB_Reset_Count says that the load balancer itself resets
	// connections, and a refusal tells a person more than a timeout.
	t.rule("refuse", protocolIs(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	t.rule("refuse", verdict(expr.VerdictDrop))
}

func (t *transaction) guards(guards []guard) {
	var elements []nftables.SetElement
	for i, g := range guards {
		for _, a := range g.addrs {
			elements = append(elements, gotoElement(a.AsSlice(), guardChain(i)))
		}
	}
	t.set(&nftables.Set{Name: "guards", IsMap: true, KeyType: nftables.TypeIPAddr, DataType: nftables.TypeVerdict}, elements)
	for i, g := range guards {
		t.admissions(guardChain(i), g.admit)
	}
}

func (t *transaction) filters(filters []filter) {
	var elements []nftables.SetElement
	for i, f := range filters {
		if len(f.device) >= unix.IFNAMSIZ {
			t.fail(fmt.Errorf("device name %q is longer than %d bytes", f.device, unix.IFNAMSIZ-1))
			return
		}
		name := make([]byte, unix.IFNAMSIZ)
		copy(name, f.device)
		elements = append(elements, gotoElement(name, filterChain(i)))
	}
	t.set(&nftables.Set{Name: "filters", IsMap: true, KeyType: nftables.TypeIFName, DataType: nftables.TypeVerdict}, elements)
	for i, f := range filters {
		t.admissions(filterChain(i), f.admit)
	}
}

// admissions fills a chain that accepts what one of the admissions lets in and
// drops the rest, without an answer, as security groups do.
func (t *transaction) admissions(chain string, list []admission) {
	for _, a := range list {
		var match []expr.Any
		if a.proto != 0 {
			match = protocolIs(a.proto)
		}
		if a.proto == unix.IPPROTO_TCP || a.proto == unix.IPPROTO_UDP {
			match = append(match, portWithin(a.ports)...)
		}
		if a.anyone {
			t.rule(chain, match, verdict(expr.VerdictAccept))
			continue
		}
		if len(a.from) > 0 {
			t.rule(chain, match, []expr.Any{loadSource(reg1), member(t.rangeSet(a.from))}, verdict(expr.VerdictAccept))
		}
		if len(a.marks) > 0 {
			t.rule(chain, match, []expr.Any{loadMark(reg1), member(t.markSet(a.marks))}, verdict(expr.VerdictAccept))
		}
	}
	t.rule(chain, verdict(expr.VerdictDrop))
}

func (t *transaction) baseRules() {
	t.rule("guard", tracked(), verdict(expr.VerdictAccept))
	t.rule("guard", []expr.Any{loadDestination(reg1), lookupVerdict("guards")})

	t.rule("translate", loadFrontendKey(), []expr.Any{lookupVerdict("frontends")})
	t.rule("translate", []expr.Any{loadDestination(reg1), member("addresses")}, verdict(expr.VerdictDrop))

	t.rule("hide", []expr.Any{
		loadMark(reg1),
		lookup("sources", reg1),
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg1},
	})
	for _, hook := range []string{"forward", "output"} {
		t.rule(hook, tracked(), verdict(expr.VerdictAccept))
		t.rule(hook, []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg1}, lookupVerdict("filters")})
	}
}

func (t *transaction) fail(err error) { t.err = cmp.Or(t.err, err) }

// elementsPerMessage keeps a message's list below the 64 KiB that a netlink
// attribute can hold.
const elementsPerMessage = 400

func (t *transaction) set(s *nftables.Set, elements []nftables.SetElement) {
	s.Table = t.table
	if err := t.conn.AddSet(s, nil); err != nil {
		t.fail(fmt.Errorf("adding set %s: %w", s.Name, err))
		return
	}
	for chunk := range slices.Chunk(elements, elementsPerMessage) {
		if err := t.conn.SetAddElements(s, chunk); err != nil {
			t.fail(fmt.Errorf("adding elements to set %s: %w", s.Name, err))
		}
	}
}

func (t *transaction) addressSet(name string, addrs []netip.Addr) {
	var elements []nftables.SetElement
	for _, a := range addrs {
		elements = append(elements, nftables.SetElement{Key: a.AsSlice()})
	}
	t.set(&nftables.Set{Name: name, KeyType: nftables.TypeIPAddr}, elements)
}

// rangeSet adds a set of address ranges and returns its name.
func (t *transaction) rangeSet(ranges []addrRange) string {
	var elements []nftables.SetElement
	for _, r := range ranges {
		elements = append(elements, nftables.SetElement{Key: binaryutil.BigEndian.PutUint32(r.first)})
		if r.last != everyone.last {
			elements = append(elements, nftables.SetElement{Key: binaryutil.BigEndian.PutUint32(r.last + 1), IntervalEnd: true})
		}
	}
	t.sets++
	name := fmt.Sprintf("ranges-%d", t.sets)
	t.set(&nftables.Set{Name: name, KeyType: nftables.TypeIPAddr, Interval: true}, elements)
	return name
}

// markSet adds a set of connection marks and returns its name.
func (t *transaction) markSet(marks []uint32) string {
	var elements []nftables.SetElement
	for _, m := range marks {
		elements = append(elements, nftables.SetElement{Key: native(m)})
	}
	t.sets++
	name := fmt.Sprintf("members-%d", t.sets)
	t.set(&nftables.Set{Name: name, KeyType: nftables.TypeMark}, elements)
	return name
}

func (t *transaction) rule(chain string, parts ...[]expr.Any) {
	t.conn.AddRule(&nftables.Rule{
		Table: t.table,
		Chain: &nftables.Chain{Name: chain, Table: t.table},
		Exprs: slices.Concat(parts...),
	})
}
