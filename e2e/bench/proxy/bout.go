package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

const (
	// readyTime bounds a start, and a restart: kube-proxy's takes minutes with
	// tens of thousands of Services.
	readyTime = 6 * time.Minute
	// attempt bounds one connection; glance does while the address may not be
	// served yet, and glanceEvery is how precise the time until then is.
	attempt     = 500 * time.Millisecond
	glance      = 10 * time.Millisecond
	glanceEvery = 2 * time.Millisecond
	// witnesses are so many Services that must answer when all do.
	witnesses = 20
	// Connections are timed one after another by a single client, so many in
	// each of some volleys, and counted while several make as many as they can.
	connections = 10000
	volleys     = 10
	clients     = 4
	saturation  = 2 * time.Second
	// handoverEvery is the pause between two connections made in a handover, and
	// handoverAfter how long they go on once it is over.
	handoverEvery = 2 * time.Millisecond
	handoverAfter = time.Second
)

// bout measures a proxy on a clean node, and then the handovers to what comes
// after it.
func (w *world) bout(ctx context.Context, f figures, command []string, handovers ...handover) error {
	p, err := w.start(command)
	if err != nil {
		return err
	}
	defer func() { p.kill() }()
	if err := w.untilReady(ctx, p, f); err != nil {
		return err
	}
	if err := w.change(ctx, p, f); err != nil {
		return fmt.Errorf("under changes: %w", err)
	}
	if err := w.changeFlow(ctx, f); err != nil {
		return fmt.Errorf("under changes: %w", err)
	}
	alone, together, err := p.peak()
	if err != nil {
		return err
	}
	f[figMemory], f[figMemoryAll] = float64(alone), float64(together)
	if err := w.connectBothWays(ctx, f); err != nil {
		return err
	}
	for _, h := range handovers {
		if p, err = w.handOver(ctx, p, h, f); err != nil {
			return fmt.Errorf("%s: %w", h.kind, err)
		}
	}
	return nil
}

// errNeverUp says that a proxy did not bring up all Services in time.
var errNeverUp = fmt.Errorf("not all Services could be reached within %s", readyTime)

// untilReady waits until the last Service, and others all over, answer.
func (w *world) untilReady(ctx context.Context, p *process, f figures) error {
	took, err := w.untilAnswering(ctx, p.began, p.alive)
	if err != nil {
		return err
	}
	f[figReady] = took.Seconds()
	cpu, err := p.cpu()
	f[figReadyCPU] = cpu.Seconds()
	return err
}

// untilAnswering waits until the last Service answers, and then as many others,
// all over, as there are witnesses, as long as alive returns no error.
func (w *world) untilAnswering(ctx context.Context, began time.Time, alive func() error) (time.Duration, error) {
	bounded, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	all := w.objects.targets(clusterIP, w.node.Address)
	some := []netip.AddrPort{all[len(all)-1]}
	for i := range witnesses {
		some = append(some, all[i*len(all)/witnesses])
	}
	err := w.pod.Do(func() error {
		for _, to := range some {
			err := poll(bounded, glanceEvery, func() bool {
				_, err := ask(to, glance)
				return err == nil || alive() != nil
			})
			if err := errors.Join(err, alive()); err != nil {
				return err
			}
		}
		return nil
	})
	took := time.Since(began)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = errNeverUp
	}
	return took, err
}

// connectBothWays measures new connections to cluster IPs from a Pod, and to
// NodePorts from outside, and in the same moment those past the proxy.
func (w *world) connectBothWays(ctx context.Context, f figures) error {
	for _, way := range []string{clusterIP, nodePort} {
		from := w.client(way)
		through, past := w.objects.targets(way, w.node.Address), pastTargets()
		if err := w.forgetConnections(); err != nil {
			return err
		}
		timed, beside, err := inTurns(ctx, from, through, past)
		if err != nil {
			return err
		}
		f[figConnect50(way)], f[figConnect99(way)] = quantile(timed, 0.5).Seconds(), quantile(timed, 0.99).Seconds()
		f[figBeside(way)] = quantile(beside, 0.5).Seconds()
		if err := saturate(ctx, from, through, way, f); err != nil {
			return err
		}
	}
	return nil
}

