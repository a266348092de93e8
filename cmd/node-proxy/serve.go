package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/controllers/nodeproxy"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/events"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/explain"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/health"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/listeners"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/metrics"
)

// bindRetry is the pause after a port could not be opened, kube-proxy's.
const bindRetry = 5 * time.Second

// server is an HTTP server at a port that another program may hold, such as
// kube-proxy before it is gone or when it came back: forwarding matters more, so
// the port is tried again until it is free.
type server struct {
	name    string // in metrics
	address string
	handler http.Handler
	reason  string // of the event when the port is held
	retry   time.Duration
	listen  listeners.Listen
}

// run serves until the context ends.
func (s server) run(ctx context.Context, node string, m *metrics.Metrics, recorder *events.Recorder) {
	held := m.PortHeld.WithLabelValues(s.name)
	for ctx.Err() == nil {
		l, err := s.listen(ctx, "tcp", s.address)
		metrics.Set(held, err != nil)
		if err == nil {
			err = health.Serve(ctx, l, s.handler)
		}
		if err == nil {
			continue
		}
		klog.FromContext(ctx).Error(err, "Cannot serve, trying again", "server", s.name, "address", s.address)
		recorder.Record(events.Event{
			Regarding: events.Node(node), Reason: s.reason, Action: "Listen",
			Note: fmt.Sprintf("%v. It is tried again every %v; packets are carried meanwhile. "+
				"If kube-proxy runs on this node, take it away", err, s.retry),
		})
		select {
		case <-ctx.Done():
		case <-time.After(s.retry):
		}
	}
}

// servers returns those the configuration asks for. The events have the reasons
// kube-proxy's have.
func (o *options) servers(h *health.Health, m *metrics.Metrics, p *nodeproxy.Proxy) []server {
	listen := (&net.ListenConfig{}).Listen
	var out []server
	if o.HealthzBindAddress != "" {
		out = append(out, server{"healthz", o.HealthzBindAddress, h.Handler(), "FailedToStartProxierHealthcheck", bindRetry, listen})
	}
	if o.MetricsBindAddress != "" {
		mux := http.NewServeMux()
		mux.Handle("/", m.Handler())
		mux.Handle(explain.QuarantinePath, explain.Quarantine(p.Refused))
		mux.Handle(configzPath, configz(o.Config))
		out = append(out, server{"metrics", o.MetricsBindAddress, mux, "FailedToStartMetricServer", bindRetry, listen})
	}
	return out
}
