package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// figures are what came of one bout.
type figures struct {
	// ready is from the start until the first, the middle and the last Service
	// answer; readyCPU what that cost.
	ready, readyCPU time.Duration
	// peak is the most memory used, in bytes.
	peak int64
	// changeCPU is what 2,000 changes of endpoints at 100 a second cost.
	changeCPU time.Duration
	// follow are the times from a watch's word of a change to the first packet
	// at the new endpoint, under those changes.
	follow []time.Duration
	// connect are the times of connect() through cluster IPs, direct those to
	// the backend itself.
	connect, direct []time.Duration
	// restartFailures are connections that failed while it was killed and
	// started again, of restartTries.
	restartFailures, restartTries int
}

const (
	// readyTime bounds the wait for the last Service.
	readyTime = 5 * time.Minute
	// attempt bounds one connection; glance does while the address may not be
	// served yet, and is how precise the time until then is.
	attempt = 500 * time.Millisecond
	glance  = 10 * time.Millisecond
	// changes are made at this rate for this long.
	changesPerSecond = 100
	changesTotal     = 2000
	// connections are timed one after another.
	connections = 3000
)

// bout measures one contender on a clean node.
func (w *world) bout(ctx context.Context, c contender) (f figures, err error) {
	p, err := c.start(w)
	if err != nil {
		return f, err
	}
	defer func() {
		p.kill()
		err = errors.Join(err, wipe(context.WithoutCancel(ctx), w.node))
	}()
	if f.ready, err = w.untilReady(ctx, p); err != nil {
		return f, err
	}
	if f.readyCPU, err = p.cpu(); err != nil {
		return f, err
	}
	if f.changeCPU, err = w.change(ctx, p, &f); err != nil {
		return f, err
	}
	if f.peak, err = p.peak(); err != nil {
		return f, err
	}
	if err = w.connections(ctx, &f); err != nil {
		return f, err
	}
	p, err = w.restart(ctx, c, p, &f)
	return f, err
}

// untilReady waits until the first, the middle and the last Service answer.
func (w *world) untilReady(ctx context.Context, p *process) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	n := w.objects.n
	all, ctx := errgroup.WithContext(ctx)
	for _, i := range []int{0, n / 2, n - 1} {
		all.Go(func() error {
			err := poll(ctx, 2*time.Millisecond, func() bool {
				glancing, cancel := context.WithTimeout(ctx, glance)
				defer cancel()
				_, err := w.ask(glancing, w.objects.addresses[i])
				return err == nil || p.alive() != nil
			})
			return errors.Join(err, p.alive())
		})
	}
	err := all.Wait()
	return time.Since(p.began), err
}

// ask connects from the node to port 80 of a cluster IP, and returns the letter
// of who answered.
func (w *world) ask(ctx context.Context, to netip.Addr) (byte, error) {
	conn, err := w.dial(ctx, netip.AddrPortFrom(to, 80))
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }() // it was only read from
	if err := conn.SetDeadline(time.Now().Add(attempt)); err != nil {
		return 0, err
	}
	var letter [1]byte
	_, err = io.ReadFull(conn, letter[:])
	return letter[0], err
}

// dial connects from the node. Closing the connection resets it, so that no
// port stays taken.
func (w *world) dial(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	conn, err := w.node.NetNS.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	tcp := conn.(*net.TCPConn)
	return tcp, tcp.SetLinger(0)
}

