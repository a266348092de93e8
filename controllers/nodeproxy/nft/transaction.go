package nft

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// transaction changes a state and writes the same change for the kernel. When
// the kernel does not want it, rollback undoes the first.
type transaction struct {
	state *state
	rules rules
	batch *batch
	// before has the chains that batch needs. Where packets flow already it
	// goes to the kernel first: a packet on its way at the moment of a commit
	// may see new elements, but no rules of new chains.
	before  *batch
	created []string // chains in before
	wanted  map[string]*Service
	claims  map[netip.Addr][]string // see claimed
	undo    []func()
	final   bool   // there is no way back, and none to remember
	key     []byte // scratch space
	data    []byte
}

func newTransaction(s *state, r rules, table string) *transaction {
	return &transaction{state: s, rules: r, batch: newBatch(r.family, table), before: newBatch(r.family, table)}
}

// rollback undoes what batch would have changed. If the kernel took before, its
// chains stay, without users.
func (tx *transaction) rollback(tookBefore bool) {
	made := make(map[string]chain)
	for _, name := range tx.created {
		made[name] = tx.state.chains[name]
	}
	for _, undo := range slices.Backward(tx.undo) {
		undo()
	}
	tx.undo = nil
	if !tookBefore {
		return
	}
	for _, name := range tx.created { // those needed come before those that need
		tx.state.chains[name] = chain{needs: made[name].needs}
		for _, need := range made[name].needs {
			c := tx.state.chains[need]
			c.users++
			tx.state.chains[need] = c
		}
	}
}

// put sets a map's entry, or deletes it, and remembers how to take that back.
func put[K comparable, V any](tx *transaction, m map[K]V, k K, v V, keep bool) {
	if old, had := m[k]; !tx.final {
		tx.undo = append(tx.undo, func() {
			if had {
				m[k] = old
			} else {
				delete(m, k)
			}
		})
	}
	if keep {
		m[k] = v
	} else {
		delete(m, k)
	}
}

// update brings the named Services to their wanted state.
func (tx *transaction) update(names []string, wanted map[string]*Service) error {
	tx.wanted, tx.claims = wanted, claimed(names, wanted)
	// What goes first: a frontend may move from one Service to another.
	var heirs []string
	for _, name := range names {
		old := tx.state.services[name]
		if old == nil {
			continue
		}
		for f := range old.Frontends {
			if wanted[name].wants(f) {
				continue
			}
			tx.wait(name, f, false)
			if tx.owns(name, f) {
				tx.release(f)
				heirs = append(heirs, tx.state.waiting[f]...)
			}
		}
	}
	for _, name := range names {
		if err := tx.set(name, wanted[name]); err != nil {
			return err
		}
	}
	slices.Sort(heirs)
	for _, name := range slices.Compact(heirs) {
		if err := tx.set(name, tx.state.services[name]); err != nil {
			return err
		}
	}
	return nil
}

// owns tells whether the frontend is the Service's in the kernel.
func (tx *transaction) owns(name string, f Frontend) bool {
	have, ok := tx.state.frontends[f]
	return ok && !have.found && have.owner == name
}

// release takes a frontend out of the kernel.
func (tx *transaction) release(f Frontend) {
	have := tx.state.frontends[f]
	tx.remove(have.owner, mapServices, appendFrontend(tx.key[:0], f))
	tx.fill(have.owner, f, 0, have.cluster, pool{})
	tx.fill(have.owner, f, localSlot, have.local, pool{})
	tx.sources(have.owner, f, have.sources, nil)
	tx.port(have.owner, f, servicePort{}, have.port, 0)
	tx.useChain(have.target, -1)
	put(tx, tx.state.frontends, f, frontend{}, false)
}

// wait puts the Service into a frontend's queue or takes it out.
func (tx *transaction) wait(name string, f Frontend, in bool) {
	queue := tx.state.waiting[f]
	at := slices.Index(queue, name)
	switch {
	case in && at < 0:
		queue = append(slices.Clip(queue), name)
	case !in && at >= 0:
		queue = slices.Delete(slices.Clone(queue), at, at+1)
	default:
		return
	}
	put(tx, tx.state.waiting, f, queue, len(queue) > 0)
}

