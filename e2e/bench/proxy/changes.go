package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// Changes are made at this rate, so many of them.
	changesPerSecond = 100
	changesTotal     = 2000
	// flowTotal are made meanwhile a UDP flow moves.
	flowTotal = 600
	// settling is how long what is still gathered has to be done.
	settling = 2 * time.Second
	// followTime bounds the wait for one change to be followed, followPause is
	// the rest afterwards, and followEvery how often it is looked.
	followTime  = time.Minute
	followPause = 100 * time.Millisecond
	followEvery = 500 * time.Microsecond
)

// schedule lets changes happen at a steady rate, whoever makes them.
type schedule struct {
	jobs chan job
	done chan struct{}
}

type job struct {
	do   func(context.Context) error
	done chan error
}

// take does something as one of the scheduled changes. It returns false when
// there are no more.
func (s *schedule) take(ctx context.Context, do func(context.Context) error) (ok bool, err error) {
	j := job{do, make(chan error, 1)}
	select {
	case s.jobs <- j:
		return true, <-j.done
	case <-s.done:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// run makes so many changes; others is made wherever nobody takes one. It returns
// how long they took.
func (s *schedule) run(ctx context.Context, total int, others func(context.Context) error) (time.Duration, error) {
	defer close(s.done)
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(writers)
	began := time.Now()
	tick := time.NewTicker(time.Second / changesPerSecond)
	defer tick.Stop()
	for range total {
		select {
		case <-ctx.Done():
			return 0, errors.Join(ctx.Err(), all.Wait())
		case <-tick.C:
		}
		select {
		case j := <-s.jobs:
			all.Go(func() error {
				err := j.do(ctx)
				j.done <- err
				return err
			})
		default:
			all.Go(func() error { return others(ctx) })
		}
	}
	err := all.Wait()
	return time.Since(began), err
}

// change makes 2,000 changes of endpoints, and measures what they cost the
// contender. Among them are those that move the last Service's backend to and
// fro, to see how soon new connections follow.
func (w *world) change(ctx context.Context, p *process, f figures) error {
	err := w.changeCosts(ctx, p, f, func(ctx context.Context, s *schedule) error {
		times, err := w.follow(ctx, s)
		if len(times) > 0 {
			f[figFollow50], f[figFollow99] = quantile(times, 0.5).Seconds(), quantile(times, 0.99).Seconds()
		}
		return err
	})
	return errors.Join(err, w.objects.move(context.WithoutCancel(ctx), serviceName(w.last()), v1.ProtocolTCP, backendOf(w.last())))
}

// changeCosts makes 2,000 changes at a steady rate, of which follow takes some,
// and measures what they cost a process.
func (w *world) changeCosts(ctx context.Context, p *process, f figures, follow follower) error {
	before, err := p.cpu()
	if err != nil {
		return err
	}
	took, err := w.among(ctx, changesTotal, follow)
	if err != nil {
		return err
	}
	pause(ctx, settling)
	after, err := p.cpu()
	f[figChangeCPU], f[figRate] = (after - before).Seconds(), changesTotal/took.Seconds()
	return err
}

// changeFlow moves the backend of a UDP flow to and fro, among other changes.
func (w *world) changeFlow(ctx context.Context, f figures) error {
	_, err := w.among(ctx, flowTotal, func(ctx context.Context, s *schedule) error {
		times, err := w.followUDP(ctx, s)
		if len(times) > 0 {
			f[figUDP50], f[figUDP99], f[figUDPMax] = quantile(times, 0.5).Seconds(), quantile(times, 0.99).Seconds(), quantile(times, 1).Seconds()
		}
		return err
	})
	return errors.Join(err, w.objects.move(context.WithoutCancel(ctx), udpService, v1.ProtocolUDP, backendA))
}

// follower takes some of the scheduled changes and looks how they arrive.
type follower func(context.Context, *schedule) error

func followNothing(context.Context, *schedule) error { return nil }

// among makes so many changes, of which follow takes some, and returns how long
// they took.
func (w *world) among(ctx context.Context, total int, follow follower) (took time.Duration, err error) {
	s := &schedule{jobs: make(chan job), done: make(chan struct{})}
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return follow(ctx, s) })
	all.Go(func() (err error) { took, err = s.run(ctx, total, w.changeAny); return err })
	err = all.Wait()
	return took, err
}

// changeAny changes a Service that nobody connects to.
func (w *world) changeAny(ctx context.Context) error {
	return w.objects.change(ctx, w.objects.anyQuiet())
}

// last is the Service whose backend moves.
func (w *world) last() int { return len(w.objects.addresses) - 1 }

func other(backend netip.Addr) netip.Addr {
	if backend == backendA {
		return backendB
	}
	return backendA
}

func letterOf(backend netip.Addr) byte {
	if backend == backendB {
		return 'B'
	}
	return 'A'
}

// follow moves the last Service's backend to and fro, and returns how long after
// a watch's word of each move a new connection arrived there.
func (w *world) follow(ctx context.Context, s *schedule) (times []time.Duration, err error) {
	name := serviceName(w.last())
	watch, err := w.objects.client.DiscoveryV1().EndpointSlices(namespace).Watch(ctx,
		metav1.ListOptions{LabelSelector: discovery.LabelServiceName + "=" + name, ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	defer watch.Stop()
	// told holds when the watch told of a move, one for each.
	told := make(chan time.Time, 16)
	go func() {
		defer close(told)
		for range watch.ResultChan() {
			told <- time.Now()
		}
	}()
	<-told // what is there at the beginning
	// All connections come from one thread that stays in the Pod.
	err = w.pod.Do(func() error {
		for next := backendB; ; next = other(next) {
			ok, err := s.take(ctx, func(ctx context.Context) error {
				return w.objects.move(ctx, name, v1.ProtocolTCP, next)
			})
			if !ok || err != nil {
				return err
			}
			arrived, err := w.awaitLetter(ctx, letterOf(next))
			if err != nil {
				return err
			}
			word, ok := <-told
			if !ok {
				return errors.New("the watch ended")
			}
			times = append(times, max(0, arrived.Sub(word)))
			pause(ctx, followPause)
		}
	})
	return times, err
}

// awaitLetter connects to the last Service until a backend answers.
func (w *world) awaitLetter(ctx context.Context, letter byte) (time.Time, error) {
	to := netip.AddrPortFrom(w.objects.addresses[w.last()], 80)
	bounded, cancel := context.WithTimeout(ctx, followTime)
	defer cancel()
	err := poll(bounded, followEvery, func() bool {
		got, err := ask(to, attempt)
		return err == nil && got == letter
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("new connections do not move to the new endpoint: %w", err)
	}
	return time.Now(), nil
}

// pause waits, or until the context ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// poll calls f until it is true or the context ends.
func poll(ctx context.Context, every time.Duration, f func() bool) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !f() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}
