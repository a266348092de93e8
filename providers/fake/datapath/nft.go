package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	mdlayher "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// tableName is the one table of the data path, family ip.
const tableName = "fairway-fakecloud"

// The maps and sets of the table that are always there. A change replaces all
// their elements.
const (
	frontendsMap = "frontends" // address . protocol . port → the chain of pools of that size
	marksMap     = "marks"     // address . protocol . port → connection mark
	targetsMap   = "targets"   // address . protocol . port . slot → target address . port
	addressesSet = "addresses" // of load balancers: what no frontend takes is dropped
	sourcesMap   = "sources"   // connection mark → source address
	guardsMap    = "guards"    // load balancer address → its admission chain
	filtersMap   = "filters"   // device → its admission chain
)

// table is the nftables table in the kernel. Its base chains stay, with rules
// that are one lookup each, and a change is one transaction: a packet that is
// underway at that moment either sees the maps of before, or those of after, or,
// where it needed two of them, may be dropped and sent again. It is never let
// through unfiltered or left untranslated, as it could be if base chains were
// replaced.
//
// Only a connection's first packet is judged and given a target. What belongs to a
// tracked connection passes guards and filters, and keeps its translation:
//
//	guard      prerouting, before translation: may this client reach this load balancer?
//	translate  prerouting: gives the connection a target, and the mark of who forwards it
//	hide       postrouting: the load balancer's address as source, for marks that ask for it
//	forward    may this packet enter this instance?
//	output     the same for what load balancers originate: health checks
type table struct {
	conn *nftables.Conn
	*nftables.Table
	// installed says whether the table is there.
	installed bool
	// changes counts the transactions; it is part of the names below, so that no
	// name is used twice.
	changes int
	// chains and sets are the ones that the next change removes.
	chains []*nftables.Chain
	sets   []*nftables.Set
}

func newTable() (*table, error) {
	conn, err := nftables.New(nftables.WithSockOptions(roomy))
	if err != nil {
		return nil, fmt.Errorf("preparing netlink for nftables: %w", err)
	}
	return &table{conn: conn, Table: &nftables.Table{Name: tableName, Family: nftables.TableFamilyIPv4}}, nil
}

// socketBuffer is what is asked for. Where the user is not root outside, the
// kernel gives what net.core.{r,w}mem_max allow; by default that is enough for
// fifty load balancers with filters of their own.
const socketBuffer = 8 << 20

func roomy(conn *mdlayher.Conn) error {
	return errors.Join(conn.SetReadBuffer(socketBuffer), conn.SetWriteBuffer(socketBuffer))
}

// A key of several fields starts in reg1; each field takes a multiple of 4 bytes.
const (
	reg1 = unix.NFT_REG_1
	reg2 = unix.NFT_REG32_01
	reg3 = unix.NFT_REG32_02
	reg4 = unix.NFT_REG32_03
)

var (
	frontendType = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	slotType     = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeMark)
	targetType   = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
)

// constant are the maps and sets that stay.
func (t *table) constant() []*nftables.Set {
	set := func(name string, key nftables.SetDatatype) *nftables.Set {
		concatenated := len(nftables.ConcatSetTypeElements(key)) > 1
		return &nftables.Set{Table: t.Table, Name: name, KeyType: key, Concatenation: concatenated}
	}
	mapping := func(name string, key, data nftables.SetDatatype) *nftables.Set {
		s := set(name, key)
		s.IsMap, s.DataType = true, data
		return s
	}
	filters := mapping(filtersMap, nftables.TypeIFName, nftables.TypeVerdict)
	filters.KeyByteOrder = binaryutil.NativeEndian // or nft lists the names as empty
	return []*nftables.Set{
		mapping(frontendsMap, frontendType, nftables.TypeVerdict),
		mapping(marksMap, frontendType, nftables.TypeMark),
		mapping(targetsMap, slotType, targetType),
		set(addressesSet, nftables.TypeIPAddr),
		mapping(sourcesMap, nftables.TypeMark, nftables.TypeIPAddr),
		mapping(guardsMap, nftables.TypeIPAddr, nftables.TypeVerdict),
		filters,
	}
}

// remove takes the table away. One that is not there is no error.
func (t *table) remove() error {
	t.conn.AddTable(t.Table) // deleting needs one: older kernels know no "destroy"
	t.conn.DelTable(t.Table)
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("removing the nftables table: %w", err)
	}
	t.installed = false
	return nil
}

// replace makes the table say r. After an error it says what it said before, or
// is made anew by the next call.
func (t *table) replace(r ruleset) error {
	c := &change{table: t}
	t.changes++
	if t.installed {
		c.clear()
	} else {
		c.install()
	}
	c.frontends(r)
	c.guards(r.guards)
	c.filters(r.filters)
	err := t.conn.Flush()
	if err = cmp.Or(c.err, err); err != nil {
		t.installed = false
		return fmt.Errorf("changing the nftables table: %w", err)
	}
	t.installed, t.chains, t.sets = true, c.chains, c.sets
	return nil
}

