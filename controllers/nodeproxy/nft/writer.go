package nft

import (
	"errors"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// writer writes Services into one of a Table's tables: the real one, or the one
// that carries traffic meanwhile.
type writer struct {
	*Table
	name  string
	state *state
}

func (t *Table) writer() writer { return writer{t, TableName, &t.known} }

// apply sends the changes of the names in one transaction. What the kernel
// refuses is narrowed to its Service: by the kernel's own word, or by halving.
func (w writer) apply(names []string, changes map[string]*Service, rejected map[string]error) error {
	if len(names) == 0 {
		return nil
	}
	tx := newTransaction(w.state, w.layout.rules, w.name)
	err := tx.update(names, changes)
	prepared := false
	if err == nil {
		err = w.commit(tx.before)
		prepared = err == nil
	}
	if prepared {
		err = w.commit(tx.batch)
	}
	if err == nil {
		return nil
	}
	tx.rollback(prepared)
	refused, ok := errors.AsType[*batchError](err)
	if ok && w.name == TableName {
		if lost := w.Verify(); lost != nil {
			return lost
		}
	}
	if !ok && !errors.Is(err, unix.EMSGSIZE) {
		return err
	}
	wanted := make(map[string]*Service, len(names))
	for _, name := range names {
		wanted[name] = changes[name]
	}
	switch {
	case ok && reject(refused, wanted, rejected) > 0:
		return w.apply(slices.Sorted(maps.Keys(wanted)), changes, rejected)
	case len(names) == 1:
		rejected[names[0]] = err
		return nil
	}
	half := len(names) / 2
	return errFirst(w.apply(names[:half], changes, rejected), w.apply(names[half:], changes, rejected))
}

// reject moves the Services that the kernel named from wanted to rejected and
// returns how many there were.
func reject(e *batchError, wanted map[string]*Service, rejected map[string]error) int {
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

// create writes the whole table, in place of one of that name: in one
// transaction or, where the socket may not take as much at once or one Service,
// but not which, is to blame, in several with the hooks last.
func (w writer) create(services map[string]*Service, clients []client) (rejected map[string]error, err error) {
	rejected = make(map[string]error)
	for {
		wanted := maps.Clone(services)
		for name := range rejected {
			delete(wanted, name)
		}
		err := w.createAtOnce(wanted, clients)
		if err == nil {
			return rejected, nil
		}
		refused, ok := errors.AsType[*batchError](err)
		if ok && reject(refused, wanted, rejected) > 0 {
			continue
		}
		if !ok && !errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EPERM) {
			return nil, err
		}
		return w.createInPieces(services, clients)
	}
}

// begin writes the table without elements and hooks.
func (w writer) begin(b *batch) error {
	_, exists, err := w.kernel.getTable(w.layout.rules.family, w.name)
	if err != nil {
		return err
	}
	if exists {
		deleteTable(b)
	}
	contested := w.known.contested()
	*w.state = newState()
	w.state.incumbents = contested
	return w.layout.createSkeleton(b)
}

func (w writer) createAtOnce(services map[string]*Service, clients []client) error {
	tx := newTransaction(w.state, w.layout.rules, w.name)
	tx.before, tx.final = tx.batch, true // if it fails, the state is begun anew
	if err := w.begin(tx.batch); err != nil {
		return err
	}
	for set, ranges := range w.ranges {
		tx.setRanges(set, ranges)
	}
	if err := tx.update(slices.Sorted(maps.Keys(services)), services); err != nil {
		return err
	}
	tx.remind(w.state.memories(clients))
	if err := w.layout.createHooks(tx.batch); err != nil {
		return err
	}
	w.state.hooked = true
	return w.commit(tx.batch)
}

func (w writer) createInPieces(services map[string]*Service, clients []client) (map[string]error, error) {
	tx := newTransaction(w.state, w.layout.rules, w.name)
	if err := w.begin(tx.batch); err != nil {
		return nil, err
	}
	for set, ranges := range w.ranges {
		tx.setRanges(set, ranges)
	}
	if err := w.commit(tx.batch); err != nil {
		return nil, err
	}
	if w.name == TableName {
		if err := w.remember(); err != nil {
			return nil, err
		}
	}
	rejected := make(map[string]error)
	if err := w.apply(slices.Sorted(maps.Keys(services)), services, rejected); err != nil {
		return nil, err
	}
	if err := w.remind(w.state.memories(clients)); err != nil {
		return nil, err
	}
	return rejected, w.hookUp()
}

// hookUp writes the base chains.
func (w writer) hookUp() error {
	b := newBatch(w.layout.rules.family, w.name)
	if err := errFirst(w.layout.createHooks(b), w.commit(b)); err != nil {
		return err
	}
	w.state.hooked = true
	return nil
}
