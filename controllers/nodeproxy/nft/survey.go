package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// survey is what the kernel has of a table, as an earlier run left it, without
// its elements.
type survey struct {
	table  tableInfo
	sets   map[string]set
	chains map[string]*hook // nil for one that is no base chain
}

// survey looks at the table, once. It returns nil if there is none.
func (t *Table) survey() (*survey, error) {
	family := t.layout.rules.family
	info, ok, err := t.kernel.getTable(family, TableName)
	if err != nil || !ok {
		return nil, err
	}
	s := &survey{table: info, sets: make(map[string]set), chains: make(map[string]*hook)}
	sets, err := t.kernel.list(unix.NFT_MSG_GETSET, family, attrString(unix.NFTA_SET_TABLE, TableName))
	if err != nil {
		return nil, fmt.Errorf("listing the sets: %w", err)
	}
	for _, p := range sets {
		if attributeString(p, unix.NFTA_SET_TABLE) != TableName {
			continue
		}
		name := attributeString(p, unix.NFTA_SET_NAME)
		s.sets[name] = set{
			name: name, flags: attributeU32(p, unix.NFTA_SET_FLAGS),
			keySize: attributeU32(p, unix.NFTA_SET_KEY_LEN), dataSize: attributeU32(p, unix.NFTA_SET_DATA_LEN),
			size: attributeU32(attribute(p, unix.NFTA_SET_DESC), unix.NFTA_SET_DESC_SIZE),
		}
	}
	chains, err := t.kernel.list(unix.NFT_MSG_GETCHAIN, family, attrString(unix.NFTA_CHAIN_TABLE, TableName))
	if err != nil {
		return nil, fmt.Errorf("listing the chains: %w", err)
	}
	for _, p := range chains {
		if attributeString(p, unix.NFTA_CHAIN_TABLE) != TableName {
			continue
		}
		name := attributeString(p, unix.NFTA_CHAIN_NAME)
		s.chains[name] = nil
		if h := attribute(p, unix.NFTA_CHAIN_HOOK); h != nil {
			s.chains[name] = &hook{name: name, number: attributeU32(h, unix.NFTA_HOOK_HOOKNUM), priority: int32(attributeU32(h, unix.NFTA_HOOK_PRIORITY))}
		}
	}
	return s, nil
}

// hooked tells whether packets come to the table. Where there is none they do not.
func (s *survey) hooked() bool {
	return s != nil && (s.chains[chainPrerouting] != nil || s.chains[chainOutput] != nil || s.chains[chainPostrouting] != nil)
}

// fits tells why the table cannot be taken over but has to be replaced, nil if
// it can.
func (s *survey) fits(l *layout) error {
	if s.table.comment != l.comment() {
		return fmt.Errorf("it is %q, not %q", s.table.comment, l.comment())
	}
	// That it persists can only be said when it is made, who owns it later too.
	if s.table.flags&tablePersist != l.flags&tablePersist {
		return errors.New("it persists where it should not, or the other way round")
	}
	want := l.sets()
	if len(s.sets) != len(want) {
		return fmt.Errorf("it has %d sets, not %d", len(s.sets), len(want))
	}
	for _, w := range want {
		got := s.sets[w.name]
		if w.dataType == typeVerdict {
			got.dataSize = w.dataSize // the kernel counts it in its own way
		}
		if got.flags != w.flags || got.keySize != w.keySize || got.dataSize != w.dataSize || got.size != w.size {
			return fmt.Errorf("its set %q is another one", w.name)
		}
	}
	for _, c := range l.chains() {
		if h, ok := s.chains[c.name]; !ok || h != nil {
			return fmt.Errorf("its chain %q is missing", c.name)
		}
	}
	hooks := 0
	for _, want := range l.hooks() {
		got, ok := s.chains[want.name]
		if !ok {
			continue
		}
		if got == nil || got.number != want.number || got.priority != want.priority {
			return fmt.Errorf("its chain %q hooks in elsewhere", want.name)
		}
		hooks++
	}
	if hooks != 0 && hooks != len(l.hooks()) {
		return errors.New("it has not all hooks")
	}
	return nil
}

