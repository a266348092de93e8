package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"
)

// measure lets the contenders take turns with each number of Services, and
// writes the report after each turn.
func measure(ctx context.Context, o options, files []*os.File) (err error) {
	r := newReport(o, describe(ctx))
	r.files = files
	for _, c := range contenders(o.only) {
		if c.missing != "" {
			fmt.Fprintf(os.Stderr, "NOT MEASURED: %s: %s\n", c.name, c.missing)
		}
	}
	fmt.Fprintf(os.Stderr, "This takes some %.0f minutes with all contenders.\n", math.Ceil(estimate(o).Minutes()))
	w, err := newWorld(ctx, o)
	if err != nil {
		return err
	}
	defer w.close()
	for _, n := range o.services {
		fmt.Fprintf(os.Stderr, "%s making %d Services\n", clock(), n)
		if err := w.load(ctx, n); err != nil {
			return fmt.Errorf("make %d Services: %w", n, err)
		}
		if err := untilIdle(ctx); err != nil {
			return err
		}
		for round := range o.rounds {
			if err := w.round(ctx, r, n, round); err != nil {
				return err
			}
		}
	}
	r.complete = true
	fmt.Print(r.String())
	return r.write()
}

// round measures each contender once. Who begins changes from round to round.
func (w *world) round(ctx context.Context, r *report, n, round int) error {
	all := contenders(r.options.only)
	for i := range all {
		c := all[(i+round)%len(all)]
		r.know(n, c)
		if !r.turn(n, round, c) {
			continue
		}
		b := w.measure(ctx, c, round)
		if err := errors.Join(ctx.Err(), w.Err()); err != nil {
			return err
		}
		r.add(n, c.name, b)
		if errors.Is(b.err, errNeverUp) && c.mode != "" {
			r.neverUp[c.mode] = n
		}
		r.relate(n, round)
		fmt.Fprintf(os.Stderr, "%s %d Services, round %d of %d: %s took %.0f s%s\n",
			clock(), n, round+1, r.options.rounds, c.name, b.took.Seconds(), b.failure())
		if err := r.write(); err != nil {
			return err
		}
	}
	return nil
}

// measure measures a contender, and wipes away what it left. One that fails is
// told of in the report; the others go on.
func (w *world) measure(ctx context.Context, c contender, round int) bout {
	b, began := bout{round: round, figures: figures{}}, time.Now()
	b.err = errors.Join(c.measure(ctx, w, b.figures, round == 0), w.wipe(context.WithoutCancel(ctx)))
	b.took = time.Since(began)
	return b
}

func (b bout) failure() string {
	if b.err == nil {
		return ""
	}
	return fmt.Sprintf(" and FAILED: %v", b.err)
}

// turn tells whether it is a contender's turn, and notes why not.
func (r *report) turn(n, round int, c contender) bool {
	o := r.options
	switch {
	case c.missing != "":
		r.skip(n, c.name, c.missing)
	case c.variant && round < o.rounds-o.variants:
	case c.variant && time.Since(r.began)+r.longest(n, "") > o.budget:
		r.skip(n, c.name, fmt.Sprintf("there was no time left of %s", short(o.budget)))
	case r.neverUp[c.mode] > 0:
		r.skip(n, c.name, fmt.Sprintf("in this mode kube-proxy did not bring up %d Services within %s", r.neverUp[c.mode], short(readyTime)))
	case r.longest(n, c.name) > o.slow:
	default:
		return true
	}
	return false
}

func clock() string { return time.Now().UTC().Format(time.TimeOnly) }

// estimate says how long it takes, from what it took on two processors:
// kube-proxy's start in nftables mode grows with the square of the Services.
func estimate(o options) time.Duration {
	seconds := 20.0
	for _, n := range o.services {
		k := float64(n) / 10000
		nftables, iptables := 4*k+16*k*k, 8*k
		rounds, variants := float64(o.rounds), float64(min(o.variants, o.rounds))
		theirs := rounds
		if 37+2*nftables > o.slow.Seconds() {
			theirs = 1
		}
		// A connection takes 25 µs, and there are these of a contender.
		connecting := 2 * (2*volleys*connections*25e-6 + saturation.Seconds())
		seconds += rounds*(40+8*k+2*connecting) + 23 + theirs*(35+2*nftables+connecting) + variants*(100+nftables+3*iptables+3*connecting)
	}
	// The objects have to be made too.
	seconds += 40 * float64(o.services[len(o.services)-1]) / 10000
	return time.Duration(seconds * float64(time.Second))
}
