// Package metrics is what the node proxy counts, for Prometheus. What kube-proxy
// counts too has kube-proxy's names, labels and buckets, so that dashboards and
// alerts made for it go on working; the rest begins with fairway_nodeproxy_.
package metrics

import (
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are the counters of one node proxy. All are safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry

	// kube-proxy's, from k8s.io/kubernetes pkg/proxy/metrics. Each Vec without a
	// remark has the one label ip_family.
	SyncDuration, SyncFullDuration, SyncPartialDuration *prometheus.HistogramVec
	SyncLastTimestamp, SyncLastQueuedTimestamp          *prometheus.GaugeVec
	NetworkProgramming                                  *prometheus.HistogramVec
	EndpointChanges, ServiceChanges                     prometheus.Counter
	EndpointChangesPending, ServiceChangesPending       prometheus.Gauge
	NoLocalEndpoints                                    *prometheus.GaugeVec // traffic_policy (internal, external), ip_family
	SyncFailures, CleanupFailures                       *prometheus.CounterVec
	Healthz, Livez                                      *prometheus.CounterVec // code
	ConntrackDuration                                   *prometheus.HistogramVec
	ConntrackDeleted                                    *prometheus.CounterVec
	LoopbackListeners                                   *prometheus.GaugeVec
	LoopbackFailures                                    *prometheus.CounterVec
	LoopbackRefused                                     *prometheus.CounterVec // protocol

	// The Kubernetes client's, which dashboards for kube-proxy show as well.
	requests        *prometheus.CounterVec
	requestDuration *prometheus.HistogramVec

	// Ours, with ip_family where there is no remark.
	Transactions, Messages, Elements, Bytes *prometheus.CounterVec
	Chains, Services, Quarantined, Owned    *prometheus.GaugeVec
	ForeignChanges, AffinityFull            *prometheus.CounterVec
	KubeProxyPresent                        *prometheus.GaugeVec   // backend
	PortHeld                                *prometheus.GaugeVec   // server (healthz, metrics)
	SysctlDiffers                           *prometheus.GaugeVec   // sysctl
	Events                                  *prometheus.CounterVec // result (sent, merged, failed)
}

