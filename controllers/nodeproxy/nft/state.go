package nft

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// state is what the kernel has, as far as we wrote it.
type state struct {
	services map[string]programmed
	// owners tells which Service has a frontend, waiting which others want it:
	// two Services may share a load balancer's address, or one claim another's.
	owners  map[Frontend]string
	waiting map[Frontend][]string
	members map[member]int // users of an element that several Services may need
	chains  map[string]chain
	hooked  bool // the base chains are there
}

type programmed struct {
	want      *Service
	frontends map[Frontend]frontend
}

// frontend is what the kernel has for one frontend.
type frontend struct {
	backends       Backends
	class          class
	cluster, local slots
}

// member is an element of a set of addresses.
type member struct {
	set  string
	addr netip.Addr
}

type chain struct {
	users int // frontends and chains that go to it
	needs []string
}

func newState() state {
	return state{
		services: make(map[string]programmed),
		owners:   make(map[Frontend]string),
		waiting:  make(map[Frontend][]string),
		members:  make(map[member]int),
		chains:   make(map[string]chain),
	}
}

// objects returns the number of chains and sets in the table.
func (s *state) objects() int {
	const constant, hooks = 5 + 2, 3 // sets and chains of the skeleton; base chains
	if s.hooked {
		return constant + hooks + len(s.chains)
	}
	return constant + len(s.chains)
}

// unusedChains returns the chains that nothing goes to, those that go to others
// before these.
func (s *state) unusedChains() []string {
	users := make(map[string]int)
	var queue []string
	for name, c := range s.chains {
		users[name] = c.users
		if c.users == 0 {
			queue = append(queue, name)
		}
	}
	slices.Sort(queue)
	for i := 0; i < len(queue); i++ {
		for _, need := range s.chains[queue[i]].needs {
			if users[need]--; users[need] == 0 {
				queue = append(queue, need)
			}
		}
	}
	return queue
}

func (s *state) forgetChains(names []string) {
	for _, name := range names {
		for _, need := range s.chains[name].needs {
			c := s.chains[need]
			c.users--
			s.chains[need] = c
		}
		delete(s.chains, name)
	}
}

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
	undo    []func()
	key     []byte // scratch space
	data    []byte
}

func newTransaction(s *state, r rules) *transaction {
	return &transaction{state: s, rules: r, batch: newBatch(r.family, TableName), before: newBatch(r.family, TableName)}
}

