package nodeproxy

import (
	"fmt"
	"net/netip"
	"testing"
)

// TestLocalhostNodePortsRefused has a program of the node's listen at a loopback
// address: at the NodePort of a Service it gets nothing, as with kube-proxy, at
// others and when the Service is gone it does.
func TestLocalhostNodePortsRefused(t *testing.T) {
	for family, name := range families {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.configure = func(c *Config) {
				c.NodePortAddresses, c.Dial = prefixes("127.0.0.0/8", "::1/128"), w.hosts["node"].DialContext
			}
			w.start(t)
			at := netip.AddrPortFrom(loopbackAddress(family == 1), nodePort)
			other := netip.AddrPortFrom(at.Addr(), nodePort+1)
			for _, a := range []netip.AddrPort{at, other} {
				w.datagrams(t, a)
			}
			program := answer{"program", at.Addr().String()}
			for _, step := range []struct {
				name      string
				objects   []any
				udp, sctp answer
			}{
				{"without a Service", nil, program, timeout},
				{"with one", append(newTestSlices("web", pod("a")), newTestService("web", withSCTP)), refused, refused},
				{"with one that has no endpoints", []any{newTestService("web", withSCTP)}, refused, refused},
				{"with the Service gone", nil, program, timeout},
			} {
				w.replace(t, step.objects...)
				if got := w.ask(t, "node", "udp", at, patience/10); got != step.udp {
					t.Errorf("%s, UDP: %v, want %v", step.name, got, step.udp)
				}
				if got := w.askSCTP(t, "node", family, at, patience/10); got != step.sctp {
					t.Errorf("%s, SCTP: %v, want %v", step.name, got, step.sctp)
				}
				if got := w.ask(t, "node", "udp", other, patience/10); got != program {
					t.Errorf("%s, another port: %v", step.name, got)
				}
			}
			w.resting(t, func() { w.proxy.sweep(t.Context()) }) // which reads the counters
			for _, protocol := range []string{"UDP", "SCTP"} {
				of := fmt.Sprintf("kubeproxy_nftables_localhost_nodeport_rejected_packets_total{ip_family=%q,protocol=%q}", name, protocol)
				if n := w.value(t, of); n != 2 {
					t.Errorf("%v packets over %s were counted as refused, want 2", n, protocol)
				}
			}
		})
	}
}

// datagrams answers over UDP on the node.
func (w *world) datagrams(t *testing.T, at netip.AddrPort) {
	t.Helper()
	p, err := w.hosts["node"].ListenPacket(t.Context(), "udp", at.String())
	must(t, err)
	t.Cleanup(func() { p.Close() })
	go answerDatagrams(p, func(string) string { return "program " + at.Addr().String() })
}

// TestLocalhostNodePortMetrics counts the ports that are answered, and attempts to
// answer where another program does.
func TestLocalhostNodePortMetrics(t *testing.T) {
	w := newWorld(t)
	w.configure = func(c *Config) {
		c.NodePortAddresses, c.Dial = prefixes("127.0.0.0/8", "::1/128"), w.hosts["node"].DialContext
	}
	w.start(t)
	taken, err := w.hosts["node"].Listen(t.Context(), "tcp", "[::1]:30080")
	must(t, err)
	defer taken.Close()
	expect := func(when string, listeners, failures [2]float64) {
		t.Helper()
		for family, name := range families {
			of := fmt.Sprintf("{ip_family=%q}", name)
			if n := w.value(t, "kubeproxy_nftables_localhost_nodeport_listeners"+of); n != listeners[family] {
				t.Errorf("%s: %v listeners of %s, want %v", when, n, name, listeners[family])
			}
			if n := w.value(t, "kubeproxy_nftables_localhost_nodeport_listener_creation_failures_total"+of); n != failures[family] {
				t.Errorf("%s: %v failures of %s, want %v", when, n, name, failures[family])
			}
		}
	}
	expect("in the beginning", [2]float64{}, [2]float64{})
	w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web"))...)
	expect("with a NodePort that is taken in IPv6", [2]float64{1, 0}, [2]float64{0, 1})
	w.replace(t)
	expect("without Services", [2]float64{}, [2]float64{0, 1})
}
