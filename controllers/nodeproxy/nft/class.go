package nft

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// localSlot is where the slot numbers of local pools begin: both pools of a
// frontend live in one map.
const localSlot = 1 << 16

// draws is how often a packet draws a slot at random before it takes slot 0.
// With a quarter of holes, one packet in 256 comes that far.
const draws = 4

// class is what the frontends that share a chain have in common.
type class struct {
	policy Policy
	slots  int // of the cluster pool, where the policy can use it
	local  int // of the local pool, where the policy can use it
}

// verdict returns where packets to a frontend of this class go.
func (c class) verdict() value {
	v := value{verdict: true, code: unix.NFT_GOTO}
	switch {
	case c.slots == 0 && c.local == 0:
		v.chain = chainRefuse
	case c.policy == InternalLocal && c.local == 0:
		v.code = int32(expr.VerdictDrop)
	default:
		v.chain = c.chain()
	}
	return v
}

// chain names the chain of the class, or "" when it goes without.
func (c class) chain() string {
	switch {
	case c.slots == 0 && c.local == 0, c.policy == InternalLocal && c.local == 0:
		return ""
	case c.policy == InternalLocal:
		return fmt.Sprintf("internal-local-%d", c.local)
	case c.policy == ExternalLocal:
		return fmt.Sprintf("external-local-%d-%d", c.slots, c.local)
	case c.policy == External:
		return fmt.Sprintf("external-%d", c.slots)
	}
	return fmt.Sprintf("internal-%d", c.slots)
}

// chainSpec is a chain's rules and the chains they go to.
type chainSpec struct {
	name  string
	rules [][]expr.Any
	needs []chainSpec
}

// spec returns the chain of a class that has one.
func (c class) spec(r rules) chainSpec {
	s := chainSpec{name: c.chain()}
	cluster, local := r.pick("pick-%d", c.slots, 0), r.pick("pick-local-%d", c.local, localSlot)
	if c.slots > 0 && c.policy != InternalLocal {
		s.needs = append(s.needs, cluster)
	}
	if c.local > 0 {
		s.needs = append(s.needs, local)
	}
	switch c.policy {
	case Internal, InternalLocal:
		if r.podCIDRs {
			s.rules = append(s.rules, r.join(r.fromPods(false), r.markForMasquerade()))
		}
	case External:
		s.rules = append(s.rules, r.markForMasquerade())
	case ExternalLocal:
		if r.podCIDRs {
			s.rules = append(s.rules, r.join(r.fromPods(true), r.goTo(cluster.name)))
		}
		s.rules = append(s.rules, r.join(r.fromNode(), r.markForMasquerade(), r.goTo(cluster.name)))
	}
	switch {
	case c.policy == Internal || c.policy == External:
		s.rules = append(s.rules, r.goTo(cluster.name))
	case c.local > 0:
		s.rules = append(s.rules, r.goTo(local.name))
	default:
		s.rules = append(s.rules, r.drop())
	}
	return s
}

// pick returns the chain that sends a packet to one of n slots, of which the
// first has the given number.
func (r rules) pick(name string, n, first int) chainSpec {
	s := chainSpec{name: fmt.Sprintf(name, n)}
	// Small pools have no holes. Their second draw is for the moment in which a
	// packet sees the old class and the new slots, or misses a slot that is
	// being replaced.
	tries := draws
	if n < 4 {
		tries = 1
	}
	for range tries {
		s.rules = append(s.rules, r.translate(n, first))
	}
	// Never fall through: the connection would be tracked untranslated, and
	// later packets of it would never see these rules again.
	s.rules = append(s.rules, r.translate(1, first), r.drop())
	return s
}

// rules builds the expressions of rules for one family. Matching registers:
// the 16-byte register 1 overlays the 4-byte ones from 8 on.
type rules struct {
	family   byte
	mark     uint32
	podCIDRs bool
}

const (
	reg1   = 1 // sixteen bytes
	reg32  = 8 // four bytes each, the first is where reg1 begins
	tcp    = unix.IPPROTO_TCP
	offSrc = 0
	offDst = 1
)

// addrSize is the length of an address and, in registers, of a field that holds one.
func (r rules) addrSize() uint32 {
	if r.family == unix.NFPROTO_IPV4 {
		return 4
	}
	return 16
}

