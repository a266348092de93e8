package datapath

import (
	"context"
	"net/netip"
	"sync"
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

// initialPause is the longest pause between checks of a target that has not
// passed or failed for good yet: it is to become useful soon, whatever the
// interval.
const initialPause = time.Second

// checker makes health checks: one goroutine per target, few checks at a time.
type checker struct {
	report  fake.HealthReporter
	slots   chan struct{}
	wg      sync.WaitGroup
	running map[string]running
}

type running struct {
	probe
	stop context.CancelFunc
}

func newChecker(report fake.HealthReporter) *checker {
	return &checker{report: report, slots: make(chan struct{}, maxInFlight), running: map[string]running{}}
}

// set makes the checks of probes, by target ID, and no others.
func (c *checker) set(ctx context.Context, probes map[string]probe) {
	for id, r := range c.running {
		if p, ok := probes[id]; !ok || !p.same(r.probe) {
			r.stop()
			delete(c.running, id)
		}
	}
	for id, p := range probes {
		if _, ok := c.running[id]; ok {
			continue
		}
		probeCtx, stop := context.WithCancel(ctx)
		c.running[id] = running{p, stop}
		c.wg.Go(func() { c.watch(probeCtx, id, p) })
	}
}

// stop ends all checks and waits for their goroutines.
func (c *checker) stop() {
	c.set(context.Background(), nil)
	c.wg.Wait()
}

// watch checks one target until ctx ends. The first check is made at once.
func (c *checker) watch(ctx context.Context, id string, p probe) {
	v := verdictOn{check: p.check, state: p.state}
	for {
		select {
		case c.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		err := p.once(ctx)
		<-c.slots
		if ctx.Err() != nil {
			return
		}
		if v.add(err == nil) {
			c.report(id, v.state == fake.StateHealthy, reason(err))
		}
		select {
		case <-time.After(v.pause()):
		case <-ctx.Done():
			return
		}
	}
}

// verdictOn is what the results so far say about a target.
type verdictOn struct {
	check  fake.HealthCheck
	state  fake.TargetState
	streak int // consecutive results against state
}

// add takes one result and says whether the state changed by it.
func (v *verdictOn) add(passed bool) (changed bool) {
	next, threshold := fake.StateUnhealthy, v.check.UnhealthyThreshold
	if passed {
		next, threshold = fake.StateHealthy, v.check.HealthyThreshold
	}
	if passed && v.state == fake.StateInitial {
		threshold = 1
	}
	if next == v.state {
		v.streak = 0
		return false
	}
	v.streak++
	if v.streak < threshold {
		return false
	}
	v.state, v.streak = next, 0
	return true
}

func (v *verdictOn) pause() time.Duration {
	if v.state == fake.StateInitial {
		return min(v.check.Interval, initialPause)
	}
	return v.check.Interval
}

func reason(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
