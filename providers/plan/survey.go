package plan

import (
	"context"
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
	began   time.Time // when the last one was
	last    lb.Survey
	err     error
}

// get returns a survey that was begun at the given time or later. One caller
// makes it; the others wait for that, as long as their context allows.
func (s *surveys) get(ctx context.Context, from lb.Surveyor, notBefore time.Time) (lb.Survey, error) {
	for {
		s.mu.Lock()
		if s.running == nil && !s.began.Before(notBefore) && s.err == nil {
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
		done, began := make(chan struct{}), time.Now()
		s.running = done
		s.mu.Unlock()

		found, err := from.Survey(ctx)

		s.mu.Lock()
		s.last, s.err, s.began, s.running = found, err, began, nil
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
	found, err := e.surveys.get(ctx, from, time.Now().Add(-surveyTTL))
	if err != nil || len(deviations(found, desired.Resources, s.ServiceRef)) > 0 {
		return false, err
	}
	e.rest.lay(s.ServiceRef, desired.Resources, resting{}, false)
	return true, nil
}