// change is one transaction on the table.
type change struct {
	*table
	err    error
	chains []*nftables.Chain
	sets   []*nftables.Set
}

func (c *change) fail(err error) { c.err = cmp.Or(c.err, err) }

// install makes the table from nothing.
func (c *change) install() {
	c.conn.AddTable(c.Table)
	c.conn.DelTable(c.Table)
	c.conn.AddTable(c.Table)
	for _, s := range c.constant() {
		if err := c.conn.AddSet(s, nil); err != nil {
			c.fail(err)
		}
	}
	filterType, natType := nftables.ChainTypeFilter, nftables.ChainTypeNAT
	guard := c.base("guard", filterType, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle)
	c.rule(guard, tracked(), verdict(expr.VerdictAccept))
	c.rule(guard, []expr.Any{loadDestination(reg1), lookupVerdict(guardsMap)})

	translate := c.base("translate", natType, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	c.rule(translate, loadFrontendKey(), []expr.Any{lookupVerdict(frontendsMap)})
	c.rule(translate, []expr.Any{loadDestination(reg1), member(addressesSet)}, verdict(expr.VerdictDrop))

	hide := c.base("hide", natType, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	c.rule(hide, []expr.Any{
		loadMark(reg1),
		lookup(sourcesMap, reg1),
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg1},
	})
	for name, hook := range map[string]*nftables.ChainHook{"forward": nftables.ChainHookForward, "output": nftables.ChainHookOutput} {
		chain := c.base(name, filterType, hook, nftables.ChainPriorityFilter)
		c.rule(chain, tracked(), verdict(expr.VerdictAccept))
		c.rule(chain, []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg1}, lookupVerdict(filtersMap)})
	}
}

// clear takes everything away that the change before brought.
func (c *change) clear() {
	for _, s := range c.constant() {
		c.conn.FlushSet(s)
	}
	for _, chain := range c.table.chains {
		c.conn.DelChain(chain)
	}
	for _, s := range c.table.sets {
		c.conn.DelSet(s)
	}
}

func (c *change) base(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	return c.conn.AddChain(&nftables.Chain{
		Name: name, Table: c.Table, Type: kind, Hooknum: hook, Priority: priority, Policy: &policy,
	})
}

// chain adds a chain that lasts until the next change.
func (c *change) chain(format string, args ...any) *nftables.Chain {
	name := fmt.Sprintf(format, args...)
	chain := c.conn.AddChain(&nftables.Chain{Name: fmt.Sprintf("%s-%d", name, c.changes), Table: c.Table})
	c.chains = append(c.chains, chain)
	return chain
}

func (c *change) rule(chain *nftables.Chain, parts ...[]expr.Any) {
	c.conn.AddRule(&nftables.Rule{Table: c.Table, Chain: chain, Exprs: slices.Concat(parts...)})
}

// set adds a set that lasts until the next change, and returns its name.
func (c *change) set(kind string, key nftables.SetDatatype, interval bool, elements []nftables.SetElement) string {
	s := &nftables.Set{
		Table: c.Table, Name: fmt.Sprintf("%s-%d-%d", kind, len(c.sets), c.changes), KeyType: key, Interval: interval,
	}
	if err := c.conn.AddSet(s, nil); err != nil {
		c.fail(err)
	}
	c.sets = append(c.sets, s)
	c.addTo(s, elements)
	return s.Name
}

// fill adds elements to one of the maps and sets that stay.
func (c *change) fill(name string, elements []nftables.SetElement) {
	i := slices.IndexFunc(c.constant(), func(s *nftables.Set) bool { return s.Name == name })
	c.addTo(c.constant()[i], elements)
}

// elementsPerMessage keeps a message's list below the 64 KiB that a netlink
// attribute can hold.
const elementsPerMessage = 400

func (c *change) addTo(s *nftables.Set, elements []nftables.SetElement) {
	for chunk := range slices.Chunk(elements, elementsPerMessage) {
		if err := c.conn.SetAddElements(s, chunk); err != nil {
			c.fail(err)
		}
	}
}

// rangeSet adds a set of address ranges and returns its name.
func (c *change) rangeSet(ranges []addrRange) string {
	var elements []nftables.SetElement
	for _, r := range ranges {
		elements = append(elements, nftables.SetElement{Key: binaryutil.BigEndian.PutUint32(r.first)})
		if r.last != everyone.last {
			elements = append(elements, nftables.SetElement{Key: binaryutil.BigEndian.PutUint32(r.last + 1), IntervalEnd: true})
		}
	}
	return c.set("ranges", nftables.TypeIPAddr, true, elements)
}

// markSet adds a set of connection marks and returns its name.
func (c *change) markSet(marks []uint32) string {
	var elements []nftables.SetElement
	for _, m := range marks {
		elements = append(elements, nftables.SetElement{Key: native(m)})
	}
	return c.set("members", nftables.TypeMark, false, elements)
}
