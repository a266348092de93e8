package datapath

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/e2e/sandbox"
	"github.com/fairway-lb/fairway/providers/fake"
)

// The tests' own network namespace plays the cloud's network, as the one that
// cmd/fakecloud runs in does; every host gets a namespace of its own.
func TestMain(m *testing.M) { sandbox.Main(m) }

const (
	nodePort   = 30080
	healthPort = 10256
	patience   = 15 * time.Second
	// silence is how long a test waits to believe that a packet was dropped.
	silence = 400 * time.Millisecond
)

var router = netip.MustParseAddr("10.0.0.1")

func newRouter(t *testing.T) *sandbox.NetNS {
	t.Helper()
	fabric, err := sandbox.Current()
	check(t, err)
	t.Cleanup(func() { check(t, fabric.Close()) })
	check(t, fabric.AddAddress("lo", netip.PrefixFrom(router, 32)))
	t.Cleanup(func() { check(t, fabric.RemoveAddress("lo", netip.PrefixFrom(router, 32))) })
	check(t, fabric.Sysctl("net.ipv4.ip_forward", "1"))
	return fabric
}

// host is a machine with a route to everywhere through the fabric.
type host struct {
	*sandbox.NetNS
	device string
	addr   netip.Addr
}

func newHost(t *testing.T, fabric *sandbox.NetNS, name, addr string) *host {
	t.Helper()
	h := &host{device: "to-" + name, addr: netip.MustParseAddr(addr)}
	var err error
	h.NetNS, err = sandbox.NewNetNS(name)
	check(t, err)
	t.Cleanup(func() {
		check(t, fabric.DeleteDevice(h.device))
		check(t, h.Close())
	})
	check(t, sandbox.Connect(
		sandbox.End{NetNS: fabric, Device: h.device, Routes: []sandbox.Route{{To: netip.PrefixFrom(h.addr, 32)}}},
		sandbox.End{
			NetNS: h.NetNS, Device: "eth0", Addresses: []netip.Prefix{netip.PrefixFrom(h.addr, 32)},
			Routes: []sandbox.Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: router}},
		}))
	return h
}

// answer is what a node's server says about a request.
type answer struct {
	Node   string
	Client netip.AddrPort
}

// node is an instance: it answers on its NodePort over TCP (one line for each
// line, so that a connection can be kept) and UDP, and on its health port.
type node struct {
	*host
	sick atomic.Bool
}

func newNode(t *testing.T, fabric *sandbox.NetNS, name, addr string) *node {
	t.Helper()
	n := &node{host: newHost(t, fabric, name, addr)}
	ctx := t.Context()
	tcp, err := n.Listen(ctx, "tcp", fmt.Sprintf(":%d", nodePort))
	check(t, err)
	udp, err := n.ListenPacket(ctx, "udp", fmt.Sprintf(":%d", nodePort))
	check(t, err)
	health, err := n.Listen(ctx, "tcp", fmt.Sprintf(":%d", healthPort))
	check(t, err)
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})}
	go n.serveTCP(tcp)
	go n.serveUDP(udp)
	go func() { _ = server.Serve(health) }()
	t.Cleanup(func() {
		tcp.Close()
		udp.Close()
		server.Close()
	})
	return n
}

func (n *node) reply(client net.Addr) []byte {
	line, _ := json.Marshal(answer{n.Name(), netip.MustParseAddrPort(client.String())})
	return append(line, '\n')
}

func (n *node) serveTCP(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			lines := bufio.NewScanner(conn)
			for lines.Scan() {
				if _, err := conn.Write(n.reply(conn.RemoteAddr())); err != nil {
					return
				}
			}
		}()
	}
}

func (n *node) serveUDP(conn net.PacketConn) {
	buffer := make([]byte, 1500)
	for {
		_, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo(n.reply(from), from)
	}
}

// connection is an open connection of a client to a load balancer.
type connection struct {
	net.Conn
	lines *bufio.Reader
}

func (h *host) connect(network, to string, timeout time.Duration) (*connection, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := h.DialContext(ctx, network, to)
	if err != nil {
		return nil, err
	}
	return &connection{conn, bufio.NewReader(conn)}, nil
}

// ask sends a line and reads the answer.
func (c *connection) ask(timeout time.Duration) (answer, error) {
	var a answer
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return a, err
	}
	if _, err := io.WriteString(c, "who?\n"); err != nil {
		return a, err
	}
	line, err := c.lines.ReadBytes('\n')
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(line, &a)
}

// once asks on a new connection.
func (h *host) once(network, to string, timeout time.Duration) (answer, error) {
	c, err := h.connect(network, to, timeout)
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	return c.ask(timeout)
}

// account plays the fake cloud's account: it keeps a Dataplane, and what it is
// told about the health of targets changes it.
type account struct {
	mu      sync.Mutex
	dp      fake.Dataplane
	carrier *Datapath
	reasons map[string]string
}

func newAccount(t *testing.T, dp fake.Dataplane) *account {
	t.Helper()
	a := &account{dp: dp, reasons: map[string]string{}}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	d, err := New(a.report, log)
	check(t, err)
	t.Cleanup(func() { check(t, d.Close()) })
	a.carrier = d
	a.change(t, func(*fake.Dataplane) {})
	return a
}

func (a *account) report(id string, healthy bool, reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reasons[id] = reason
	if a.carrier == nil {
		return
	}
	a.replace(func(dp *fake.Dataplane) {
		eachTarget(dp, func(t *fake.Target) {
			if t.ID != id || t.State == fake.StateDraining {
				return
			}
			t.State = fake.StateUnhealthy
			if healthy {
				t.State = fake.StateHealthy
			}
		})
	})
}

// change changes what the account holds and waits until that is carried.
func (a *account) change(t *testing.T, f func(*fake.Dataplane)) {
	t.Helper()
	a.mu.Lock()
	a.replace(f)
	generation := a.dp.Generation
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	check(t, a.carrier.Wait(ctx, generation))
}

func (a *account) replace(f func(*fake.Dataplane)) {
	next := a.dp
	next.LoadBalancers = slices.Clone(next.LoadBalancers)
	for i, lb := range next.LoadBalancers {
		listeners := slices.Clone(lb.Listeners)
		for j := range listeners {
			listeners[j].Targets = slices.Clone(listeners[j].Targets)
		}
		next.LoadBalancers[i].Listeners = listeners
	}
	next.Interfaces = slices.Clone(next.Interfaces)
	next.Generation++
	f(&next)
	a.dp = next
	a.carrier.Carry(next)
}

func (a *account) snapshot() fake.Dataplane {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.dp
}

func (a *account) state(id string) (state fake.TargetState) {
	dp := a.snapshot()
	eachTarget(&dp, func(t *fake.Target) {
		if t.ID == id {
			state = t.State
		}
	})
	return state
}

// settled waits until targets are in a state, and that is carried.
func (a *account) settled(t *testing.T, state fake.TargetState, ids ...string) {
	t.Helper()
	eventually(t, func() error {
		for _, id := range ids {
			if got := a.state(id); got != state {
				return fmt.Errorf("target %s is %s, want %s", id, got, state)
			}
		}
		return nil
	})
	a.change(t, func(*fake.Dataplane) {})
}

func eachTarget(dp *fake.Dataplane, f func(*fake.Target)) {
	for _, lb := range dp.LoadBalancers {
		for _, l := range lb.Listeners {
			for i := range l.Targets {
				f(&l.Targets[i])
			}
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually tries until f succeeds or patience ends.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %v", patience, err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// timedOut says whether err is silence, not an answer of whatever kind.
func timedOut(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded)
}