// set programs what the Service wants and has not, nil removing it.
func (tx *transaction) set(name string, s *Service) error {
	old := tx.state.services[name]
	if old == nil {
		old = &Service{}
	}
	next := s
	if s == nil {
		next = &Service{}
	}
	for _, f := range slices.SortedFunc(maps.Keys(next.Frontends), Frontend.compare) {
		if tx.rival(name, next, f) != "" {
			tx.wait(name, f, true)
			continue
		}
		tx.wait(name, f, false)
		if have, taken := tx.state.frontends[f]; taken && !have.found && have.owner != name {
			tx.wait(have.owner, f, true)
		}
		if err := tx.program(name, f, next); err != nil {
			return err
		}
	}
	tx.addresses(name, setClusterIPs, old.ClusterIPs, next.ClusterIPs)
	tx.addresses(name, setHairpin, old.LocalEndpoints, next.LocalEndpoints)
	put(tx, tx.state.services, name, s, s != nil)
	return nil
}

// program writes what differs between what a frontend of the Service has and
// should have.
func (tx *transaction) program(name string, f Frontend, s *Service) error {
	want := s.Frontends[f]
	old, exists := tx.state.frontends[f]
	if exists && !old.found && old.backends.equal(want) {
		return nil
	}
	next := frontend{owner: name, backends: want, sources: disjoint(want.Sources)}
	affinity, port := want.Affinity > 0, servicePort{name, f.Protocol, want.ServicePort}
	if affinity {
		next.port = tx.state.number(port)
	}
	if want.Policy != InternalLocal && want.Policy != Refused {
		next.cluster = tx.begun(f, s, next.port, clusterPool).update(want.Cluster, affinity)
	}
	if want.Policy == InternalLocal || want.Policy == ExternalLocal {
		next.local = tx.begun(f, s, next.port, localPool).update(want.Local, affinity)
	}
	next.target = newClass(want, next.cluster, next.local).target()
	tx.fill(name, f, 0, old.cluster, next.cluster)
	tx.fill(name, f, localSlot, old.local, next.local)
	tx.sources(name, f, old.sources, next.sources)
	tx.port(name, f, port, old.port, next.port)
	put(tx, tx.state.frontends, f, next, true)
	if exists && old.target == next.target && comment(old.owner) == comment(name) {
		return nil
	}
	if exists {
		tx.remove(name, mapServices, appendFrontend(tx.key[:0], f))
		tx.useChain(old.target, -1)
	}
	if _, there := tx.state.chains[next.target]; there {
		tx.useChain(next.target, 1)
	} else if spec, ok := tx.rules.spec(next.target); ok {
		if err := tx.needChain(name, spec); err != nil {
			return err
		}
	}
	v := verdict(next.target)
	v.comment = comment(name)
	tx.insert(name, mapServices, appendFrontend(tx.key[:0], f), v)
	return nil
}

// comment is how an element says whose it is.
func comment(service string) string { return service[:min(len(service), maxComment)] }

// fill writes the slots that differ.
func (tx *transaction) fill(name string, f Frontend, first int, old, next pool) {
	for i := range max(len(old.slots), len(next.slots)) {
		tx.slot(name, f, first+i, old.slots.at(i), next.slots.at(i))
	}
	tx.slot(name, f, first+spareSlot, old.spare(), next.spare())
}

func (tx *transaction) slot(name string, f Frontend, number int, before, after netip.AddrPort) {
	if before == after {
		return
	}
	if before.IsValid() {
		tx.remove(name, mapEndpoints, appendSlot(tx.key[:0], f, number))
	}
	if after.IsValid() {
		tx.data = appendEndpoint(tx.data[:0], after)
		tx.insert(name, mapEndpoints, appendSlot(tx.key[:0], f, number), value{data: tx.data})
	}
}

