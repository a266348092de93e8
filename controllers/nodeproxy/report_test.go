package nodeproxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/events"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/metrics"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// metrics returns the lines of the proxy's metrics.
func (w *world) metrics(t *testing.T) []string {
	t.Helper()
	r := httptest.NewRecorder()
	w.proxy.config.Metrics.Handler().ServeHTTP(r, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	body, err := io.ReadAll(r.Body)
	must(t, err)
	return strings.Split(string(body), "\n")
}

// told is the events that were written, "reason kind/name", from its recorder.
type told struct {
	mu     sync.Mutex
	events []string
}

// newRecorder returns a recorder that writes into told until the test ends.
func newRecorder(t *testing.T) (*events.Recorder, *told) {
	t.Helper()
	got := &told{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme := runtime.NewScheme()
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = eventsv1.AddToScheme(scheme)
		}
		var object runtime.Object
		if err == nil {
			object, _, err = serializer.NewCodecFactory(scheme).UniversalDeserializer().Decode(body, nil, nil)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		e := object.(*eventsv1.Event)
		got.mu.Lock()
		defer got.mu.Unlock()
		got.events = append(got.events, fmt.Sprintf("%s %s/%s", e.Reason, e.Regarding.Kind, e.Regarding.Name))
		w.WriteHeader(http.StatusCreated)
	}))
	client, err := NewClient(&rest.Config{Host: server.URL}, "/apis", eventsv1.SchemeGroupVersion, eventsv1.AddToScheme)
	must(t, err)
	recorder := events.New(client, "node", nil, metrics.New().Events)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { recorder.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait(); server.Close() })
	return recorder, got
}

func (t *told) all() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.events)
}

// TestMetricsFollowTheKernel changes things and looks at what is counted.
func TestMetricsFollowTheKernel(t *testing.T) {
	w := newWorld(t)
	w.shared = true // so that others can change the table
	recorder, told := newRecorder(t)
	w.configure = func(c *Config) { c.Events = recorder }
	w.start(t)
	local := func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }
	slicesOf := func(pods ...discoveryv1.Endpoint) []any {
		out := newTestSlices("web", pods...)
		for _, s := range out {
			s.(*discoveryv1.EndpointSlice).Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: time.Now().Add(time.Second).Format(time.RFC3339Nano)}
		}
		return out
	}
	w.replace(t, append(slicesOf(pod("remote")), newTestService("web", local))...)
	expect := func(when string, want ...string) {
		t.Helper()
		got := w.metrics(t)
		for _, line := range want {
			if !slices.Contains(got, line) {
				name, _, _ := strings.Cut(line, "{")
				t.Errorf("%s: want %s among %v", when, line, slices.DeleteFunc(slices.Clone(got), func(l string) bool { return !strings.HasPrefix(l, name) }))
			}
		}
	}
	expect("with no local endpoint",
		`kubeproxy_sync_proxy_rules_service_changes_total 1`,
		`kubeproxy_sync_proxy_rules_endpoint_changes_total 2`,
		`kubeproxy_sync_proxy_rules_endpoint_changes_pending 0`,
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"} 2`,
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"} 0`,
		`kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} 1`,
		`kubeproxy_network_programming_duration_seconds_count{ip_family="IPv6"} 1`,
		`kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv6"} 1`,
		`fairway_nodeproxy_services{ip_family="IPv4"} 1`,
		`fairway_nodeproxy_table_owned{ip_family="IPv4"} 0`,
		`fairway_nodeproxy_foreign_changes_total{ip_family="IPv4"} 0`,
	)
	sent := w.value(t, `fairway_nodeproxy_elements_total{ip_family="IPv4"}`)
	w.update(t, slicesOf(pod("remote"), pod("a"))...)
	expect("with one",
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"} 0`,
		`kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} 2`,
	)
	if more := w.value(t, `fairway_nodeproxy_elements_total{ip_family="IPv4"}`); more <= sent {
		t.Errorf("%v elements sent after %v", more, sent)
	}
	queued, synced := w.value(t, `kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"}`), w.value(t, `kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}`)
	if now := float64(time.Now().Unix()); queued < now-60 || synced < queued {
		t.Errorf("last queued %v, last synced %v, now %v", queued, synced, now)
	}

	c, err := w.hosts["client"].DialContext(t.Context(), "udp", clusterIP.at(0).String())
	must(t, err)
	defer c.Close()
	w.exchange(t, c, patience)
	w.update(t, slicesOf()...)
	until(t, "the flow's deletion is counted", func() bool {
		return w.value(t, `kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv4"}`) >= 1
	})
	if w.list(t) != "" { // there is an nft tool
		w.nft(t, "flush", "ruleset")
		until(t, "the flush is counted and repaired", func() bool {
			return w.value(t, `fairway_nodeproxy_foreign_changes_total{ip_family="IPv4"}`) == 1 &&
				w.value(t, `kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv4"}`) == 2
		})
		until(t, "the flush is told, once for both families", func() bool { return slices.Equal(told.all(), []string{"ForwardingTableChanged Node/node"}) })
	}
}

// value returns a metric's value, -1 if there is none.
func (w *world) value(t *testing.T, metric string) float64 {
	t.Helper()
	for _, line := range w.metrics(t) {
		if text, ok := strings.CutPrefix(line, metric+" "); ok {
			var v float64
			_, err := fmt.Sscan(text, &v)
			must(t, err)
			return v
		}
	}
	return -1
}

// TestInspectAffinity looks up in the kernel whom a client was given.
func TestInspectAffinity(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	w.replace(t, append(newTestSlices("web", pod("a"), pod("b"), pod("remote")), newTestService("web", sticky(600)))...)
	for family := range families {
		got := w.ask(t, "client", "tcp", vip.at(family), patience)
		f := nft.Frontend{Addr: vip.at(family).Addr(), Protocol: nft.TCP, Port: 80}
		for _, only := range []netip.Addr{{}, addr("client", family)} {
			var in nft.Inspection
			must(t, w.hosts["node"].Do(func() (err error) { in, err = nft.Inspect(f, only); return err }))
			if in.Service != "default/web" || in.Affinity != 600 || len(in.Clients) != 1 || in.Clients[0].Source != addr("client", family) {
				t.Fatalf("%+v", in)
			}
			c := in.Clients[0]
			at := slices.IndexFunc(in.Slots, func(s nft.Slot) bool { return s.Number == c.Slot && s.Local == c.Local })
			if at < 0 || in.Slots[at].Endpoint.Addr() != addr(got.pod, family) {
				t.Errorf("the client has slot %d of %v, but %s answered", c.Slot, in.Slots, got.pod)
			}
			if c.Expires <= 0 || c.Expires > 600*time.Second {
				t.Errorf("forgotten in %v", c.Expires)
			}
		}
	}
	var in nft.Inspection
	f := nft.Frontend{Addr: vip.at(0).Addr(), Protocol: nft.TCP, Port: 80}
	must(t, w.hosts["node"].Do(func() (err error) { in, err = nft.Inspect(f, addr("remote", 0)); return err }))
	if len(in.Clients) != 0 {
		t.Errorf("a client that never came is remembered: %+v", in.Clients)
	}
}
