package plan

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/fairway-lb/fairway/providers/lb"
)

// execution carries out one plan: each change starts when what it waits for has
// succeeded, several at a time, those that may start in the order of the plan. One
// that fails holds up only what waits for it.
type execution struct {
	apply   applyFunc
	changes []lb.Change
	waits   [][]int
	state   []progress
	errs    []error
	ended   chan int // the index of each change that was tried

	mu    sync.Mutex // guards known
	known map[lb.Ref]lb.Resource
}

// progress is how far one change is.
type progress int

const (
	waiting progress = iota
	running
	succeeded
	failed // or held up by one that has
)

// applyFunc makes one change, as lb.Provider.Apply does.
type applyFunc func(ctx context.Context, c lb.Change, known lb.Lookup) (lb.Resource, error)

// execute applies p, at most parallelism changes at a time, and returns the
// resources as they are afterwards, sorted, with the errors of the changes that failed
// joined in the order of the plan. A change that was not tried because one it
// waits for failed is no error of its own.
func execute(ctx context.Context, apply applyFunc, p Plan, observed []lb.Resource, parallelism int) ([]lb.Resource, error) {
	x := &execution{
		apply:   apply,
		changes: p.Changes,
		waits:   predecessors(p.Changes),
		state:   make([]progress, len(p.Changes)),
		errs:    make([]error, len(p.Changes)),
		ended:   make(chan int),
		known:   make(map[lb.Ref]lb.Resource, len(observed)),
	}
	for _, r := range observed {
		x.known[r.Ref] = r
	}
	for busy := x.start(ctx, parallelism); busy > 0; busy += x.start(ctx, parallelism-busy) {
		i := <-x.ended
		busy--
		x.state[i] = succeeded
		if x.errs[i] != nil {
			x.state[i] = failed
		}
	}
	after := slices.SortedFunc(maps.Values(x.known), func(a, b lb.Resource) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key))
	})
	return after, errors.Join(x.errs...)
}

// start starts up to n changes and returns how many it did.
func (x *execution) start(ctx context.Context, n int) int {
	started := 0
	for i, c := range x.changes {
		if x.state[i] != waiting {
			continue
		}
		outlook := x.outlook(i)
		switch {
		case outlook == succeeded && c.Implied:
			x.forget(c.Before.Ref)
		case outlook == succeeded && started < n:
			x.state[i] = running
			started++
			go func() {
				x.errs[i] = x.perform(ctx, c)
				x.ended <- i
			}()
			continue
		case outlook != failed:
			continue
		}
		// Decided without being tried, which may decide more.
		x.state[i] = outlook
		return started + x.start(ctx, n-started)
	}
	return started
}

// outlook says whether what change i waits for has succeeded, so that it may
// start, or has failed, so that it never will.
func (x *execution) outlook(i int) progress {
	outlook := succeeded
	for _, j := range x.waits[i] {
		switch x.state[j] {
		case failed:
			return failed
		case waiting, running:
			outlook = waiting
		}
	}
	return outlook
}

// perform makes one change.
func (x *execution) perform(ctx context.Context, c lb.Change) error {
	if err := ctx.Err(); err != nil {
		return &lb.Error{Kind: lb.Unavailable, Op: string(c.Op), Resource: c.Ref(), Message: "ran out of time", Err: err}
	}
	now, err := x.apply(ctx, c, x.lookup)
	if err != nil {
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
