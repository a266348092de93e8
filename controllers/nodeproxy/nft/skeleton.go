package nft

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// TableName names our table, in each family.
const TableName = "fairway"

// Names of tables that are there for moments only: a copy that carries traffic
// while the table is replaced, and one that tries the kernel out.
const (
	bridgeName = TableName + "-bridge"
	probeName  = TableName + "-probe"
)

// Maps and sets; their number never changes.
const (
	mapServices   = "services"    // address . protocol . port        → verdict
	mapEndpoints  = "endpoints"   // address . protocol . port . slot → address . port
	setClusterIPs = "cluster-ips" // addresses of which we answer for every port
	setHairpin    = "hairpin"     // address . the same address, of the endpoints on this node
	setPodCIDRs   = "pod-cidrs"   // sources that need no masquerading towards a ClusterIP
)

// Chains that are always there; [class] makes the others.
const (
	chainFrontends   = "frontends"
	chainRefuse      = "refuse"
	chainPrerouting  = "nat-prerouting"
	chainOutput      = "nat-output"
	chainPostrouting = "nat-postrouting"
)

// Priorities of network address translation, NF_IP_PRI_NAT_DST and _SRC.
const (
	priorityDestinationNAT = -100
	prioritySourceNAT      = 100
)

// Table flags, from linux/netfilter/nf_tables.h. Owner keeps other programs'
// hands off the table, persist lets it outlive our socket (Linux 6.9). One
// without the other would take the table down whenever the program stops.
const (
	tableOwner   = 0x2
	tablePersist = 0x4
)

// Data types of nft's, which its concatenations pack in six bits each.
const (
	typeInteger     = 4
	typeIPv4        = 7
	typeIPv6        = 8
	typeProtocol    = 12
	typePort        = 13
	typeBits        = 6
	typeVerdict     = 0xffffff00
	layoutIPv4Field = 4
	layoutIPv6Field = 16
)

// createSkeleton writes all but the base chains and the elements.
func (t *Table) createSkeleton(b *batch) error {
	addrType, size := uint32(typeIPv4), uint32(layoutIPv4Field)
	if t.rules.family == unix.NFPROTO_IPV6 {
		addrType, size = typeIPv6, layoutIPv6Field
	}
	b.put(sectionCreate, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, "",
		attrString(unix.NFTA_TABLE_NAME, b.table), attrU32(unix.NFTA_TABLE_FLAGS, t.flags))

	frontend := concat(addrType, typeProtocol, typePort)
	newSet(b, set{id: 1, name: mapServices, flags: unix.NFT_SET_MAP, keyType: frontend, keySize: size + 8, dataType: typeVerdict})
	newSet(b, set{id: 2, name: mapEndpoints, flags: unix.NFT_SET_MAP,
		keyType: frontend<<typeBits | typeInteger, keySize: size + 12,
		dataType: concat(addrType, typePort), dataSize: size + 4,
		userdata: slotTypes(t.rules.family)})
	newSet(b, set{id: 3, name: setClusterIPs, keyType: addrType, keySize: size})
	newSet(b, set{id: 4, name: setHairpin, keyType: concat(addrType, addrType), keySize: 2 * size})
	newSet(b, set{id: 5, name: setPodCIDRs, flags: unix.NFT_SET_INTERVAL, keyType: addrType, keySize: size})
	for _, e := range intervals(t.podCIDRs) {
		b.insert("", setPodCIDRs, appendAddr(nil, e.addr), value{last: e.end})
	}

	newChain(b, "", chainRefuse)
	newChain(b, "", chainFrontends)
	return errFirst(
		newRule(b, "", chainRefuse, t.rules.refuseTCP()),
		newRule(b, "", chainRefuse, t.rules.refuse()),
		newRule(b, "", chainFrontends, t.rules.dispatch()),
		// Once more: a lookup may miss an element that is being replaced.
		newRule(b, "", chainFrontends, t.rules.dispatch()),
		newRule(b, "", chainFrontends, t.rules.join(t.rules.inSet(offDst, setClusterIPs, true), t.rules.goTo(chainRefuse))),
	)
}

