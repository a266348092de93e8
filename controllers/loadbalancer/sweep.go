package loadbalancer

import (
	"cmp"
	"context"
	"math/rand/v2"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

// sweeping is the key under which a sweep counts as work.
const sweeping = "(sweep)"

// sweeps compares everything with the cloud once in a while until ctx ends; one
// that was begun by then goes on under the context work.
func (c *Controller) sweeps(ctx, work context.Context) {
	if c.SweepEvery < 0 {
		return
	}
	s := sweeper{Controller: c, orphans: map[lb.ServiceRef]*orphan{}}
	// Up to a tenth sooner, so that the controllers of many clusters in one
	// account do not sweep together.
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(c.SweepEvery - rand.N(c.SweepEvery/10+1)):
			s.sweep(work)
		}
	}
}

// sweeper is what one sweep leaves to the next.
type sweeper struct {
	*Controller
	orphans map[lb.ServiceRef]*orphan
}

// sweep makes one survey of the cluster. Services that are not as they were left
// are looked at one by one, each in its own turn; what belongs to none any more
// is reported.
func (s sweeper) sweep(ctx context.Context) {
	if s.paused.Load() {
		return
	}
	s.begin(sweeping)
	defer s.end(sweeping)
	start := time.Now()
	log := klog.FromContext(ctx)
	ctx, cancel := context.WithTimeout(ctx, s.SyncTimeout)
	defer cancel()
	swept, err := s.Engine.Sweep(ctx)
	if err != nil {
		observeSweep(resultFailed, time.Since(start))
		log.Info("Sweep failed", "kind", lb.KindOf(err), "err", err)
		return
	}
	if len(swept.Found.Kinds) == 0 {
		return // this cloud cannot be surveyed
	}
	for ref, drift := range swept.Drift {
		log.Info("Load balancer differs from what was left", "service", ref.String(), "drift", texts(drift))
		s.suspect(ref.String())
	}
	s.report(ctx, s.gather(swept.Found))
	observeSweep(resultDone, time.Since(start))
}

// suspect has the Service of that key compared with the cloud.
func (c *Controller) suspect(key string) {
	c.mu.Lock()
	c.suspects[key] = true
	c.mu.Unlock()
	c.queue.add(key, bySweep)
}

// suspected reports, once, whether a sweep has found that the Service differs.
func (c *Controller) suspected(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer delete(c.suspects, key)
	return c.suspects[key]
}

// noteDrift counts and remembers what others have changed about a Service: what
// had to be done although it wants just what was last verified.
func (m *memory) noteDrift(svc *v1.Service, result plan.Result) {
	// The checkpoint lags behind node changes; it is all there is after a restart.
	if result.Hash == "" || result.Hash != cmp.Or(m.verified, svc.Annotations[CheckpointAnnotation]) || m.partial {
		return
	}
	found := plan.DriftIn(result.Plan)
	for _, d := range found {
		driftDetected.WithLabelValues(string(d.Kind), d.Field).Inc()
	}
	m.drift = append(m.drift, found...)
}

// repaired tells the owner what was put right, bounded as an event must be.
func repaired(drift []plan.Drift) string {
	const most = 5
	all := texts(drift)
	text := strings.Join(all[:min(most, len(all))], "; ")
	if len(all) > most {
		text += "; and more"
	}
	const longest = 700
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + "…"
	}
	return "The load balancer had been changed from outside and is repaired: " + text + ". To change it for good, change the Service or its annotations."
}

func texts(drift []plan.Drift) []string {
	all := make([]string, len(drift))
	for i, d := range drift {
		all[i] = d.String()
	}
	return all
}
