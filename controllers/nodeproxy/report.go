package nodeproxy

import (
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/events"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/health"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/metrics"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// report tells the outside what happens to one family's table: by metrics, and
// where people are needed by events.
type report struct {
	metrics *metrics.Metrics
	events  *events.Recorder
	node    string
	family  string

	sent     struct{ transactions, messages, elements, bytes metrics.Delta }
	full     metrics.Delta
	loopback map[nft.Protocol]*metrics.Delta // packets refused at NodePorts of the loopback address
	noLocal  map[string]noLocal              // of the Services that have any
	lacking  noLocal                         // of all of them together

	queued    prometheus.Gauge // when a change last was
	triggered []time.Time      // what happened in the cluster and is not in the kernel yet
}

// noLocal counts a Service's ports whose policy asks for endpoints on this node,
// where there are none but some elsewhere.
type noLocal struct{ internal, external int }

// count counts one port of the Service, once for each policy, however many
// addresses it is reached at.
func (n *noLocal) count(s service, p pools) {
	if len(p.cluster) == 0 || len(p.local) > 0 {
		return
	}
	if s.internalLocal {
		n.internal++
	}
	if s.externalLocal {
		n.external++
	}
}

func newReport(c Config, family health.Family) *report {
	r := &report{metrics: c.Metrics, events: c.Events, node: c.NodeName, family: string(family), noLocal: make(map[string]noLocal)}
	r.metrics.Families(r.family)
	r.loopback = map[nft.Protocol]*metrics.Delta{nft.UDP: {}, nft.SCTP: {}}
	r.queued = r.metrics.SyncLastQueuedTimestamp.WithLabelValues(r.family)
	return r
}

// synced notes a round that brought the kernel to what is wanted.
func (r *report) synced(start time.Time, full bool, table *nft.Table) {
	metrics.Since(r.metrics.SyncDuration.WithLabelValues(r.family), start)
	if full {
		metrics.Since(r.metrics.SyncFullDuration.WithLabelValues(r.family), start)
		metrics.Set(r.metrics.Owned.WithLabelValues(r.family), table.Owned())
	} else {
		metrics.Since(r.metrics.SyncPartialDuration.WithLabelValues(r.family), start)
	}
	r.metrics.SyncLastTimestamp.WithLabelValues(r.family).SetToCurrentTime()
	for _, at := range r.triggered {
		metrics.Since(r.metrics.NetworkProgramming.WithLabelValues(r.family), at)
	}
	r.triggered = nil
	r.count(table.Stats())
	r.metrics.NoLocalEndpoints.WithLabelValues("internal", r.family).Set(float64(r.lacking.internal))
	r.metrics.NoLocalEndpoints.WithLabelValues("external", r.family).Set(float64(r.lacking.external))
}

func (r *report) count(s nft.Stats) {
	r.sent.transactions.Add(r.metrics.Transactions.WithLabelValues(r.family), s.Transactions)
	r.sent.messages.Add(r.metrics.Messages.WithLabelValues(r.family), s.Messages)
	r.sent.elements.Add(r.metrics.Elements.WithLabelValues(r.family), s.Elements)
	r.sent.bytes.Add(r.metrics.Bytes.WithLabelValues(r.family), s.Bytes)
	r.metrics.Chains.WithLabelValues(r.family).Set(float64(s.Chains))
}

// affinityFull notes how many connections found no room in the affinity map.
func (r *report) affinityFull(total uint64) {
	r.full.Add(r.metrics.AffinityFull.WithLabelValues(r.family), int(total))
}

// refusedAtLoopback notes how many packets of a protocol loopback NodePorts refused.
func (r *report) refusedAtLoopback(p nft.Protocol, total uint64) {
	r.loopback[p].Add(r.metrics.LoopbackRefused.WithLabelValues(r.family, strings.ToUpper(p.String())), int(total))
}

// failed notes a round that changed nothing.
func (r *report) failed(start time.Time) {
	metrics.Since(r.metrics.SyncDuration.WithLabelValues(r.family), start)
	r.metrics.SyncFailures.WithLabelValues(r.family).Inc()
}

// has notes how many Services the kernel has, and how many it refuses.
func (r *report) has(services, quarantined int) {
	r.metrics.Services.WithLabelValues(r.family).Set(float64(services))
	r.metrics.Quarantined.WithLabelValues(r.family).Set(float64(quarantined))
}

// lacksLocal notes what of a Service in the kernel lacks local endpoints, nothing
// when it is gone.
func (r *report) lacksLocal(name string, n noLocal) {
	before := r.noLocal[name]
	r.lacking.internal += n.internal - before.internal
	r.lacking.external += n.external - before.external
	if n == (noLocal{}) {
		delete(r.noLocal, name)
		return
	}
	r.noLocal[name] = n
}

// refused tells of a Service in quarantine.
func (r *report) refused(service string, reason error, retryIn time.Duration) {
	r.events.Record(events.Event{
		Regarding: serviceReference(service), Reason: "ProgrammingFailed", Action: "Program",
		Note: fmt.Sprintf("The kernel of node %s refused what this Service needs (%s), so it keeps its former endpoints there. "+
			"Other Services are not concerned. It is tried again in %v, or when the Service changes: %v", r.node, r.family, retryIn, reason),
	})
}

// changedByOthers tells of a foreign change to the table.
func (r *report) changedByOthers() {
	r.metrics.ForeignChanges.WithLabelValues(r.family).Inc()
	r.events.Record(events.Event{
		Regarding: events.Node(r.node), Reason: "ForwardingTableChanged", Action: "Verify",
		Note: fmt.Sprintf("Another program changed or flushed the nftables table %q (%s), which is written again. "+
			"Look for a host firewall that flushes all rules when it reloads; from Linux 6.9 on the kernel forbids it", nft.TableName, r.family),
	})
}

// healthCheckFailed tells of a healthCheckNodePort that could not be opened, as
// kube-proxy does.
func (r *report) healthCheckFailed(service string, err error) {
	r.events.Record(events.Event{
		Regarding: serviceReference(service), Reason: "FailedToStartServiceHealthcheck", Action: "Listen",
		Note: fmt.Sprintf("node %s failed to start healthcheck %q: %v; load balancers take the node for one without endpoints", r.node, service, err),
	})
}

func serviceReference(name string) corev1.ObjectReference {
	namespace, name, _ := strings.Cut(name, "/")
	return events.Service(namespace, name)
}
