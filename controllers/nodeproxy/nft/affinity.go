package nft

import (
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Session affinity remembers, in one map for all Services, the slot number that
// a client was given: (source, number of the Service port) → slot. All frontends
// of a Service port have the same slots, so what holds at one address holds at
// the others. A slot must mean the same endpoint as long as that endpoint is
// usable, and nothing that is done to the pool may move it. When its endpoint
// goes, the slot becomes a hole, the client's next connection finds nothing there
// and draws anew: there is nothing to purge.
//
// Which slots a client draws follows from its address, so that two ports of a
// Service, and mostly two nodes, start it at the same endpoint.

// spareSlot is, in a pool with affinity, the slot of last resort: the endpoint of
// another slot once more. It takes the place of slot 0 in pools without, where
// endpoints may move.
const spareSlot = localSlot - 1

// affinitySeeds are those of the hashes for the draws; any will do. The first is
// in vain for a client whose endpoint went.
var affinitySeeds = [draws + 1]uint32{0x5eed0001, 0x5eed0002, 0x5eed0003, 0x5eed0004, 0x5eed0005}

// pool is the slots of a frontend's endpoints. Without affinity, sticky is nil.
type pool struct {
	slots  slots
	sticky *stickiness
}

// stickiness is what a pool with affinity has besides. It is never changed.
type stickiness struct {
	// draws is how many slots are drawn from. Those beyond were once, and are
	// kept for the clients that were given them.
	draws int
	spare netip.AddrPort // in spareSlot
}

// draws returns how many slots there are to draw from.
func (p pool) draws() int {
	if p.sticky != nil {
		return p.sticky.draws
	}
	return len(p.slots)
}

// update returns the pool for the wanted endpoints; p stays as it is.
func (p pool) update(want []netip.AddrPort, affinity bool) pool {
	switch {
	case len(want) == 0:
		return pool{}
	case !affinity:
		return pool{slots: p.slots[:p.draws()].update(want)}
	}
	next, known := p.survivors(want)
	n := p.draws()
	if n == 0 || next.holes(want, n) > n/4 {
		n = poolSize(len(want))
	}
	for ; ; n = poolSize(n + 1) {
		if filled, ok := next.take(want, n); ok {
			next = filled
			break
		}
	}
	s := &stickiness{draws: n, spare: want[0]}
	if p.sticky != nil && known[p.sticky.spare] {
		s.spare = p.sticky.spare
	}
	return pool{slots: next, sticky: s}
}

// poolOf is one of a frontend's two pools: what it has, and what it should have.
type poolOf struct {
	has  func(frontend) pool
	want func(Backends) []netip.AddrPort
}

var (
	clusterPool = poolOf{func(f frontend) pool { return f.cluster }, func(b Backends) []netip.AddrPort { return b.Cluster }}
	localPool   = poolOf{func(f frontend) pool { return f.local }, func(b Backends) []netip.AddrPort { return b.Local }}
)

// begun returns the pool that a frontend's next one is made from: with affinity,
// that of the first frontend of the same Service port that remembers clients, so
// that all of them have the same one, whichever changes first.
func (tx *transaction) begun(f Frontend, s *Service, port uint32, which poolOf) pool {
	own := which.has(tx.state.frontends[f])
	if port == 0 {
		return own
	}
	var first Frontend
	var found pool
	for other, b := range s.Frontends {
		if other.Protocol != f.Protocol || b.ServicePort != s.Frontends[f].ServicePort {
			continue
		}
		have := tx.state.frontends[other]
		p := which.has(have)
		if have.port == port && p.sticky != nil && (found.sticky == nil || other.compare(first) < 0) {
			first, found = other, p
		}
	}
	if found.sticky == nil {
		return own
	}
	return found
}

// survivors returns the slots without the endpoints that are not wanted any
// more, and all wanted ones.
func (p pool) survivors(want []netip.AddrPort) (slots, map[netip.AddrPort]bool) {
	known := make(map[netip.AddrPort]bool, len(want))
	for _, e := range want {
		known[e] = true
	}
	next := slices.Clone(p.slots)
	for i, e := range next {
		if !known[e] {
			next[i] = netip.AddrPort{}
		}
	}
	return next, known
}

// holes returns how many of the first n slots are empty when each wanted
// endpoint that is in none of them has taken one.
func (s slots) holes(want []netip.AddrPort, n int) int {
	has := make(map[netip.AddrPort]bool, len(want))
	taken := 0
	for i := range n {
		if e := s.at(i); e.IsValid() {
			has[e] = true
			taken++
		}
	}
	return n - taken - (len(want) - len(has))
}

// take gives each endpoint that has none of the first n slots one of them. It
// returns false if they do not suffice.
func (s slots) take(want []netip.AddrPort, n int) (slots, bool) {
	next := slices.Clone(s)
	if len(next) < n {
		next = append(next, make(slots, n-len(next))...)
	}
	has := make(map[netip.AddrPort]bool, len(want))
	for _, e := range next[:n] {
		has[e] = true
	}
	free := 0
	for _, e := range want {
		if has[e] {
			continue
		}
		for free < n && next[free].IsValid() {
			free++
		}
		if free == n {
			return nil, false
		}
		next[free] = e
	}
	for len(next) > n && !next[len(next)-1].IsValid() {
		next = next[:len(next)-1]
	}
	return next, true
}

// stick returns the rules that send a client where it was sent before or, for
// the first time, remember where. Only where the map takes no more do packets
// come past them, which is counted.
//
// The number of the Service port and then that of the slot are handed from one
// expression to the next in the packet's priority: nft cannot list a lookup of
// what another lookup found. The packet's mark would be the other place, but
// other programs route by it; the priority, of this first packet of a connection
// only, at most chooses a queue.
func (r rules) stick(p pick, first int) [][]expr.Any {
	timeout := time.Duration(p.affinity) * time.Second
	var out [][]expr.Any
	for i, seed := range affinitySeeds {
		draw := &expr.Hash{SourceRegister: reg1, DestRegister: r.after(1), Length: r.addrSize(), Modulus: uint32(p.slots), Offset: uint32(first), Seed: seed, Type: expr.HashTypeJenkins}
		out = append(out, r.join(r.number(p.local), r.forget(i > 0), r.remember(draw, timeout), r.recall(), r.translateTo()))
	}
	spare := &expr.Immediate{Register: r.after(1), Data: native32(uint32(first + spareSlot))}
	return append(out, r.join(r.number(p.local), r.forget(true), r.remember(spare, timeout), r.recall(), r.translateTo()),
		[]expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: counterAffinityFull}})
}

