package nft

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// probe asks the kernel, by transactions that leave nothing behind, whether it
// takes all that a table is made of, and which flags the table can have.
//
// The kernel also loads the modules it needs for that. A transaction that meets
// a missing one is undone and begun anew, which in the first load would mean all
// elements, once for each module: with many source ranges, before Linux 6.12,
// minutes.
func (t *Table) probe(shared bool) (flags uint32, err error) {
	tries := []uint32{tableOwner | tablePersist, 0}
	if shared {
		tries = tries[1:]
	}
	for _, flags := range tries {
		l := t.layout
		l.flags = flags
		var b *batch
		if b, err = l.sample(); err != nil {
			return 0, err
		}
		if err = t.kernel.commit(b); err == nil {
			return flags, nil
		}
	}
	if errors.Is(err, unix.EPERM) {
		return 0, fmt.Errorf("nftables needs the capability NET_ADMIN: %w", err)
	}
	return 0, fmt.Errorf("trying out whether this kernel has what the table is made of: %w", err)
}

// sample makes a table with one of everything, and deletes it again.
func (l *layout) sample() (*batch, error) {
	b := newBatch(l.rules.family, probeName)
	if err := l.createSkeleton(b); err != nil {
		return nil, err
	}
	for _, c := range l.samples() {
		newChain(b, "", c.name)
		for _, rule := range c.rules {
			if err := newRule(b, "", c.name, rule); err != nil {
				return nil, err
			}
		}
	}
	if err := l.createHooks(b); err != nil {
		return nil, err
	}
	b.put(sectionFinish, unix.NFT_MSG_DELTABLE, 0, "", attrString(unix.NFTA_TABLE_NAME, b.table))
	return b, nil
}

// samples are chains with the most that any of a class is made of: affinity,
// draws and ranges.
func (l *layout) samples() []chainSpec {
	pick := l.rules.pick(pick{slots: 1, affinity: 1})
	return []chainSpec{pick, l.rules.ranged(pick)}
}
