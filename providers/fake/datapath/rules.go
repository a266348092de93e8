package datapath

import (
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// frontends fills the maps that translate, and adds the chains that use them:
// one for each number of targets and way to choose among them, however many
// frontends have those.
func (c *change) frontends(r ruleset) {
	type class struct {
		size   int
		sticky bool
	}
	chains := map[class]string{}
	var verdicts, marks, targets, sources, addresses []nftables.SetElement
	relay := ""
	for _, f := range r.frontends {
		key := f.bytes()
		if f.relay.IsValid() && len(f.pool) > 0 {
			if relay == "" {
				relay = c.relayChain()
			}
			verdicts = append(verdicts, gotoElement(key, relay))
			continue
		}
		of := class{len(f.pool), f.sticky && len(f.pool) > 1}
		if _, ok := chains[of]; !ok {
			chains[of] = c.poolChain(of.size, of.sticky)
		}
		verdicts = append(verdicts, gotoElement(key, chains[of]))
		marks = append(marks, nftables.SetElement{Key: key, Val: native(f.mark)})
		for i, to := range f.pool {
			targets = append(targets, nftables.SetElement{
				Key: slices.Concat(key, native(uint32(i))),
				Val: slices.Concat(to.Addr().AsSlice(), padded(to.Port())),
			})
		}
	}
	for _, mark := range slices.Sorted(maps.Keys(r.sources)) {
		sources = append(sources, nftables.SetElement{Key: native(mark), Val: r.sources[mark].AsSlice()})
	}
	for _, a := range r.addresses {
		addresses = append(addresses, nftables.SetElement{Key: a.AsSlice()})
	}
	c.fill(frontendsMap, verdicts)
	c.fill(marksMap, marks)
	c.fill(targetsMap, targets)
	c.fill(sourcesMap, sources)
	c.fill(addressesSet, addresses)
}

// stickySeed is given because the kernel would make up another one whenever the
// rules are written anew, and move every client.
const stickySeed = 0x666c7731

// poolChain adds the chain that gives a connection one of size targets, by its
// source address when it is sticky and else at random, and returns its name.
func (c *change) poolChain(size int, sticky bool) string {
	name, choose := "pool-%d", []expr.Any{&expr.Numgen{Register: reg4, Modulus: uint32(size), Type: unix.NFT_NG_RANDOM}}
	if sticky {
		name, choose = "sticky-%d", []expr.Any{loadSource(reg4),
			&expr.Hash{SourceRegister: reg4, DestRegister: reg4, Length: 4, Modulus: uint32(size), Seed: stickySeed, Type: expr.HashTypeJenkins}}
	}
	if size == 0 {
		return c.refuseChain()
	}
	chain := c.chain(name, size)
	c.rule(chain, loadFrontendKey(), []expr.Any{
		lookup(marksMap, reg1),
		&expr.Ct{Key: expr.CtKeyMARK, Register: reg1, SourceRegister: true},
	})
	c.rule(chain, loadFrontendKey(), choose, []expr.Any{
		lookup(targetsMap, reg1),
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg1, RegProtoMin: reg2},
	})
	// Reached only by a packet that was underway when the pool shrank.
	c.rule(chain, verdict(expr.VerdictDrop))
	return chain.Name
}

// relayChain adds the chain that lets connections in to this data path's relays.
func (c *change) relayChain() string {
	chain := c.chain("relay")
	c.rule(chain, verdict(expr.VerdictAccept))
	return chain.Name
}

// refuseChain adds the chain for frontends that have nobody to send to. AWS does
// not document what a listener without any registered target does; its metric
// TCP_ELB_Reset_Count says that a load balancer resets connections by itself, and
// a refusal tells a person more than a timeout.
func (c *change) refuseChain() string {
	chain := c.chain("refuse")
	c.rule(chain, protocolIs(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	c.rule(chain, verdict(expr.VerdictDrop))
	return chain.Name
}

func (c *change) guards(guards []guard) {
	chains := admissionChains{change: c, kind: "guard", byRules: map[string]string{}}
	var elements []nftables.SetElement
	for _, g := range guards {
		chain := chains.of(g.admit)
		for _, a := range g.addrs {
			elements = append(elements, gotoElement(a.AsSlice(), chain))
		}
	}
	c.fill(guardsMap, elements)
}

func (c *change) filters(filters []filter) {
	chains := admissionChains{change: c, kind: "filter", byRules: map[string]string{}}
	var elements []nftables.SetElement
	for _, f := range filters {
		if len(f.device) >= unix.IFNAMSIZ {
			c.fail(fmt.Errorf("device name %q is longer than %d bytes", f.device, unix.IFNAMSIZ-1))
			continue
		}
		name := make([]byte, unix.IFNAMSIZ)
		copy(name, f.device)
		elements = append(elements, gotoElement(name, chains.of(f.admit)))
	}
	c.fill(filtersMap, elements)
}

// admissionChains adds one chain for all that are admitted to by the same rules,
// as the nodes of a cluster are.
type admissionChains struct {
	*change
	kind    string
	byRules map[string]string
}

// of returns the name of the chain that accepts what one of the admissions lets
// in and drops the rest, without an answer, as security groups do.
func (c *admissionChains) of(list []admission) string {
	rules := fmt.Sprint(list)
	if name, ok := c.byRules[rules]; ok {
		return name
	}
	chain := c.chain("%s-%d", c.kind, len(c.byRules))
	c.byRules[rules] = chain.Name
	for _, a := range list {
		var match []expr.Any
		if a.proto != 0 {
			match = protocolIs(a.proto)
		}
		if a.proto == unix.IPPROTO_TCP || a.proto == unix.IPPROTO_UDP {
			match = append(match, portWithin(a.ports)...)
		}
		if a.anyone {
			c.rule(chain, match, verdict(expr.VerdictAccept))
		}
		if len(a.from) > 0 {
			c.rule(chain, match, []expr.Any{loadSource(reg1), member(c.rangeSet(a.from))}, verdict(expr.VerdictAccept))
		}
		if len(a.marks) > 0 {
			c.rule(chain, match, []expr.Any{loadMark(reg1), member(c.markSet(a.marks))}, verdict(expr.VerdictAccept))
		}
	}
	c.rule(chain, verdict(expr.VerdictDrop))
	return chain.Name
}
