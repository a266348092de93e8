// Package nft holds a node's forwarding state in the kernel: one nftables table
// per address family, written over netlink, never through the nft program.
//
// The table has a constant number of sets and maps. A packet's destination is
// looked up once, in a map from (address, protocol, port) to the chain of the
// frontend's class; the class draws a slot number, and (address, protocol, port,
// slot) is looked up in the one map of all endpoints. Classes are shared by all
// Services: their number depends on the distinct pool sizes in use, which are
// few, not on the number of Services. So an endpoint that comes or goes changes
// one element per frontend and no rule, which costs the same at any size.
//
// [Table] keeps what it has written in memory, compares what is wanted with
// that, and sends the difference as one transaction. It never lists the kernel's
// state. Whatever it writes, the distribution's nft can list.
package nft

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// ErrLost says that the table in the kernel is no longer the one that was
// written: another program removed or changed it. [Table.Load] puts it back.
var ErrLost = errors.New("the nftables table was changed by another program")

// Table is the table of one family. It is for one goroutine at a time.
type Table struct {
	kernel  kernel
	layout  layout
	ranges  map[string][]netip.Prefix // wanted, of the interval sets
	foreign *monitor                  // nil where the kernel lets nobody else at the table

	known    state
	loaded   bool
	unfit    error     // see Unfit
	fresh    bool      // see Fresh
	verified tableInfo // what the kernel said after the last load or change of ours
	seen     uint32    // generation at the last verification
	stats    Stats
}

// kernel is the other side of a Table, as socket reaches it.
type kernel interface {
	// commit makes one transaction: all of it or, with an error, none.
	commit(*batch) error
	// list returns the attributes of all objects of a kind.
	list(typ uint16, family byte, attrs ...attr) ([][]byte, error)
	getTable(family byte, name string) (t tableInfo, ok bool, err error)
	counter(family byte, table, name string) (packets uint64, err error)
	generation() (uint32, error)
	close() error
}

// Stats counts what was sent since the Table was opened.
type Stats struct {
	Transactions, Messages, Elements, Bytes int
	Dumps                                   int // how often the kernel's state was read
	Chains                                  int // class chains there are now
	Objects                                 int // chains, sets and counters there are now
}

// Open prepares a table in the network namespace of the calling thread. Nothing
// changes in the kernel before [Table.Load].
func Open(c Config) (*Table, error) {
	l, err := newLayout(c)
	if err != nil {
		return nil, err
	}
	s, err := openSocket()
	if err != nil {
		return nil, err
	}
	t := &Table{kernel: s, layout: l, ranges: l.own(c.Ranges)}
	t.layout.flags, err = t.probe(c.Shared)
	if err == nil && !t.Owned() {
		t.foreign, err = newMonitor(s, l.rules.family)
	}
	if err != nil {
		_ = s.close()
		return nil, err
	}
	return t, nil
}

// Owned tells whether the kernel keeps other programs from changing the table.
func (t *Table) Owned() bool { return t.layout.flags != 0 }

// Trust says that another Table, of the other family, is this program's too: its
// changes are nobody else's.
func (t *Table) Trust(other *Table) error {
	s, ok := other.kernel.(*socket)
	if t.foreign == nil || !ok {
		return nil
	}
	return t.foreign.trust(s)
}

// Stats returns the counters.
func (t *Table) Stats() Stats {
	s := t.stats
	s.Chains = len(t.known.chains)
	if t.loaded {
		s.Objects = t.known.objects(&t.layout)
	}
	return s
}

// AffinityFull returns how many connections went to an endpoint that was not
// remembered, for want of room in the affinity map.
func (t *Table) AffinityFull() (uint64, error) {
	return t.kernel.counter(t.layout.rules.family, TableName, counterAffinityFull)
}

// Refused returns how many packets of a protocol, UDP or SCTP, frontends of the
// policy [Refused] got.
func (t *Table) Refused(p Protocol) (uint64, error) {
	return t.kernel.counter(t.layout.rules.family, TableName, refusedCounters[p])
}

// Close gives the table up. It stays in the kernel and goes on forwarding.
func (t *Table) Close() error {
	t.foreign.close()
	return t.kernel.close()
}

// Remove takes the table out of the kernel. It is no error if there is none.
// A table owned by another running program gives EPERM.
func (t *Table) Remove() error {
	for _, name := range []string{TableName, bridgeName} {
		if err := t.remove(name); err != nil {
			return err
		}
	}
	t.known, t.loaded = newState(), false
	return nil
}

