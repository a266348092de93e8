package datapath

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// relays carry the frontends with the proxy protocol: the kernel's translation
// cannot put a header before a client's bytes. Each ends the client's connection
// here and makes another to the target, from the load balancer's address. (The
// source that a target sees is then the load balancer also where client addresses
// are preserved: who the client is stands in the header.)
type relays struct {
	log *slog.Logger
	wg  sync.WaitGroup

	mu        sync.Mutex
	frontends map[frontendKey]frontend
	listeners map[frontendKey]net.Listener
	open      map[*relayed]bool
}

// relayed is one client's connection with the one to its target.
type relayed struct {
	frontendKey
	from, source, to netip.AddrPort
	client, target   *net.TCPConn
}

func newRelays(log *slog.Logger) *relays {
	return &relays{log: log, listeners: map[frontendKey]net.Listener{}, open: map[*relayed]bool{}}
}

// set makes the relays those of the frontends. Connections to a target that is not
// registered any more, or by a frontend that is gone, end.
func (r *relays) set(frontends map[frontendKey]frontend) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frontends = frontends
	for key, l := range r.listeners {
		if !frontends[key].relay.IsValid() {
			_ = l.Close() // its accept ends
			delete(r.listeners, key)
		}
	}
	for c := range r.open {
		if !slices.Contains(frontends[c.frontendKey].bound, c.to) {
			c.end(true)
		}
	}
	var errs []error
	for key, f := range frontends {
		if !f.relay.IsValid() || r.listeners[key] != nil {
			continue
		}
		l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(key.at()))
		if err != nil {
			errs = append(errs, fmt.Errorf("listening for the proxy protocol: %w", err))
			continue
		}
		r.listeners[key] = l
		r.wg.Go(func() { r.accept(key, l) })
	}
	return errors.Join(errs...)
}

// stop ends all relays and waits for their goroutines.
func (r *relays) stop() {
	_ = r.set(nil) // opens nothing that could fail
	r.wg.Wait()
}

func (k frontendKey) at() netip.AddrPort { return netip.AddrPortFrom(k.addr, k.port) }

func (r *relays) accept(key frontendKey, l *net.TCPListener) {
	for {
		client, err := l.AcceptTCP()
		if err != nil {
			return
		}
		r.wg.Go(func() {
			if err := r.relay(key, client); err != nil {
				r.log.Debug("relayed connection", "client", client.RemoteAddr(), "loadBalancer", client.LocalAddr(), "err", err)
			}
		})
	}
}

// connectTime is how long a target may take to accept a connection.
const connectTime = 10 * time.Second

// relay carries one connection until both sides have ended it.
func (r *relays) relay(key frontendKey, client *net.TCPConn) (err error) {
	c := &relayed{frontendKey: key, client: client, from: client.RemoteAddr().(*net.TCPAddr).AddrPort()}
	defer func() { c.end(err != nil) }()
	var from netip.Addr
	var ok bool
	if c.to, from, ok = r.choose(c); !ok {
		return errors.New("there is no target")
	}
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: connectTime}
	conn, err := dialer.Dial("tcp4", c.to.String())
	if err != nil {
		return err
	}
	c.target = conn.(*net.TCPConn)
	c.source = c.target.LocalAddr().(*net.TCPAddr).AddrPort()
	if !r.enter(c) {
		return errors.New("its target went before it was connected")
	}
	defer r.leave(c)
	if _, err := c.target.Write(clientHeader(c.from, key.at())); err != nil {
		return err
	}
	back := make(chan error, 1)
	go func() { back <- c.pass(client, c.target) }()
	return errors.Join(c.pass(c.target, client), <-back)
}

// choose picks a target as the kernel does for other frontends, and the address to
// connect from.
func (r *relays) choose(c *relayed) (to netip.AddrPort, from netip.Addr, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.frontends[c.frontendKey]
	if len(f.pool) == 0 {
		return netip.AddrPort{}, netip.Addr{}, false
	}
	i := rand.IntN(len(f.pool))
	if f.sticky {
		sum := fnv.New32a()
		_, _ = sum.Write(c.from.Addr().AsSlice()) // never fails
		i = int(sum.Sum32() % uint32(len(f.pool)))
	}
	return f.pool[i], f.relay, true
}

// enter counts c as open, unless it may not be any more.
func (r *relays) enter(c *relayed) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.frontends[c.frontendKey].bound, c.to) {
		return false
	}
	r.open[c] = true
	return true
}

func (r *relays) leave(c *relayed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, c)
}

// pass copies one direction and hands on its end.
func (c *relayed) pass(to, from *net.TCPConn) error {
	if _, err := io.Copy(to, from); err != nil {
		c.end(true) // of the other direction, too
		return err
	}
	return to.CloseWrite()
}

// end closes both sides, with a reset if it comes before their time. What has
// ended already stays so.
func (c *relayed) end(reset bool) {
	for _, conn := range []*net.TCPConn{c.client, c.target} {
		if conn == nil {
			continue
		}
		if reset {
			_ = conn.SetLinger(0)
		}
		_ = conn.Close()
	}
}

// flows lists the open connections.
func (r *relays) flows() []Flow {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Flow
	for c := range r.open {
		f := r.frontends[c.frontendKey]
		all = append(all, Flow{Protocol: "tcp", Client: c.from, LoadBalancer: c.at(), Source: c.source, Target: c.to, Name: f.loadBalancer, Zone: f.zone})
	}
	return all
}

// relayable says whether frontends of a protocol can have the proxy protocol:
// datagrams never do.
func relayable(proto uint8) bool { return proto == unix.IPPROTO_TCP }
