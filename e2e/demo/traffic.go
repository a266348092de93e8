package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/fairway-lb/fairway/e2e/environment"
	"github.com/fairway-lb/fairway/providers/fake/datapath"
)

// requests sends a dozen and shows each hop: the load balancer's choice comes
// from the cloud's connection tracking, the rest from the Pod's answer.
func (s *story) requests(ctx context.Context) error {
	if err := s.until(ctx, "the first answer through the load balancer", func(ctx context.Context) error {
		_, err := s.outside.Get(ctx, s.host, 80)
		return err
	}); err != nil {
		return err
	}
	s.say("The first answer came %.0f seconds after the demo began.\n", time.Since(s.started).Seconds())
	if err := s.until(ctx, "all targets to be healthy", s.allZones); err != nil {
		return err
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CLIENT\tLOAD BALANCER\tNODE:NODEPORT\tPOD\tTHE POD SAW")
	for range 12 {
		reply, err := s.outside.Get(ctx, s.host, 80)
		if err != nil {
			return err
		}
		hop, err := s.hop(ctx, reply)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s on %s\t%s\n", reply.From, reply.To, hop.Target, reply.Pod, reply.Node, reply.Client.Addr())
	}
	if err := w.Flush(); err != nil {
		return err
	}
	s.say("%s", strings.TrimRight(table.String(), "\n"))
	s.say("\nThe load balancer keeps the client's address. The node puts its own in its place before the packet goes\n" +
		"on, perhaps to a Pod on another node, for the Service has externalTrafficPolicy: Cluster.")
	return nil
}

// allZones succeeds once the name has an address in each of the three zones.
func (s *story) allZones(ctx context.Context) error {
	ips, err := s.outside.Resolve(ctx, s.host)
	if err == nil && len(ips) < len(s.env.Nodes()) {
		err = fmt.Errorf("the name has %d addresses", len(ips))
	}
	return err
}

// hop finds the connection that brought a reply.
func (s *story) hop(ctx context.Context, reply environment.Reply) (datapath.Flow, error) {
	flows, err := s.env.Cloud.Flows(ctx)
	if err != nil {
		return datapath.Flow{}, err
	}
	i := slices.IndexFunc(flows, func(f datapath.Flow) bool { return f.Client == reply.From && f.LoadBalancer == reply.To })
	if i < 0 {
		return datapath.Flow{}, fmt.Errorf("the connection from %s is not tracked", reply.From)
	}
	return flows[i], nil
}

// disturb deletes a Pod while requests keep coming, and counts.
func (s *story) disturb(ctx context.Context) error {
	reply, err := s.outside.Get(ctx, s.host, 80)
	if err != nil {
		return err
	}
	stop := s.traffic(ctx)
	if err := s.kubectl(ctx, "", "", "delete", "pod", reply.Pod); err != nil {
		return err
	}
	err = s.until(ctx, "the Pod's replacement", func(ctx context.Context) error {
		_, err := s.env.Kubectl(ctx, "", "rollout", "status", "deployment/my-app", "--timeout=1s")
		return err
	})
	result := stop()
	if err != nil {
		return err
	}
	if err := result.failed(); err != nil {
		return err
	}
	s.say("\n%d requests meanwhile, none failed. They were answered by:", result.requests)
	for _, pod := range slices.Sorted(func(yield func(string) bool) {
		for p := range result.answers {
			if !yield(p) {
				return
			}
		}
	}) {
		note := ""
		if pod == reply.Pod {
			note = " (the one that was deleted: its last answers while it drained)"
		}
		s.say("  %4d  %s%s", result.answers[pod], pod, note)
	}
	return nil
}

// tally is what came of a run of requests.
type tally struct {
	requests int
	answers  map[string]int // by Pod
	failures []error
}

// failed returns an error that tells of the requests that failed, if any.
func (t tally) failed() error {
	if len(t.failures) == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d requests failed, the first: %w", len(t.failures), t.requests, t.failures[0])
}

// traffic sends requests from two clients at a time, until the function it
// returns is called; that one returns the tally. It ends by itself after
// patience.
func (s *story) traffic(ctx context.Context) (stop func() tally) {
	const clients, pause = 2, 10 * time.Millisecond
	sending, cancel := context.WithTimeout(ctx, patience)
	result := tally{answers: map[string]int{}}
	var mu sync.Mutex
	var senders sync.WaitGroup
	for range clients {
		senders.Go(func() {
			for tick := time.NewTicker(pause); ; {
				select {
				case <-sending.Done():
					tick.Stop()
					return
				case <-tick.C:
				}
				// A request that was begun is ended: cutting it short would
				// count as a failure of the load balancer.
				reply, err := s.outside.Get(ctx, s.host, 80)
				mu.Lock()
				result.requests++
				if err != nil {
					result.failures = append(result.failures, err)
				} else {
					result.answers[reply.Pod]++
				}
				mu.Unlock()
			}
		})
	}
	return func() tally {
		cancel()
		senders.Wait()
		return result
	}
}
