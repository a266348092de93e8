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

// Protocol is an IP protocol number.
type Protocol uint8

// The protocols that Services have.
const (
	TCP  Protocol = unix.IPPROTO_TCP
	UDP  Protocol = unix.IPPROTO_UDP
	SCTP Protocol = unix.IPPROTO_SCTP
)

// Frontend is the destination that packets to a Service have.
type Frontend struct {
	Addr     netip.Addr
	Protocol Protocol
	Port     uint16
}

// String returns address:port/protocol.
func (f Frontend) String() string {
	name := map[Protocol]string{TCP: "tcp", UDP: "udp", SCTP: "sctp"}[f.Protocol]
	return fmt.Sprintf("%v/%s", netip.AddrPortFrom(f.Addr, f.Port), name)
}

// Policy says which endpoints take a packet and who they see as its source.
type Policy uint8

const (
	// Internal takes any endpoint. Sources outside the Pod ranges are
	// masqueraded, as the reply might not come back through this node.
	Internal Policy = iota
	// InternalLocal is Internal with endpoints of this node only.
	InternalLocal
	// External takes any endpoint and always masquerades.
	External
	// ExternalLocal takes endpoints of this node only and keeps the source.
	// Traffic that starts inside, in a Pod or on the node, gets any endpoint.
	ExternalLocal
)

// Backends is where packets to a frontend go.
type Backends struct {
	Policy Policy
	// Cluster and Local are the usable endpoints anywhere and on this node,
	// each without duplicates. Without any, connections are refused; without
	// a local one that the policy asks for, they are dropped.
	Cluster, Local []netip.AddrPort
}

func (b Backends) equal(o Backends) bool {
	return b.Policy == o.Policy && slices.Equal(b.Cluster, o.Cluster) && slices.Equal(b.Local, o.Local)
}

// Service is all that one Service needs on this node, in one family. A Service
// handed to a [Table] must not be changed any more.
type Service struct {
	Frontends map[Frontend]Backends
	// ClusterIPs are answered for as a whole: ports that are no frontend are refused.
	ClusterIPs []netip.Addr
	// LocalEndpoints are the addresses of endpoints on this node, which may
	// reach themselves through the Service.
	LocalEndpoints []netip.Addr
}

// Config is what a Table needs to know from the start.
type Config struct {
	// IPv6 selects the family.
	IPv6 bool
	// PodCIDRs are the Pods' address ranges; those of the other family are
	// ignored. Without any, Internal frontends never masquerade.
	PodCIDRs []netip.Prefix
	// MasqueradeMark is the one bit of the packet mark that the table uses
	// between prerouting and postrouting.
	MasqueradeMark uint32
	// Shared leaves the table open to other programs' changes, as it is anyway
	// before Linux 6.9, instead of making this program its owner.
	Shared bool
}

// Table is the table of one family. It is for one goroutine at a time.
type Table struct {
	kernel   kernel
	rules    rules
	podCIDRs []netip.Prefix
	flags    uint32

	known    state
	verified table  // what the kernel said after the last load or change of ours
	seen     uint32 // generation at the last verification
	stats    Stats
}

// kernel is the other side of a Table, as socket reaches it.
type kernel interface {
	// commit makes one transaction: all of it or, with an error, none.
	commit(*batch) error
	getTable(family byte, name string) (t table, ok bool, err error)
	generation() (uint32, error)
	close() error
}

// Stats counts what was sent since the Table was opened.
type Stats struct {
	Transactions, Messages, Elements, Bytes int
	Chains                                  int // class chains there are now
}

// Open prepares a table in the network namespace of the calling thread. Nothing
// changes in the kernel before [Table.Load].
func Open(c Config) (*Table, error) {
	if c.MasqueradeMark == 0 || c.MasqueradeMark&(c.MasqueradeMark-1) != 0 {
		return nil, fmt.Errorf("the masquerade mark %#x is not one bit", c.MasqueradeMark)
	}
	s, err := openSocket()
	if err != nil {
		return nil, err
	}
	t := &Table{kernel: s, rules: rules{family: unix.NFPROTO_IPV4, mark: c.MasqueradeMark}}
	if c.IPv6 {
		t.rules.family = unix.NFPROTO_IPV6
	}
	for _, p := range c.PodCIDRs {
		if p.Addr().Is6() == c.IPv6 {
			t.podCIDRs = append(t.podCIDRs, p)
		}
	}
	t.rules.podCIDRs = len(t.podCIDRs) > 0
	if t.flags, err = t.probeOwnership(c.Shared); err != nil {
		_ = s.close()
		return nil, err
	}
	return t, nil
}

