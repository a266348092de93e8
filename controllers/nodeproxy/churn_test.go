package nodeproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// load are clients that ask the Service at all its addresses, one after the other,
// each in a family and over a protocol.
type load struct {
	requests []atomic.Int64         // of each client
	failure  atomic.Pointer[string] // the first
	stop     func()                 // ends it, and the test with it if a request failed
}

var (
	tcpOnly = []string{"tcp"}
	tcpUDP  = []string{"tcp", "udp"}
)

// load starts them. Only these Pods may answer.
func (w *world) load(t *testing.T, networks []string, pods ...string) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{requests: make([]atomic.Int64, len(networks)*len(families))}
	var clients sync.WaitGroup
	for i := range l.requests {
		family, network := i/len(networks), networks[i%len(networks)]
		clients.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				to := []target{clusterIP, vip, atNode}[n%3]
				got := w.ask(t, "client", network, to.at(family), patience)
				if got.source != addr("node", family).String() || !slices.Contains(pods, got.pod) {
					l.failure.CompareAndSwap(nil, new(fmt.Sprintf("request %d over %s and %s to %s: %v", n, families[family], network, to.name, got)))
				}
				l.requests[i].Add(1)
			}
		})
	}
	l.stop = func() {
		t.Helper()
		cancel()
		clients.Wait()
		if f := l.failure.Load(); f != nil {
			t.Fatalf("at least one request failed: %s", *f)
		}
	}
	return l
}

// more waits for requests of every client to every address that begin and end from
// now on.
func (l *load) more(t *testing.T) {
	t.Helper()
	for i := range l.requests {
		now := l.requests[i].Load()
		until(t, "requests are made", func() bool { return l.requests[i].Load() >= now+4 || l.failure.Load() != nil })
	}
	if l.failure.Load() != nil {
		l.stop()
	}
}

// TestReplaceEndpointsUnderLoad replaces all endpoints again and again.
func TestReplaceEndpointsUnderLoad(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web"))...)
	// A datagram whose endpoint goes before it answers is lost with its flow.
	load := w.load(t, tcpOnly, "a", "b", "remote")
	for round := range 150 {
		w.update(t, newTestSlices("web", [][]discoveryv1.Endpoint{
			{pod("b")}, {pod("a"), pod("b"), pod("remote")}, {pod("remote")}, {pod("a"), pod("b")}, {pod("a")},
		}[round%5]...)...)
		load.more(t)
	}
	load.stop()
	w.check(t, []flow{{"client", atNode, []string{"a"}, "node"}})
}

// TestRestartUnderLoad stops and starts the proxy while calls are made: the table
// goes on without a program, and is taken over at once, or replaced where the
// next version has another layout. Connections go on, all the time.
func TestRestartUnderLoad(t *testing.T) {
	for _, upgrade := range []bool{false, true} {
		t.Run(fmt.Sprintf("upgrade=%v", upgrade), func(t *testing.T) {
			w := newWorld(t)
			w.start(t)
			objects := w.serveEverywhere(t)
			works := w.hold(t, everyWay()...)
			calls := w.call(t, everyWay()...)
			for round := range 5 {
				w.stop()
				calls.more(t)
				if text := w.list(t); text != "" && !strings.Contains(text, "elements") {
					t.Fatalf("the table went with the proxy:\n%s", text)
				}
				if upgrade {
					w.configure = func(c *Config) { c.NATPriorities = nft.Priorities{Destination: -101 + int32(round%2)} }
				}
				w.startWith(t, objects...)
				calls.more(t)
				w.resting(t, func() {
					if unfit := w.proxy.planes[0].table.Unfit(); (unfit != nil) != upgrade {
						t.Errorf("round %d: replaced because: %v", round, unfit)
					}
				})
			}
			t.Logf("%d calls during 5 restarts", calls.stop(t))
			works("after 5 restarts")
		})
	}
}

// TestUDPFollowsEndpoints keeps sending from one UDP socket, whose flow
// connection tracking would pin to the endpoint it first had.
func TestUDPFollowsEndpoints(t *testing.T) {
	for family, name := range families {
		t.Run(name, func(t *testing.T) { testUDPFollowsEndpoints(t, family) })
	}
}

