package nft

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Load brings the table to these Services, whatever is there: it is the first
// thing to do, and what to do after [ErrLost].
//
// A table that an earlier run left, of the same layout, is taken over: read once,
// and changed where it differs, so that connections, clients' affinity and
// counters stay. Any other is replaced, and what is known about clients carried
// over. While that happens, a second table of the same content carries traffic: a
// packet on its way at the moment of a commit could pass between old and new.
//
// rejected holds the Services the kernel refused, each with its reason; all
// others are in place. With an error, part of them may be.
func (t *Table) Load(services map[string]*Service) (rejected map[string]error, err error) {
	t.loaded, t.unfit = false, nil
	found, err := t.survey()
	if err != nil {
		return nil, err
	}
	t.fresh = found == nil
	if found != nil {
		t.stats.Dumps++
		rejected, err = t.takeOver(found, services)
		if err == nil || !errors.Is(err, errUnfit) {
			return rejected, err
		}
		t.unfit = err
	}
	if rejected, err = t.replace(found, services); err != nil {
		return nil, fmt.Errorf("loading the table %q: %w", TableName, err)
	}
	return rejected, t.remember()
}

// Unfit tells why the last Load replaced the table that was there, nil if it took
// it over or there was none.
func (t *Table) Unfit() error { return t.unfit }

// Fresh tells whether the last Load found no table at all.
func (t *Table) Fresh() bool { return t.fresh }

// errUnfit says that a table cannot be taken over.
var errUnfit = errors.New("the table found cannot be taken over")

// takeOver changes the table that was found to what is wanted.
func (t *Table) takeOver(found *survey, services map[string]*Service) (map[string]error, error) {
	if err := found.fits(&t.layout); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnfit, err)
	}
	known, err := t.read(found)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnfit, err)
	}
	t.known = known
	tx := newTransaction(&t.known, t.layout.rules, TableName)
	if err := t.refresh(tx.batch, found, &t.known); err != nil {
		return nil, err
	}
	for set, ranges := range t.ranges {
		tx.setRanges(set, ranges)
	}
	if err := t.commit(tx.batch); err != nil {
		if errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("taking over the table %q: %w", TableName, err)
		}
		return nil, fmt.Errorf("%w: %w", errUnfit, err)
	}
	if err := t.remember(); err != nil {
		return nil, err
	}
	rejected := make(map[string]error)
	if err := t.writer().apply(slices.Sorted(maps.Keys(services)), services, rejected); err != nil {
		return nil, err
	}
	t.keep(rejected)
	if err := t.releaseUnclaimed(); err != nil {
		return nil, err
	}
	if !t.known.hooked {
		if err := t.writer().hookUp(); err != nil {
			return nil, err
		}
	}
	return rejected, errFirst(t.remove(bridgeName), t.remember())
}

// keep leaves Services that the kernel refused what an earlier run gave them.
func (t *Table) keep(rejected map[string]error) {
	for f, have := range t.known.frontends {
		if _, refused := rejected[have.owner]; !refused || !have.found {
			continue
		}
		have.found, have.backends = false, Backends{Policy: policyUnknown}
		t.known.frontends[f] = have
		s := t.known.services[have.owner]
		if s == nil {
			s = &Service{Frontends: make(map[Frontend]Backends)}
			t.known.services[have.owner] = s
		}
		s.Frontends[f] = have.backends
	}
}

// policyUnknown is that of a frontend an earlier run made: no other is equal.
const policyUnknown Policy = 1<<8 - 1

// releaseUnclaimed takes out what an earlier run left and nobody wants, in
// transactions that any socket takes.
func (t *Table) releaseUnclaimed() error {
	var frontends []Frontend
	for f, have := range t.known.frontends {
		if have.found {
			frontends = append(frontends, f)
		}
	}
	slices.SortFunc(frontends, Frontend.compare)
	var members []member
	for m, users := range t.known.members {
		if users == 0 {
			members = append(members, m)
		}
	}
	const atOnce = 500
	for len(frontends)+len(members) > 0 {
		tx := newTransaction(&t.known, t.layout.rules, TableName)
		n := min(len(frontends), atOnce)
		for _, f := range frontends[:n] {
			tx.release(f)
		}
		frontends = frontends[n:]
		n = min(len(members), atOnce)
		for _, m := range members[:n] {
			tx.remove("", m.set, m.key(nil))
			put(tx, t.known.members, m, 0, false)
		}
		members = members[n:]
		if err := t.commit(tx.batch); err != nil {
			tx.rollback(false)
			return fmt.Errorf("taking out what no Service wants any more: %w", err)
		}
	}
	return nil
}