// probeOwnership asks by a transaction that leaves nothing behind whether the
// kernel has tables that are owned and persist, and fails if it has none at all.
func (t *Table) probeOwnership(shared bool) (uint32, error) {
	tries := []uint32{tableOwner | tablePersist, 0}
	if shared {
		tries = tries[1:]
	}
	var err error
	for _, flags := range tries {
		b := newBatch(t.rules.family, probeName)
		b.put(sectionCreate, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, "",
			attrString(unix.NFTA_TABLE_NAME, probeName), attrU32(unix.NFTA_TABLE_FLAGS, flags))
		deleteTable(b)
		if err = t.kernel.commit(b); err == nil {
			return flags, nil
		}
	}
	if errors.Is(err, unix.EPERM) {
		return 0, fmt.Errorf("nftables needs the capability NET_ADMIN: %w", err)
	}
	return 0, fmt.Errorf("trying nftables out: %w", err)
}

// Owned tells whether the kernel keeps other programs from changing the table.
func (t *Table) Owned() bool { return t.flags != 0 }

// Stats returns the counters.
func (t *Table) Stats() Stats {
	s := t.stats
	s.Chains = len(t.known.chains)
	return s
}

// Close gives the table up. It stays in the kernel and goes on forwarding.
func (t *Table) Close() error { return t.kernel.close() }

// Remove takes the table out of the kernel. It is no error if there is none.
// A table owned by another running program gives EPERM.
func (t *Table) Remove() error {
	for _, name := range []string{TableName, bridgeName} {
		if err := t.remove(name); err != nil {
			return err
		}
	}
	t.known = state{}
	return nil
}

func (t *Table) remove(name string) error {
	_, ok, err := t.kernel.getTable(t.rules.family, name)
	if err != nil || !ok {
		return err
	}
	b := newBatch(t.rules.family, name)
	deleteTable(b)
	if err := t.commit(b); err != nil {
		return fmt.Errorf("removing the table %q: %w", name, err)
	}
	return nil
}

// Load writes the whole table, in place of one that may be there, whoever wrote
// it. It is one transaction. While it replaces a table, a second one of the same
// content carries traffic: a packet on its way at the moment of the commit could
// pass between old and new. Where the socket may not take as much at once, there
// are several transactions, with the hooks last.
//
// rejected holds the Services the kernel refused, each with its reason; all
// others are in place. With an error nothing is.
func (t *Table) Load(services map[string]*Service) (rejected map[string]error, err error) {
	rejected = make(map[string]error)
	for {
		wanted := maps.Clone(services)
		for name := range rejected {
			delete(wanted, name)
		}
		err := t.replace(wanted)
		if err == nil {
			return rejected, t.remember()
		}
		refused, ok := errors.AsType[*batchError](err)
		if ok && t.reject(refused, wanted, rejected) > 0 {
			continue
		}
		if !ok && !errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("loading the table %q: %w", TableName, err)
		}
		return t.loadInPieces(services)
	}
}

// replace puts a table with these Services in place, without a moment in which
// packets see none if there was one before.
func (t *Table) replace(services map[string]*Service) error {
	_, exists, err := t.kernel.getTable(t.rules.family, TableName)
	if err != nil {
		return err
	}
	if exists {
		if err := t.load(bridgeName, services, true); err != nil {
			return err
		}
	}
	if err := t.load(TableName, services, true); err != nil {
		return err
	}
	return t.remove(bridgeName)
}

// loadInPieces is Load for a table that does not go into one transaction,
// because of its size or because one Service, but not which, is to blame.
func (t *Table) loadInPieces(services map[string]*Service) (map[string]error, error) {
	if err := t.load(TableName, nil, false); err != nil {
		return nil, fmt.Errorf("creating the table %q: %w", TableName, err)
	}
	if err := t.remember(); err != nil {
		return nil, err
	}
	rejected, err := t.Apply(services)
	if err != nil {
		return nil, err
	}
	b := newBatch(t.rules.family, TableName)
	if err := errFirst(t.createHooks(b), t.commit(b)); err != nil {
		return nil, fmt.Errorf("hooking the table %q up: %w", TableName, err)
	}
	t.known.hooked = true
	if err := t.remove(bridgeName); err != nil {
		return nil, err
	}
	return rejected, t.remember()
}