// sources writes the ranges that differ.
func (tx *transaction) sources(name string, f Frontend, old, next []netip.Prefix) {
	for _, p := range old {
		if !slices.Contains(next, p) {
			first, last := appendSources(f, p)
			tx.batch.removeInterval(name, setSources, first, value{keyEnd: last})
		}
	}
	for _, p := range next {
		if !slices.Contains(old, p) {
			first, last := appendSources(f, p)
			tx.batch.insert(name, setSources, first, value{keyEnd: last})
		}
	}
}

// setRanges writes the difference between what an interval set has and should
// have.
func (tx *transaction) setRanges(set string, next []netip.Prefix) {
	old := tx.state.ranges[set]
	for _, p := range old {
		if !slices.Contains(next, p) {
			for _, b := range bounds(p) {
				tx.batch.removeInterval("", set, appendAddr(nil, b.addr), value{last: b.end})
			}
		}
	}
	for _, p := range next {
		if !slices.Contains(old, p) {
			for _, b := range bounds(p) {
				tx.batch.insert("", set, appendAddr(nil, b.addr), value{last: b.end})
			}
		}
	}
	put(tx, tx.state.ranges, set, next, true)
}

// addresses counts users of a set's elements up and down, and writes those that
// get their first or lose their last.
func (tx *transaction) addresses(name, set string, old, next []netip.Addr) {
	for _, a := range next {
		if !slices.Contains(old, a) {
			tx.count(name, member{set, a}, 1)
		}
	}
	for _, a := range old {
		if !slices.Contains(next, a) {
			tx.count(name, member{set, a}, -1)
		}
	}
}

func (tx *transaction) count(name string, m member, by int) {
	old, there := tx.state.members[m]
	put(tx, tx.state.members, m, old+by, old+by > 0)
	switch {
	case !there:
		tx.insert(name, m.set, m.key(tx.key[:0]), value{})
	case old+by == 0:
		tx.remove(name, m.set, m.key(tx.key[:0]))
	}
}

// key appends the member's key in its set.
func (m member) key(p []byte) []byte {
	p = appendAddr(p, m.addr)
	if m.set == setHairpin {
		p = appendAddr(p, m.addr)
	}
	return p
}

func (tx *transaction) insert(name, set string, key []byte, v value) {
	tx.key = key
	tx.batch.insert(name, set, key, v)
}

func (tx *transaction) remove(name, set string, key []byte) {
	tx.key = key
	tx.batch.remove(name, set, key)
}

// needChain counts a user of the chain, creating it and what it needs.
func (tx *transaction) needChain(name string, s chainSpec) error {
	if _, ok := tx.state.chains[s.name]; ok || s.rules == nil {
		tx.useChain(s.name, 1)
		return nil
	}
	c := chain{users: 1}
	for _, need := range s.needs {
		if err := tx.needChain(name, need); err != nil {
			return err
		}
		c.needs = append(c.needs, need.name)
	}
	newChain(tx.before, name, s.name)
	tx.created = append(tx.created, s.name)
	for _, rule := range s.rules {
		if err := newRule(tx.before, name, s.name, rule); err != nil {
			return err
		}
	}
	put(tx, tx.state.chains, s.name, c, true)
	return nil
}

func (tx *transaction) useChain(name string, by int) {
	if c, ok := tx.state.chains[name]; ok {
		c.users += by
		put(tx, tx.state.chains, name, c, true)
	}
}

// at returns the endpoint of a slot, or none beyond the end.
func (s slots) at(i int) netip.AddrPort {
	if i < len(s) {
		return s[i]
	}
	return netip.AddrPort{}
}

// spare returns the endpoint of last resort, none where slot 0 is that.
func (p pool) spare() netip.AddrPort {
	if p.sticky == nil {
		return netip.AddrPort{}
	}
	return p.sticky.spare
}

func (f Frontend) compare(o Frontend) int {
	return cmp.Or(f.Addr.Compare(o.Addr), cmp.Compare(f.Protocol, o.Protocol), cmp.Compare(f.Port, o.Port))
}
