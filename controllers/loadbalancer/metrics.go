package loadbalancer

import (
	"cmp"
	"sync"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/fairway-lb/fairway/providers/lb"
)

// Values of the label "result".
const (
	resultDone      = "done"
	resultUnchanged = "unchanged"
	resultFailed    = "failed"
	resultSkipped   = "skipped"
)

var syncSeconds = metrics.NewHistogramVec(&metrics.HistogramOpts{
	Namespace:      "fairway",
	Subsystem:      "loadbalancer",
	Name:           "sync_duration_seconds",
	Help:           "How long a look at one Service took, by result: done, unchanged, failed or skipped.",
	Buckets:        []float64{0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120},
	StabilityLevel: metrics.ALPHA,
}, []string{"result"})

var changeSeconds = metrics.NewHistogramVec(&metrics.HistogramOpts{
	Namespace:      "fairway",
	Subsystem:      "loadbalancer",
	Name:           "change_duration_seconds",
	Help:           "How long a change to one cloud resource took, by operation, kind of resource and result: done or the kind of the error.",
	Buckets:        []float64{0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30},
	StabilityLevel: metrics.ALPHA,
}, []string{"operation", "resource", "result"})

var registerMetrics = sync.OnceFunc(func() { legacyregistry.MustRegister(syncSeconds, changeSeconds) })

// ObserveChange counts a change, as plan.Options.OnApplied.
func ObserveChange(c lb.Change, took time.Duration, err error) {
	result := cmp.Or(string(lb.KindOf(err)), resultDone)
	changeSeconds.WithLabelValues(string(c.Op), string(c.Ref().Kind), result).Observe(took.Seconds())
}

func observe(result string, took time.Duration) {
	syncSeconds.WithLabelValues(result).Observe(took.Seconds())
}
