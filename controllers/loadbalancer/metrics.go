package loadbalancer

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/providers/lb"
)

// Values of the label "result".
const (
	resultDone      = "done"
	resultUnchanged = "unchanged"
	resultFailed    = "failed"
	resultSkipped   = "skipped"
)

// What the names of the metrics begin with.
const (
	namespace = "fairway"
	subsystem = "loadbalancer"
	cloud     = "cloud"
)

var syncSeconds = metrics.NewHistogramVec(&metrics.HistogramOpts{
	Namespace: namespace, Subsystem: subsystem, Name: "sync_duration_seconds", StabilityLevel: metrics.ALPHA,
	Help:    "How long a look at one Service took, by result: done, unchanged, failed or skipped.",
	Buckets: []float64{0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120},
}, []string{"result"})

var changeSeconds = metrics.NewHistogramVec(&metrics.HistogramOpts{
	Namespace: namespace, Subsystem: subsystem, Name: "change_duration_seconds", StabilityLevel: metrics.ALPHA,
	Help:    "How long a change to one cloud resource took, by operation, kind of resource and result: done or the kind of the error.",
	Buckets: []float64{0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30},
}, []string{"operation", "resource", "result"})

var readySeconds = metrics.NewHistogram(&metrics.HistogramOpts{
	Namespace: namespace, Subsystem: subsystem, Name: "time_to_ready_seconds", StabilityLevel: metrics.ALPHA,
	Help:    "How long it took from the creation of a Service, or from its becoming one with a load balancer, to the addresses in its status.",
	Buckets: []float64{0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800},
})

var sweepSeconds = metrics.NewHistogramVec(&metrics.HistogramOpts{
	Namespace: namespace, Subsystem: subsystem, Name: "sweep_duration_seconds", StabilityLevel: metrics.ALPHA,
	Help:    "How long a comparison of all Services with one survey of the cloud took, by result: done or failed.",
	Buckets: []float64{0.1, 0.5, 1, 2, 5, 10, 30, 60, 120},
}, []string{"result"})

var driftDetected = metrics.NewCounterVec(&metrics.CounterOpts{
	Namespace: namespace, Subsystem: subsystem, Name: "drift_detected_total", StabilityLevel: metrics.ALPHA,
	Help: "What was found in the cloud otherwise than it was left, by kind of resource and field, or missing or unexpected for a whole resource.",
}, []string{"kind", "field"})

var orphanCount = metrics.NewGaugeVec(&metrics.GaugeOpts{
	Namespace: namespace, Subsystem: subsystem, Name: "orphans", StabilityLevel: metrics.ALPHA,
	Help: "How many resources of Services that are no more the last sweep saw, by kind.",
}, []string{"kind"})

var pausedGauge = metrics.NewGauge(&metrics.GaugeOpts{
	Namespace: namespace, Subsystem: subsystem, Name: "paused", StabilityLevel: metrics.ALPHA,
	Help: "1 while the whole controller is paused.",
})

var cloudRequests = metrics.NewCounterVec(&metrics.CounterOpts{
	Namespace: namespace, Subsystem: cloud, Name: "requests_total", StabilityLevel: metrics.ALPHA,
	Help: "Requests to the cloud's API, each attempt counted, by service, operation and the cloud's error code: OK for none, NoAnswer when there was no answer.",
}, []string{"service", "operation", "code"})

var cloudSeconds = metrics.NewHistogramVec(&metrics.HistogramOpts{
	Namespace: namespace, Subsystem: cloud, Name: "request_duration_seconds", StabilityLevel: metrics.ALPHA,
	Help:    "How long a request to the cloud's API took, by service and operation.",
	Buckets: []float64{0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30},
}, []string{"service", "operation"})

var cloudWait = metrics.NewCounterVec(&metrics.CounterOpts{
	Namespace: namespace, Subsystem: cloud, Name: "request_wait_seconds_total", StabilityLevel: metrics.ALPHA,
	Help: "Time that requests to the cloud's API were held back, for the cloud not to refuse them for their number, by service and operation.",
}, []string{"service", "operation"})

var cloudLastSuccess = metrics.NewGauge(&metrics.GaugeOpts{
	Namespace: namespace, Subsystem: cloud, Name: "last_success_timestamp_seconds", StabilityLevel: metrics.ALPHA,
	Help: "When the cloud last answered a request without an error, in Unix time.",
})

