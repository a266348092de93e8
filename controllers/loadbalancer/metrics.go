package loadbalancer

import (
	"sync"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
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

var registerMetrics = sync.OnceFunc(func() { legacyregistry.MustRegister(syncSeconds) })

func observe(result string, took time.Duration) {
	syncSeconds.WithLabelValues(result).Observe(took.Seconds())
}