// newLoad is a transaction that writes a whole table.
func newLoad(s *state, r rules, table string) *transaction {
	b := newBatch(r.family, table)
	return &transaction{state: s, rules: r, batch: b, before: b}
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

// put sets a map's entry, or deletes it where v is the zero value of a type that
// is never stored as such, and remembers how to take that back.
func put[K comparable, V any](tx *transaction, m map[K]V, k K, v V, keep bool) {
	old, had := m[k]
	tx.undo = append(tx.undo, func() {
		if had {
			m[k] = old
		} else {
			delete(m, k)
		}
	})
	if keep {
		m[k] = v
	} else {
		delete(m, k)
	}
}

// update brings the named Services to their wanted state.
func (tx *transaction) update(names []string, wanted map[string]*Service) error {
	// What goes first: a frontend may move from one Service to another.
	var heirs []string
	for _, name := range names {
		for f := range tx.state.services[name].frontends {
			if !wants(wanted[name], f) {
				heirs = append(heirs, tx.release(name, f)...)
			}
		}
		tx.stopWaiting(name, wanted[name])
	}
	for _, name := range names {
		if err := tx.set(name, wanted[name]); err != nil {
			return err
		}
	}
	slices.Sort(heirs)
	for _, name := range slices.Compact(heirs) {
		if err := tx.set(name, tx.state.services[name].want); err != nil {
			return err
		}
	}
	return nil
}

func wants(s *Service, f Frontend) bool {
	if s == nil {
		return false
	}
	_, ok := s.Frontends[f]
	return ok
}

// release takes a frontend from a Service and returns who waits for it.
func (tx *transaction) release(name string, f Frontend) []string {
	old := tx.state.services[name].frontends[f]
	tx.remove(name, mapServices, appendFrontend(tx.key[:0], f))
	tx.fill(name, f, 0, old.cluster, nil)
	tx.fill(name, f, localSlot, old.local, nil)
	tx.useChain(old.class.chain(), -1)
	put(tx, tx.state.owners, f, "", false)
	return tx.state.waiting[f]
}

// stopWaiting takes the Service from the queues of frontends it no longer wants.
func (tx *transaction) stopWaiting(name string, s *Service) {
	old := tx.state.services[name].want
	if old == nil {
		return
	}
	for f := range old.Frontends {
		if !wants(s, f) {
			tx.wait(name, f, false)
		}
	}
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
	next := programmed{want: s}
	if s != nil {
		next.frontends = make(map[Frontend]frontend, len(s.Frontends))
		for _, f := range slices.SortedFunc(maps.Keys(s.Frontends), Frontend.compare) {
			if owner, taken := tx.state.owners[f]; taken && owner != name {
				tx.wait(name, f, true)
				continue
			}
			tx.wait(name, f, false)
			programmed, err := tx.program(name, f, old.frontends[f], s.Frontends[f])
			if err != nil {
				return err
			}
			next.frontends[f] = programmed
		}
	}
	var before, after Service
	if old.want != nil {
		before = *old.want
	}
	if s != nil {
		after = *s
	}
	tx.addresses(name, setClusterIPs, before.ClusterIPs, after.ClusterIPs)
	tx.addresses(name, setHairpin, before.LocalEndpoints, after.LocalEndpoints)
	put(tx, tx.state.services, name, next, s != nil)
	return nil
}

// program writes what differs between what a frontend has and should have. A
// frontend without a class was not there before.
func (tx *transaction) program(name string, f Frontend, old frontend, want Backends) (frontend, error) {
	_, exists := tx.state.owners[f]
	if exists && old.backends.equal(want) {
		return old, nil
	}
	next := frontend{backends: want, class: class{policy: want.Policy}}
	if want.Policy == InternalLocal {
		next.class.slots = min(len(want.Cluster), 1) // only whether there is any
	} else {
		next.cluster = old.cluster.update(want.Cluster)
		next.class.slots = len(next.cluster)
	}
	if want.Policy == InternalLocal || want.Policy == ExternalLocal {
		next.local = old.local.update(want.Local)
		next.class.local = len(next.local)
	}
	tx.fill(name, f, 0, old.cluster, next.cluster)
	tx.fill(name, f, localSlot, old.local, next.local)
	if exists && old.class == next.class {
		return next, nil
	}
	if exists {
		tx.remove(name, mapServices, appendFrontend(tx.key[:0], f))
		tx.useChain(old.class.chain(), -1)
	}
	if next.class.chain() != "" {
		if err := tx.needChain(name, next.class.spec(tx.rules)); err != nil {
			return next, err
		}
	}
	verdict := next.class.verdict()
	verdict.comment = name[:min(len(name), maxComment)]
	tx.insert(name, mapServices, appendFrontend(tx.key[:0], f), verdict)
	put(tx, tx.state.owners, f, name, true)
	return next, nil
}

// fill writes the slots that differ.
func (tx *transaction) fill(name string, f Frontend, first int, old, next slots) {
	for i := range max(len(old), len(next)) {
		before, after := old.at(i), next.at(i)
		if before == after {
			continue
		}
		if before.IsValid() {
			tx.remove(name, mapEndpoints, appendSlot(tx.key[:0], f, first+i))
		}
		if after.IsValid() {
			tx.data = appendEndpoint(tx.data[:0], after)
			tx.insert(name, mapEndpoints, appendSlot(tx.key[:0], f, first+i), value{data: tx.data})
		}
	}
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
	old := tx.state.members[m]
	put(tx, tx.state.members, m, old+by, old+by > 0)
	tx.key = appendAddr(tx.key[:0], m.addr)
	if m.set == setHairpin {
		tx.key = appendAddr(tx.key, m.addr)
	}
	switch {
	case old == 0:
		tx.insert(name, m.set, tx.key, value{})
	case old+by == 0:
		tx.remove(name, m.set, tx.key)
	}
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
	if _, ok := tx.state.chains[s.name]; ok {
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

func (f Frontend) compare(o Frontend) int {
	return cmp.Or(f.Addr.Compare(o.Addr), cmp.Compare(f.Protocol, o.Protocol), cmp.Compare(f.Port, o.Port))
}
