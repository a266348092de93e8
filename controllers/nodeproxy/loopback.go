package nodeproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/listeners"
)

// loopback answers NodePorts at the node's loopback address, over TCP: it accepts
// connections and makes others to endpoints. The kernel would have to be told to
// route loopback addresses to Pods, which lets whoever is on the same link reach
// what listens at 127.0.0.1; IPv6 has no such setting. UDP and SCTP are refused, by
// the table, also where a program of the node's listens.
// (https://github.com/kubernetes/enhancements/issues/6032)
type loopback struct {
	address   netip.Addr
	dial      Dial
	listeners *listeners.Set
	open      prometheus.Gauge   // listeners
	failed    prometheus.Counter // attempts to listen

	mu       sync.Mutex
	services map[string]map[uint16]loopbackPort
	servers  map[uint16]*loopbackServer
	stale    bool // servers may differ from what they should be
}

// Dial makes a connection, as the method of net.Dialer does.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

const loopbackDialTimeout = 5 * time.Second

// loopbackPort is where a NodePort's connections go.
type loopbackPort struct {
	endpoints []netip.AddrPort
	affinity  time.Duration // 0 without
}

func (p loopbackPort) equal(o loopbackPort) bool {
	return p.affinity == o.affinity && slices.Equal(p.endpoints, o.endpoints)
}

// newLoopback returns one that answers at no port yet.
func newLoopback(ipv6 bool, c Config) *loopback {
	family := "IPv4"
	if ipv6 {
		family = "IPv6"
	}
	l := &loopback{
		address: loopbackAddress(ipv6), dial: c.dial(),
		services: make(map[string]map[uint16]loopbackPort), servers: make(map[uint16]*loopbackServer),
		open: c.Metrics.LoopbackListeners.WithLabelValues(family), failed: c.Metrics.LoopbackFailures.WithLabelValues(family),
	}
	l.listeners = listeners.New(c.listen(), l.serve)
	return l
}

func loopbackAddress(ipv6 bool) netip.Addr {
	if ipv6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// set tells a Service's NodePorts, none when it is gone. A nil loopback does
// nothing, here and in reconcile.
func (l *loopback) set(service string, ports map[uint16]loopbackPort) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if maps.EqualFunc(l.services[service], ports, loopbackPort.equal) {
		return
	}
	l.stale = true
	if len(ports) == 0 {
		delete(l.services, service)
		return
	}
	l.services[service] = ports
}

// reconcile opens the ports that are missing and closes those not wanted any
// more. Connections that are there go on. A port that cannot be opened is tried
// again by a later call.
func (l *loopback) reconcile(ctx context.Context, now time.Time) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stale {
		l.aim()
		l.stale = false
	}
	var errs []error
	for _, err := range l.listeners.Reconcile(ctx, now) {
		l.failed.Inc()
		errs = append(errs, fmt.Errorf("answering at a NodePort: %w", err))
	}
	l.open.Set(float64(l.listeners.Len()))
	return errors.Join(errs...)
}

// aim has a server for each port wanted, that knows where connections go.
func (l *loopback) aim() {
	ports := make(map[uint16]loopbackPort)
	for _, p := range l.services {
		maps.Copy(ports, p)
	}
	maps.DeleteFunc(l.servers, func(port uint16, _ *loopbackServer) bool { _, ok := ports[port]; return !ok })
	wanted := make(map[netip.AddrPort]struct{})
	for port, p := range ports {
		wanted[netip.AddrPortFrom(l.address, port)] = struct{}{}
		if l.servers[port] == nil {
			l.servers[port] = &loopbackServer{dial: l.dial}
		}
		l.servers[port].aim(p)
	}
	l.listeners.Want(wanted)
}

// serve accepts connections at one port.
func (l *loopback) serve(ctx context.Context, at netip.AddrPort, listener net.Listener) {
	l.mu.Lock()
	server := l.servers[at.Port()]
	l.mu.Unlock()
	if server != nil { // the port is wanted still
		server.serve(ctx, listener)
	}
}

// loopbackServer answers at one port.
type loopbackServer struct {
	dial Dial

	mu   sync.Mutex
	port loopbackPort
	last netip.AddrPort // endpoint, for affinity
	used time.Time
}

func (s *loopbackServer) aim(p loopbackPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.port = p
}

// candidates returns the endpoints in the order to try them.
func (s *loopbackServer) candidates(now time.Time) []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.port.endpoints)
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	if at := slices.Index(out, s.last); at >= 0 && now.Sub(s.used) < s.port.affinity {
		out[0], out[at] = out[at], out[0]
	}
	return out
}

func (s *loopbackServer) remember(e netip.AddrPort, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last, s.used = e, now
}

func (s *loopbackServer) serve(ctx context.Context, l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many open files: others' connections end too
			if !pause(ctx, 100*time.Millisecond) {
				return
			}
			continue
		}
		go s.carry(ctx, c)
	}
}

// carry connects a client to an endpoint until both have said all, or the
// context ends. Without an endpoint the client's connection is closed.
func (s *loopbackServer) carry(ctx context.Context, client net.Conn) {
	defer client.Close()
	endpoint, err := s.connect(ctx)
	if err != nil {
		klog.FromContext(ctx).V(2).Info("A connection to a NodePort at the loopback address found no endpoint", "reason", err)
		return
	}
	defer endpoint.Close()
	stop := context.AfterFunc(ctx, func() { _, _ = client.Close(), endpoint.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { pipe(endpoint, client) })
	wg.Go(func() { pipe(client, endpoint) })
	wg.Wait()
}

func (s *loopbackServer) connect(ctx context.Context) (net.Conn, error) {
	err := errors.New("there is none")
	ctx, cancel := context.WithTimeout(ctx, loopbackDialTimeout)
	defer cancel()
	for _, e := range s.candidates(time.Now()) {
		var c net.Conn
		if c, err = s.dial(ctx, "tcp", e.String()); err == nil {
			s.remember(e, time.Now())
			return c, nil
		}
	}
	return nil, err
}

// pipe copies what one side says until it has said all, and tells the other so.
func pipe(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}