// load replaces the table of that name with one that has these Services.
func (t *Table) load(name string, services map[string]*Service, hooks bool) error {
	_, exists, err := t.kernel.getTable(t.rules.family, name)
	if err != nil {
		return err
	}
	t.known = newState()
	tx := newLoad(&t.known, t.rules, name)
	if exists {
		deleteTable(tx.batch)
	}
	if err := t.createSkeleton(tx.batch); err != nil {
		return err
	}
	if err := tx.update(slices.Sorted(maps.Keys(services)), services); err != nil {
		return err
	}
	if hooks {
		if err := t.createHooks(tx.batch); err != nil {
			return err
		}
		t.known.hooked = true
	}
	return t.commit(tx.batch)
}

// Apply brings the named Services to their new state; nil removes one. It sends
// only what differs. rejected holds those the kernel refused, which stay as they
// were. [ErrLost] says that there is nothing to change: [Table.Load] everything.
func (t *Table) Apply(changes map[string]*Service) (rejected map[string]error, err error) {
	rejected = make(map[string]error)
	if err := t.apply(slices.Sorted(maps.Keys(changes)), changes, rejected); err != nil {
		return nil, err
	}
	return rejected, nil
}

// apply sends the changes of the names in one transaction. What the kernel
// refuses is narrowed to its Service: by the kernel's own word, or by halving.
func (t *Table) apply(names []string, changes map[string]*Service, rejected map[string]error) error {
	if len(names) == 0 {
		return nil
	}
	tx := newTransaction(&t.known, t.rules)
	err := tx.update(names, changes)
	prepared := false
	if err == nil {
		err = t.commit(tx.before)
		prepared = err == nil
	}
	if prepared {
		err = t.commit(tx.batch)
	}
	if err == nil {
		return nil
	}
	tx.rollback(prepared)
	refused, ok := errors.AsType[*batchError](err)
	if ok {
		if lost := t.Verify(); lost != nil {
			return lost
		}
	} else if !errors.Is(err, unix.EMSGSIZE) {
		return err
	}
	wanted := make(map[string]*Service, len(names))
	for _, name := range names {
		wanted[name] = changes[name]
	}
	switch {
	case ok && t.reject(refused, wanted, rejected) > 0:
		return t.apply(slices.Sorted(maps.Keys(wanted)), changes, rejected)
	case len(names) == 1:
		rejected[names[0]] = err
		return nil
	}
	half := len(names) / 2
	return errFirst(t.apply(names[:half], changes, rejected), t.apply(names[half:], changes, rejected))
}

// reject moves the Services that the kernel named from wanted to rejected and
// returns how many there were.
func (t *Table) reject(e *batchError, wanted map[string]*Service, rejected map[string]error) int {
	n := 0
	for _, c := range e.causes {
		if _, ok := wanted[c.owner]; ok {
			rejected[c.owner] = c.err
			delete(wanted, c.owner)
			n++
		}
	}
	return n
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
	if t.verified, ok, err = t.kernel.getTable(t.rules.family, TableName); err == nil && !ok {
		err = ErrLost
	}
	return err
}

// Waiting returns the frontends that a Service wants and another one has, sorted.
// It gets them when the other gives them up.
func (t *Table) Waiting(name string) []Frontend {
	p, ok := t.known.services[name]
	if !ok || len(t.known.waiting) == 0 {
		return nil
	}
	var out []Frontend
	for f := range p.want.Frontends {
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
	now, ok, err := t.kernel.getTable(t.rules.family, TableName)
	switch {
	case err != nil:
		return err
	case !ok, now.handle != t.verified.handle, now.flags != t.verified.flags, int(now.use) != t.known.objects():
		return ErrLost
	}
	t.seen = generation
	return nil
}

// Sweep deletes the class chains that no frontend uses any more. They are kept
// for a while as pools tend to come back to a size they had.
func (t *Table) Sweep() error {
	b := newBatch(t.rules.family, TableName)
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