func testUDPFollowsEndpoints(t *testing.T, family int) {
	w := newWorld(t)
	w.start(t)
	w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web"))...)
	for _, to := range []target{clusterIP, atNode} {
		t.Run(to.name, func(t *testing.T) {
			c, err := w.hosts["client"].DialContext(t.Context(), "udp", to.at(family).String())
			must(t, err)
			defer c.Close()
			for _, step := range []struct{ endpoints, want string }{
				{"a", "a"}, {"remote", "remote"}, {"", "refused"}, {"b", "b"}, {"a", "a"},
			} {
				var slices []any
				if step.endpoints != "" {
					slices = newTestSlices("web", pod(step.endpoints))
				} else {
					slices = newTestSlices("web")
				}
				w.update(t, slices...)
				w.settleFlows(t)
				if got := w.exchange(t, c, patience); got.pod != step.want {
					t.Fatalf("with endpoint %q answered by %v, want %s", step.endpoints, got, step.want)
				}
			}
		})
	}
	t.Run("flow from before the Service", func(t *testing.T) {
		w.replace(t)
		c, err := w.hosts["client"].DialContext(t.Context(), "udp", clusterIP.at(family).String())
		must(t, err)
		defer c.Close()
		if got := w.exchange(t, c, patience/10); got != unreachable && got != timeout {
			t.Fatalf("without a Service: %v", got)
		}
		w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web"))...)
		w.settleFlows(t)
		got := w.exchange(t, c, patience)
		if got == unreachable { // late word of the packet before
			got = w.exchange(t, c, patience)
		}
		if got.pod != "a" {
			t.Errorf("with the Service: %v", got)
		}
	})
	t.Run("terminating endpoints keep their flows", func(t *testing.T) {
		c, err := w.hosts["client"].DialContext(t.Context(), "udp", clusterIP.at(family).String())
		must(t, err)
		defer c.Close()
		w.update(t, newTestSlices("web", pod("a"))...)
		w.exchange(t, c, patience)
		w.update(t, newTestSlices("web", terminating(pod("a")), pod("b"))...)
		w.settleFlows(t)
		if got := w.exchange(t, c, patience); got.pod != "a" {
			t.Errorf("a flow moved to %v while its endpoint still served", got)
		}
		w.checkOne(t, flow{"client", clusterIP, []string{"b"}, "node"}, family, "udp")
	})
}

// settleFlows waits until stale flows are gone.
func (w *world) settleFlows(t *testing.T) {
	t.Helper()
	until(t, "stale flows are deleted", func() bool {
		return !slices.ContainsFunc(w.proxy.planes, func(p *plane) bool { return !p.conntrack.idle() })
	})
}

// newTestNode is the Node of the node, with these addresses.
func newTestNode(ips ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}
	for _, ip := range ips {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
	}
	return n
}

// TestHealthCheckNodePort asks as a load balancer does which nodes have endpoints.
func TestHealthCheckNodePort(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	local := newTestService("web", func(s *corev1.Service) {
		s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceExternalTrafficPolicyLocal, 32000
	})
	client := &http.Client{Transport: &http.Transport{DialContext: w.hosts["client"].DialContext, DisableKeepAlives: true}, Timeout: patience}
	for _, c := range []struct {
		name    string
		service *corev1.Service
		slices  []any
		want    string
	}{
		{"two of three endpoints here", local, newTestSlices("web", pod("a"), pod("b"), pod("remote")), "200 2"},
		{"one, and one terminating", local, newTestSlices("web", pod("a"), terminating(pod("b"))), "200 1"},
		{"only a terminating one", local, newTestSlices("web", terminating(pod("a"))), "503 0"},
		{"none here", local, newTestSlices("web", pod("remote")), "503 0"},
		{"policy Cluster", newTestService("web"), newTestSlices("web", pod("a")), "refused"},
		{"policy Local again", local, newTestSlices("web", pod("a")), "200 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.replace(t, append(c.slices, c.service)...)
			for _, ip := range addr2("node") {
				got := "refused"
				resp, err := client.Get("http://" + net.JoinHostPort(ip, "32000") + "/any")
				if err == nil {
					resp.Body.Close()
					got = fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("X-Load-Balancing-Endpoint-Weight"))
				} else if !errors.Is(err, syscall.ECONNREFUSED) {
					t.Fatal(err)
				}
				if got != c.want {
					t.Errorf("at %s: %s, want %s", ip, got, c.want)
				}
			}
		})
	}
}

