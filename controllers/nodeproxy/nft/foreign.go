package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Foreign looks at what other programs have installed in nftables and, where
// asked to, removes it. It is for one goroutine at a time.
type Foreign struct{ socket *socket }

// TableRef names a table of the family ip or ip6.
type TableRef struct {
	IPv6 bool
	Name string
}

func (t TableRef) family() byte {
	if t.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// String returns what the nft tool calls the table.
func (t TableRef) String() string {
	if t.IPv6 {
		return "ip6 " + t.Name
	}
	return "ip " + t.Name
}

// OpenForeign looks into the network namespace of the calling thread.
func OpenForeign() (*Foreign, error) {
	s, err := openSocket()
	if err != nil {
		return nil, err
	}
	return &Foreign{socket: s}, nil
}

// Close gives up what OpenForeign opened.
func (f *Foreign) Close() error { return f.socket.close() }

// HasTable tells whether there is such a table.
func (f *Foreign) HasTable(t TableRef) (bool, error) {
	_, ok, err := f.socket.getTable(t.family(), t.Name)
	return ok, err
}

// HasChain tells whether there is such a chain.
func (f *Foreign) HasChain(t TableRef, chain string) (bool, error) {
	_, err := f.socket.get(unix.NFT_MSG_GETCHAIN, t.family(), attrString(unix.NFTA_CHAIN_TABLE, t.Name), attrString(unix.NFTA_CHAIN_NAME, chain))
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("asking for chain %s of table %v: %w", chain, t, err)
	}
	return true, nil
}

// Chains returns the names of a table's chains, none if there is no such table,
// and of those the base chains whose policy is to drop.
func (f *Foreign) Chains(t TableRef) (all, dropping []string, err error) {
	restart := func() { all, dropping = nil, nil }
	err = f.socket.dump(unix.NFT_MSG_GETCHAIN, t.family(), nil, restart, func(d *netlink.AttributeDecoder) error {
		var table, name string
		policy := uint32(netfilterAccept)
		for d.Next() {
			switch d.Type() {
			case unix.NFTA_CHAIN_TABLE:
				table = d.String()
			case unix.NFTA_CHAIN_NAME:
				name = d.String()
			case unix.NFTA_CHAIN_POLICY:
				policy = d.Uint32()
			}
		}
		if table == t.Name {
			all = append(all, name)
			if policy == netfilterDrop {
				dropping = append(dropping, name)
			}
		}
		return d.Err()
	})
	if err != nil {
		return nil, nil, fmt.Errorf("listing the chains of table %v: %w", t, err)
	}
	return all, dropping, nil
}

// Verdicts of linux/netfilter.h.
const (
	netfilterDrop   = 0
	netfilterAccept = 1
)

// Removal is what to take out of the kernel.
type Removal struct {
	// Tables go with all that is in them.
	Tables []TableRef
	// Chains, by table, go with their rules and with the rules of the table's
	// other chains that jump to them. Those other chains stay.
	Chains map[TableRef][]string
}

// Remove takes all of it out in one transaction: with an error nothing is gone.
func (f *Foreign) Remove(r Removal) error {
	b := newBatch(unix.NFPROTO_IPV4, "")
	for _, t := range r.Tables {
		b.family, b.table = t.family(), t.Name
		deleteTable(b)
	}
	for t, chains := range r.Chains {
		if err := f.removeChains(b, t, chains); err != nil {
			return err
		}
	}
	if b.empty() {
		return nil
	}
	if err := f.socket.commit(b); err != nil {
		return fmt.Errorf("removing another program's rules: %w", err)
	}
	return nil
}

func (f *Foreign) removeChains(b *batch, t TableRef, chains []string) error {
	all, _, err := f.Chains(t)
	if err != nil {
		return err
	}
	goes := make(map[string]bool, len(chains))
	for _, name := range chains {
		goes[name] = slices.Contains(all, name)
	}
	b.family, b.table = t.family(), t.Name
	remove := func(typ uint16, attrs ...attr) { b.put(sectionCreate, typ, 0, "", attrs...) }
	for _, chain := range all {
		if goes[chain] {
			continue
		}
		jumps, err := f.jumps(t, chain, goes)
		if err != nil {
			return err
		}
		for _, handle := range jumps {
			remove(unix.NFT_MSG_DELRULE, attrString(unix.NFTA_RULE_TABLE, t.Name), attrString(unix.NFTA_RULE_CHAIN, chain), attr{typ: unix.NFTA_RULE_HANDLE, data: binary.BigEndian.AppendUint64(nil, handle)})
		}
	}
	// All rules first: the chains go to each other.
	for _, chain := range chains {
		if goes[chain] {
			remove(unix.NFT_MSG_DELRULE, attrString(unix.NFTA_RULE_TABLE, t.Name), attrString(unix.NFTA_RULE_CHAIN, chain))
		}
	}
	for _, chain := range chains {
		if goes[chain] {
			remove(unix.NFT_MSG_DELCHAIN, attrString(unix.NFTA_CHAIN_TABLE, t.Name), attrString(unix.NFTA_CHAIN_NAME, chain))
		}
	}
	return nil
}

// jumps returns the handles of a chain's rules that go to one of the others.
func (f *Foreign) jumps(t TableRef, chain string, to map[string]bool) ([]uint64, error) {
	var out []uint64
	attrs := []attr{attrString(unix.NFTA_RULE_TABLE, t.Name), attrString(unix.NFTA_RULE_CHAIN, chain)}
	err := f.socket.dump(unix.NFT_MSG_GETRULE, t.family(), attrs, func() { out = nil }, func(d *netlink.AttributeDecoder) error {
		var handle uint64
		var target string
		for d.Next() {
			switch d.Type() {
			case unix.NFTA_RULE_HANDLE:
				handle = d.Uint64()
			case unix.NFTA_RULE_EXPRESSIONS:
				d.Nested(func(list *netlink.AttributeDecoder) error {
					for list.Next() {
						list.Nested(func(e *netlink.AttributeDecoder) error { return findTarget(e, &target) })
					}
					return nil
				})
			}
		}
		if to[target] {
			out = append(out, handle)
		}
		return d.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("listing the rules of chain %s in table %v: %w", chain, t, err)
	}
	return out, nil
}

// findTarget stores the chain that an expression goes to, if it goes to one.
func findTarget(e *netlink.AttributeDecoder, target *string) error {
	immediate := false
	for e.Next() {
		switch {
		case e.Type() == unix.NFTA_EXPR_NAME:
			immediate = e.String() == "immediate"
		case e.Type() == unix.NFTA_EXPR_DATA && immediate:
			e.Nested(reach([]uint16{unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT, unix.NFTA_VERDICT_CHAIN}, func(chain *netlink.AttributeDecoder) {
				*target = chain.String()
			}))
		}
	}
	return nil
}

// reach follows a path of types through nested attributes and hands over what is
// at its end.
func reach(path []uint16, end func(*netlink.AttributeDecoder)) func(*netlink.AttributeDecoder) error {
	return func(d *netlink.AttributeDecoder) error {
		for d.Next() {
			switch {
			case d.Type() != path[0]:
			case len(path) == 1:
				end(d)
			default:
				d.Nested(reach(path[1:], end))
			}
		}
		return nil
	}
}
