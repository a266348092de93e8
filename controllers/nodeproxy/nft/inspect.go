package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Inspection is what the kernel does with packets to one frontend, read from the
// table and not from the program that wrote it.
type Inspection struct {
	// Table is the table's comment, "" when there is no table; Owned tells
	// whether a running program owns it.
	Table string
	Owned bool
	// ClusterIP tells whether all ports of the address are answered for, and
	// InServiceCIDR whether ClusterIPs come from around it.
	ClusterIP, InServiceCIDR bool
	// Neighbours are the other frontends of the same address, by the Service's
	// name; only where the frontend itself is none.
	Neighbours map[Frontend]string

	// Target is the chain its packets go to, "drop", or "" when it is no
	// frontend; all below are then zero.
	Target string
	// Service is namespace/name.
	Service string
	Policy  Policy
	// Refused tells that there is no endpoint.
	Refused bool
	// Affinity is the seconds a client keeps its endpoint, 0 for none.
	Affinity uint32
	// Ranged tells whether only Sources are taken.
	Ranged  bool
	Sources []netip.Prefix
	Slots   []Slot
	// Clients are those whose endpoint is remembered.
	Clients []Client
	// Pods are the ranges that Pods are told by, if they are told by ranges.
	Pods []netip.Prefix
}

// Slot is one of the places a packet may draw.
type Slot struct {
	Number   int
	Endpoint netip.AddrPort // not valid for a hole
	// Local is the pool of this node's endpoints, which only a Local policy
	// has; Spare is drawn for want of another, Retired not any more.
	Local, Spare, Retired bool
	// OnNode tells whether the endpoint is on this node.
	OnNode bool
}

// Client is one whose endpoint is remembered.
type Client struct {
	Source  netip.Addr
	Slot    int
	Local   bool // which pool the slot is of
	Spare   bool
	Expires time.Duration
}

// Inspect reads what the kernel does with packets to a frontend, in the network
// namespace of the calling thread. client narrows the clients to one; the zero
// value means all.
func Inspect(f Frontend, client netip.Addr) (Inspection, error) {
	s, err := openSocket()
	if err != nil {
		return Inspection{}, err
	}
	r := rules{family: unix.NFPROTO_IPV4}
	if f.Addr.Is6() {
		r.family = unix.NFPROTO_IPV6
	}
	in := inspector{Table: &Table{kernel: s, layout: layout{rules: r}}, socket: s, rules: r}
	defer func() { _ = s.close() }()
	return in.inspect(f, client)
}

// inspector reads a table without being the one that writes it.
type inspector struct {
	*Table
	socket *socket
	rules  rules
}

func (in inspector) inspect(f Frontend, client netip.Addr) (i Inspection, err error) {
	table, ok, err := in.socket.getTable(in.rules.family, TableName)
	if err != nil || !ok {
		return i, err
	}
	i.Table, i.Owned = table.comment, table.flags&tableOwner != 0
	if i.ClusterIP, _, err = in.element(setClusterIPs, appendAddr(nil, f.Addr)); err != nil {
		return i, err
	}
	services, err := in.ranges(setServiceCIDRs)
	if err != nil {
		return i, err
	}
	i.InServiceCIDR = slices.ContainsFunc(services, func(p netip.Prefix) bool { return p.Contains(f.Addr) })
	found, e, err := in.element(mapServices, appendFrontend(nil, f))
	if err != nil {
		return i, err
	}
	if !found {
		i.Neighbours, err = in.neighbours(f)
		return i, err
	}
	i.Target, i.Service = e.target, e.comment
	target, ranged := strings.CutPrefix(e.target, "ranged-")
	i.Ranged = ranged
	c, known := parseTarget(target)
	i.Refused = target == chainRefuse || target == chainRefused
	if i.Policy, i.Affinity = c.policy, c.affinity; target == targetDrop {
		i.Policy = InternalLocal
	}
	if i.Pods, err = in.ranges(setPodCIDRs); err != nil {
		return i, err
	}
	if known {
		if i.Slots, err = in.slots(f, c); err != nil {
			return i, err
		}
	}
	if i.Affinity > 0 {
		if i.Clients, err = in.clients(f, client); err != nil {
			return i, err
		}
		if i.Slots, err = in.retired(f, i.Slots, i.Clients); err != nil {
			return i, err
		}
	}
	if i.Ranged {
		i.Sources, err = in.sources(f)
	}
	return i, err
}

