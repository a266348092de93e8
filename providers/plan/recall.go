package plan

import (
	"slices"
	"sync"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// recall remembers, for a while, what each Service had after its last run, so
// that the next one need not look. It is right as long as nobody else changes
// the cloud, which is why it is trusted for a limited time only, and why any
// error makes it forgotten: nobody knows what that left behind.
type recall struct {
	trust time.Duration

	mu sync.Mutex
	of map[lb.ServiceRef]recalled
}

type recalled struct {
	resources []lb.Resource
	seen      time.Time // when the cloud was last looked at
}

// get returns what s had, if that may be trusted, and when it was last seen.
func (k *recall) get(s lb.ServiceRef) (resources []lb.Resource, seen time.Time, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, ok := k.of[s]
	if !ok || time.Since(r.seen) >= k.trust {
		return nil, time.Time{}, false
	}
	return slices.Clone(r.resources), r.seen, true
}

// put remembers what s has, as of the look at the cloud it is based on.
func (k *recall) put(s lb.ServiceRef, resources []lb.Resource, seen time.Time) {
	if k.trust <= 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.of == nil {
		k.of = map[lb.ServiceRef]recalled{}
	}
	k.of[s] = recalled{resources, seen}
}

func (k *recall) forget(s lb.ServiceRef) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.of, s)
}

// any reports whether anything is remembered of any Service, however old.
func (k *recall) any() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.of) > 0
}
