package plan

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// settling is how long what was just changed may look otherwise in the cloud's
// lists.
const settling = time.Minute

// Sweep is what one survey of the whole cluster shows.
type Sweep struct {
	// Found is the survey; without Kinds when the cloud cannot be surveyed.
	Found lb.Survey
	// Drift tells of the Services that the engine left at rest and that are not
	// so any more, how. What the cluster owns is told of one Service that needs
	// it: its next run repairs it for all.
	Drift map[lb.ServiceRef][]Drift
}

// Sweep compares everything with one survey, made now by a few list calls, and
// changes nothing. The next Reconcile of a Service with drift looks at the cloud
// whatever is remembered. A difference that such a look did not find is not told
// again.
func (e *Engine) Sweep(ctx context.Context) (Sweep, error) {
	from, ok := e.provider.(lb.Surveyor)
	if !ok {
		return Sweep{}, nil
	}
	began := time.Now()
	found, err := e.surveys.get(ctx, from, began)
	if err != nil {
		return Sweep{}, err
	}
	return Sweep{Found: found, Drift: e.rest.suspect(found, began.Add(-settling))}, nil
}

// rest holds what each Service at rest was last brought to, for sweeps to
// compare. A Service at work, or that failed, is not in it.
type rest struct {
	mu sync.Mutex
	of map[lb.ServiceRef]resting
}

type resting struct {
	desired []lb.Resource
	since   time.Time // when that was last known to be so
	// suspicion is what a sweep has seen otherwise since, refuted what one saw
	// and a look did not; "" for nothing.
	suspicion, refuted string
}

// wake takes s out and returns what was known of it.
func (r *rest) wake(s lb.ServiceRef) resting {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.of[s]
	delete(r.of, s)
	return known
}

// lay puts s in: it is now as desired. before is what wake returned, and repaired
// says that something had to be changed.
func (r *rest) lay(s lb.ServiceRef, desired []lb.Resource, before resting, repaired bool) {
	now := resting{desired: desired, since: time.Now(), refuted: before.refuted}
	if before.suspicion != "" && !repaired {
		now.refuted = before.suspicion
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = map[lb.ServiceRef]resting{}
	}
	r.of[s] = now
}

// suspect compares what has been at rest since before the given time with a
// survey, and notes and returns what differs.
func (r *rest) suspect(found lb.Survey, before time.Time) map[lb.ServiceRef][]Drift {
	r.mu.Lock()
	defer r.mu.Unlock()
	drift := map[lb.ServiceRef][]Drift{}
	told := map[lb.Ref]bool{} // what the cluster owns
	byName := func(a, b lb.ServiceRef) int {
		return cmp.Or(cmp.Compare(a.String(), b.String()), cmp.Compare(a.UID, b.UID))
	}
	for _, s := range slices.SortedFunc(maps.Keys(r.of), byName) {
		at := r.of[s]
		if at.since.After(before) {
			continue
		}
		all := slices.DeleteFunc(deviations(found, at.desired, s), func(d Drift) bool { return told[d.Ref] })
		at.suspicion = describe(all)
		if at.suspicion == at.refuted {
			all, at.suspicion = nil, ""
		}
		r.of[s] = at
		if len(all) == 0 {
			continue
		}
		drift[s] = all
		for _, w := range at.desired {
			if !w.OwnedBy(lb.ByService(s)) && slices.ContainsFunc(all, func(d Drift) bool { return d.Ref == w.Ref }) {
				told[w.Ref] = true
			}
		}
	}
	return drift
}
