package nodeproxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/health"
)

// addAlternative gives the node a second address, which is not in its Node.
func (w *world) addAlternative(t *testing.T) {
	t.Helper()
	for family := range families {
		must(t, w.hosts["node"].AddAddress("lo", alternative(family)))
		until(t, "the kernel has taken the address up", func() bool {
			return w.ask(t, "client", "tcp", target{"node-alt", 9}.at(family), patience/10) == refused
		})
	}
}

func alternative(family int) netip.Prefix {
	a := addr("node-alt", family)
	return netip.PrefixFrom(a, a.BitLen())
}

// TestNodePorts has the flows of kube-proxy's test of that name, for more values
// of the option, in both families.
func TestNodePorts(t *testing.T) {
	all := []string{"a", "b", "remote"}
	for _, c := range []struct {
		name      string
		ranges    []netip.Prefix
		primary   bool
		node, alt bool // answered at the Node's address, and at the other one
	}{
		{"primary", nil, false, true, false},
		{"all", prefixes("0.0.0.0/0", "::/0"), false, true, true},
		{"multiple nodeport-addresses", prefixes("10.0.0.0/24", "10.0.1.0/24", "fd00:a::/64", "fd00:a:1::11/128"), false, true, true},
		{"one range", prefixes("10.0.1.0/24", "fd00:a:1::/64"), false, false, true},
		{"one range and primary", prefixes("10.0.1.0/24", "fd00:a:1::/64"), true, true, true},
		{"localhost", prefixes("127.0.0.0/8", "::1/128"), false, false, false},
		{"no address of the node", prefixes("192.0.2.0/24", "2001:db8:ffff::/64"), false, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.addAlternative(t)
			w.configure = func(config *Config) { config.NodePortAddresses, config.PrimaryNodePorts = c.ranges, c.primary }
			w.start(t)
			w.replace(t, append(newTestSlices("web", podsNamed(all...)...), newTestService("web"))...)
			at := func(name string, answered bool) []namedFlow {
				to := target{name, nodePort}
				if !answered { // by the node itself, where nobody listens
					return []namedFlow{{"external to nodePort on " + name, flow{"client", to, reject, ""}}}
				}
				return []namedFlow{
					{"external to nodePort on " + name, flow{"client", to, all, "node"}},
					{"node to nodePort on " + name, flow{"node", to, all, "node"}},
				}
			}
			w.conform(t, append(at("node", c.node), at("node-alt", c.alt)...))
			w.conform(t, []namedFlow{{"external to cluster IP", flow{"client", clusterIP, all, "node"}}})
		})
	}
}

// TestNodePortFamilies: ranges of one family say nothing about the other, the
// Node's own addresses something about both.
func TestNodePortFamilies(t *testing.T) {
	atAlternative := target{"node-alt", nodePort}
	for _, c := range []struct {
		name     string
		primary  bool
		answered [2][]target // in each family; the others are not
	}{
		{"a range", false, [2][]target{{atAlternative}, {atNode, atAlternative}}},
		{"a range and primary", true, [2][]target{{atNode, atAlternative}, {atNode}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.addAlternative(t)
			w.configure = func(config *Config) {
				config.NodePortAddresses, config.PrimaryNodePorts = prefixes("10.0.1.0/24"), c.primary
			}
			w.start(t)
			w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web"))...)
			for family := range families {
				for _, to := range []target{atNode, atAlternative} {
					want := flow{"client", to, reject, ""}
					if slices.Contains(c.answered[family], to) {
						want = flow{"client", to, []string{"a"}, "node"}
					}
					for _, network := range tcpUDP {
						w.checkOne(t, want, family, network)
					}
				}
			}
		})
	}
}

// TestNodePortsFollowAddresses gives the node an address and takes it away.
func TestNodePortsFollowAddresses(t *testing.T) {
	w := newWorld(t)
	w.configure = func(c *Config) { c.NodePortAddresses = prefixes("0.0.0.0/0", "::/0") }
	w.start(t)
	w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web"))...)
	answered := func(want string) {
		t.Helper()
		for family := range families {
			for _, network := range tcpUDP {
				until(t, "the address is "+want+" over "+network, func() bool {
					return w.ask(t, "client", network, target{"node-alt", nodePort}.at(family), patience/10).pod == want
				})
			}
		}
	}
	w.addAlternative(t)
	answered("a")
	for family := range families {
		must(t, w.hosts["node"].RemoveAddress("lo", alternative(family)))
	}
	until(t, "the table forgets the address", func() bool { return !strings.Contains(w.list(t), addresses["node-alt"][0]+" ") })
}