// change makes 2,000 changes at a steady rate and returns what they cost the
// contender. Meanwhile the last Service's backend is swapped twice a second.
func (w *world) change(ctx context.Context, p *process, f *figures) (time.Duration, error) {
	before, err := p.cpu()
	if err != nil {
		return 0, err
	}
	done := make(chan struct{})
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(writers + 2)
	all.Go(func() (err error) {
		f.follow, err = w.follow(ctx, done)
		return err
	})
	tick := time.NewTicker(time.Second / changesPerSecond)
	defer tick.Stop()
	for range changesTotal {
		select {
		case <-ctx.Done():
			close(done)
			return 0, errors.Join(ctx.Err(), all.Wait())
		case <-tick.C:
		}
		all.Go(func() error {
			i := rand.IntN(w.objects.n)
			for answering(i, w.objects.n) {
				i = rand.IntN(w.objects.n)
			}
			return w.objects.change(ctx, i, rand.Int(), backendA)
		})
	}
	close(done)
	if err := all.Wait(); err != nil {
		return 0, err
	}
	// What is still gathered belongs to the price.
	settle := time.NewTimer(2 * time.Second)
	defer settle.Stop()
	select {
	case <-ctx.Done():
	case <-settle.C:
	}
	after, err := p.cpu()
	return after - before, err
}

// follow swaps the last Service's backend again and again until done, and
// returns how long after the watch's word the first packet was at the new one.
func (w *world) follow(ctx context.Context, done <-chan struct{}) ([]time.Duration, error) {
	last := w.objects.n - 1
	watch, err := w.objects.client.DiscoveryV1().EndpointSlices(namespace).Watch(ctx,
		metav1.ListOptions{LabelSelector: discovery.LabelServiceName + "=" + serviceName(last), ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	defer watch.Stop()
	// told holds when the watch told of a backend, by letter.
	told := make(chan time.Time, 64)
	go func() {
		for range watch.ResultChan() {
			told <- time.Now()
		}
	}()
	<-told // what is there at the beginning
	var times []time.Duration
	backends := map[byte]netip.Addr{'A': backendA, 'B': backendB}
	for next := byte('B'); ; next = 'A' + 'B' - next {
		if err := w.objects.change(ctx, last, 0, backends[next]); err != nil {
			return times, err
		}
		bounded, cancel := context.WithTimeout(ctx, time.Minute)
		err := poll(bounded, 200*time.Microsecond, func() bool {
			letter, err := w.ask(bounded, w.objects.addresses[last])
			return err == nil && letter == next
		})
		arrived := time.Now()
		cancel()
		if err != nil {
			return times, fmt.Errorf("the change did not arrive: %w", err)
		}
		times = append(times, max(0, arrived.Sub(<-told)))
		select {
		case <-done:
			if next == 'A' {
				return times, nil
			}
		case <-ctx.Done():
			return times, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// connections times connect() through cluster IPs and without them.
func (w *world) connections(ctx context.Context, f *figures) error {
	var through []netip.AddrPort
	for i, a := range w.objects.addresses {
		if answering(i, w.objects.n) {
			through = append(through, netip.AddrPortFrom(a, 80))
		}
	}
	for range connections {
		for _, to := range []struct {
			address netip.AddrPort
			times   *[]time.Duration
		}{{through[rand.IntN(len(through))], &f.connect}, {netip.AddrPortFrom(backendA, backendPort), &f.direct}} {
			began := time.Now()
			conn, err := w.dial(ctx, to.address)
			if err != nil {
				return err
			}
			*to.times = append(*to.times, time.Since(began))
			_ = conn.Close() // nothing was sent
		}
	}
	return nil
}

// restart kills the contender and starts it again while connections are made,
// and counts those that fail.
func (w *world) restart(ctx context.Context, c contender, p *process, f *figures) (*process, error) {
	stop := make(chan struct{})
	var tries, failures atomic.Int64
	var clients sync.WaitGroup
	for range 2 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				tries.Add(1)
				if _, err := w.ask(ctx, w.objects.addresses[w.objects.n-1]); err != nil {
					failures.Add(1)
				}
			}
		})
	}
	cpu := p.kill()
	p, err := c.start(w)
	if err == nil {
		// As long as it took to start at first, and some more.
		wait := time.NewTimer(f.ready + max(2*time.Second, cpu/4))
		select {
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
		err = p.alive()
	}
	close(stop)
	clients.Wait()
	f.restartTries, f.restartFailures = int(tries.Load()), int(failures.Load())
	return p, err
}

// quantile returns the q-th quantile, 0 of nothing.
func quantile(times []time.Duration, q float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(times))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
