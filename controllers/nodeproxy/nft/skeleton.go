package nft

import (
	"fmt"

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

// layoutVersion changes whenever what is in the table changes its meaning. A
// table of another version is not taken over but replaced.
const layoutVersion = 3

// Maps and sets; their number never changes.
const (
	mapServices     = "services"      // address . protocol . port        → verdict
	mapEndpoints    = "endpoints"     // address . protocol . port . slot → address . port
	mapServicePorts = "service-ports" // address . protocol . port        → number of the Service port, of frontends with affinity
	mapAffinity     = "affinity"      // source . number of the Service port → slot
	setSources      = "sources"       // address . protocol . port . source, of frontends that take some sources only
	setClusterIPs   = "cluster-ips"   // addresses of which we answer for every port
	setServiceCIDRs = "service-cidrs" // where ClusterIPs come from
	setHairpin      = "hairpin"       // address . the same address, of the endpoints on this node
	setPodCIDRs     = "pod-cidrs"     // sources that need no masquerading towards a ClusterIP
)

// counterAffinityFull counts connections for which the affinity map had no room.
const counterAffinityFull = "affinity-full"

// refusedCounters count what frontends of the policy Refused got.
var refusedCounters = map[Protocol]string{UDP: "refused-udp", SCTP: "refused-sctp"}

// counters returns the names of the table's counters.
func (l *layout) counters() []string {
	return []string{counterAffinityFull, refusedCounters[UDP], refusedCounters[SCTP]}
}

// Chains that are always there; [class] makes the others.
const (
	chainFrontends   = "frontends"
	chainRefuse      = "refuse"
	chainRefused     = "count-and-refuse" // of the policy Refused
	chainWrongPort   = "wrong-port"       // of a ClusterIP
	chainUnallocated = "unallocated"      // ClusterIP
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
	typeClass       = 23 // of a queueing discipline: the packet's priority
	typeBits        = 6
	typeVerdict     = 0xffffff00
	layoutIPv4Field = 4
	layoutIPv6Field = 16
)

// sets returns the table's sets and maps.
func (l *layout) sets() []set {
	addrType, size := uint32(typeIPv4), uint32(layoutIPv4Field)
	if l.rules.family == unix.NFPROTO_IPV6 {
		addrType, size = typeIPv6, layoutIPv6Field
	}
	frontend := concat(addrType, typeProtocol, typePort)
	out := []set{
		{name: mapServices, flags: unix.NFT_SET_MAP, keyType: frontend, keySize: size + 8, dataType: typeVerdict},
		{name: mapEndpoints, flags: unix.NFT_SET_MAP,
			keyType: frontend<<typeBits | typeInteger, keySize: size + 12,
			dataType: concat(addrType, typePort), dataSize: size + 4,
			userdata: slotTypes(l.rules.family)},
		{name: mapServicePorts, flags: unix.NFT_SET_MAP, keyType: frontend, keySize: size + 8,
			dataType: typeClass, dataSize: 4, userdata: servicePortTypes(l.rules.family)},
		{name: mapAffinity, flags: unix.NFT_SET_MAP | unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL,
			keyType: concat(addrType, typeClass), keySize: size + 4,
			dataType: typeClass, dataSize: 4, size: l.affinitySize,
			userdata: affinityTypes(l.rules.family)},
		{name: setSources, flags: unix.NFT_SET_INTERVAL | setConcat,
			keyType: frontend<<typeBits | addrType, keySize: 2*size + 8, fields: []uint32{size, 1, 2, size}},
		{name: setClusterIPs, keyType: addrType, keySize: size},
		{name: setServiceCIDRs, flags: unix.NFT_SET_INTERVAL, keyType: addrType, keySize: size},
		{name: setHairpin, keyType: concat(addrType, addrType), keySize: 2 * size},
		{name: setPodCIDRs, flags: unix.NFT_SET_INTERVAL, keyType: addrType, keySize: size},
	}
	for i := range out {
		out[i].id = uint32(i + 1)
	}
	return out
}

// chains returns the chains that are always there and no hook, those that others
// go to first.
func (l *layout) chains() []chainSpec {
	r := l.rules
	return []chainSpec{
		{name: chainRefuse, rules: [][]expr.Any{r.refuseTCP(), r.refuse()}},
		{name: chainRefused, rules: [][]expr.Any{r.count(UDP), r.count(SCTP), r.goTo(chainRefuse)}},
		// What a program of this node serves at such an address (a DNS cache at
		// its Service's) is its own affair.
		{name: chainWrongPort, rules: [][]expr.Any{r.join(r.local(), r.leave()), r.goTo(chainRefuse)}},
		{name: chainUnallocated, rules: [][]expr.Any{r.join(r.local(), r.leave()), r.drop()}},
		{name: chainFrontends, rules: [][]expr.Any{
			r.dispatch(),
			// Once more: a lookup may miss an element that is being replaced.
			r.dispatch(),
			r.join(r.inSet(offDst, setClusterIPs, true), r.goTo(chainWrongPort)),
			r.join(r.inSet(offDst, setServiceCIDRs, true), r.goTo(chainUnallocated)),
		}},
	}
}

// createSkeleton writes all but the base chains and the elements.
func (l *layout) createSkeleton(b *batch) error {
	l.putTable(b)
	for _, s := range l.sets() {
		newSet(b, s)
	}
	for _, name := range l.counters() {
		b.put(sectionCreate, unix.NFT_MSG_NEWOBJ, unix.NLM_F_CREATE, "",
			attrString(unix.NFTA_OBJ_TABLE, b.table), attrString(unix.NFTA_OBJ_NAME, name),
			attrU32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER), attr{typ: unix.NFTA_OBJ_DATA, nested: []attr{}})
	}
	for _, c := range l.chains() {
		newChain(b, "", c.name)
		for _, rule := range c.rules {
			if err := newRule(b, "", c.name, rule); err != nil {
				return err
			}
		}
	}
	return nil
}

