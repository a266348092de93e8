package listeners

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// sockets are what listens, by address, and what is held by others.
type sockets struct {
	mu   sync.Mutex
	open map[string]*socket
	held map[string]bool
}

type socket struct {
	net.Listener
	all     *sockets
	address string
	closed  chan struct{}
	broken  chan struct{}
	once    sync.Once
}

func (s *sockets) listen(_ context.Context, _, address string) (net.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[address] || s.open[address] != nil {
		return nil, syscall.EADDRINUSE
	}
	s.open[address] = &socket{all: s, address: address, closed: make(chan struct{}), broken: make(chan struct{})}
	return s.open[address], nil
}

func (s *socket) Close() error {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	s.once.Do(func() { close(s.closed) })
	if s.all.open[s.address] == s {
		delete(s.all.open, s.address)
	}
	return nil
}

func (s *sockets) breakOff(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.open[address].broken)
}

func (s *sockets) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.open))
}

func addresses(ports ...uint16) map[netip.AddrPort]struct{} {
	out := make(map[netip.AddrPort]struct{})
	for _, p := range ports {
		out[netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), p)] = struct{}{}
	}
	return out
}

func TestSet(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	sockets := &sockets{open: make(map[string]*socket), held: make(map[string]bool)}
	s := New(sockets.listen, func(_ context.Context, _ netip.AddrPort, l net.Listener) {
		select {
		case <-l.(*socket).closed:
		case <-l.(*socket).broken:
		}
	})
	now := time.Now()
	check := func(when string, after time.Duration, wantOpen []string, wantFailed ...uint16) {
		t.Helper()
		failed := s.Reconcile(ctx, now.Add(after))
		if got := sockets.list(); !slices.Equal(got, wantOpen) {
			t.Errorf("%s: open are %v, want %v", when, got, wantOpen)
		}
		if len(failed) != len(wantFailed) {
			t.Errorf("%s: failed are %v, want %v", when, failed, wantFailed)
		}
		for at := range addresses(wantFailed...) {
			if failed[at] == nil {
				t.Errorf("%s: %v did not fail", when, at)
			}
		}
	}
	const one, two, three = "192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3"
	check("nothing wanted", 0, nil)
	sockets.held[two] = true
	s.Want(addresses(1, 2))
	check("one is held", 0, []string{one}, 2)
	check("at once again", time.Second, []string{one})
	s.Want(addresses(1, 2, 3))
	check("another need not wait for it", 2*time.Second, []string{one, three})
	check("still held", Retry, []string{one, three}, 2)
	delete(sockets.held, two)
	check("not yet", Retry+time.Second, []string{one, three})
	check("free", 2*Retry, []string{one, two, three})
	sockets.held[two] = true
	sockets.held[three] = true
	s.Want(addresses(1))
	check("fewer", 2*Retry, []string{one})
	s.Want(addresses(3))
	check("held", 2*Retry, nil, 3)
	s.Want(addresses())
	s.Want(addresses(3))
	delete(sockets.held, three)
	check("wanted anew", 2*Retry, []string{three})

	sockets.breakOff(three)
	for end := time.Now().Add(10 * time.Second); len(sockets.list()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("what ended by itself is still open")
		}
	}
	for end := time.Now().Add(10 * time.Second); len(sockets.list()) == 0; time.Sleep(time.Millisecond) {
		if s.Reconcile(ctx, now); time.Now().After(end) {
			t.Fatal("what ended by itself was not opened again")
		}
	}
	cancel()
	for end := time.Now().Add(10 * time.Second); len(sockets.list()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("still open after the end")
		}
	}
}