// element asks for one element.
func (in inspector) element(set string, key []byte) (bool, element, error) {
	list := attr{typ: unix.NFTA_SET_ELEM_LIST_ELEMENTS, nested: []attr{{typ: unix.NFTA_LIST_ELEM, nested: []attr{
		{typ: unix.NFTA_SET_ELEM_KEY, nested: []attr{{typ: unix.NFTA_DATA_VALUE, data: key}}},
	}}}}
	d, err := in.socket.get(unix.NFT_MSG_GETSETELEM, in.rules.family,
		attrString(unix.NFTA_SET_ELEM_LIST_TABLE, TableName), attrString(unix.NFTA_SET_ELEM_LIST_SET, set), list)
	if errors.Is(err, unix.ENOENT) {
		return false, element{}, nil
	}
	if err != nil {
		return false, element{}, fmt.Errorf("asking for an element of %q: %w", set, err)
	}
	for d.Next() {
		if d.Type() == unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			for _, p := range attributes(d.Bytes()) {
				return true, parseElement(p), nil
			}
		}
	}
	return false, element{}, d.Err()
}

// ranges reads an interval set.
func (in inspector) ranges(set string) ([]netip.Prefix, error) {
	elements, err := in.elements(TableName, set)
	if err != nil {
		return nil, err
	}
	return in.rules.parseRanges(elements)
}

// neighbours returns the frontends of the same address.
func (in inspector) neighbours(f Frontend) (map[Frontend]string, error) {
	all, err := in.elements(TableName, mapServices)
	if err != nil {
		return nil, err
	}
	out := make(map[Frontend]string)
	for _, e := range all {
		if other, _ := in.rules.cutFrontend(e.key); other.Addr == f.Addr {
			out[other] = e.comment
		}
	}
	return out, nil
}

// slots reads both pools that packets of the class draw from.
func (in inspector) slots(f Frontend, c class) ([]Slot, error) {
	var out []Slot
	cluster := c.slots
	if c.policy == InternalLocal {
		cluster = 0 // it only says whether there is any
	}
	for _, pool := range []struct {
		first, n int
		local    bool
	}{{0, cluster, false}, {localSlot, c.local, true}} {
		numbers := make([]int, 0, pool.n+1)
		for n := range min(pool.n, maxSlots) {
			numbers = append(numbers, n)
		}
		if c.affinity > 0 && pool.n > 0 {
			numbers = append(numbers, spareSlot)
		}
		for _, n := range numbers {
			s, _, err := in.slot(f, Slot{Number: n, Local: pool.local, Spare: n == spareSlot})
			if err != nil {
				return nil, err
			}
			out = append(out, s)
		}
	}
	return out, nil
}

// slot completes a slot with its endpoint.
func (in inspector) slot(f Frontend, s Slot) (Slot, bool, error) {
	first := 0
	if s.Local {
		first = localSlot
	}
	found, e, err := in.element(mapEndpoints, appendSlot(nil, f, first+s.Number))
	if err != nil || !found {
		return s, false, err
	}
	s.Endpoint = in.rules.cutEndpoint(e.data)
	a := s.Endpoint.Addr()
	s.OnNode, _, err = in.element(setHairpin, appendAddr(appendAddr(nil, a), a))
	return s, true, err
}

// clients reads the affinity of a frontend's clients, or of one.
func (in inspector) clients(f Frontend, only netip.Addr) ([]Client, error) {
	found, number, err := in.element(mapServicePorts, appendFrontend(nil, f))
	if err != nil || !found || len(number.data) != 4 {
		return nil, err
	}
	var elements []element
	if only.IsValid() {
		for _, pool := range []uint32{0, localSlot} {
			found, e, err := in.element(mapAffinity, appendClient(nil, only, nativeU32(number.data)|pool))
			if err != nil {
				return nil, err
			}
			if found {
				elements = append(elements, e)
			}
		}
	} else if elements, err = in.elements(TableName, mapAffinity); err != nil {
		return nil, err
	}
	var out []Client
	for _, e := range elements {
		source, port, local := in.rules.cutClient(e.key)
		if port != nativeU32(number.data) || len(e.data) != 4 {
			continue
		}
		c := Client{Source: source, Local: local, Slot: int(nativeU32(e.data) % localSlot), Expires: e.expires}
		c.Spare = c.Slot == spareSlot
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Client) int { return a.Source.Compare(b.Source) })
	return out, nil
}

// retired adds the slots beyond those drawn that clients still have.
func (in inspector) retired(f Frontend, known []Slot, clients []Client) ([]Slot, error) {
	for _, c := range clients {
		if slices.ContainsFunc(known, func(s Slot) bool { return s.Number == c.Slot && s.Local == c.Local }) {
			continue
		}
		s, found, err := in.slot(f, Slot{Number: c.Slot, Local: c.Local, Retired: true})
		if err != nil {
			return nil, err
		}
		if found {
			known = append(known, s)
		}
	}
	return known, nil
}

// sources reads whose packets a frontend takes.
func (in inspector) sources(f Frontend) ([]netip.Prefix, error) {
	all, err := in.elements(TableName, setSources)
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, e := range all {
		to, rest := in.rules.cutFrontend(e.key)
		if to != f {
			continue
		}
		first, _ := in.rules.cutAddr(rest)
		_, rest = in.rules.cutFrontend(e.keyEnd)
		last, _ := in.rules.cutAddr(rest)
		out = append(out, prefixBetween(first, last))
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out, nil
}
