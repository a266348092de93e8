package nodes

import (
	"context"
	"maps"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/providers/lb"
)

var known = metrics.NewGaugeVec(&metrics.GaugeOpts{
	Namespace:      "fairway",
	Subsystem:      "nodes",
	Name:           "known",
	Help:           "How many Nodes there are by what a load balancer does with them (active, draining or gone, which means that they are no targets), and why.",
	StabilityLevel: metrics.ALPHA,
}, []string{"state", "reason"})

// Collectors returns all metrics of this package, for the page that lists them.
func Collectors() []metrics.Registerable { return []metrics.Registerable{known} }

var registerMetrics = sync.OnceFunc(func() { legacyregistry.MustRegister(Collectors()...) })

// explain counts the nodes by state and reason, and says once of each node that
// is no target why: what concerns no single Service belongs on none.
func (t *Tracker) explain(ctx context.Context, all []*v1.Node) {
	type judgement struct {
		state  lb.TargetState
		reason Reason
	}
	counts := map[judgement]int{}
	skipped := map[string]Reason{}
	news := map[Reason][]string{}
	for _, n := range all {
		state, reason := t.filter.Judge(n)
		counts[judgement{state, reason}]++
		if state != lb.TargetGone {
			continue
		}
		skipped[n.Name] = reason
		if t.skipped[n.Name] != reason {
			news[reason] = append(news[reason], n.Name)
		}
	}
	t.skipped = skipped
	known.Reset()
	for j, n := range counts {
		known.WithLabelValues(string(j.state), string(j.reason)).Set(float64(n))
	}
	for _, reason := range slices.Sorted(maps.Keys(news)) {
		const most = 10
		names := slices.Sorted(slices.Values(news[reason]))
		klog.FromContext(ctx).Info("Nodes are no load balancer targets", "reason", reason, "count", len(names), "nodes", names[:min(most, len(names))])
	}
}
