package plan

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// surveyTTL is how long one look at everything serves: long enough for all
// Services that are checked at once, as after a restart.
const surveyTTL = 30 * time.Second

// surveys shares one survey among all who ask for one at about the same time.
type surveys struct {
	mu      sync.Mutex // never held while waiting
	running chan struct{}
	at      time.Time
	last    lb.Survey
	err     error
}

// get returns a survey that is no older than surveyTTL. One caller makes it;
// the others wait for that, as long as their context allows.
func (s *surveys) get(ctx context.Context, from lb.Surveyor) (lb.Survey, error) {
	for {
		s.mu.Lock()
		if s.running == nil && time.Since(s.at) < surveyTTL && s.err == nil {
			defer s.mu.Unlock()
			return s.last, nil
		}
		if running := s.running; running != nil {
			s.mu.Unlock()
			if err := wait(ctx, running); err != nil {
				return lb.Survey{}, err
			}
			continue
		}
		done := make(chan struct{})
		s.running = done
		s.mu.Unlock()

		found, err := from.Survey(ctx)

		s.mu.Lock()
		s.last, s.err, s.at, s.running = found, err, time.Now(), nil
		s.mu.Unlock()
		close(done)
		return found, err
	}
}

// Confirm reports whether s, last verified with the given hash of its desired
// resources, can be believed to be so still: it wants the same, and a survey,
// shared with all others who ask now, shows nothing else. It never changes
// anything and makes no call for s alone. Without a hash, or with a provider
// that makes no surveys, the answer is no.
func (e *Engine) Confirm(ctx context.Context, s lb.Service, hash string) (bool, error) {
	from, ok := e.provider.(lb.Surveyor)
	if !ok || hash == "" {
		return false, nil
	}
	desired, err := e.provider.Desired(ctx, s)
	if err != nil || lb.Hash(desired.Resources) != hash {
		return false, err
	}
	found, err := e.surveys.get(ctx, from)
	if err != nil {
		return false, err
	}
	return agrees(found, desired.Resources, s.ServiceRef), nil
}

// agrees reports whether the survey shows every desired resource of a kind that
// it looked for, with no field otherwise, and nothing more of the Service.
func agrees(found lb.Survey, desired []lb.Resource, s lb.ServiceRef) bool {
	seen := map[lb.Ref]lb.Resource{}
	for _, r := range slices.Concat(found.Services[s], found.Cluster) {
		seen[r.Ref] = r
	}
	wanted := map[lb.Ref]bool{}
	for _, w := range desired {
		wanted[w.Ref] = true
		if !slices.Contains(found.Kinds, w.Kind) || ofKind(w, lb.Attached) {
			continue
		}
		h, exists := seen[w.Ref]
		if !exists || !slices.ContainsFunc(w.Owners, h.OwnedBy) {
			return false
		}
		for name, v := range w.Fields {
			if got, shown := h.Fields[name]; shown && !got.Equal(v) {
				return false
			}
		}
	}
	return !slices.ContainsFunc(found.Services[s], func(r lb.Resource) bool { return !wanted[r.Ref] })
}