// TestOtherTrafficUntouched: the node's own services, and other ports of the
// addresses that are not ClusterIPs.
func TestOtherTrafficUntouched(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web"))...)
	for family := range families {
		at := netip.AddrPortFrom(addr("node", family), nodePort+1)
		l, err := w.hosts["node"].Listen(t.Context(), "tcp", at.String())
		must(t, err)
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(c, "node ", c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
				c.Close()
			}
		}()
		if got, want := w.ask(t, "client", "tcp", at, patience), (answer{"node", addr("client", family).String()}); got != want {
			t.Errorf("a program on the node answered %v, want %v", got, want)
		}
		at = netip.AddrPortFrom(addr("a", family), podPort)
		if got, want := w.ask(t, "client", "tcp", at, patience), (answer{"a", addr("client", family).String()}); got != want {
			t.Errorf("asked directly, a Pod answered %v, want %v", got, want)
		}
	}
}

// TestForeignFlush lets another program flush all tables, on a kernel that can
// keep it from ours and on one that cannot.
func TestForeignFlush(t *testing.T) {
	for _, owned := range []bool{true, false} {
		t.Run(fmt.Sprintf("owned=%v", owned), func(t *testing.T) {
			w := newWorld(t)
			w.shared = !owned
			w.start(t)
			w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web"))...)
			if w.list(t) == "" {
				t.Skip("NOT CHECKED: there is no nft tool to flush with")
			}
			w.nft(t, "flush", "ruleset")
			until(t, "the Service is back", func() bool {
				// The tables of the two families come back one after the other.
				return w.ask(t, "client", "tcp", clusterIP.at(0), patience/10).pod == "a" &&
					w.ask(t, "client", "tcp", clusterIP.at(1), patience/10).pod == "a"
			})
			w.checkOne(t, flow{"client", clusterIP, []string{"a"}, "node"}, 1, "udp")
		})
	}
}

// TestManyServices programs 2,000 Services beside one with traffic, and asks a
// few of them.
func TestManyServices(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	objects := append(newTestSlices("web", pod("a"), pod("b")), newTestService("web"))
	w.replace(t, objects...)
	load := w.load(t, tcpUDP, "a", "b")
	const count = 2000
	ip := func(i int) string { return fmt.Sprintf("10.96.%d.%d", 1+i/250, 1+i%250) }
	for i := range count {
		name := fmt.Sprintf("s%d", i)
		s := newTestService(name, func(s *corev1.Service) {
			s.Spec.Type, s.Status = corev1.ServiceTypeClusterIP, corev1.ServiceStatus{}
			s.Spec.ClusterIP, s.Spec.ClusterIPs = ip(i), []string{ip(i)}
			for p := range s.Spec.Ports {
				s.Spec.Ports[p].NodePort = 0
			}
		})
		objects = append(objects, s)
		objects = append(objects, newTestSlices(name, pod([]string{"a", "b", "remote"}[i%3]), pod("b"))...)
	}
	start := time.Now()
	w.replace(t, objects...)
	t.Logf("%d Services in %v", count, time.Since(start))
	for _, i := range []int{0, 1, 2, 999, count - 1} {
		to := netip.MustParseAddrPort(ip(i) + ":80")
		want := []string{[]string{"a", "b", "remote"}[i%3], "b"}
		if got := w.ask(t, "client", "tcp", to, patience); !slices.Contains(want, got.pod) {
			t.Errorf("Service %d: answered by %v, want one of %v", i, got, want)
		}
	}
	load.stop()
	w.list(t)
}
