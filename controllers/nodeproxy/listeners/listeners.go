// Package listeners keeps a listener open at each of a set of addresses that
// changes: one that is missing is opened, one not wanted any more closed, and one
// that another program holds tried again later, without keeping the others from it.
package listeners

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Retry is the pause after an address could not be listened at: mostly because
// another program still does.
const Retry = 10 * time.Second

// Listen opens a listener, as the method of net.ListenConfig does.
type Listen func(ctx context.Context, network, address string) (net.Listener, error)

// Serve answers at a listener until that is closed, which it is when the address
// is not wanted any more or the context ends. What it accepted before may go on.
type Serve func(ctx context.Context, at netip.AddrPort, l net.Listener)

// Set is the listeners, over TCP. It is safe for concurrent use.
type Set struct {
	listen Listen
	serve  Serve

	mu     sync.Mutex
	wanted map[netip.AddrPort]struct{}
	open   map[netip.AddrPort]net.Listener
	held   map[netip.AddrPort]time.Time // not to be tried before
	stale  bool                         // what is open may not be what is wanted
}

// New returns a Set that wants nothing yet.
func New(listen Listen, serve Serve) *Set {
	return &Set{listen: listen, serve: serve, open: make(map[netip.AddrPort]net.Listener), held: make(map[netip.AddrPort]time.Time)}
}

// Want replaces the addresses wanted, for the next [Set.Reconcile].
func (s *Set) Want(addresses map[netip.AddrPort]struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted, s.stale = maps.Clone(addresses), true
	maps.DeleteFunc(s.held, func(at netip.AddrPort, _ time.Time) bool { _, ok := addresses[at]; return !ok })
}

// Reconcile opens what is missing and closes what is not wanted; the address is
// free then. Listeners live until ctx ends at the latest. It returns why addresses
// tried now could not be listened at, nil if none failed; each is tried again by
// calls from [Retry] on. With nothing to do it costs nothing.
func (s *Set) Reconcile(ctx context.Context, now time.Time) map[netip.AddrPort]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stale {
		return nil
	}
	for at, l := range s.open {
		if _, ok := s.wanted[at]; !ok {
			_ = l.Close()
			delete(s.open, at)
		}
	}
	var failed map[netip.AddrPort]error
	for at := range s.wanted {
		if s.open[at] != nil || now.Before(s.held[at]) {
			continue
		}
		delete(s.held, at)
		if err := s.start(ctx, at); err != nil {
			if failed == nil {
				failed = make(map[netip.AddrPort]error)
			}
			failed[at], s.held[at] = err, now.Add(Retry)
		}
	}
	s.stale = len(s.held) > 0
	return failed
}

// Len returns at how many addresses it listens.
func (s *Set) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// start listens and serves.
func (s *Set) start(ctx context.Context, at netip.AddrPort) error {
	open, err := s.listen(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	s.open[at] = open
	forget := context.AfterFunc(ctx, func() { _ = open.Close() })
	go func() {
		s.serve(ctx, at, open)
		forget()
		_ = open.Close()
		s.ended(at, open)
	}()
	return nil
}

// ended notes that a listener's time is over: unless it was stopped, it is missing.
func (s *Set) ended(at netip.AddrPort, l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[at] == l {
		delete(s.open, at)
		s.stale = true
	}
}
