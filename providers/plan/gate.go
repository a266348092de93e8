package plan

import (
	"context"
	"sync"

	"github.com/fairway-lb/fairway/providers/lb"
)

// gate lets Services that are at work in together, and whoever takes away what
// the cluster owns in alone: the last Service going and a first one coming
// cannot cross. It is no mutex, because who waits here waits for a cloud and
// must be able to give up. The zero value is open.
type gate struct {
	mu     sync.Mutex // never held while waiting
	inside int
	shut   chan struct{} // not nil while shut, closed when it opens again
}

// enter waits until the gate is open and goes in; leave must follow. It is an
// Unavailable error when ctx ends first.
func (g *gate) enter(ctx context.Context) error {
	for {
		g.mu.Lock()
		shut := g.shut
		if shut == nil {
			g.inside++
		}
		g.mu.Unlock()
		if shut == nil {
			return nil
		}
		if err := wait(ctx, shut); err != nil {
			return err
		}
	}
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
}

// tryShut shuts the gate if nobody is inside, after waiting for another who has
// shut it; open must follow when it returns true.
func (g *gate) tryShut(ctx context.Context) (bool, error) {
	for {
		g.mu.Lock()
		shut, inside := g.shut, g.inside
		if shut == nil && inside == 0 {
			g.shut = make(chan struct{})
		}
		g.mu.Unlock()
		if shut == nil {
			return inside == 0, nil
		}
		if err := wait(ctx, shut); err != nil {
			return false, err
		}
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.shut)
	g.shut = nil
}

func wait(ctx context.Context, opened <-chan struct{}) error {
	select {
	case <-opened:
		return nil
	case <-ctx.Done():
		return &lb.Error{Kind: lb.Unavailable, Op: "wait for the cluster's resources", Message: "another deletion is taking too long", Err: ctx.Err()}
	}
}