// New returns metrics that are all at zero.
func New() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	family := []string{"ip_family"}
	quick := prometheus.ExponentialBuckets(0.001, 2, 15)

	m.SyncDuration = m.histogram("kubeproxy_sync_proxy_rules_duration_seconds", "Time of one round of programming a family.", quick, family)
	m.SyncFullDuration = m.histogram("kubeproxy_sync_full_proxy_rules_duration_seconds", "Time of a round that wrote the whole table.", quick, family)
	m.SyncPartialDuration = m.histogram("kubeproxy_sync_partial_proxy_rules_duration_seconds", "Time of a round that wrote what had changed.", quick, family)
	m.SyncLastTimestamp = m.gauge("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "When the kernel last got all that was wanted.", family)
	m.SyncLastQueuedTimestamp = m.gauge("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "When a change was last queued.", family)
	m.NetworkProgramming = m.histogram("kubeproxy_network_programming_duration_seconds",
		"Time from the change of a Pod or Service, as its EndpointSlice tells, to the kernel; the clocks of two machines.", slices.Concat(
			prometheus.LinearBuckets(0.25, 0.25, 2), prometheus.LinearBuckets(1, 1, 59),
			prometheus.LinearBuckets(60, 5, 12), prometheus.LinearBuckets(120, 30, 7)), family)
	m.EndpointChanges = m.counter("kubeproxy_sync_proxy_rules_endpoint_changes_total", "Changes of EndpointSlices seen.", nil).WithLabelValues()
	m.EndpointChangesPending = m.gauge("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "Changes of EndpointSlices that wait.", nil).WithLabelValues()
	m.ServiceChanges = m.counter("kubeproxy_sync_proxy_rules_service_changes_total", "Changes of Services seen.", nil).WithLabelValues()
	m.ServiceChangesPending = m.gauge("kubeproxy_sync_proxy_rules_service_changes_pending", "Changes of Services that wait.", nil).WithLabelValues()
	m.NoLocalEndpoints = m.gauge("kubeproxy_sync_proxy_rules_no_local_endpoints_total",
		"Service ports with a Local traffic policy, endpoints, but none on this node.", []string{"traffic_policy", "ip_family"})
	m.SyncFailures = m.counter("kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "Rounds of programming that failed as a whole.", family)
	m.CleanupFailures = m.counter("kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total", "Failures to remove chains that are no longer used.", family)
	m.Healthz = m.counter("kubeproxy_proxy_healthz_total", "Answers at /healthz.", []string{"code"})
	m.Livez = m.counter("kubeproxy_proxy_livez_total", "Answers at /livez.", []string{"code"})
	m.ConntrackDuration = m.histogram("kubeproxy_conntrack_reconciler_sync_duration_seconds", "Time to find and delete stale UDP flows.", quick, family)
	m.ConntrackDeleted = m.counter("kubeproxy_conntrack_reconciler_deleted_entries_total", "Stale flows deleted from connection tracking.", family)
	m.LoopbackListeners = m.gauge("kubeproxy_nftables_localhost_nodeport_listeners", "NodePorts answered at the loopback address.", family)
	m.LoopbackFailures = m.counter("kubeproxy_nftables_localhost_nodeport_listener_creation_failures_total", "Failures to listen at a NodePort of the loopback address.", family)
	m.LoopbackRefused = m.counter("kubeproxy_nftables_localhost_nodeport_rejected_packets_total", "Packets refused at NodePorts of the loopback address: UDP and SCTP.", []string{"ip_family", "protocol"})

	m.requests = m.counter("rest_client_requests_total", "Requests to the API server.", []string{"code", "method", "host"})
	m.requestDuration = m.histogram("rest_client_request_duration_seconds", "Time of requests to the API server.",
		[]float64{0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60}, []string{"verb", "host"})

	m.Transactions = m.counter("fairway_nodeproxy_transactions_total", "nftables transactions.", family)
	m.Messages = m.counter("fairway_nodeproxy_netlink_messages_total", "Netlink messages in those transactions.", family)
	m.Elements = m.counter("fairway_nodeproxy_elements_total", "Elements added to or taken from sets and maps.", family)
	m.Bytes = m.counter("fairway_nodeproxy_netlink_bytes_total", "Bytes of those transactions.", family)
	m.Chains = m.gauge("fairway_nodeproxy_chains", "Class chains in the table.", family)
	m.Services = m.gauge("fairway_nodeproxy_services", "Services in the table.", family)
	m.Quarantined = m.gauge("fairway_nodeproxy_quarantined_services", "Services the kernel refuses, which keep their former endpoints.", family)
	m.Owned = m.gauge("fairway_nodeproxy_table_owned", "1 where the kernel keeps other programs from changing the table.", family)
	m.ForeignChanges = m.counter("fairway_nodeproxy_foreign_changes_total", "Times another program changed the table, which was written again.", family)
	m.AffinityFull = m.counter("fairway_nodeproxy_affinity_full_total", "Connections that session affinity could not remember for want of room, and so went anywhere.", family)
	m.KubeProxyPresent = m.gauge("fairway_nodeproxy_kube_proxy_present", "1 while kube-proxy has rules on this node.", []string{"backend"})
	m.PortHeld = m.gauge("fairway_nodeproxy_port_held", "1 while another program holds the port of a server of ours.", []string{"server"})
	m.SysctlDiffers = m.gauge("fairway_nodeproxy_sysctl_differs", "1 while a kernel setting is not as it should be.", []string{"sysctl"})
	m.Events = m.counter("fairway_nodeproxy_events_total", "Events: sent, merged into another to keep their number down, or failed.", []string{"result"})

	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *Metrics) counter(name, help string, labels []string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) gauge(name, help string, labels []string) *prometheus.GaugeVec {
	c := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) histogram(name, help string, buckets []float64, labels []string) *prometheus.HistogramVec {
	c := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	m.registry.MustRegister(c)
	return c
}

// Families makes the metrics of these families appear before anything happened,
// so that a rate can be taken of the first change.
func (m *Metrics) Families(names ...string) {
	for _, name := range names {
		for _, h := range []*prometheus.HistogramVec{m.SyncDuration, m.SyncFullDuration, m.SyncPartialDuration, m.NetworkProgramming, m.ConntrackDuration} {
			h.WithLabelValues(name)
		}
		for _, c := range []*prometheus.CounterVec{m.SyncFailures, m.CleanupFailures, m.ConntrackDeleted, m.Transactions, m.Messages, m.Elements, m.Bytes, m.ForeignChanges, m.AffinityFull} {
			c.WithLabelValues(name)
		}
		for _, g := range []*prometheus.GaugeVec{m.SyncLastTimestamp, m.SyncLastQueuedTimestamp, m.Chains, m.Services, m.Quarantined, m.Owned} {
			g.WithLabelValues(name)
		}
		for _, policy := range []string{"internal", "external"} {
			m.NoLocalEndpoints.WithLabelValues(policy, name)
		}
		for _, protocol := range []string{"UDP", "SCTP"} {
			m.LoopbackRefused.WithLabelValues(name, protocol)
		}
	}
}

// Set sets a gauge that is 1 or 0.
func Set(g prometheus.Gauge, yes bool) {
	value := 0.0
	if yes {
		value = 1
	}
	g.Set(value)
}

// Since observes the seconds since then.
func Since(o prometheus.Observer, then time.Time) { o.Observe(time.Since(then).Seconds()) }

// Handler serves what kube-proxy's metrics port does: /metrics, /healthz, which
// says "ok", and /proxyMode.
func (m *Metrics) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	for path, text := range map[string]string{"/healthz": "ok", "/proxyMode": "nftables"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			_, _ = io.WriteString(w, text) // the client may be gone
		})
	}
	return mux
}

// Delta adds to counters what a running total has grown by. It is safe for
// concurrent use.
type Delta struct {
	mu   sync.Mutex
	last int
}

// Add adds what total is above the last one. A total that fell began anew.
func (d *Delta) Add(c prometheus.Counter, total int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if total < d.last {
		d.last = 0
	}
	c.Add(float64(total - d.last))
	d.last = total
}
