package plan

import (
	"context"
	"errors"
	"sync"

	"github.com/fairway-lb/fairway/providers/lb"
)

// execution carries out one plan: each change starts when what it waits for has
// succeeded, several at a time, and one that fails holds up only what waits for
// it.
type execution struct {
	apply    applyFunc
	changes  []lb.Change
	waits    [][]int
	finished []chan struct{} // closed when the change of that index is over
	failed   []bool          // written before finished is closed, read after
	slots    chan struct{}

	mu    sync.Mutex // guards known
	known map[lb.Ref]lb.Resource
}

// applyFunc makes one change, as lb.Provider.Apply does.
type applyFunc func(ctx context.Context, c lb.Change, known lb.Lookup) (lb.Resource, error)

// execute applies p, at most parallelism changes at a time, and returns the
// resources as they are afterwards, with the errors of the changes that failed
// joined in the order of the plan. A change that was not tried because one it
// waits for failed is no error of its own.
func execute(ctx context.Context, apply applyFunc, p Plan, observed []lb.Resource, parallelism int) ([]lb.Resource, error) {
	x := &execution{
		apply:    apply,
		changes:  p.Changes,
		waits:    predecessors(p.Changes),
		finished: make([]chan struct{}, len(p.Changes)),
		failed:   make([]bool, len(p.Changes)),
		slots:    make(chan struct{}, parallelism),
		known:    make(map[lb.Ref]lb.Resource, len(observed)),
	}
	for _, r := range observed {
		x.known[r.Ref] = r
	}
	errs := make([]error, len(p.Changes))
	var all sync.WaitGroup
	for i := range p.Changes {
		x.finished[i] = make(chan struct{})
	}
	for i := range p.Changes {
		all.Go(func() {
			defer close(x.finished[i])
			errs[i] = x.perform(ctx, i)
		})
	}
	all.Wait()
	after := make([]lb.Resource, 0, len(x.known))
	for _, r := range x.known {
		after = append(after, r)
	}
	return after, errors.Join(errs...)
}

// perform waits for its turn and applies change i. It returns the error of that
// change alone.
func (x *execution) perform(ctx context.Context, i int) error {
	for _, j := range x.waits[i] {
		<-x.finished[j]
		if x.failed[j] {
			x.failed[i] = true
			return nil
		}
	}
	c := x.changes[i]
	if c.Implied {
		x.forget(c.Before.Ref)
		return nil
	}
	x.slots <- struct{}{}
	defer func() { <-x.slots }()
	if err := ctx.Err(); err != nil {
		x.failed[i] = true
		return &lb.Error{Kind: lb.Unavailable, Op: string(c.Op), Resource: c.Ref(), Message: "ran out of time", Err: err}
	}
	now, err := x.apply(ctx, c, x.lookup)
	if err != nil {
		x.failed[i] = true
		return err
	}
	if c.Op == lb.Delete {
		x.forget(c.Before.Ref)
	} else {
		x.learn(now)
	}
	return nil
}

func (x *execution) lookup(ref lb.Ref) (lb.Resource, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r, ok := x.known[ref]
	return r, ok
}

func (x *execution) learn(r lb.Resource) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.known[r.Ref] = r
}

func (x *execution) forget(ref lb.Ref) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.known, ref)
}
