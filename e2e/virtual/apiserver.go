package virtual

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/fairway-lb/fairway/providers/fake"
)

// APIServer serves Services, Nodes, Events and Namespaces, as far as controllers
// use them: get, list, watch (with initial events, too), strategic merge patches
// and the creation of events, over real connections in memory. It counts what is
// written through them; what Put and Delete do, as users and kubelets do, is not
// counted. Make one with NewAPIServer and Close it.
type APIServer struct {
	*store
	server *http.Server
	pipe   *fake.Pipe

	counting sync.Mutex
	writes   map[string]int
}

// NewAPIServer returns a running server that holds the namespace kube-system.
func NewAPIServer() *APIServer {
	s := &APIServer{store: newStore(), pipe: fake.NewPipe(), writes: map[string]int{}}
	s.put(&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceSystem, UID: "11111111-2222-3333-4444-555555555555"}})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/{resource}", s.listOrWatch)
	mux.HandleFunc("GET /api/v1/{resource}/{name}", s.read)
	mux.HandleFunc("GET /api/v1/namespaces/{namespace}/{resource}/{name}", s.read)
	mux.HandleFunc("POST /api/v1/namespaces/{namespace}/{resource}", s.create)
	mux.HandleFunc("PATCH /api/v1/namespaces/{namespace}/{resource}/{name}", s.change)
	mux.HandleFunc("PATCH /api/v1/namespaces/{namespace}/{resource}/{name}/{subresource}", s.change)
	s.server = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.server.Serve(s.pipe) }() // returns when closed
	return s
}

// Close ends the server and its connections.
func (s *APIServer) Close() { _ = s.server.Close() }

// Config is how clients reach the server, at the given rate: that of the cloud
// controller manager's flags --kube-api-qps and --kube-api-burst.
func (s *APIServer) Config(qps float32, burst int) *rest.Config {
	return &rest.Config{
		Host: "http://api.test", QPS: qps, Burst: burst,
		Transport: &http.Transport{DialContext: s.pipe.Dial, MaxIdleConnsPerHost: 100},
	}
}

// Put creates a Service, Node or Namespace, or replaces the one of the same name.
func (s *APIServer) Put(o interface {
	metav1.Object
	runtime.Object
}) {
	s.put(o)
}

// Delete deletes the Service of the given "namespace/name", or the Node of the
// given name; an object with finalizers is marked only.
func (s *APIServer) Delete(resource, key string) { s.remove(resource, key) }

// OnChange has f told each object when it is created, changed or deleted, before
// anybody else learns of it. f must not block, nor change the object. It is set
// once, before there are clients.
func (s *APIServer) OnChange(f func(metav1.Object)) { s.notify = f }

// Service returns a copy of the Service of the given "namespace/name", nil when
// there is none.
func (s *APIServer) Service(key string) *v1.Service {
	if o := s.get("services", key); o != nil {
		return o.DeepCopyObject().(*v1.Service)
	}
	return nil
}

// Services returns all Services, which must not be changed.
func (s *APIServer) Services() []*v1.Service {
	objects, _ := s.list("services")
	services := make([]*v1.Service, 0, len(objects))
	for _, o := range objects {
		services = append(services, o.(*v1.Service))
	}
	return services
}

// Writes returns how often each "verb resource" was asked for since it was called
// last.
func (s *APIServer) Writes() map[string]int {
	s.counting.Lock()
	defer s.counting.Unlock()
	counted := s.writes
	s.writes = map[string]int{}
	return counted
}

func (s *APIServer) count(what string) {
	s.counting.Lock()
	defer s.counting.Unlock()
	s.writes[what]++
}

func uidOf(resource string, version int64) types.UID {
	return types.UID(fmt.Sprintf("%08x-0000-4000-8000-%012x", len(resource), version))
}

func answer(w http.ResponseWriter, status int, o any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(encode(o))
}

func refuse(w http.ResponseWriter, err error) {
	status := apierrors.NewInternalError(err).Status()
	if known, ok := err.(apierrors.APIStatus); ok {
		status = known.Status()
	}
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	answer(w, int(status.Code), status)
}