// createHooks writes the base chains. They come last: from then on packets see
// the table.
func (t *Table) createHooks(b *batch) error {
	for _, c := range []struct {
		name     string
		hook     uint32
		priority int32
		rules    [][]expr.Any
	}{
		{chainPrerouting, unix.NF_INET_PRE_ROUTING, priorityDestinationNAT, [][]expr.Any{t.rules.jump(chainFrontends)}},
		{chainOutput, unix.NF_INET_LOCAL_OUT, priorityDestinationNAT, [][]expr.Any{t.rules.jump(chainFrontends)}},
		{chainPostrouting, unix.NF_INET_POST_ROUTING, prioritySourceNAT, [][]expr.Any{
			t.rules.masqueradeMarked(),
			t.rules.join(t.rules.fromItself(), t.rules.masquerade()),
		}},
	} {
		b.put(sectionFinish, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, "",
			attrString(unix.NFTA_CHAIN_TABLE, b.table),
			attrString(unix.NFTA_CHAIN_NAME, c.name),
			attrString(unix.NFTA_CHAIN_TYPE, "nat"),
			attr{typ: unix.NFTA_CHAIN_HOOK, nested: []attr{
				attrU32(unix.NFTA_HOOK_HOOKNUM, c.hook),
				attrU32(unix.NFTA_HOOK_PRIORITY, uint32(c.priority)),
			}})
		for _, rule := range c.rules {
			if err := putRule(b, sectionFinish, "", c.name, rule); err != nil {
				return err
			}
		}
	}
	return nil
}

// deleteTable writes the end of the table and all that is in it.
func deleteTable(b *batch) {
	b.put(sectionCreate, unix.NFT_MSG_DELTABLE, 0, "", attrString(unix.NFTA_TABLE_NAME, b.table))
}

type set struct {
	id                 uint32
	name               string
	flags              uint32
	keyType, keySize   uint32
	dataType, dataSize uint32
	userdata           []byte
}

func newSet(b *batch, s set) {
	attrs := []attr{
		attrString(unix.NFTA_SET_TABLE, b.table),
		attrString(unix.NFTA_SET_NAME, s.name),
		attrU32(unix.NFTA_SET_ID, s.id),
		attrU32(unix.NFTA_SET_FLAGS, s.flags),
		attrU32(unix.NFTA_SET_KEY_TYPE, s.keyType),
		attrU32(unix.NFTA_SET_KEY_LEN, s.keySize),
	}
	if s.flags&unix.NFT_SET_MAP != 0 {
		attrs = append(attrs, attrU32(unix.NFTA_SET_DATA_TYPE, s.dataType), attrU32(unix.NFTA_SET_DATA_LEN, s.dataSize))
	}
	if s.userdata != nil {
		attrs = append(attrs, attr{typ: unix.NFTA_SET_USERDATA, data: s.userdata})
	}
	b.put(sectionCreate, unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, "", attrs...)
}

func newChain(b *batch, owner, name string) {
	b.put(sectionCreate, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, owner,
		attrString(unix.NFTA_CHAIN_TABLE, b.table), attrString(unix.NFTA_CHAIN_NAME, name))
}

func deleteChain(b *batch, name string) {
	b.put(sectionFinish, unix.NFT_MSG_DELCHAIN, 0, "",
		attrString(unix.NFTA_CHAIN_TABLE, b.table), attrString(unix.NFTA_CHAIN_NAME, name))
}

func newRule(b *batch, owner, chain string, rule []expr.Any) error {
	return putRule(b, sectionCreate, owner, chain, rule)
}

func putRule(b *batch, s section, owner, chain string, rule []expr.Any) error {
	list := attr{typ: unix.NFTA_RULE_EXPRESSIONS}
	for _, e := range rule {
		data, err := expr.Marshal(b.family, e)
		if err != nil {
			return fmt.Errorf("encoding a rule of chain %s: %w", chain, err)
		}
		list.nested = append(list.nested, attr{typ: unix.NFTA_LIST_ELEM | unix.NLA_F_NESTED, data: data})
	}
	b.put(s, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, owner,
		attrString(unix.NFTA_RULE_TABLE, b.table), attrString(unix.NFTA_RULE_CHAIN, chain), list)
	return nil
}

// concat returns nft's type of a concatenation.
func concat(types ...uint32) uint32 {
	var out uint32
	for _, t := range types {
		out = out<<typeBits | t
	}
	return out
}

// bound is one end of an interval; end marks the first address after it.
type bound struct {
	addr netip.Addr
	end  bool
}

// intervals returns the bounds of the prefixes as an interval set wants them:
// ascending, without overlaps.
func intervals(prefixes []netip.Prefix) []bound {
	sorted := slices.Clone(prefixes)
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		return cmp.Or(a.Masked().Addr().Compare(b.Masked().Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var out []bound
	var covered netip.Prefix
	for _, p := range sorted {
		p = p.Masked()
		if covered.IsValid() && covered.Contains(p.Addr()) {
			continue
		}
		covered = p
		out = append(out, bound{addr: p.Addr()})
		if next := lastAddr(p).Next(); next.IsValid() {
			out = append(out, bound{addr: next, end: true})
		}
	}
	return out
}

func lastAddr(p netip.Prefix) netip.Addr {
	raw := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(raw)
	return last
}

func errFirst(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
