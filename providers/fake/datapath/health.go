package datapath

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairway-lb/fairway/providers/fake"
)

// probe is the health checking of one target.
type probe struct {
	target netip.AddrPort
	source netip.Addr
	check  fake.HealthCheck
	// state the account had the target in; not part of what makes a probe
	// another one.
	state fake.TargetState
}

// same says whether p and q check the same thing in the same way.
func (p probe) same(q probe) bool {
	p.state = q.state
	return p == q
}

// maxInFlight bounds the health checks being made at one time.
const maxInFlight = 64

// initialPause is the longest pause between checks of a target that is initial:
// it is to become useful soon, whatever the interval.
const initialPause = time.Second

// checker makes health checks: one goroutine per target, few checks at a time.
type checker struct {
	report  fake.HealthReporter
	slots   chan struct{}
	wg      sync.WaitGroup
	running map[string]*watch
}

// watch is the health checking of one target while it lasts.
type watch struct {
	probe
	stop context.CancelFunc
	// known is the state the account has the target in by now.
	known atomic.Value // of fake.TargetState
}

func newChecker(report fake.HealthReporter) *checker {
	return &checker{report: report, slots: make(chan struct{}, maxInFlight), running: map[string]*watch{}}
}

// set makes the checks of probes, by target ID, and no others. A target whose
// check changed, or that the account made initial again, starts anew.
func (c *checker) set(ctx context.Context, probes map[string]probe) {
	for id, w := range c.running {
		p, ok := probes[id]
		again := p.state == fake.StateInitial && w.known.Load() != fake.StateInitial
		if !ok || again || !p.same(w.probe) {
			w.stop()
			delete(c.running, id)
		}
	}
	for id, p := range probes {
		w, ok := c.running[id]
		if !ok {
			w = &watch{probe: p}
			var watchCtx context.Context
			watchCtx, w.stop = context.WithCancel(ctx)
			c.wg.Go(func() { c.watch(watchCtx, id, w) })
			c.running[id] = w
		}
		w.known.Store(p.state)
	}
}

// stop ends all checks and waits for their goroutines.
func (c *checker) stop() {
	c.set(context.Background(), nil)
	c.wg.Wait()
}

// watch checks one target until ctx ends. The first check is made at once. The
// verdict is reported until the account agrees: while it registers a target it
// takes none.
func (c *checker) watch(ctx context.Context, id string, w *watch) {
	v := verdictOn{check: w.check, state: w.state}
	for {
		select {
		case c.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		err := w.once(ctx)
		<-c.slots
		if ctx.Err() != nil {
			return
		}
		v.add(err)
		known := w.known.Load()
		if v.state != fake.StateInitial && v.state != known {
			c.report(id, v.state == fake.StateHealthy, v.reason)
		}
		pause := w.check.Interval
		if known == fake.StateInitial {
			pause = min(pause, initialPause)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// verdictOn is what the results so far say about a target.
type verdictOn struct {
	check  fake.HealthCheck
	state  fake.TargetState
	reason string // of the failure that made it unhealthy
	streak int    // consecutive results against state
}

// add takes one result: nil, or why the check failed.
func (v *verdictOn) add(failure error) {
	next, threshold := fake.StateHealthy, v.check.HealthyThreshold
	switch {
	case failure != nil:
		next, threshold = fake.StateUnhealthy, v.check.UnhealthyThreshold
	case v.state == fake.StateInitial:
		threshold = 1
	}
	if next == v.state {
		v.streak = 0
		return
	}
	v.streak++
	if v.streak < threshold {
		return
	}
	v.state, v.streak, v.reason = next, 0, ""
	if failure != nil {
		v.reason = failure.Error()
	}
}
