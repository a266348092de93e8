package nodeproxy

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestNeighbours sends packets where other programs have rules in the packet
// filter too. Theirs go on working, and ours.
func TestNeighbours(t *testing.T) {
	portmap := func(family, daddr, to string) string {
		return `add table ` + family + ` cni_hostport
add chain ` + family + ` cni_hostport prerouting { type nat hook prerouting priority dstnat; }
add chain ` + family + ` cni_hostport output { type nat hook output priority -100; }
add rule ` + family + ` cni_hostport prerouting ` + daddr + ` meta l4proto { tcp, udp } th dport 8443 dnat to ` + to + `
add rule ` + family + ` cni_hostport output ` + daddr + ` meta l4proto { tcp, udp } th dport 8443 dnat to ` + to + `
`
	}
	for _, c := range []struct {
		name   string
		rules  string // of another program, for nft
		before bool   // they are there before the node proxy is
		flows  []flow
	}{
		{"CNI portmap", portmap("ip", "ip daddr 10.0.0.11", "10.244.1.11:8080") + portmap("ip6", "ip6 daddr fd00:a::11", "[fd00:f4:1::11]:8080"), true, []flow{
			{"client", target{"node", 8443}, []string{"b"}, "client"},
			{"client", atNode, []string{"a"}, "node"},
			{"b", clusterIP, []string{"a"}, "b"},
		}},
		{"CNI portmap that comes later", portmap("ip", "ip daddr 10.0.0.11", "10.244.1.11:8080") + portmap("ip6", "ip6 daddr fd00:a::11", "[fd00:f4:1::11]:8080"), false, []flow{
			{"client", target{"node", 8443}, []string{"b"}, "client"},
			{"client", atNode, []string{"a"}, "node"},
		}},
		{"masquerading of all that leaves, by another table", `add table inet nat
add chain inet nat post { type nat hook postrouting priority srcnat; }
add rule inet nat post ip saddr 10.244.0.0/16 ip daddr != 10.0.0.0/8 masquerade
add rule inet nat post ip6 saddr fd00:f4::/32 ip6 daddr != fd00::/16 masquerade
`, true, []flow{
			{"client", vip, []string{"a"}, "node"},
			{"b", clusterIP, []string{"a"}, "b"},
		}},
		{"a firewall that lets what is translated pass", `add table inet filter
add chain inet filter forward { type filter hook forward priority 0; policy drop; }
add rule inet filter forward ct state established,related accept
add rule inet filter forward ct status dnat accept
`, true, []flow{
			{"client", vip, []string{"a"}, "node"},
			{"b", clusterIP, []string{"a"}, "b"},
			{"client", target{"a", podPort}, []string{"timeout"}, ""},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			requireTool(t)
			w := newWorld(t)
			if c.before {
				w.nft(t, c.rules)
			}
			w.start(t)
			w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web"))...)
			if !c.before {
				w.nft(t, c.rules)
			}
			w.check(t, c.flows)
			// The proxy has its table, and nothing of the others'.
			w.nft(t, "list", "ruleset")
		})
	}
}

// TestNodeLocalDNSCache has a cache on the node at a Service's own address, with
// the NOTRACK rules it comes with: the cache answers, not the Service, and the
// Service does again when it is gone.
func TestNodeLocalDNSCache(t *testing.T) {
	requireTool(t)
	w := newWorld(t)
	w.start(t)
	w.replace(t, append(newTestSlices("web", pod("b")), newTestService("web", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }))...)
	w.check(t, []flow{{"a", clusterIP, []string{"b"}, "a"}})

	for family := range families {
		own := addr("cluster", family)
		must(t, w.hosts["node"].AddAddress("lo", netip.PrefixFrom(own, own.BitLen())))
	}
	w.nft(t, `add table inet nodelocal
add chain inet nodelocal prerouting { type filter hook prerouting priority raw; }
add chain inet nodelocal output { type filter hook output priority raw; }
add rule inet nodelocal prerouting ip daddr 10.96.0.10 meta l4proto {tcp, udp} th dport 80 notrack
add rule inet nodelocal prerouting ip6 daddr fd00:96::10 meta l4proto {tcp, udp} th dport 80 notrack
add rule inet nodelocal output ip saddr 10.96.0.10 meta l4proto {tcp, udp} th sport 80 notrack
add rule inet nodelocal output ip6 saddr fd00:96::10 meta l4proto {tcp, udp} th sport 80 notrack
`)
	for family := range families {
		until(t, "the cache's address is taken up", func() bool {
			// Nobody listens there yet, and no rule of ours says so.
			return w.ask(t, "a", "tcp", clusterIP.at(family), patience/10) == refused
		})
	}
	stop := w.serveAt(t, "node", "cluster", 80)
	w.check(t, []flow{{"a", clusterIP, []string{"node"}, "a"}})
	// Ports of the address that the cache does not have are its own affair too.
	w.check(t, []flow{{"a", target{"cluster", 81}, []string{"refused"}, ""}})
	stop()
	w.nft(t, "delete table inet nodelocal")
	for family := range families {
		own := addr("cluster", family)
		must(t, w.hosts["node"].RemoveAddress("lo", netip.PrefixFrom(own, own.BitLen())))
	}
	w.check(t, []flow{{"a", clusterIP, []string{"b"}, "a"}})
}