func (t *Table) remove(name string) error {
	_, ok, err := t.kernel.getTable(t.layout.rules.family, name)
	if err != nil || !ok {
		return err
	}
	b := newBatch(t.layout.rules.family, name)
	deleteTable(b)
	if err := errFirst(t.unhook(name), t.commit(b)); err != nil {
		return fmt.Errorf("removing the table %q: %w", name, err)
	}
	return nil
}

// unhook takes a table's hooks away. They go first, as they come last: no packet
// sees a table without its elements. Where they are missing, one of them or all,
// nothing is lost.
func (t *Table) unhook(name string) error {
	b := newBatch(t.layout.rules.family, name)
	for _, h := range t.layout.hooks() {
		b.put(sectionCreate, unix.NFT_MSG_DELRULE, 0, "", attrString(unix.NFTA_RULE_TABLE, name), attrString(unix.NFTA_RULE_CHAIN, h.name))
		b.put(sectionCreate, unix.NFT_MSG_DELCHAIN, 0, "", attrString(unix.NFTA_CHAIN_TABLE, name), attrString(unix.NFTA_CHAIN_NAME, h.name))
	}
	if err := t.commit(b); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// SetRanges changes the ranges. It is an error if the kernel refuses them, and
// then the former ones stay. [ErrLost] is as for [Table.Apply]: that load will
// bring the new ranges.
func (t *Table) SetRanges(r Ranges) error {
	next := t.layout.own(r)
	if t.loaded {
		tx := newTransaction(&t.known, t.layout.rules, TableName)
		for set, ranges := range next {
			tx.setRanges(set, ranges)
		}
		if err := t.commit(tx.batch); err != nil {
			tx.rollback(false)
			if lost := t.Verify(); lost != nil {
				t.ranges = next // for the load that must follow
				return lost
			}
			return fmt.Errorf("changing address ranges: %w", err)
		}
	}
	t.ranges = next
	return nil
}

// Apply brings the named Services to their new state; nil removes one. It sends
// only what differs. rejected holds those the kernel refused, which stay as they
// were. [ErrLost] says that there is nothing to change: [Table.Load] everything.
func (t *Table) Apply(changes map[string]*Service) (rejected map[string]error, err error) {
	rejected = make(map[string]error)
	if err := t.writer().apply(slices.Sorted(maps.Keys(changes)), changes, rejected); err != nil {
		return nil, err
	}
	return rejected, nil
}

func (t *Table) commit(b *batch) error {
	if b.empty() {
		return nil
	}
	if err := t.kernel.commit(b); err != nil {
		return err
	}
	t.stats.Transactions++
	t.stats.Messages += len(b.owners)
	t.stats.Elements += b.entries
	for _, p := range b.parts {
		t.stats.Bytes += len(p)
	}
	return nil
}

// remember notes what the kernel says about the table just written.
func (t *Table) remember() error {
	var ok bool
	var err error
	t.foreign.drain()
	t.verified, ok, err = t.kernel.getTable(t.layout.rules.family, TableName)
	if err == nil && !ok {
		err = ErrLost
	}
	t.loaded = err == nil
	return err
}

// Waiting returns the frontends that a Service wants and another one has, sorted.
// It gets them when the other gives them up.
func (t *Table) Waiting(name string) []Frontend {
	s := t.known.services[name]
	if s == nil || len(t.known.waiting) == 0 {
		return nil
	}
	var out []Frontend
	for f := range s.Frontends {
		if slices.Contains(t.known.waiting[f], name) {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, Frontend.compare)
	return out
}

// Verify returns [ErrLost] when the table is gone, or is not the one written. It
// costs next to nothing while nobody changes any nftables rule on the node.
func (t *Table) Verify() error {
	generation, err := t.kernel.generation()
	if err != nil {
		return err
	}
	if generation == t.seen {
		return nil
	}
	now, ok, err := t.kernel.getTable(t.layout.rules.family, TableName)
	if err != nil {
		return err
	}
	if !ok || now.handle != t.verified.handle || now.flags != t.verified.flags || int(now.use) != t.known.objects(&t.layout) || t.foreign.drain() {
		return ErrLost
	}
	t.seen = generation
	return nil
}

// Sweep deletes the class chains that no frontend uses any more. They are kept
// for a while as pools tend to come back to a size they had.
func (t *Table) Sweep() error {
	b := newBatch(t.layout.rules.family, TableName)
	unused := t.known.unusedChains()
	for _, name := range unused {
		deleteChain(b, name)
	}
	if err := t.commit(b); err != nil {
		return fmt.Errorf("deleting unused chains: %w", err)
	}
	t.known.forgetChains(unused)
	return nil
}