// inTurns times connections through the proxy and past it, volley by volley: what
// else the machine does in these seconds falls to both.
func inTurns(ctx context.Context, from *sandbox.NetNS, through, past []netip.AddrPort) (timed, beside []time.Duration, err error) {
	for range volleys {
		for _, side := range []struct {
			targets []netip.AddrPort
			times   *[]time.Duration
		}{{through, &timed}, {past, &beside}} {
			o, err := fire(ctx, from, volley{Targets: side.targets, Clients: 1, Count: connections})
			if err != nil {
				return nil, nil, err
			}
			*side.times = append(*side.times, o.Times...)
		}
	}
	return timed, beside, nil
}

// saturate lets several clients connect as often as they can.
func saturate(ctx context.Context, from *sandbox.NetNS, targets []netip.AddrPort, way string, f figures) error {
	many, err := fire(ctx, from, volley{Targets: targets, Clients: clients, For: saturation})
	f[figPerSecond(way)], f[figRefused(way)] = many.perSecond(), float64(many.Failed)
	return err
}

// client is who comes in a way.
func (w *world) client(way string) *sandbox.NetNS {
	if way == nodePort {
		return w.outside
	}
	return w.pod
}

// pastTargets are the backends themselves.
func pastTargets() (all []netip.AddrPort) {
	for i := range spread {
		all = append(all, netip.AddrPortFrom(backendOf(10*i), backendPort))
	}
	return all
}

// handover is the end of one process and the start of the next.
type handover struct {
	kind    string // one of the kinds of figLost
	command []string
	// until is what the next one says when it is over, besides that it has
	// programmed the node; "" for nothing.
	until string
}

// handOver kills a process and starts the next while connections are made to a
// cluster IP from a Pod and to a NodePort from outside, and counts those that
// fail. It goes on until the next one has programmed the node.
func (w *world) handOver(ctx context.Context, p *process, h handover, f figures) (*process, error) {
	stop := make(chan struct{})
	var tries, failures atomic.Int64
	var probes sync.WaitGroup
	for _, way := range []string{clusterIP, nodePort} {
		targets := w.objects.targets(way, w.node.Address)
		to := targets[len(targets)-1]
		probes.Go(func() {
			_ = w.client(way).Do(func() error { // returns no error
				tick := time.NewTicker(handoverEvery)
				defer tick.Stop()
				for {
					select {
					case <-stop:
						return nil
					case <-tick.C:
					}
					tries.Add(1)
					if _, err := ask(to, attempt); err != nil {
						failures.Add(1)
					}
				}
			})
		})
	}
	p.kill()
	next, err := w.start(h.command)
	if err == nil {
		p = next
		err = w.untilSynced(ctx, p, h.until)
		pause(ctx, handoverAfter)
	}
	close(stop)
	probes.Wait()
	f[figTried(h.kind)], f[figLost(h.kind)] = float64(tries.Load()), float64(failures.Load())
	return p, err
}

// lastSync is the metric, of kube-proxy as of ours, that tells when the node was
// programmed last.
const lastSync = `kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"} `

// untilSynced waits until the proxy's metrics say that it has programmed the
// node, and its output says what else it should.
func (w *world) untilSynced(ctx context.Context, p *process, said string) error {
	bounded, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	client := http.Client{Transport: &http.Transport{DialContext: w.node.NetNS.DialContext, DisableKeepAlives: true}, Timeout: attempt}
	err := poll(bounded, 50*time.Millisecond, func() bool {
		return p.alive() != nil || synced(client) && p.out.contains(said)
	})
	if err != nil {
		err = fmt.Errorf("the next one has not programmed the node: %w", err)
	}
	return errors.Join(err, p.alive())
}

func synced(client http.Client) bool {
	response, err := client.Get("http://127.0.0.1:10249/metrics")
	if err != nil {
		return false
	}
	defer response.Body.Close()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if value, found := strings.CutPrefix(lines.Text(), lastSync); found {
			at, err := strconv.ParseFloat(value, 64)
			return err == nil && at > 0
		}
	}
	return false
}
