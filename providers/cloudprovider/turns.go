package cloudprovider

import (
	"context"
	"sync"

	"github.com/fairway-lb/fairway/providers/lb"
)

// turns lets one caller at a time work on each Service. The engine asks for
// that, and the stock controller does not do it: its node worker and its
// Service workers may have the same Service at once. The zero value is usable.
type turns struct {
	mu   sync.Mutex // guards busy
	busy map[lb.ServiceRef]chan struct{}
}

// take waits for s to be free, or for ctx to end, which is an error. The caller
// must call done.
func (t *turns) take(ctx context.Context, s lb.ServiceRef) (done func(), err error) {
	for {
		t.mu.Lock()
		other, taken := t.busy[s]
		if !taken {
			if t.busy == nil {
				t.busy = map[lb.ServiceRef]chan struct{}{}
			}
			mine := make(chan struct{})
			t.busy[s] = mine
			t.mu.Unlock()
			return func() { t.free(s, mine) }, nil
		}
		t.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, &lb.Error{Kind: lb.Unavailable, Op: "wait for another call", Err: context.Cause(ctx)}
		}
	}
}

func (t *turns) free(s lb.ServiceRef, mine chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.busy, s)
	close(mine)
}
