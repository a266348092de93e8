package metrics

import (
	"context"
	"net/url"
	"time"

	clientmetrics "k8s.io/client-go/tools/metrics"
)

// CountRequests has every Kubernetes client of this process counted here. The
// client library keeps the first that asks for it, so this is for programs, once.
func (m *Metrics) CountRequests() {
	clientmetrics.Register(clientmetrics.RegisterOpts{RequestResult: requestResult{m}, RequestLatency: requestLatency{m}})
}

type requestResult struct{ *Metrics }

// Increment implements clientmetrics.ResultMetric.
func (r requestResult) Increment(_ context.Context, code, method, host string) {
	r.requests.WithLabelValues(code, method, host).Inc()
}

type requestLatency struct{ *Metrics }

// Observe implements clientmetrics.LatencyMetric.
func (r requestLatency) Observe(_ context.Context, verb string, u url.URL, latency time.Duration) {
	r.requestDuration.WithLabelValues(verb, u.Host).Observe(latency.Seconds())
}
