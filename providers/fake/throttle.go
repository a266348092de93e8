package fake

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limit is one token bucket and the operations that share it.
type Limit struct {
	// Operations is a pattern as Match takes it.
	Operations string `json:"operations"`
	// Each gives every operation that matches a bucket of its own.
	Each bool `json:"each,omitempty"`
	// Burst is the bucket's size, PerSecond how fast it fills.
	Burst     int     `json:"burst"`
	PerSecond float64 `json:"perSecond"`
}

// Throttle decides whether a call comes too soon. It is safe for concurrent use.
type Throttle struct {
	limits []Limit

	mu      sync.Mutex
	buckets map[string]*rate.Limiter
}

// NewThrottle returns a throttle with full buckets. The first limit that matches
// an operation counts; an operation that none matches is never throttled.
func NewThrottle(limits []Limit) *Throttle {
	return &Throttle{limits: limits, buckets: map[string]*rate.Limiter{}}
}

// Allow takes a token for "service:Operation" and says whether there was one.
func (t *Throttle) Allow(operation string) bool {
	for _, l := range t.limits {
		if !Match(l.Operations, operation) {
			continue
		}
		key := l.Operations
		if l.Each {
			key = operation
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		bucket, ok := t.buckets[key]
		if !ok {
			bucket = rate.NewLimiter(rate.Limit(l.PerSecond), l.Burst)
			t.buckets[key] = bucket
		}
		return bucket.AllowN(time.Now(), 1)
	}
	return true
}
