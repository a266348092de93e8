package nodeproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/health"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
	"github.com/fairway-lb/fairway/e2e/sandbox"
)

func TestMain(m *testing.M) {
	if server := os.Getenv(serverVariable); server != "" {
		runProxy(server)
	}
	sandbox.Main(m)
}

// world is a node with two Pods, a Pod on another node, and a client, each in a
// network namespace of its own. The fabric routes between them; no two share a
// link. Each Pod answers on port 8080, TCP and UDP, with its name and the source
// address it saw.
//
//	client ─┐          ┌─ a
//	        fabric ─ node
//	remote ─┘          └─ b
type world struct {
	hosts  map[string]*sandbox.NetNS
	shared bool // the next proxy shares its table
	// configure changes how the next proxy is configured, nil for nothing.
	configure func(*Config)

	mu       sync.Mutex
	arrivals map[answer]int // UDP requests that reached a Pod, by Pod and source
	udpPort  uint16         // the source port of the last UDP request
	proxy    *Proxy
	stop     func() // ends the proxy and waits for it
	rest     func() // ends its work and waits for that; run starts it again
}

// Addresses by name, IPv4 and IPv6. Those behind "remote" belong to no host.
var addresses = map[string][2]string{
	"client":  {"198.51.100.10", "2001:db8:c::10"},
	"fabric":  {"10.0.0.1", "fd00:a::1"},
	"node":    {"10.0.0.11", "fd00:a::11"},
	"a":       {"10.244.1.10", "fd00:f4:1::10"},
	"b":       {"10.244.1.11", "fd00:f4:1::11"},
	"remote":  {"10.244.2.10", "fd00:f4:2::10"},
	"cluster": {"10.96.0.10", "fd00:96::10"},
	"vip":     {"203.0.113.10", "2001:db8:a::10"},

	"external":    {"192.0.2.11", "2001:db8:b::11"}, // an external IP
	"unallocated": {"10.96.0.50", "fd00:96::50"},
	"node-alt":    {"10.0.1.11", "fd00:a:1::11"}, // of the node, but not in its Node

	"cluster-1": {"10.96.1.41", "fd00:96::1:41"}, "lb-1": {"203.0.113.41", "2001:db8:a::41"},
	"cluster-2": {"10.96.1.42", "fd00:96::1:42"}, "lb-2": {"203.0.113.42", "2001:db8:a::42"},
	"cluster-3": {"10.96.1.43", "fd00:96::1:43"}, "lb-3": {"203.0.113.43", "2001:db8:a::43"},
}

func addr(name string, family int) netip.Addr { return netip.MustParseAddr(addresses[name][family]) }

const (
	podPort  = 8080
	nodePort = 30080
)

var routerAddress = netip.MustParseAddr("fe80::1")

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{hosts: make(map[string]*sandbox.NetNS), arrivals: make(map[answer]int), shared: os.Getenv("FAIRWAY_SHARED_TABLE") == "1"}
	for _, name := range []string{"client", "fabric", "node", "a", "b", "remote"} {
		ns, err := sandbox.NewNetNS(fmt.Sprintf("%s-%d", name, time.Now().UnixNano()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ns.Close() })
		w.hosts[name] = ns
		// Where the table is gone, packets go back to where they came from, which
		// makes a router tell hosts of a better one: here, by the same name.
		w.sysctl(t, name, "net.ipv6.conf.default.accept_redirects", "0")
	}
	for _, router := range []string{"fabric", "node"} {
		w.sysctl(t, router, "net.ipv4.ip_forward", "1")
		w.sysctl(t, router, "net.ipv6.conf.all.forwarding", "1")
	}
	// What is refused is asked for more often here than the kernel answers.
	w.sysctl(t, "node", "net.ipv4.icmp_ratelimit", "0")
	w.sysctl(t, "node", "net.ipv6.icmp.ratelimit", "0")
	w.connect(t, "fabric", "client")
	w.connect(t, "fabric", "remote")
	w.connect(t, "fabric", "node", "10.244.1.0/24", "fd00:f4:1::/64", "10.96.0.0/16", "fd00:96::/64", "203.0.113.0/24", "2001:db8:a::/64",
		addresses["external"][0]+"/32", addresses["external"][1]+"/128", addresses["node-alt"][0]+"/32", addresses["node-alt"][1]+"/128")
	w.connect(t, "node", "a")
	w.connect(t, "node", "b")
	for _, pod := range []string{"a", "b", "remote"} {
		w.serve(t, pod)
	}
	w.reachable(t)
	return w
}

