package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// healthCheckNodePort is that of the Service "local".
const healthCheckNodePort = "10.0.0.11:31999"

// apiServer serves what the program reads, notes the events it writes and which
// permissions it used.
type apiServer struct {
	url string

	// extra are more objects than always, by resource. They are set before the
	// first program starts.
	extra map[string][]any

	mu     sync.Mutex
	down   bool
	events []eventsv1.Event
	used   map[string]bool // "verb group/resource"
}

func newAPIServer(t *testing.T, host *sandbox.NetNS) *apiServer {
	t.Helper()
	l, err := host.Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	a := &apiServer{url: "http://" + l.Addr().String(), used: make(map[string]bool)}
	server := &http.Server{Handler: a}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	return a
}

var bothFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}

func (a *apiServer) objects(resource string) (gv, kind string, items []any) {
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "default", Name: name, ResourceVersion: "1", UID: "uid-of-web",
			Labels: map[string]string{discoveryv1.LabelServiceName: "web"}}
	}
	switch resource {
	case "services":
		service := corev1.Service{ObjectMeta: meta("web"), Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10", "fd00:96::10"}, IPFamilies: bothFamilies,
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, NodePort: 30080}},
		}}
		local := corev1.Service{ObjectMeta: meta("local"), Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.11", ClusterIPs: []string{"10.96.0.11", "fd00:96::11"}, IPFamilies: bothFamilies,
			ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, HealthCheckNodePort: 31999,
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, NodePort: 30081}},
		}}
		return "v1", "Service", []any{service, local}
	case "nodes":
		node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", ResourceVersion: "1"}}
		for _, f := range families {
			node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: f.hosts["node"]})
		}
		return "v1", "Node", []any{node}
	case "endpointslices":
		for i, kind := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
			slice := discoveryv1.EndpointSlice{ObjectMeta: meta(fmt.Sprint("web-", i)), AddressType: kind,
				Ports: []discoveryv1.EndpointPort{{Name: new("http"), Protocol: new(corev1.ProtocolTCP), Port: new(int32(8080))}}}
			for _, pod := range []string{"a", "b"} {
				slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{families[i].hosts[pod]}, NodeName: new("node-1")})
			}
			items = append(items, slice)
		}
		return "discovery.k8s.io/v1", "EndpointSlice", items
	}
	return "networking.k8s.io/v1", "ServiceCIDR", nil
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	group := "core"
	parts = parts[1:]
	if !strings.HasPrefix(r.URL.Path, "/api/") {
		group, parts = parts[0], parts[1:]
	}
	parts = parts[1:] // the version
	if len(parts) > 2 && parts[0] == "namespaces" {
		parts = parts[2:]
	}
	verb := map[string]string{http.MethodPost: "create", http.MethodPatch: "patch", http.MethodGet: "list"}[r.Method]
	if verb == "list" && len(parts) > 1 {
		verb = "get"
	}
	if r.URL.Query().Get("watch") != "" {
		verb = "watch"
	}
	a.mu.Lock()
	down := a.down
	if !down {
		a.used[verb+" "+group+"/"+parts[0]] = true
	}
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if down || r.URL.Query().Get("sendInitialEvents") != "" {
		w.WriteHeader(map[bool]int{true: http.StatusServiceUnavailable, false: http.StatusUnprocessableEntity}[down])
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure})
		return
	}
	gv, kind, items := a.objects(parts[0])
	items = append(items, a.extra[parts[0]]...)
	switch verb {
	case "watch":
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case "list":
		_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": gv, "kind": kind + "List", "metadata": map[string]string{"resourceVersion": "1"}, "items": items})
	case "get":
		service := items[0].(corev1.Service)
		service.TypeMeta = metav1.TypeMeta{APIVersion: gv, Kind: kind}
		_ = json.NewEncoder(w).Encode(service)
	case "create":
		a.event(w, r)
	}
}

func (a *apiServer) event(w http.ResponseWriter, r *http.Request) {
	scheme := k8sruntime.NewScheme()
	_ = eventsv1.AddToScheme(scheme)
	body, err := io.ReadAll(r.Body)
	if err == nil {
		var object k8sruntime.Object
		if object, _, err = serializer.NewCodecFactory(scheme).UniversalDeserializer().Decode(body, nil, nil); err == nil {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.events = append(a.events, *object.(*eventsv1.Event))
			_ = json.NewEncoder(w).Encode(object)
			return
		}
	}
	http.Error(w, err.Error(), http.StatusBadRequest)
}

// told tells whether an event of that reason arrived whose note has the text.
func (a *apiServer) told(reason, text string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.events, func(e eventsv1.Event) bool { return e.Reason == reason && strings.Contains(e.Note, text) })
}

func (a *apiServer) setDown(down bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.down = down
}