// TestProbesAtLoadBalancerAddresses asks as a load balancer does that leaves its
// own address in the packet: at the address, which the node does not have.
func TestProbesAtLoadBalancerAddresses(t *testing.T) {
	w := newWorld(t)
	const healthPort = 10256
	w.configure = func(c *Config) { c.HealthPort = healthPort }
	w.start(t)
	// What the program around a Proxy does.
	h := health.New(time.Minute)
	h.SetEligible(true)
	l, err := w.hosts["node"].Listen(t.Context(), "tcp", fmt.Sprintf(":%d", healthPort))
	must(t, err)
	go func() { _ = health.Serve(t.Context(), l, h.Handler()) }()
	// And something else on the node that is nobody's business.
	secret, err := w.hosts["node"].Listen(t.Context(), "tcp", ":22")
	must(t, err)
	defer secret.Close()

	local := newTestService("web", externalLocal, func(s *corev1.Service) { s.Spec.HealthCheckNodePort = 32000 })
	client := &http.Client{Transport: &http.Transport{DialContext: w.hosts["client"].DialContext, DisableKeepAlives: true}, Timeout: patience / 5}
	get := func(ip string, port int) string {
		resp, err := client.Get("http://" + net.JoinHostPort(ip, fmt.Sprint(port)) + "/healthz")
		if err != nil {
			return "no answer"
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return fmt.Sprint(resp.StatusCode, resp.Header.Get("X-Load-Balancing-Endpoint-Weight"))
	}
	for _, c := range []struct {
		name           string
		service        *corev1.Service
		pods           []string
		health, policy string
	}{
		{"policy Cluster", newTestService("web"), []string{"remote"}, "200", "no answer"},
		{"policy Local", local, []string{"a", "b", "remote"}, "200", "2002"},
		{"policy Local without local endpoint", local, []string{"remote"}, "200", "5030"},
		{"source ranges do not concern probes", newTestService("web", ranges("192.0.2.0/24", "2001:db8:ff::/64")), []string{"a"}, "200", "no answer"},
		{"no load balancer address", newTestService("web", func(s *corev1.Service) { s.Status = corev1.ServiceStatus{} }), []string{"a"}, "no answer", "no answer"},
		{"the load balancer is a proxy", newTestService("web", func(s *corev1.Service) {
			for i := range s.Status.LoadBalancer.Ingress {
				s.Status.LoadBalancer.Ingress[i].IPMode = new(corev1.LoadBalancerIPModeProxy)
			}
		}), []string{"a"}, "no answer", "no answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.replace(t, append(newTestSlices("web", podsNamed(c.pods...)...), c.service)...)
			for _, ip := range addr2("vip") {
				if got := get(ip, healthPort); got != c.health {
					t.Errorf("%s: the node's health: %s, want %s", ip, got, c.health)
				}
				if got := get(ip, 32000); got != c.policy {
					t.Errorf("%s: the Service's health: %s, want %s", ip, got, c.policy)
				}
				for _, port := range []int{22, nodePort, podPort} {
					if got := get(ip, port); got != "no answer" {
						t.Errorf("%s: port %d answers: %s", ip, port, got)
					}
				}
			}
		})
	}
	w.list(t)
}

// TestHealthCheckNodePortAddresses asks a healthCheckNodePort where kube-proxy
// listens for it: at the addresses of NodePorts, loopback addresses among them.
func TestHealthCheckNodePortAddresses(t *testing.T) {
	localhost, alternative := prefixes("127.0.0.0/8", "::1/128"), prefixes("10.0.1.0/24", "fd00:a:1::/64")
	for _, c := range []struct {
		name                string
		ranges              []netip.Prefix
		primary             bool
		node, alt, loopback bool // answered there
	}{
		{"primary", nil, false, true, false, false},
		{"localhost", localhost, false, false, false, true},
		{"primary and localhost", localhost, true, true, false, true},
		{"all", prefixes("0.0.0.0/0", "::/0"), false, true, true, true},
		{"one range", alternative, false, false, true, false},
		{"one range and localhost", slices.Concat(alternative, localhost), false, false, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.addAlternative(t)
			w.configure = func(config *Config) { config.NodePortAddresses, config.PrimaryNodePorts = c.ranges, c.primary }
			w.start(t)
			w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web", externalLocal, func(s *corev1.Service) { s.Spec.HealthCheckNodePort = 32000 }))...)
			client := &http.Client{Transport: &http.Transport{DialContext: w.hosts["node"].DialContext, DisableKeepAlives: true}, Timeout: patience}
			for family := range families {
				for at, answered := range map[string]bool{
					addr("node", family).String(): c.node, addr("node-alt", family).String(): c.alt, []string{"127.0.0.1", "::1"}[family]: c.loopback,
				} {
					got := "no answer"
					resp, err := client.Get("http://" + net.JoinHostPort(at, "32000"))
					if err == nil {
						resp.Body.Close()
						got = resp.Status
					}
					if want := map[bool]string{true: "200 OK", false: "no answer"}[answered]; got != want {
						t.Errorf("at %s: %s (%v), want %s", at, got, err, want)
					}
				}
			}
		})
	}
}