// after returns the register that follows an address and n four-byte fields.
func (r rules) after(n uint32) uint32 { return reg32 + r.addrSize()/4 + n }

func (r rules) join(parts ...[]expr.Any) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// loadAddr puts the packet's source (which 0) or destination (1) into a register.
func (r rules) loadAddr(which, register uint32) expr.Any {
	base := uint32(12) // of the IPv4 header
	if r.family == unix.NFPROTO_IPV6 {
		base = 8
	}
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: base + which*r.addrSize(), Len: r.addrSize()}
}

// loadFrontend puts destination, protocol and port into the registers, as the
// keys of services and (with a slot number behind) of endpoints are laid out.
func (r rules) loadFrontend() []expr.Any {
	return []expr.Any{
		r.loadAddr(offDst, reg1),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: r.after(0)},
		&expr.Payload{DestRegister: r.after(1), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// dispatch looks the packet's frontend up and follows its verdict.
func (r rules) dispatch() []expr.Any {
	return append(r.loadFrontend(), &expr.Lookup{SourceRegister: reg1, DestRegister: 0, IsDestRegSet: true, SetName: mapServices})
}

// translate draws one of n slots and rewrites the destination to its endpoint;
// at a hole the packet goes on with the next rule.
func (r rules) translate(n, first int) []expr.Any {
	return append(r.loadFrontend(),
		&expr.Numgen{Register: r.after(2), Modulus: uint32(n), Type: unix.NFT_NG_RANDOM, Offset: uint32(first)},
		&expr.Lookup{SourceRegister: reg1, DestRegister: reg1, IsDestRegSet: true, SetName: mapEndpoints},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(r.family), RegAddrMin: reg1, RegProtoMin: r.after(0)},
	)
}

// inSet matches packets whose source or destination is in a set.
func (r rules) inSet(which uint32, set string, member bool) []expr.Any {
	return []expr.Any{r.loadAddr(which, reg1), &expr.Lookup{SourceRegister: reg1, SetName: set, Invert: !member}}
}

func (r rules) fromPods(yes bool) []expr.Any { return r.inSet(offSrc, setPodCIDRs, yes) }

// fromNode matches packets the node itself sends.
func (r rules) fromNode() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg1, FlagSADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: native32(unix.RTN_LOCAL)},
	}
}

// fromItself matches connections that were sent back to the Pod they came from.
func (r rules) fromItself() []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: reg1, Key: expr.CtKeySTATUS},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: native32(statusDestinationNAT), Xor: native32(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: native32(0)},
		r.loadAddr(offSrc, reg1), r.loadAddr(offDst, r.after(0)),
		&expr.Lookup{SourceRegister: reg1, SetName: setHairpin},
	}
}

// statusDestinationNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const statusDestinationNAT = 1 << 5

// markForMasquerade sets our bit of the packet's mark; masqueradeMarked acts on it.
func (r rules) markForMasquerade() []expr.Any { return r.setMark(^r.mark, r.mark) }

// masqueradeMarked clears the bit, so that it means nothing to who sees the
// packet later (an encapsulating tunnel keeps the mark), and masquerades.
func (r rules) masqueradeMarked() []expr.Any {
	return r.join([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: native32(r.mark), Xor: native32(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: native32(r.mark)},
	}, r.setMark(^uint32(0), r.mark), r.masquerade())
}

func (r rules) setMark(mask, xor uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: native32(mask), Xor: native32(xor)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg1},
	}
}

func (r rules) masquerade() []expr.Any { return []expr.Any{&expr.Masq{FullyRandom: true}} }

// refuseTCP answers with a reset: unlike ICMP errors, resets have no rate limit.
func (r rules) refuseTCP() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{tcp}},
		&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
	}
}

// refuse answers "port unreachable".
func (r rules) refuse() []expr.Any {
	code := uint8(3) // ICMP_PORT_UNREACH
	if r.family == unix.NFPROTO_IPV6 {
		code = 4 // ICMPV6_PORT_UNREACH
	}
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code}}
}

func (r rules) goTo(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

func (r rules) jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

func (r rules) drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

func native32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
