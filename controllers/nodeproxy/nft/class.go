package nft

import (
	"fmt"
	"regexp"
	"strconv"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// localSlot is where the slot numbers of local pools begin: both pools of a
// frontend live in one map.
const localSlot = 1 << 30

// draws is how often a packet draws a slot at random before it takes slot 0.
// With a quarter of holes, one packet in 256 comes that far.
const draws = 4

// targetDrop stands for a chain where a verdict needs none.
const targetDrop = "drop"

// class is what the frontends that share a chain have in common.
type class struct {
	policy   Policy
	slots    int    // to draw from in the cluster pool, where the policy can use it
	local    int    // to draw from in the local pool, where the policy can use it
	affinity uint32 // seconds
	ranged   bool   // only some sources are taken
}

// newClass returns the class of a frontend with these pools.
func newClass(b Backends, cluster, local pool) class {
	c := class{policy: b.Policy, slots: cluster.draws(), local: local.draws(), affinity: b.Affinity, ranged: len(b.Sources) > 0}
	if b.Policy == InternalLocal {
		c.slots = min(len(b.Cluster), 1) // only whether there is any
	}
	return c
}

var policyNames = map[Policy]string{Internal: "internal", InternalLocal: "internal-local", External: "external", ExternalLocal: "external-local"}

// target names the chain that packets to a frontend of this class go to, or is
// targetDrop.
func (c class) target() string {
	prefix := ""
	if c.ranged {
		prefix = "ranged-"
	}
	switch {
	case c.policy == Refused:
		return prefix + chainRefused
	case c.slots == 0 && c.local == 0:
		return prefix + chainRefuse
	case c.policy == InternalLocal && c.local == 0:
		return targetDrop
	case c.policy == Direct:
		return prefix + c.cluster().String()
	case c.policy == ExternalLocal:
		return fmt.Sprintf("%sexternal-local-%d-%d%s", prefix, c.slots, c.local, sticky(c.affinity))
	case c.policy == InternalLocal:
		return fmt.Sprintf("%sinternal-local-%d%s", prefix, c.local, sticky(c.affinity))
	}
	return fmt.Sprintf("%s%s-%d%s", prefix, policyNames[c.policy], c.slots, sticky(c.affinity))
}

func sticky(seconds uint32) string {
	if seconds == 0 {
		return ""
	}
	return fmt.Sprintf("-sticky-%d", seconds)
}

// verdict returns the value that sends packets to a target.
func verdict(target string) value {
	if target == targetDrop {
		return value{verdict: true, code: int32(expr.VerdictDrop)}
	}
	return value{verdict: true, code: unix.NFT_GOTO, chain: target}
}

// pick is a way to choose one of a pool's slots.
type pick struct {
	slots    int
	local    bool
	affinity uint32
}

func (c class) cluster() pick { return pick{slots: c.slots, affinity: c.affinity} }
func (c class) ofNode() pick  { return pick{slots: c.local, local: true, affinity: c.affinity} }

// String names the chain.
func (p pick) String() string {
	if p.local {
		return fmt.Sprintf("pick-local-%d%s", p.slots, sticky(p.affinity))
	}
	return fmt.Sprintf("pick-%d%s", p.slots, sticky(p.affinity))
}

var (
	classPattern = regexp.MustCompile(`^(internal-local|external-local|internal|external)-(\d+)(?:-(\d+))?(?:-sticky-(\d+))?$`)
	pickPattern  = regexp.MustCompile(`^pick-(local-)?(\d+)(?:-sticky-(\d+))?$`)
)

// parseTarget is the opposite of target, for chains found in the kernel. Of the
// slots that only say whether there are any, and of ranged, it knows nothing.
func parseTarget(name string) (class, bool) {
	if p, ok := parsePick(name); ok && !p.local {
		return class{policy: Direct, slots: p.slots, affinity: p.affinity}, true
	}
	m := classPattern.FindStringSubmatch(name)
	if m == nil || (m[1] == "external-local") != (m[3] != "") {
		return class{}, false
	}
	n := numbers(m[2:])
	c := class{slots: n[0], local: n[1], affinity: uint32(n[2])}
	for policy, text := range policyNames {
		if text == m[1] {
			c.policy = policy
		}
	}
	if c.policy == InternalLocal {
		c.slots, c.local = 1, n[0]
	}
	return c, true
}

func parsePick(name string) (pick, bool) {
	m := pickPattern.FindStringSubmatch(name)
	if m == nil {
		return pick{}, false
	}
	n := numbers(m[2:])
	return pick{slots: n[0], local: m[1] != "", affinity: uint32(n[1])}, n[0] > 0
}

// numbers reads what a pattern found to be digits, nothing being zero.
func numbers(texts []string) []int {
	out := make([]int, len(texts))
	for i, text := range texts {
		out[i], _ = strconv.Atoi(text)
	}
	return out
}

// chainSpec is a chain's rules and the chains they go to.
type chainSpec struct {
	name  string
	rules [][]expr.Any
	needs []chainSpec
}

// spec returns the chain of that name, or none if this version knows none such.
func (r rules) spec(name string) (chainSpec, bool) {
	if len(name) > len("ranged-") && name[:len("ranged-")] == "ranged-" {
		inner, ok := r.spec(name[len("ranged-"):])
		return r.ranged(inner), ok
	}
	if name == chainRefuse || name == chainRefused {
		return chainSpec{name: name}, true // always there
	}
	if p, ok := parsePick(name); ok {
		return r.pick(p), true
	}
	c, ok := parseTarget(name)
	if !ok {
		return chainSpec{}, false
	}
	return r.class(c), true
}

// class returns the chain that decides between the pools and about the source.
func (r rules) class(c class) chainSpec {
	s := chainSpec{name: c.target()}
	if c.slots > 0 && c.policy != InternalLocal {
		s.needs = append(s.needs, r.pick(c.cluster()))
	}
	if c.local > 0 {
		s.needs = append(s.needs, r.pick(c.ofNode()))
	}
	cluster, local := c.cluster().String(), c.ofNode().String()
	switch {
	case c.policy == External, c.policy != ExternalLocal && r.masqueradeAll:
		s.rules = append(s.rules, r.markForMasquerade())
	case c.policy == ExternalLocal && c.slots > 0:
		if r.pods.known() {
			s.rules = append(s.rules, r.join(r.fromPods(true), r.goTo(cluster)))
		}
		if r.pods.By == PodsByAddress && c.local == 0 {
			// Once more before the packet is dropped: a lookup may miss an
			// element that is being replaced.
			s.rules = append(s.rules, r.join(r.fromPods(true), r.goTo(cluster)))
		}
		s.rules = append(s.rules, r.join(r.fromNode(), r.markForMasquerade(), r.goTo(cluster)))
	case c.policy != ExternalLocal && r.pods.known():
		s.rules = append(s.rules, r.join(r.fromPods(false), r.markForMasquerade()))
	}
	switch {
	case c.policy == Internal || c.policy == External:
		s.rules = append(s.rules, r.goTo(cluster))
	case c.local > 0:
		s.rules = append(s.rules, r.goTo(local))
	default:
		s.rules = append(s.rules, r.drop())
	}
	return s
}

// pick returns the chain that sends a packet to a slot.
func (r rules) pick(p pick) chainSpec {
	s := chainSpec{name: p.String()}
	first := 0
	if p.local {
		first = localSlot
	}
	if p.affinity > 0 {
		s.rules = r.stick(p, first)
	}
	// Small pools have no holes. Their second draw is for the moment in which a
	// packet sees the old class and the new slots, or misses a slot that is
	// being replaced.
	tries := draws
	if p.slots < 4 && p.affinity == 0 {
		tries = 1
	}
	for range tries {
		s.rules = append(s.rules, r.translate(p.slots, first))
	}
	last := first
	if p.affinity > 0 {
		last += spareSlot
	}
	// Never fall through: the connection would be tracked untranslated, and
	// later packets of it would never see these rules again.
	s.rules = append(s.rules, r.translate(1, last), r.drop())
	return s
}
