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
// writes the report after each round.
func measure(ctx context.Context, o options, files []*os.File) (err error) {
	r := newReport(o, describe(ctx))
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
		for round := range o.rounds {
			if err := w.round(ctx, o, r, n, round); err != nil {
				return err
			}
			if err := r.write(files); err != nil {
				return err
			}
		}
	}
	r.complete = true
	fmt.Print(r.String())
	return r.write(files)
}

// round measures each contender once. Who begins changes from round to round.
// One that fails is told of in the report; the others go on.
func (w *world) round(ctx context.Context, o options, r *report, n, round int) error {
	all := contenders(o.only)
	for i := range all {
		c := all[(i+round)%len(all)]
		r.know(n, c)
		if !r.turn(o, n, round, c) {
			continue
		}
		f, began := figures{}, time.Now()
		err := errors.Join(c.measure(ctx, w, f, round == 0), w.wipe(context.WithoutCancel(ctx)))
		took := time.Since(began)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := w.Err(); err != nil {
			return err
		}
		r.add(n, c.name, bout{round: round, figures: f, err: err, took: took})
		fmt.Fprintf(os.Stderr, "%s %d Services, round %d of %d: %s took %.0f s", clock(), n, round+1, o.rounds, c.name, took.Seconds())
		if err != nil {
			fmt.Fprintf(os.Stderr, " and FAILED: %v", err)
		}
		fmt.Fprintln(os.Stderr)
	}
	r.relate(n, round)
	return nil
}

// turn tells whether it is a contender's turn, and notes why not.
func (r *report) turn(o options, n, round int, c contender) bool {
	switch {
	case c.missing != "":
		r.skip(n, c.name, c.missing)
	case c.variant && round < o.rounds-o.variants:
	case c.variant && time.Since(r.began)+r.longest(n, "") > o.budget:
		r.skip(n, c.name, fmt.Sprintf("there was no time left of %s", short(o.budget)))
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
		seconds += rounds*(43+8*k) + 23 + theirs*(37+2*nftables) + variants*(105+nftables+3*iptables)
	}
	// The objects have to be made too.
	seconds += 50 * float64(o.services[len(o.services)-1]) / 10000
	return time.Duration(seconds * float64(time.Second))
}