// dynsetDelete is NFT_DYNSET_OP_DELETE of linux/netfilter/nf_tables.h (Linux 5.4).
const dynsetDelete = 2

// number sets the priority to the number of the Service port: clients are
// remembered for each of its two pools, as one may use both.
func (r rules) number(local bool) []expr.Any {
	out := r.join(r.loadFrontend(),
		[]expr.Any{&expr.Lookup{SourceRegister: reg1, DestRegister: reg1, IsDestRegSet: true, SetName: mapServicePorts}},
		r.setPriority())
	if local {
		out = append(out,
			&expr.Meta{Key: expr.MetaKeyPRIORITY, Register: reg1},
			&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: native32(^uint32(localSlot)), Xor: native32(localSlot)})
		out = append(out, r.setPriority()...)
	}
	return out
}

// loadClient puts source and priority into the registers, as the keys of the
// affinity map are laid out.
func (r rules) loadClient() []expr.Any {
	return []expr.Any{r.loadAddr(offSrc, reg1), &expr.Meta{Key: expr.MetaKeyPRIORITY, Register: r.after(0)}}
}

// forget removes what is remembered of the client. The kernel wants a value there
// too, whatever it is.
func (r rules) forget(yes bool) []expr.Any {
	if !yes {
		return nil
	}
	return append(r.loadClient(), &expr.Dynset{SrcRegKey: reg1, SrcRegData: r.after(0), SetName: mapAffinity, Operation: dynsetDelete})
}

// remember keeps the slot that an expression puts behind the client. Of a client
// that is known it only starts the timeout anew.
func (r rules) remember(slot expr.Any, timeout time.Duration) []expr.Any {
	return append(r.loadClient(), slot,
		&expr.Dynset{SrcRegKey: reg1, SrcRegData: r.after(1), SetName: mapAffinity, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: timeout})
}

// recall sets the priority to the slot that is remembered.
func (r rules) recall() []expr.Any {
	return r.join(r.loadClient(),
		[]expr.Any{&expr.Lookup{SourceRegister: reg1, DestRegister: reg1, IsDestRegSet: true, SetName: mapAffinity}},
		r.setPriority())
}

func (r rules) setPriority() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyPRIORITY, SourceRegister: true, Register: reg1}}
}

// translateTo rewrites the destination to the endpoint in the slot that the
// priority says; at a hole the packet goes on with the next rule.
func (r rules) translateTo() []expr.Any {
	return r.slot(&expr.Meta{Key: expr.MetaKeyPRIORITY, Register: r.after(2)})
}