// putTable writes the table itself, or that we take it over as it is.
func (l *layout) putTable(b *batch) {
	b.put(sectionCreate, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, "",
		attrString(unix.NFTA_TABLE_NAME, b.table), attrU32(unix.NFTA_TABLE_FLAGS, l.flags),
		attr{typ: attrTableUserdata, data: udRecord(udTableComment, append([]byte(l.comment()), 0))})
}

// comment says the layout's version, to us and to who lists the table.
func (l *layout) comment() string { return fmt.Sprintf("fairway layout %d", l.version) }

// hook is a base chain.
type hook struct {
	name     string
	number   uint32
	priority int32
	rules    [][]expr.Any
}

func (l *layout) hooks() []hook {
	r := l.rules
	return []hook{
		{chainPrerouting, unix.NF_INET_PRE_ROUTING, l.priorities.Destination, [][]expr.Any{r.jump(chainFrontends)}},
		{chainOutput, unix.NF_INET_LOCAL_OUT, l.priorities.Destination, [][]expr.Any{r.jump(chainFrontends)}},
		{chainPostrouting, unix.NF_INET_POST_ROUTING, l.priorities.Source, [][]expr.Any{
			r.masqueradeMarked(),
			r.join(r.fromItself(), r.masquerade()),
		}},
	}
}

// createHooks writes the base chains. They come last: from then on packets see
// the table.
func (l *layout) createHooks(b *batch) error {
	for _, h := range l.hooks() {
		b.put(sectionFinish, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, "",
			attrString(unix.NFTA_CHAIN_TABLE, b.table),
			attrString(unix.NFTA_CHAIN_NAME, h.name),
			attrString(unix.NFTA_CHAIN_TYPE, "nat"),
			attr{typ: unix.NFTA_CHAIN_HOOK, nested: []attr{
				attrU32(unix.NFTA_HOOK_HOOKNUM, h.number),
				attrU32(unix.NFTA_HOOK_PRIORITY, uint32(h.priority)),
			}})
		for _, rule := range h.rules {
			if err := putRule(b, sectionFinish, "", h.name, rule); err != nil {
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
	size               uint32   // most elements, 0 for no limit
	fields             []uint32 // sizes of what an interval set's key is made of, if of several
	userdata           []byte
}

// setConcat is NFT_SET_CONCAT of linux/netfilter/nf_tables.h (Linux 5.6): the key
// of an interval set is made of several fields, each with an interval of its own.
const setConcat = 0x80

// Attributes that golang.org/x/sys/unix lacks, from the same file.
const (
	attrSetFieldLen   = 1
	attrSetConcat     = 2
	attrElementKeyEnd = 10
	attrTableUserdata = 6
)

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
	var description []attr
	if s.size > 0 {
		description = append(description, attrU32(unix.NFTA_SET_DESC_SIZE, s.size))
	}
	if s.fields != nil {
		list := attr{typ: attrSetConcat}
		for _, f := range s.fields {
			list.nested = append(list.nested, attr{typ: unix.NFTA_LIST_ELEM, nested: []attr{attrU32(attrSetFieldLen, f)}})
		}
		description = append(description, list)
	}
	if description != nil {
		attrs = append(attrs, attr{typ: unix.NFTA_SET_DESC, nested: description})
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

func errFirst(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
