package nodeproxy

import (
	"context"
	"slices"
	"time"

	"k8s.io/klog/v2"
)

const (
	// verifyEvery bounds how long another program's flush goes unnoticed where
	// the kernel does not forbid it: 250 ms, with something to spare.
	verifyEvery = 200 * time.Millisecond
	sweepEvery  = 30 * time.Second
	// retryAfter is the pause after a transaction that failed as a whole.
	retryAfter = time.Second
)

// follow programs what the tracker hands over until the context ends. A change
// waits for others until MinSyncPeriod after the last that was sent; the table is
// verified meanwhile, and loaded with all there is when it is lost.
func (p *Proxy) follow(ctx context.Context) {
	verify, sweep := time.NewTicker(verifyEvery), time.NewTicker(sweepEvery)
	defer verify.Stop()
	defer sweep.Stop()
	addresses := p.addressChanges()
	var last, blocked time.Time // the last changes were sent; no transaction before
	var due <-chan time.Time    // of the changes that wait, nil without any
	for {
		changed := false
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			p.sweep(ctx)
			if p.interfaces == nil {
				continue
			}
		case <-verify.C:
			p.verify(ctx)
		case _, open := <-addresses:
			if !open {
				addresses = nil // there were more than the socket holds; the sweep looks too
			}
			changed = true
		case <-p.tracker.signal:
			changed = true
		case <-due:
			due = nil
		}
		if !p.tracker.synced() {
			continue
		}
		p.health.SetEligible(p.tracker.node().eligible)
		if wait := time.Until(last.Add(p.config.MinSyncPeriod)); changed && due == nil && wait > 0 {
			due = time.After(wait)
		}
		if due != nil && p.loaded() {
			continue
		}
		due = nil
		now := time.Now()
		p.decide(ctx)
		if now.Before(blocked) {
			continue
		}
		sent, err := p.round(ctx, now)
		if sent {
			last = now
		}
		if err != nil {
			klog.FromContext(ctx).Error(err, "Could not program the node, trying again")
			p.health.Queued() // also where nothing new was, but the table is lost
			blocked = now.Add(retryAfter)
		}
	}
}

// round is program, and tells whether changes were sent: what is only repaired or
// tried again does not count.
func (p *Proxy) round(ctx context.Context, now time.Time) (sent bool, err error) {
	changed := slices.ContainsFunc(p.planes, (*plane).changed)
	before := p.transactions()
	err = p.program(ctx, now)
	return changed && p.transactions() > before, err
}

// transactions returns how many there were, in all families.
func (p *Proxy) transactions() int {
	n := 0
	for _, plane := range p.planes {
		n += plane.table.Stats().Transactions
	}
	return n
}

// verify looks whether the tables are still those that were written.
func (p *Proxy) verify(ctx context.Context) {
	for _, plane := range p.planes {
		if err := plane.verify(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Could not verify the forwarding table")
		}
	}
}

// loaded tells whether all tables are in the kernel as far as known.
func (p *Proxy) loaded() bool {
	return !slices.ContainsFunc(p.planes, func(plane *plane) bool { return !plane.loaded })
}

// pause returns false when the context ended first.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
