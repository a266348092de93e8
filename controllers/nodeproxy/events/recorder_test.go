package events

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// api keeps the events it is sent, by path, as an API server would.
type api struct {
	mu      sync.Mutex
	events  map[string]*eventsv1.Event
	writes  int
	failing int // status code for every request, 0 for none
}

func (a *api) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "application/json")
	a.serve(w, r)
	return w.Result(), nil
}

func (a *api) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.writes++
	status := func(code int) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
			Status: metav1.StatusFailure, Code: int32(code), Reason: map[int]metav1.StatusReason{404: metav1.StatusReasonNotFound, 403: metav1.StatusReasonForbidden}[code]})
	}
	if a.failing != 0 {
		status(a.failing)
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/apis/events.k8s.io/v1/namespaces/")
	var e eventsv1.Event
	if r.Method == http.MethodPatch {
		known, ok := a.events[path]
		if !ok {
			status(http.StatusNotFound)
			return
		}
		e = *known
	} else {
		path += "/"
	}
	if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
		status(http.StatusBadRequest)
		return
	}
	if r.Method == http.MethodPost {
		path += e.Name
	}
	a.events[path] = &e
	_ = json.NewEncoder(w).Encode(e)
}

// start runs a recorder on an API, in virtual time.
func start(t *testing.T, a *api) (*Recorder, func()) {
	t.Helper()
	a.events = make(map[string]*eventsv1.Event)
	scheme := runtime.NewScheme()
	if err := eventsv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	client, err := rest.RESTClientFor(&rest.Config{Host: "http://api", APIPath: "/apis", Transport: a, ContentConfig: rest.ContentConfig{
		GroupVersion: &eventsv1.SchemeGroupVersion, NegotiatedSerializer: serializer.NewCodecFactory(scheme).WithoutConversion(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	lookup := func(_ context.Context, namespace, name string) types.UID {
		return types.UID("uid-of-" + namespace + "-" + name)
	}
	r := New(client, "node-1", lookup, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "events"}, []string{"result"}))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	return r, func() { cancel(); <-done }
}

func refused(name string) Event {
	return Event{Regarding: Service("ns", name), Reason: "ProgrammingFailed", Action: "Program", Note: "the kernel refused it"}
}

// TestOneEvent compares an event with what an API server asks for.
func TestOneEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &api{}
		r, stop := start(t, a)
		defer stop()
		e := refused("web")
		e.Note = strings.Repeat("ä", 1000)
		r.Record(e)
		r.Record(Event{Regarding: Node("node-1"), Reason: "TakenOver", Action: "Start", Normal: true})
		synctest.Wait()
		var lines []string
		for path, e := range a.events {
			lines = append(lines, fmt.Sprintf("%s %s %s %s %s %s %s %s %d %v", path, e.Type, e.Reason, e.Action, e.ReportingController, e.ReportingInstance,
				e.Regarding.Kind, e.Regarding.UID, len(e.Note), e.Series))
			if !strings.HasSuffix(path, "/"+e.Name) || e.EventTime.IsZero() {
				t.Errorf("%s: name %s, time %v", path, e.Name, e.EventTime)
			}
		}
		all := strings.Join(lines, "\n")
		for _, want := range []string{
			"ns/events/web.", " Warning ProgrammingFailed Program fairway.io/node-proxy node-1 Service uid-of-ns-web 1023 nil",
			"default/events/node-1.", " Normal TakenOver Start fairway.io/node-proxy node-1 Node node-1 0 nil",
		} {
			if !strings.Contains(all, want) {
				t.Errorf("%q is not in\n%s", want, all)
			}
		}
	})
}

// TestRepeats has the same happen every second for three hours.
func TestRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &api{}
		r, stop := start(t, a)
		defer stop()
		for range 3 * 3600 {
			r.Record(refused("web"))
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if len(a.events) > 4 || a.writes > 3*60/5+4 {
			t.Errorf("%d events, %d writes", len(a.events), a.writes)
		}
		var counted int32
		for _, e := range a.events {
			if e.Series != nil {
				counted += e.Series.Count
			}
		}
		if counted < 9000 {
			t.Errorf("the events count %d of 10800", counted)
		}
	})
}

// TestNoStorm has ten thousand Services fail at once, again and again.
func TestNoStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &api{}
		r, stop := start(t, a)
		defer stop()
		for range 10 {
			for i := range 10000 {
				r.Record(refused(fmt.Sprintf("s%d", i)))
			}
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		if a.writes > burst+10 {
			t.Errorf("%d writes for 100,000 events", a.writes)
		}
		summary := ""
		for path, e := range a.events {
			if e.Regarding.Kind == "Node" {
				summary = path + " " + e.Note
			}
		}
		if !strings.Contains(summary, "more like it") || !strings.Contains(summary, "the kernel refused it") {
			t.Errorf("the Node's event says %q", summary)
		}
	})
}

// TestAPIAway keeps an event while the API server is away, and gives up one that
// it does not take.
func TestAPIAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &api{failing: http.StatusServiceUnavailable}
		r, stop := start(t, a)
		defer stop()
		r.Record(refused("web"))
		time.Sleep(time.Minute)
		a.mu.Lock()
		a.failing = 0
		a.mu.Unlock()
		time.Sleep(retryAfter)
		synctest.Wait()
		if len(a.events) != 1 {
			t.Errorf("%d events, want the one that waited", len(a.events))
		}
		a.mu.Lock()
		a.failing, a.writes = http.StatusForbidden, 0
		a.mu.Unlock()
		r.Record(refused("other"))
		time.Sleep(time.Hour)
		synctest.Wait()
		if a.writes != 1 {
			t.Errorf("a refused event was sent %d times", a.writes)
		}
		var none *Recorder
		none.Record(refused("web"))
	})
}