// read returns the table's elements as a state, in which all that was found
// still waits for somebody who wants it.
func (t *Table) read(s *survey) (state, error) {
	found := newState()
	found.hooked = s.hooked()
	for name := range s.chains {
		if spec, ok := t.layout.rules.spec(name); ok && spec.rules != nil {
			found.chains[name] = chain{needs: needs(spec)}
		}
	}
	for name, c := range found.chains {
		for _, need := range c.needs {
			n, ok := found.chains[need]
			if !ok {
				return found, fmt.Errorf("the chain %q goes to %q, which is missing", name, need)
			}
			n.users++
			found.chains[need] = n
		}
	}
	if err := t.readFrontends(&found); err != nil {
		return found, err
	}
	return found, errFirst(t.readPorts(&found), t.readMembers(&found), t.readRanges(&found))
}

func needs(s chainSpec) []string {
	var out []string
	for _, need := range s.needs {
		out = append(out, need.name)
	}
	return out
}

func (t *Table) readFrontends(found *state) error {
	r := t.layout.rules
	services, err := t.settled(mapServices)
	if err != nil {
		return err
	}
	for _, e := range services {
		f, _ := r.cutFrontend(e.key)
		c, known := parseTarget(strings.TrimPrefix(e.target, "ranged-"))
		if !known && !slices.Contains([]string{chainRefuse, chainRefused, targetDrop}, strings.TrimPrefix(e.target, "ranged-")) {
			return fmt.Errorf("packets to %v go to %q", f, e.target)
		}
		have := frontend{owner: e.comment, found: true, target: e.target}
		if c.policy != InternalLocal { // of which the number only says whether there is any
			have.cluster = emptyPool(c.slots, c.affinity > 0)
		}
		have.local = emptyPool(c.local, c.affinity > 0)
		found.frontends[f] = have
		if ch, ok := found.chains[e.target]; ok {
			ch.users++
			found.chains[e.target] = ch
		}
	}
	endpoints, err := t.settled(mapEndpoints)
	if err != nil {
		return err
	}
	for _, e := range endpoints {
		f, number, err := r.cutSlot(e.key)
		have, ok := found.frontends[f]
		if err != nil {
			return fmt.Errorf("reading an endpoint: %w", err)
		}
		if !ok {
			return fmt.Errorf("an endpoint of %v belongs to no frontend", f)
		}
		if err := have.place(number, r.cutEndpoint(e.data)); err != nil {
			return fmt.Errorf("an endpoint of %v: %w", f, err)
		}
		found.frontends[f] = have
	}
	sources, err := t.settled(setSources)
	if err != nil {
		return err
	}
	for _, e := range sources {
		f, rest := r.cutFrontend(e.key)
		have, ok := found.frontends[f]
		first, _ := r.cutAddr(rest)
		_, rest = r.cutFrontend(e.keyEnd)
		last, _ := r.cutAddr(rest)
		p := prefixBetween(first, last)
		if !ok || !p.IsValid() {
			return fmt.Errorf("sources %v to %v of %v, which is no frontend, or they are no range", first, last, f)
		}
		have.sources = disjoint(append(have.sources, p))
		found.frontends[f] = have
	}
	return nil
}

// readPorts reads which Service ports frontends with affinity belong to.
func (t *Table) readPorts(found *state) error {
	ports, err := t.settled(mapServicePorts)
	if err != nil {
		return err
	}
	for _, e := range ports {
		f, _ := t.layout.rules.cutFrontend(e.key)
		have, ok := found.frontends[f]
		if !ok || len(e.data) != 4 || nativeU32(e.data)-1 >= maxPort {
			return fmt.Errorf("the number of a Service port at %v, which is no frontend, or it is no number", f)
		}
		have.port = nativeU32(e.data)
		found.frontends[f] = have
		found.found(have.port, have.owner, f.Protocol)
	}
	return nil
}

// emptyPool returns a pool to put endpoints found into.
func emptyPool(draws int, affinity bool) pool {
	p := pool{slots: make(slots, draws)}
	if affinity && draws > 0 {
		p.sticky = &stickiness{draws: draws}
	}
	return p
}

// cutSlot reads a key of the endpoints map.
func (r rules) cutSlot(key []byte) (Frontend, uint32, error) {
	f, rest := r.cutFrontend(key)
	if len(rest) != 4 {
		return f, 0, unix.EBADMSG
	}
	return f, binary.NativeEndian.Uint32(rest), nil
}

// maxSlots bounds what is believed of a table somebody else may have been at.
const maxSlots = 1 << 20