// reachable waits until all can reach each other without any Service: on a busy
// machine the kernel takes its time to take up the IPv6 addresses it was given.
func (w *world) reachable(t *testing.T) {
	t.Helper()
	for family, name := range families {
		for _, pod := range []string{"a", "b", "remote"} {
			until(t, fmt.Sprintf("%s is reachable over %s", pod, name), func() bool {
				return w.ask(t, "client", "tcp", target{pod, podPort}.at(family), patience/10).pod == pod
			})
			until(t, fmt.Sprintf("%s reaches the node over %s", pod, name), func() bool {
				return w.ask(t, pod, "tcp", target{"node", podPort}.at(family), patience/10) == refused
			})
		}
	}
}

func (w *world) sysctl(t *testing.T, host, name, value string) {
	t.Helper()
	if err := w.hosts[host].Sysctl(name, value); err != nil {
		t.Fatal(err)
	}
}

// connect hangs a host off a router, which sends it these ranges too.
func (w *world) connect(t *testing.T, router, host string, ranges ...string) {
	t.Helper()
	up := sandbox.End{NetNS: w.hosts[host], Device: "eth0"}
	down := sandbox.End{NetNS: w.hosts[router], Device: host, Addresses: []netip.Prefix{netip.PrefixFrom(routerAddress, 64)}}
	for family, everywhere := range []string{"0.0.0.0/0", "::/0"} {
		own := addr(host, family)
		up.Addresses = append(up.Addresses, netip.PrefixFrom(own, own.BitLen()))
		via := [2]netip.Addr{addr(router, 0), routerAddress}[family]
		up.Routes = append(up.Routes, sandbox.Route{To: netip.MustParsePrefix(everywhere), Via: via, Source: own})
		down.Routes = append(down.Routes, sandbox.Route{To: netip.PrefixFrom(own, own.BitLen())})
	}
	if router == "fabric" {
		down.Addresses = append(down.Addresses, netip.PrefixFrom(addr("fabric", 0), 32))
	}
	if err := sandbox.Connect(down, up); err != nil {
		t.Fatal(err)
	}
	for _, r := range ranges {
		to := netip.MustParsePrefix(r)
		via := addr(host, 0)
		if to.Addr().Is6() {
			via = addr(host, 1)
		}
		if err := w.hosts[router].AddRoute(host, sandbox.Route{To: to, Via: via}); err != nil {
			t.Fatal(err)
		}
	}
}

// serve answers for a Pod until the test ends.
func (w *world) serve(t *testing.T, pod string) {
	t.Helper()
	w.serveAt(t, pod, pod, podPort)
}

// serveAt answers at a host's address until the test ends or stop is called.
func (w *world) serveAt(t *testing.T, host, address string, port uint16) (stop func()) {
	t.Helper()
	var open []io.Closer
	stop = func() {
		for _, c := range open {
			c.Close()
		}
	}
	t.Cleanup(stop)
	for family := range families {
		at := netip.AddrPortFrom(addr(address, family), port).String()
		l, err := w.hosts[host].Listen(t.Context(), "tcp", at)
		must(t, err)
		open = append(open, l)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(c, host, " ", c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
				c.Close()
			}
		}()
		// One socket per address: a wildcard one may answer from another.
		p, err := w.hosts[host].ListenPacket(t.Context(), "udp", at)
		must(t, err)
		open = append(open, p)
		go answerDatagrams(p, func(source string) string {
			w.mu.Lock()
			w.arrivals[answer{host, source}]++
			w.mu.Unlock()
			return host + " " + source
		})
	}
	return stop
}

