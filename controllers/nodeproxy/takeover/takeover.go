// Package takeover finds what kube-proxy has on the node and takes its place.
// Nothing here runs another program: nftables and iptables-nft are read and
// changed over netlink, legacy iptables is looked at through its socket option,
// and IPVS by the device that kube-proxy makes for it.
package takeover

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// Backend is where kube-proxy keeps its rules.
type Backend string

// The backends kube-proxy has had. Those of iptables depend on the iptables
// program it used: -nft writes into nftables, -legacy into the older tables.
const (
	NFTables       Backend = "nftables"
	IPTablesNFT    Backend = "iptables-nft"
	IPTablesLegacy Backend = "iptables-legacy"
	IPVS           Backend = "ipvs"
)

// Backends are all there are.
var Backends = []Backend{NFTables, IPTablesNFT, IPTablesLegacy, IPVS}

// Replaceable tells whether [Node.Remove] can take the rules out without
// breaking connections: where it cannot, kube-proxy's own --cleanup has to.
func (b Backend) Replaceable() bool { return b == NFTables || b == IPTablesNFT }

// Names of kube-proxy's: k8s.io/kubernetes, pkg/proxy/{nftables,iptables,ipvs}/proxier.go.
const (
	kubeProxyTable = "kube-proxy"
	ipvsDevice     = "kube-ipvs0"
	// servicesChain is in the nat table in both the iptables and the IPVS mode.
	servicesChain = "KUBE-SERVICES"
)

// kubeProxyChains are the names of kube-proxy's chains or, with a dash at the
// end, what they begin with. KUBE-FIREWALL, KUBE-KUBELET-CANARY and
// KUBE-IPTABLES-HINT are the kubelet's and must stay.
var kubeProxyChains = []string{
	servicesChain, "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-FORWARD",
	"KUBE-PROXY-FIREWALL", "KUBE-PROXY-CANARY", "KUBE-SVC-", "KUBE-SVL-", "KUBE-FW-", "KUBE-EXT-", "KUBE-SEP-",
	"KUBE-NODE-PORT", "KUBE-LOAD-BALANCER", "KUBE-SOURCE-RANGES-FIREWALL", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER",
}

func isKubeProxyChain(name string) bool {
	return slices.ContainsFunc(kubeProxyChains, func(known string) bool {
		return name == known || strings.HasSuffix(known, "-") && strings.HasPrefix(name, known)
	})
}

// iptablesTables are those in which kube-proxy has chains.
var iptablesTables = []string{"nat", "filter", "mangle"}

// Node looks at one node. It is for one goroutine at a time.
type Node struct{ foreign *nft.Foreign }

// Open looks into the network namespace of the calling thread. Find must be
// called there too.
func Open() (*Node, error) {
	f, err := nft.OpenForeign()
	if err != nil {
		return nil, err
	}
	return &Node{f}, nil
}

// Close gives up what Open opened.
func (n *Node) Close() error { return n.foreign.Close() }

// Find returns the backends in which kube-proxy has rules, none where it has
// not. It is cheap: it asks for single names.
func (n *Node) Find() ([]Backend, error) {
	var found []Backend
	for _, b := range Backends {
		has := map[Backend]func() (bool, error){
			NFTables: n.hasNFTables, IPTablesNFT: n.hasIPTablesNFT, IPTablesLegacy: hasLegacy, IPVS: hasIPVS,
		}[b]
		yes, err := has()
		if err != nil {
			return nil, fmt.Errorf("looking for kube-proxy's rules (%s): %w", b, err)
		}
		if yes {
			found = append(found, b)
		}
	}
	return found, nil
}

func (n *Node) hasNFTables() (bool, error) {
	return n.eitherFamily(func(ipv6 bool) (bool, error) {
		return n.foreign.HasTable(nft.TableRef{IPv6: ipv6, Name: kubeProxyTable})
	})
}

func (n *Node) hasIPTablesNFT() (bool, error) {
	return n.eitherFamily(func(ipv6 bool) (bool, error) {
		return n.foreign.HasChain(nft.TableRef{IPv6: ipv6, Name: "nat"}, servicesChain)
	})
}

func (n *Node) eitherFamily(has func(ipv6 bool) (bool, error)) (bool, error) {
	for _, ipv6 := range []bool{false, true} {
		if yes, err := has(ipv6); yes || err != nil {
			return yes, err
		}
	}
	return false, nil
}

// removeTries bounds how often a removal is tried that meets kube-proxy at work:
// what was listed may be gone a moment later.
const removeTries = 5

// Remove takes kube-proxy's rules out of nftables and iptables-nft, all of them
// in one transaction. Connections go on: connection tracking remembers their
// translation as long as some rules of that kind are installed, so ours must be
// there before. droppers are the chains, as "ip filter FORWARD", whose policy
// is to drop what no rule accepts: kube-proxy's rules did accept forwarded
// packets to Services.
func (n *Node) Remove() (droppers []string, err error) {
	for range removeTries {
		var r nft.Removal
		if r, droppers, err = n.removal(); err != nil {
			return nil, err
		}
		err = n.foreign.Remove(r)
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	return droppers, err
}

func (n *Node) removal() (r nft.Removal, droppers []string, err error) {
	r.Chains = make(map[nft.TableRef][]string)
	for _, ipv6 := range []bool{false, true} {
		own := nft.TableRef{IPv6: ipv6, Name: kubeProxyTable}
		exists, err := n.foreign.HasTable(own)
		if err != nil {
			return r, nil, err
		}
		if exists {
			r.Tables = append(r.Tables, own)
		}
		for _, name := range iptablesTables {
			t := nft.TableRef{IPv6: ipv6, Name: name}
			chains, dropping, err := n.foreign.Chains(t)
			if err != nil {
				return r, nil, err
			}
			for _, chain := range chains {
				if isKubeProxyChain(chain) {
					r.Chains[t] = append(r.Chains[t], chain)
				}
			}
			if len(r.Chains[t]) > 0 && slices.Contains(dropping, "FORWARD") {
				droppers = append(droppers, t.String()+" FORWARD")
			}
		}
	}
	return r, droppers, nil
}

// Advice returns what to do about the backends found, for a node where this
// program has not run before.
func Advice(found []Backend) string {
	var names []string
	for _, b := range found {
		names = append(names, string(b))
	}
	text := "kube-proxy's rules are on this node (" + strings.Join(names, ", ") + "). "
	if stuck := slices.DeleteFunc(slices.Clone(found), Backend.Replaceable); len(stuck) > 0 {
		return text + fmt.Sprintf("Those of %s can only be removed by kube-proxy itself: take its DaemonSet away from this node, "+
			`run "kube-proxy --cleanup" here, then start node-proxy`, stuck[0])
	}
	return text + `Take kube-proxy's DaemonSet away from this node, then start node-proxy with --takeover, which replaces the rules ` +
		`without breaking connections; or run "kube-proxy --cleanup" here first`
}