// collectors are all metrics of this package but the census, which belongs to
// one Controller.
var collectors = []metrics.Registerable{syncSeconds, changeSeconds, readySeconds, sweepSeconds, driftDetected, orphanCount, pausedGauge,
	cloudRequests, cloudSeconds, cloudWait, cloudLastSuccess}

var registerOnce = sync.OnceFunc(func() { legacyregistry.MustRegister(collectors...) })

func (c *Controller) registerMetrics() {
	registerOnce()
	if err := legacyregistry.CustomRegister(&census{lister: c.lister, counts: func(svc *v1.Service) bool { return c.wanted(svc) || c.held(svc) }}); err != nil {
		klog.V(2).InfoS("Services are counted already", "err", err) // there is another Controller in this process
	}
}

// ObserveChange counts a change, as plan.Options.OnApplied.
func ObserveChange(c lb.Change, took time.Duration, err error) {
	result := cmp.Or(string(lb.KindOf(err)), resultDone)
	changeSeconds.WithLabelValues(string(c.Op), string(c.Ref().Kind), result).Observe(took.Seconds())
}

// ObserveCall counts a request to the cloud's API.
func ObserveCall(c lb.Call) {
	cloudRequests.WithLabelValues(c.Service, c.Operation, c.Code).Inc()
	cloudSeconds.WithLabelValues(c.Service, c.Operation).Observe(c.Took.Seconds())
	cloudWait.WithLabelValues(c.Service, c.Operation).Add(c.Waited.Seconds())
	if c.Code == lb.CallOK {
		cloudLastSuccess.SetToCurrentTime()
	}
}

func observe(result string, took time.Duration) {
	syncSeconds.WithLabelValues(result).Observe(took.Seconds())
}

func observeSweep(result string, took time.Duration) {
	sweepSeconds.WithLabelValues(result).Observe(took.Seconds())
}

func observePause(yes bool) {
	value := 0.0
	if yes {
		value = 1
	}
	pausedGauge.Set(value)
}

func countOrphans(orphans map[lb.ServiceRef]*orphan, old []lb.ServiceRef) {
	orphanCount.Reset()
	for _, ref := range old {
		for _, r := range orphans[ref].resources {
			orphanCount.WithLabelValues(string(r.Kind)).Inc()
		}
	}
}

// noticeWanted notes since when a Service waits for its first address. Of one
// that is older than any queue its age says nothing: it became one with a load
// balancer later.
func (m *memory) noticeWanted(svc *v1.Service) {
	const longestQueue = 10 * time.Minute
	if !m.wantedSince.IsZero() || m.served != nil || len(svc.Status.LoadBalancer.Ingress) > 0 {
		return
	}
	m.wantedSince = time.Now()
	if created := svc.CreationTimestamp.Time; time.Since(created) < longestQueue {
		m.wantedSince = created
	}
}

// observeReady counts how long a Service waited for its first address.
func (m *memory) observeReady() {
	if !m.wantedSince.IsZero() {
		readySeconds.Observe(time.Since(m.wantedSince).Seconds())
		m.wantedSince = time.Time{}
	}
}

// census counts Services by their condition whenever it is asked.
type census struct {
	metrics.BaseStableCollector
	lister corelisters.ServiceLister
	counts func(*v1.Service) bool
}

var servicesDesc = metrics.NewDesc(metrics.BuildFQName(namespace, subsystem, "services"),
	"How many Services there are, by whether their load balancer is ready (true, false, unknown) and the reason in their condition, New without one, Paused while they are.",
	[]string{"ready", "reason"}, nil, metrics.ALPHA, "")

// DescribeWithStability implements metrics.StableCollector.
func (n *census) DescribeWithStability(ch chan<- *metrics.Desc) { ch <- servicesDesc }

// CollectWithStability implements metrics.StableCollector.
func (n *census) CollectWithStability(ch chan<- metrics.Metric) {
	services, err := n.lister.List(labels.Everything())
	if err != nil {
		return
	}
	type state struct{ ready, reason string }
	count := map[state]float64{}
	for _, svc := range slices.DeleteFunc(services, func(svc *v1.Service) bool { return !n.counts(svc) }) {
		s := state{"unknown", "New"}
		if c := readyCondition(svc); c != nil {
			s = state{strings.ToLower(string(c.Status)), c.Reason}
		}
		if Paused(svc.Annotations) {
			s.reason = "Paused"
		}
		count[s]++
	}
	for s, n := range count {
		ch <- metrics.NewLazyConstMetric(servicesDesc, metrics.GaugeValue, n, s.ready, s.reason)
	}
}
