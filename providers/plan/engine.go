package plan

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// Options tune an Engine; the zero value is usable.
type Options struct {
	// Parallelism is how many changes of one Service are applied at a time;
	// 0 means 4.
	Parallelism int
	// OnPlan, when set, is told each plan that is not empty, before it is
	// applied. It must not block.
	OnPlan func(Plan)
	// OnApplied, when set, is told how each change went that was tried: how
	// long it took and its error, if any. It is where metrics are hooked in;
	// it is called from several goroutines and must not block.
	OnApplied func(c lb.Change, took time.Duration, err error)
	// Trust is how long a Service may be brought from one state to the next
	// without a look at the cloud in between: what the engine made or saw is
	// taken to be there still. 0 means that each run looks.
	Trust time.Duration
}

// Engine keeps a cloud as the Services want it. Its methods may be called from
// several goroutines at once, for one Service from one at a time.
type Engine struct {
	provider lb.Provider
	opts     Options
	commits  *committer // nil when the cloud has no documents

	// cluster keeps apart who relies on what the cluster owns and who takes it
	// away.
	cluster gate
	recall  recall
	surveys surveys
	rest    rest
}

// NewEngine returns an engine on the given cloud.
func NewEngine(p lb.Provider, opts Options) *Engine {
	if opts.Parallelism <= 0 {
		opts.Parallelism = 4
	}
	e := &Engine{provider: p, opts: opts, recall: recall{trust: opts.Trust}}
	if d, ok := p.(lb.Documents); ok {
		e.commits = newCommitter(d)
	}
	return e
}

// Result is what came of one run.
type Result struct {
	// Plan is what had to change when the run began.
	Plan Plan
	// Status is how clients reach the load balancer now.
	Status lb.Status
	// Notices are the provider's remarks for the Service's owner.
	Notices []lb.Notice
	// Hash is lb.Hash of the desired resources, "" after a deletion.
	Hash string
	// NoTargets is set when no node can be sent traffic to, of those that the
	// Service selects.
	NoTargets bool

	desired []lb.Resource
}

// Reconcile makes the cloud what s wants. A nil error means that all changes
// were made. An error that is Invalid and came with an empty Plan means that s
// itself must change. The Result says what is known also with an error.
func (e *Engine) Reconcile(ctx context.Context, s lb.Service) (Result, error) {
	if err := e.cluster.enter(ctx); err != nil {
		return Result{}, err
	}
	defer e.cluster.leave()
	known := e.rest.wake(s.ServiceRef)
	observed, seen, recalled := e.recall.get(s.ServiceRef)
	if recalled = recalled && known.suspicion == ""; !recalled {
		observed, seen = nil, time.Now()
	}
	// Whatever goes wrong from here on, the next run looks at the cloud.
	e.recall.forget(s.ServiceRef)
	result, observed, err := e.preview(ctx, s, observed)
	if err == nil && recalled {
		var ours bool
		if ours, err = e.stillOwned(ctx, result.Plan, observed); err == nil && !ours {
			seen = time.Now()
			result, observed, err = e.preview(ctx, s, nil)
		}
	}
	if err != nil {
		return result, err
	}
	var held error
	result.Plan, held = e.brake(ctx, result.Plan)
	after, err := e.apply(ctx, result.Plan, observed)
	result.Status = e.provider.Status(after)
	if err != nil {
		return result, errors.Join(err, held)
	}
	e.recall.put(s.ServiceRef, after, seen)
	if held == nil {
		e.rest.lay(s.ServiceRef, result.desired, known, !result.Plan.Empty())
	}
	return result, held
}

// Preview returns what Reconcile would do, and does nothing. A Held error
// says what would be held.
func (e *Engine) Preview(ctx context.Context, s lb.Service) (Result, error) {
	result, _, err := e.preview(ctx, s, nil)
	if err != nil {
		return result, err
	}
	result.Plan, err = e.brake(ctx, result.Plan)
	return result, err
}

// preview plans from what is observed; nil means that it must be looked at.
func (e *Engine) preview(ctx context.Context, s lb.Service, observed []lb.Resource) (Result, []lb.Resource, error) {
	desired, err := e.provider.Desired(ctx, s)
	result := Result{Notices: desired.Notices}
	if err != nil {
		return result, nil, err
	}
	result.Hash, result.desired = lb.Hash(desired.Resources), desired.Resources
	result.NoTargets = withoutTargets(s, desired.Resources)
	owner := lb.ByService(s.ServiceRef)
	if observed == nil {
		if observed, err = e.provider.Observe(ctx, owner); err != nil {
			return result, nil, err
		}
	}
	result.Status = e.provider.Status(observed)
	result.Plan, err = Diff(desired.Resources, observed, owner)
	return result, observed, err
}