// answerDatagrams answers each with what reply says to its source, until the
// socket is closed.
func answerDatagrams(p net.PacketConn, reply func(source string) string) {
	buf := make([]byte, 64)
	for {
		_, from, err := p.ReadFrom(buf)
		if err != nil {
			return
		}
		source := from.(*net.UDPAddr).AddrPort().Addr().Unmap().String()
		_, _ = p.WriteTo([]byte(reply(source)), from)
	}
}

// sources gives the client more addresses and returns them, of one family.
func (w *world) sources(t *testing.T, family, n int) []netip.Addr {
	t.Helper()
	var out []netip.Addr
	for a := addr("client", family); len(out) < n; {
		a = a.Next()
		must(t, w.hosts["client"].AddAddress("eth0", netip.PrefixFrom(a, a.BitLen())))
		must(t, w.hosts["fabric"].AddRoute("client", sandbox.Route{To: netip.PrefixFrom(a, a.BitLen())}))
		out = append(out, a)
	}
	return out
}

// answer is what came back: who answered and which source it saw, or how that
// failed.
type answer struct{ pod, source string }

var (
	refused     = answer{pod: "refused"}
	unreachable = answer{pod: "unreachable"}
	timeout     = answer{pod: "timeout"}
)

// patience is for packets that should come; packets that should not are waited
// for a tenth of it.
var patience = sandbox.Patience(3 * time.Second)

// ask makes one request from a host.
func (w *world) ask(t *testing.T, from, network string, to netip.AddrPort, wait time.Duration) answer {
	t.Helper()
	return w.askAs(t, from, netip.Addr{}, network, to, wait)
}

// askAs is ask with a source address chosen among the host's, unless it is the
// zero Addr.
func (w *world) askAs(t *testing.T, from string, source netip.Addr, network string, to netip.AddrPort, wait time.Duration) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	d := net.Dialer{LocalAddr: w.local(source, network)}
	var c net.Conn
	err := w.hosts[from].Do(func() (err error) {
		c, err = d.DialContext(ctx, network, to.String())
		return err
	})
	if err != nil {
		return w.failure(t, err)
	}
	defer c.Close()
	return w.exchange(t, c, wait)
}

// local returns where the next request comes from. A UDP port is never used
// twice: to connection tracking that would be one flow, and that stays with its
// endpoint for as long as it serves, whatever a new flow would reach.
func (w *world) local(source netip.Addr, network string) net.Addr {
	switch {
	case network == "tcp" && source.IsValid():
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
	case network == "tcp":
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.udpPort = max(w.udpPort, 9999) + 1
	return &net.UDPAddr{IP: source.AsSlice(), Port: int(w.udpPort)}
}

// exchange asks on a connection that is there.
func (w *world) exchange(t *testing.T, c net.Conn, wait time.Duration) answer {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(wait))
	if _, isUDP := c.(*net.UDPConn); isUDP {
		if _, err := c.Write([]byte("who?")); err != nil {
			return w.failure(t, err)
		}
	}
	buf := make([]byte, 128)
	n, err := c.Read(buf)
	if err != nil {
		return w.failure(t, err)
	}
	pod, source, _ := strings.Cut(string(buf[:n]), " ")
	return answer{pod, source}
}

func (w *world) failure(t *testing.T, err error) answer {
	t.Helper()
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EPERM):
		return refused // EPERM is what the kernel tells a local UDP sender at once
	case errors.Is(err, syscall.EHOSTUNREACH):
		return unreachable
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return timeout
	}
	t.Fatalf("unexpected failure: %v", err)
	return answer{}
}

// start runs a proxy on the node, knowing nothing yet but its Node.
func (w *world) start(t *testing.T) {
	t.Helper()
	w.startWith(t)
}

