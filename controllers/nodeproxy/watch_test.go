package nodeproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/health"
)

// apiServer serves lists and watches of four resources, over HTTP in JSON, as
// far as a reflector needs them.
type apiServer struct {
	mu      sync.Mutex
	lists   map[string][]any           // by path
	queries map[string]string          // selectors asked for, by path
	events  map[string]chan watchEvent // what watchers still get, by path
}

type watchEvent struct {
	Type   string `json:"type"`
	Object any    `json:"object"`
}

const (
	pathServices = "/api/v1/services"
	pathSlices   = "/apis/discovery.k8s.io/v1/endpointslices"
	pathNodes    = "/api/v1/nodes"
	pathCIDRs    = "/apis/networking.k8s.io/v1/servicecidrs"
)

var kinds = map[string][2]string{
	pathServices: {"v1", "Service"},
	pathSlices:   {"discovery.k8s.io/v1", "EndpointSlice"},
	pathNodes:    {"v1", "Node"},
	pathCIDRs:    {"networking.k8s.io/v1", "ServiceCIDR"},
}

func newAPIServer(t *testing.T) (*apiServer, *httptest.Server) {
	s := &apiServer{lists: make(map[string][]any), queries: make(map[string]string), events: make(map[string]chan watchEvent)}
	for path := range kinds {
		s.events[path] = make(chan watchEvent, 10)
	}
	server := httptest.NewServer(s)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return s, server
}

// typed fills in kind and version, without which nothing can be decoded.
func typed(path string, object any) any {
	meta := metav1.TypeMeta{APIVersion: kinds[path][0], Kind: kinds[path][1]}
	switch o := object.(type) {
	case *corev1.Service:
		o.TypeMeta, o.ResourceVersion = meta, "2"
	case *corev1.Node:
		o.TypeMeta, o.ResourceVersion = meta, "2"
	case *discoveryv1.EndpointSlice:
		o.TypeMeta, o.ResourceVersion = meta, "2"
	case *networkingv1.ServiceCIDR:
		o.TypeMeta, o.ResourceVersion = meta, "2"
	}
	return object
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind, ok := kinds[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	q := r.URL.Query()
	if q.Get("sendInitialEvents") != "" {
		// An older server: the reflector then lists.
		w.WriteHeader(http.StatusUnprocessableEntity)
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
			Status: metav1.StatusFailure, Reason: metav1.StatusReasonInvalid, Code: http.StatusUnprocessableEntity})
		return
	}
	if q.Get("watch") == "" {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.queries[r.URL.Path] = q.Get("labelSelector") + " " + q.Get("fieldSelector")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"apiVersion": kind[0], "kind": kind[1] + "List",
			"metadata": map[string]string{"resourceVersion": "1"}, "items": s.lists[r.URL.Path],
		})
		return
	}
	encoder := json.NewEncoder(w)
	for {
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			return
		case e := <-s.events[r.URL.Path]:
			_ = encoder.Encode(e)
		}
	}
}

// TestRun runs a whole proxy against an API server, then without it.
func TestRun(t *testing.T) {
	w := newWorld(t)
	api, server := newAPIServer(t)
	api.lists[pathServices] = []any{typed(pathServices, newTestService("web"))}
	api.lists[pathNodes] = []any{typed(pathNodes, newTestNode(addr2("node")...))}
	for _, s := range newTestSlices("web", pod("a")) {
		api.lists[pathSlices] = append(api.lists[pathSlices], typed(pathSlices, s))
	}

	h := health.New(time.Minute, "IPv4")
	must(t, w.hosts["node"].Do(func() (err error) {
		w.proxy, err = New(Config{NodeName: "node", API: &rest.Config{Host: server.URL}}, h)
		return err
	}))
	defer w.proxy.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- w.proxy.Run(ctx) }()

	answeredBy := func(pod string) {
		t.Helper()
		until(t, fmt.Sprintf("Pod %s answers", pod), func() bool {
			return w.ask(t, "client", "tcp", atNode.at(0), patience).pod == pod
		})
	}
	answeredBy("a")
	// IPv4 answers a moment before IPv6 is programmed too.
	until(t, "the proxy to call itself healthy", func() bool { return get(h, "/healthz").Code == http.StatusOK })
	for _, s := range newTestSlices("web", pod("b")) {
		api.events[pathSlices] <- watchEvent{"MODIFIED", typed(pathSlices, s)}
	}
	answeredBy("b")
	cidr := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}}
	api.events[pathCIDRs] <- watchEvent{"ADDED", typed(pathCIDRs, cidr)}
	until(t, "unallocated addresses are dropped", func() bool {
		return w.ask(t, "a", "tcp", target{"unallocated", 80}.at(0), patience/10) == timeout
	})
	// A Service that another proxy is to serve leaves what was selected.
	labelled := newTestService("web", func(s *corev1.Service) { s.Labels = map[string]string{LabelServiceProxyName: "other"} })
	api.events[pathServices] <- watchEvent{"DELETED", typed(pathServices, labelled)}
	until(t, "it is not served here any more", func() bool {
		return w.ask(t, "client", "tcp", atNode.at(0), patience/10) == refused
	})
	api.events[pathServices] <- watchEvent{"ADDED", typed(pathServices, newTestService("web"))}
	answeredBy("b")
	draining := newTestNode(addr2("node")...)
	draining.Spec.Taints = []corev1.Taint{{Key: "ToBeDeletedByClusterAutoscaler"}}
	api.events[pathNodes] <- watchEvent{"MODIFIED", typed(pathNodes, draining)}
	until(t, "the draining node fails its health check", func() bool {
		return get(h, "/healthz").Code == http.StatusServiceUnavailable && get(h, "/livez").Code == http.StatusOK
	})

	api.mu.Lock()
	for path, want := range map[string]string{
		pathServices: "!service.kubernetes.io/service-proxy-name spec.clusterIP!=None",
		pathSlices:   "!service.kubernetes.io/headless ",
		pathNodes:    " metadata.name=node",
		pathCIDRs:    " ",
	} {
		if got := api.queries[path]; got != want {
			t.Errorf("%s was selected by %q, want %q", path, got, want)
		}
	}
	api.mu.Unlock()

	server.CloseClientConnections()
	server.Listener.Close()
	answeredBy("b")
	cancel()
	must(t, <-done)
	answeredBy("b")
}

func get(h *health.Health, path string) *httptest.ResponseRecorder {
	r := httptest.NewRecorder()
	h.Handler().ServeHTTP(r, httptest.NewRequest(http.MethodGet, path, nil))
	return r
}