// keyIn returns the resource and key a request names.
func keyIn(r *http.Request) (resource, key string) {
	resource, key = r.PathValue("resource"), r.PathValue("name")
	if namespace := r.PathValue("namespace"); namespace != "" {
		key = namespace + "/" + key
	}
	return resource, key
}

func (s *APIServer) read(w http.ResponseWriter, r *http.Request) {
	resource, key := keyIn(r)
	if o := s.get(resource, key); o != nil {
		answer(w, http.StatusOK, o)
		return
	}
	refuse(w, apierrors.NewNotFound(v1.Resource(resource), key))
}

func (s *APIServer) create(w http.ResponseWriter, r *http.Request) {
	resource := r.PathValue("resource")
	if resource != "events" {
		refuse(w, apierrors.NewForbidden(v1.Resource(resource), "", fmt.Errorf("controllers create nothing but events")))
		return
	}
	event := &v1.Event{}
	if err := json.NewDecoder(r.Body).Decode(event); err != nil {
		refuse(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	s.count("create events")
	s.put(event)
	answer(w, http.StatusCreated, s.get(resource, keyOf(event)))
}

func (s *APIServer) change(w http.ResponseWriter, r *http.Request) {
	resource, key := keyIn(r)
	subresource := r.PathValue("subresource")
	if resource == "services" && subresource != "status" {
		refuse(w, apierrors.NewForbidden(v1.Resource(resource), key, fmt.Errorf("the role allows services/status only")))
		return
	}
	if got := r.Header.Get("Content-Type"); got != string(types.StrategicMergePatchType) {
		refuse(w, apierrors.NewBadRequest("patches of type "+got+" are not served"))
		return
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return // nobody is there for the answer
	}
	what := "patch " + resource
	if subresource != "" {
		what += "/" + subresource
	}
	s.count(what)
	o, err := s.patch(resource, key, subresource, data)
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, http.StatusOK, o)
}

func (s *APIServer) listOrWatch(w http.ResponseWriter, r *http.Request) {
	resource := r.PathValue("resource")
	if _, served := kinds[resource]; !served {
		http.NotFound(w, r)
		return
	}
	query := r.URL.Query()
	if query.Get("watch") == "" {
		objects, version := s.list(resource)
		answer(w, http.StatusOK, listOf(resource, objects, version))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	stream := json.NewEncoder(w)
	from, err := strconv.ParseInt(query.Get("resourceVersion"), 10, 64)
	if query.Get("sendInitialEvents") == "true" {
		from, err = s.sendInitial(stream, resource)
	}
	if err != nil {
		return
	}
	s.sendChanges(r, w, stream, resource, from)
}

// sendInitial streams what there is, and a bookmark that says so, and returns the
// version that is.
//
// https://kubernetes.io/docs/reference/using-api/api-concepts/#streaming-lists
func (s *APIServer) sendInitial(stream *json.Encoder, resource string) (int64, error) {
	objects, version := s.list(resource)
	for _, o := range objects {
		if err := stream.Encode(frame(watch.Added, encode(o))); err != nil {
			return 0, err
		}
	}
	mark := kinds[resource].DeepCopyObject().(object)
	mark.SetResourceVersion(strconv.FormatInt(version, 10))
	mark.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	return version, stream.Encode(frame(watch.Bookmark, encode(mark)))
}

// sendChanges streams what changes after a version until the client goes.
func (s *APIServer) sendChanges(r *http.Request, w http.ResponseWriter, stream *json.Encoder, resource string, from int64) {
	flush := http.NewResponseController(w).Flush
	for {
		changes, more := s.since(from)
		for _, c := range changes {
			from = c.version
			if c.resource != resource {
				continue
			}
			if err := stream.Encode(frame(c.kind, c.object)); err != nil {
				return
			}
		}
		if err := flush(); err != nil {
			return
		}
		select {
		case <-more:
		case <-r.Context().Done():
			return
		}
	}
}

func frame(kind watch.EventType, o json.RawMessage) metav1.WatchEvent {
	return metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: o}}
}