// startWith runs a proxy that is told of its Node and these objects.
func (w *world) startWith(t *testing.T, objects ...any) {
	t.Helper()
	w.startUntold(t)
	w.replace(t, append(slices.Clone(objects), newTestNode(addr2("node")...))...)
}

// startUntold runs a proxy that is told nothing.
func (w *world) startUntold(t *testing.T) {
	t.Helper()
	h := health.New(time.Minute, "IPv4", "IPv6")
	c := Config{NodeName: "node", PodCIDRs: prefixes("10.244.0.0/16", "fd00:f4::/32"), IPv6: true, SharedTable: w.shared, Listen: w.hosts["node"].Listen}
	if w.configure != nil {
		w.configure(&c)
	}
	err := w.hosts["node"].Do(func() (err error) {
		w.proxy, err = New(c, h)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	p := w.proxy
	w.run(t)
	w.stop = func() {
		w.rest()
		p.Close()
	}
	t.Cleanup(func() { w.stop() })
}

// run lets the proxy work until w.rest is called.
func (w *world) run(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	p := w.proxy
	wg.Go(func() { p.follow(ctx) })
	for _, plane := range p.planes {
		wg.Go(func() { plane.conntrack.run(ctx) })
	}
	w.rest = func() {
		cancel()
		wg.Wait()
	}
}

// resting calls f while the proxy rests: a table is for one goroutine at a time.
func (w *world) resting(t *testing.T, f func()) {
	t.Helper()
	w.rest()
	defer w.run(t)
	f()
}

// replace makes these all the objects there are and waits for them to count.
func (w *world) replace(t *testing.T, objects ...any) {
	t.Helper()
	w.hand(t, objects...)
	w.settle(t)
}

// hand makes these all the objects there are.
func (w *world) hand(t *testing.T, objects ...any) {
	t.Helper()
	var services, slices, nodes []any
	for _, o := range objects {
		switch o.(type) {
		case *corev1.Service:
			services = append(services, o)
		case *discoveryv1.EndpointSlice:
			slices = append(slices, o)
		case *corev1.Node:
			nodes = append(nodes, o)
		}
	}
	tr := w.proxy.tracker
	if nodes != nil {
		must(t, tr.nodes.Replace(nodes, ""))
	}
	must(t, tr.services.Replace(services, ""))
	must(t, tr.slices.Replace(slices, ""))
}

// update adds or changes objects and waits for them to count.
func (w *world) update(t *testing.T, objects ...any) {
	t.Helper()
	for _, object := range objects {
		switch o := object.(type) {
		case *corev1.Service:
			must(t, w.proxy.tracker.services.Update(o))
		case *discoveryv1.EndpointSlice:
			must(t, w.proxy.tracker.slices.Update(o))
		case *corev1.Node:
			must(t, w.proxy.tracker.nodes.Update(o))
		}
	}
	w.settle(t)
}

// settle waits until the kernel has all that was handed in.
func (w *world) settle(t *testing.T) {
	t.Helper()
	asked := time.Now()
	w.proxy.tracker.wake()
	until(t, "the node is programmed", func() bool {
		programmed := w.proxy.programmed.Load()
		return programmed != nil && programmed.After(asked)
	})
}

// until polls for a condition.
func until(t *testing.T, what string, met func() bool) {
	t.Helper()
	for end := time.Now().Add(sandbox.Patience(10 * time.Second)); !met(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain: waiting until %s", what)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func prefixes(in ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range in {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// stats are the counters of both families together.
func (w *world) stats(t *testing.T) nft.Stats {
	t.Helper()
	var all nft.Stats
	w.resting(t, func() {
		for _, p := range w.proxy.planes {
			s := p.table.Stats()
			all.Transactions += s.Transactions
			all.Elements += s.Elements
			all.Dumps += s.Dumps
			all.Chains += s.Chains
			all.Objects += s.Objects
		}
	})
	return all
}