// replace puts a new table in place, without a moment in which packets see none
// if there was one before.
func (t *Table) replace(found *survey, services map[string]*Service) (map[string]error, error) {
	var clients []client
	rejected := make(map[string]error)
	if found != nil {
		clients = t.clients(found)
		services = maps.Clone(services)
	}
	// A table without hooks carries nothing: there is another beside it, which a
	// run that was killed here has left, or there was none yet.
	if found.hooked() {
		bridge := newState()
		if err := t.remove(bridgeName); err != nil {
			return nil, err
		}
		var err error
		if rejected, err = (writer{t, bridgeName, &bridge}).create(services, clients); err != nil {
			return nil, err
		}
		for name := range rejected {
			delete(services, name)
		}
		// Until here the table went on learning.
		before := bridge.memories(clients)
		clients = t.clients(found)
		if err := (writer{t, bridgeName, &bridge}).remind(newIn(bridge.memories(clients), before)); err != nil {
			return nil, err
		}
		if err := t.unhook(TableName); err != nil {
			return nil, err
		}
	}
	again, err := t.writer().create(services, clients)
	if err != nil {
		return nil, err
	}
	maps.Copy(rejected, again)
	return rejected, t.remove(bridgeName)
}

// client is what session affinity knows about one source.
type client struct {
	source           netip.Addr
	frontends        []Frontend // of the Service port
	endpoint         netip.AddrPort
	local            bool // of the local pool
	timeout, expires time.Duration
}

// clients returns what a table that is about to be replaced knows of clients:
// nothing where it cannot be read, for then it is not worth holding traffic up.
func (t *Table) clients(found *survey) []client {
	for _, s := range t.layout.sets() {
		have := found.sets[s.name]
		if slices.Contains([]string{mapServicePorts, mapAffinity, mapEndpoints}, s.name) && (have.keySize != s.keySize || have.dataSize != s.dataSize) {
			return nil
		}
	}
	endpoints, err := t.settled(mapEndpoints)
	if err != nil {
		return nil
	}
	ports, err := t.settled(mapServicePorts)
	if err != nil {
		return nil
	}
	affinity, err := t.elements(TableName, mapAffinity)
	if err != nil {
		return nil
	}
	type slot struct {
		frontend Frontend
		number   uint32
	}
	r := t.layout.rules
	at := make(map[slot]netip.AddrPort, len(endpoints))
	for _, e := range endpoints {
		if f, number, err := r.cutSlot(e.key); err == nil {
			at[slot{f, number}] = r.cutEndpoint(e.data)
		}
	}
	frontends := make(map[uint32][]Frontend)
	for _, e := range ports {
		if f, _ := r.cutFrontend(e.key); len(e.data) == 4 {
			frontends[nativeU32(e.data)] = append(frontends[nativeU32(e.data)], f)
		}
	}
	var out []client
	for _, e := range affinity {
		source, port, local := r.cutClient(e.key)
		if len(e.data) != 4 || e.timeout == 0 || e.expires == 0 {
			continue
		}
		for _, f := range frontends[port] { // one may have only one of the pools
			if endpoint, ok := at[slot{f, nativeU32(e.data)}]; ok {
				out = append(out, client{source, frontends[port], endpoint, local, e.timeout, e.expires})
				break
			}
		}
	}
	return out
}

// memory is an element of the affinity map.
type memory struct {
	key []byte
	value
}

// memories returns what is known about clients as a table with the state has it.
func (s *state) memories(clients []client) []memory {
	var out []memory
	known := make(map[string]bool)
	for _, c := range clients {
		for _, at := range c.frontends {
			f := s.frontends[at]
			p, first := f.cluster, uint32(0)
			if c.local {
				p, first = f.local, localSlot
			}
			i := slices.Index(p.slots, c.endpoint)
			if i < 0 || f.port == 0 {
				continue
			}
			if key := appendClient(nil, c.source, f.port|first); !known[string(key)] {
				known[string(key)] = true
				out = append(out, memory{key, value{data: native32(first + uint32(i)), timeout: c.timeout, expires: c.expires}})
			}
			break
		}
	}
	return out
}

// newIn returns those whose keys are not in before.
func newIn(all, before []memory) []memory {
	known := make(map[string]bool, len(before))
	for _, m := range before {
		known[string(m.key)] = true
	}
	return slices.DeleteFunc(all, func(m memory) bool { return known[string(m.key)] })
}

// remind writes what is known about clients.
func (tx *transaction) remind(memories []memory) {
	for _, m := range memories {
		tx.insert("", mapAffinity, m.key, m.value)
	}
}

// remind is the same in transactions that any socket takes.
func (w writer) remind(memories []memory) error {
	for some := range slices.Chunk(memories, 500) {
		tx := newTransaction(w.state, w.layout.rules, w.name)
		tx.remind(some)
		if err := w.commit(tx.batch); err != nil {
			return fmt.Errorf("carrying session affinity over: %w", err)
		}
	}
	return nil
}