// TestNodesAnswerForThemselves has a load balancer whose addresses are those of the
// nodes: who asks another node for its health, from here, gets that node's word.
func TestNodesAnswerForThemselves(t *testing.T) {
	w := newWorld(t)
	const healthPort, checkPort = 10256, 32000
	w.configure = func(c *Config) { c.HealthPort = healthPort }
	w.start(t)
	w.serveAt(t, "remote", "remote", healthPort)
	w.serveAt(t, "remote", "remote", checkPort)
	w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web", externalLocal, func(s *corev1.Service) {
		s.Spec.HealthCheckNodePort = checkPort
		s.Status.LoadBalancer.Ingress = nil
		for _, ip := range append(addr2("node"), addr2("remote")...) {
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
		}
	}))...)
	for family := range families {
		for _, port := range []uint16{healthPort, checkPort} {
			for _, from := range []string{"a", "node"} {
				w.checkOne(t, flow{from, target{"remote", port}, []string{"remote"}, from}, family, "tcp")
			}
		}
		// What it balances is another matter: that goes to the Service.
		w.checkOne(t, flow{"node", target{"remote", 80}, []string{"a"}, "node"}, family, "tcp")
	}
}

// TestLocalhostNodePortProxy asks at the node's loopback address.
func TestLocalhostNodePortProxy(t *testing.T) {
	w := newWorld(t)
	w.configure = func(c *Config) {
		c.NodePortAddresses, c.Dial = prefixes("127.0.0.0/8", "::1/128"), w.hosts["node"].DialContext
	}
	w.start(t)
	loopbacks := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:30080"), netip.MustParseAddrPort("[::1]:30080")}
	for _, step := range []struct {
		name    string
		service *corev1.Service
		pods    []string
		want    []string
	}{
		{"all endpoints", newTestService("web"), []string{"a", "b", "remote"}, []string{"a", "b", "remote"}},
		{"policy Local", newTestService("web", externalLocal), []string{"b", "remote"}, []string{"b"}},
		{"no endpoints", newTestService("web"), nil, nil},
		{"one again", newTestService("web"), []string{"remote"}, []string{"remote"}},
	} {
		w.replace(t, append(newTestSlices("web", podsNamed(step.pods...)...), step.service)...)
		for family, at := range loopbacks {
			t.Run(step.name+" "+families[family], func(t *testing.T) {
				if step.want == nil {
					if got := w.tryLoopback(t, at); got != "" {
						t.Errorf("answered by %q", got)
					}
					return
				}
				w.checkWith(t, flow{"node", atNode, step.want, "node"}, family, func(wait time.Duration) answer { return w.ask(t, "node", "tcp", at, wait) })
			})
		}
	}
	if got := w.ask(t, "node", "udp", loopbacks[0], patience/10); got != refused {
		t.Errorf("UDP: %v", got)
	}
	t.Run("affinity", func(t *testing.T) {
		w.replace(t, append(newTestSlices("web", podsNamed("a", "b", "remote")...), newTestService("web", sticky(100)))...)
		first := w.ask(t, "node", "tcp", loopbacks[0], patience)
		for range 20 {
			if got := w.ask(t, "node", "tcp", loopbacks[0], patience); got != first {
				t.Fatalf("%v, before %v", got, first)
			}
		}
	})
	t.Run("no NodePort any more", func(t *testing.T) {
		w.replace(t)
		if got := w.ask(t, "node", "tcp", loopbacks[0], patience/10); got != refused {
			t.Errorf("%v", got)
		}
	})
	t.Run("the port is taken, and free again", func(t *testing.T) {
		l, err := w.hosts["node"].Listen(t.Context(), "tcp", loopbacks[0].String())
		must(t, err)
		w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web"))...)
		w.checkOne(t, flow{"client", clusterIP, []string{"a"}, "node"}, 0, "tcp") // nothing else suffers
		must(t, l.Close())
		plane := w.proxy.planes[0]
		must(t, plane.loopback.reconcile(t.Context(), time.Now().Add(time.Hour)))
		if got := w.ask(t, "node", "tcp", loopbacks[0], patience); got.pod != "a" {
			t.Errorf("%v", got)
		}
	})
}

// tryLoopback returns what a connection says that ends without an answer, or says
// nothing.
func (w *world) tryLoopback(t *testing.T, at netip.AddrPort) string {
	t.Helper()
	c, err := w.hosts["node"].DialContext(t.Context(), "tcp", at.String())
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(patience)))
	text, err := io.ReadAll(c)
	must(t, err)
	return string(text)
}