// place puts an endpoint where it was found.
func (f *frontend) place(number uint32, e netip.AddrPort) error {
	p := &f.cluster
	if number >= localSlot {
		p, number = &f.local, number-localSlot
	}
	switch {
	case number == spareSlot && p.sticky != nil:
		p.sticky.spare = e
		return nil
	case number >= maxSlots || !e.IsValid():
		return fmt.Errorf("slot %d, endpoint %v", number, e)
	}
	if n := int(number) + 1; n > len(p.slots) {
		p.slots = append(p.slots, make(slots, n-len(p.slots))...)
	}
	p.slots[number] = e
	return nil
}

// prefixBetween returns the prefix from the first to the last address, or the
// zero Prefix if those are not the ends of one.
func prefixBetween(first, last netip.Addr) netip.Prefix {
	for bits := first.BitLen(); bits >= 0 && first.IsValid(); bits-- {
		if p := netip.PrefixFrom(first, bits); p.Masked() == p && lastAddr(p) == last {
			return p
		}
	}
	return netip.Prefix{}
}

func (t *Table) readMembers(found *state) error {
	for _, name := range []string{setClusterIPs, setHairpin} {
		elements, err := t.settled(name)
		if err != nil {
			return err
		}
		for _, e := range elements {
			a, _ := t.layout.rules.cutAddr(e.key)
			m := member{name, a}
			if !slices.Equal(m.key(nil), e.key) {
				return fmt.Errorf("the set %q has an element that is not ours", name)
			}
			found.members[m] = 0
		}
	}
	return nil
}

func (t *Table) readRanges(found *state) error {
	for name := range t.ranges {
		elements, err := t.settled(name)
		if err != nil {
			return err
		}
		ranges, err := t.layout.rules.parseRanges(elements)
		if err != nil {
			return fmt.Errorf("the set %q: %w", name, err)
		}
		found.ranges[name] = ranges
	}
	return nil
}

// parseRanges puts the bounds of an interval set together to prefixes.
func (r rules) parseRanges(elements []element) ([]netip.Prefix, error) {
	all := make([]bound, 0, len(elements))
	for _, e := range elements {
		a, _ := r.cutAddr(e.key)
		if !a.IsValid() {
			return nil, unix.EBADMSG
		}
		all = append(all, bound{a, e.last})
	}
	// Where one interval ends another may begin.
	slices.SortFunc(all, func(a, b bound) int {
		if c := a.addr.Compare(b.addr); c != 0 || a.end == b.end {
			return c
		}
		if a.end {
			return -1
		}
		return 1
	})
	var out []netip.Prefix
	var first netip.Addr
	for i, b := range all {
		if b.end && !first.IsValid() {
			if b.addr.IsUnspecified() {
				continue // the kernel's way to say that nothing ends before
			}
			return nil, fmt.Errorf("an interval ends at %v without a beginning", b.addr)
		}
		if !b.end {
			first = b.addr
		}
		last := b.addr.Prev()
		if !b.end && i == len(all)-1 {
			last = lastAddr(netip.PrefixFrom(b.addr, 0))
		} else if !b.end {
			continue
		}
		p := prefixBetween(first, last)
		if !p.IsValid() {
			return nil, fmt.Errorf("%v to %v is no range", first, last)
		}
		out, first = append(out, p), netip.Addr{}
	}
	return disjoint(out), nil
}

// refresh writes that the table is taken over, and all rules anew: there are few,
// and what they are may have changed with the configuration.
func (t *Table) refresh(b *batch, s *survey, found *state) error {
	l := &t.layout
	l.putTable(b)
	ours := make(map[string]bool)
	rewrite := func(name string, rules [][]expr.Any) error {
		ours[name] = true
		b.put(sectionCreate, unix.NFT_MSG_DELRULE, 0, "",
			attrString(unix.NFTA_RULE_TABLE, b.table), attrString(unix.NFTA_RULE_CHAIN, name))
		for _, rule := range rules {
			if err := newRule(b, "", name, rule); err != nil {
				return err
			}
		}
		return nil
	}
	for _, c := range l.chains() {
		if err := rewrite(c.name, c.rules); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found.chains)) {
		spec, _ := l.rules.spec(name)
		if err := rewrite(name, spec.rules); err != nil {
			return err
		}
	}
	if found.hooked {
		for _, h := range l.hooks() {
			if err := rewrite(h.name, h.rules); err != nil {
				return err
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.chains)) {
		if ours[name] {
			continue
		}
		if err := rewrite(name, nil); err != nil {
			return err
		}
		deleteChain(b, name)
	}
	return nil
}