// Exists reports whether anything the Service alone owns is left in the cloud,
// and the status its resources amount to.
func (e *Engine) Exists(ctx context.Context, s lb.ServiceRef) (lb.Status, bool, error) {
	owner := lb.ByService(s)
	observed, err := e.provider.Observe(ctx, owner)
	if err != nil {
		return lb.Status{}, false, err
	}
	for _, r := range observed {
		if r.OwnedBy(owner) {
			return e.provider.Status(observed), true, nil
		}
	}
	return lb.Status{}, false, nil
}

// Delete removes all that s owns alone, and what the cluster owns when nothing
// uses that any more. A nil error means that the cloud was asked afterwards and
// had nothing of the Service left; until then it returns an error, Pending where
// the cloud only needs time.
func (e *Engine) Delete(ctx context.Context, s lb.ServiceRef) (Result, error) {
	known, _, _ := e.recall.get(s)
	e.recall.forget(s)
	e.rest.wake(s)
	result, last, err := e.removeService(ctx, lb.ByService(s), known)
	if err != nil || !last {
		return result, err
	}
	// A Service at work relies on what the cluster owns; whichever Service is
	// deleted last comes here again.
	alone, err := e.cluster.tryShut(ctx)
	if err != nil || !alone {
		return result, err
	}
	defer e.cluster.open()
	shared, _, err := e.remove(ctx, lb.ByCluster())
	result.Plan.Changes = append(result.Plan.Changes, shared.Plan.Changes...)
	return result, err
}

// removeService deletes what a Service owns, from memory where that is possible,
// and reports whether it may have been the last to use what the cluster owns.
func (e *Engine) removeService(ctx context.Context, owner lb.Owner, known []lb.Resource) (Result, bool, error) {
	result, clean, err := e.removeKnown(ctx, owner, known)
	if err != nil {
		return result, false, err
	}
	if clean {
		// Whether the cluster's things are in use was not looked at. Another
		// Service that is remembered spares that look until its own end.
		return result, !e.recall.any(), nil
	}
	rest, left, err := e.remove(ctx, owner)
	if result.Plan.Empty() {
		result = rest
	}
	return result, err == nil && slices.ContainsFunc(left, idle), err
}

// idle reports whether the cluster owns r and nothing uses it.
func idle(r lb.Resource) bool { return r.OwnedBy(lb.ByCluster()) && !r.InUse }

// remove deletes what owner owns, looks again until nothing of it is left, and
// returns what that last look saw.
func (e *Engine) remove(ctx context.Context, owner lb.Owner) (Result, []lb.Resource, error) {
	result := Result{Plan: Plan{Scope: owner}}
	for range 2 { // one look to find what to delete, one to see that it is gone
		observed, err := e.provider.Observe(ctx, owner)
		if err != nil {
			return result, nil, err
		}
		p, err := Diff(nil, observed, owner)
		if err != nil {
			return result, nil, err
		}
		if p.Empty() {
			return result, observed, nil
		}
		if result.Plan.Empty() {
			result.Plan = p
		}
		if _, err := e.apply(ctx, p, observed); err != nil {
			return result, nil, err
		}
	}
	return result, nil, &lb.Error{Kind: lb.Pending, Op: "delete what " + owner.String() + " owns",
		Message: "the cloud still lists some of it", RetryAfter: 2 * time.Second}
}

func (e *Engine) apply(ctx context.Context, p Plan, observed []lb.Resource) ([]lb.Resource, error) {
	if p.Empty() {
		return observed, nil
	}
	if e.opts.OnPlan != nil {
		e.opts.OnPlan(p)
	}
	return execute(ctx, e.change, p, observed, e.opts.Parallelism)
}

// change makes one change: that of a fragment through its document's committer,
// any other through the provider.
func (e *Engine) change(ctx context.Context, c lb.Change, known lb.Lookup) (now lb.Resource, err error) {
	if e.opts.OnApplied != nil {
		defer func(began time.Time) { e.opts.OnApplied(c, time.Since(began), err) }(time.Now())
	}
	if e.commits != nil && e.commits.documents.IsDocument(subject(c).Parent.Kind) {
		return e.commits.commit(ctx, c, known)
	}
	return e.provider.Apply(ctx, c, known)
}
