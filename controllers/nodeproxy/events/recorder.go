// Package events tells people, by Kubernetes events, what the node proxy cannot
// put right alone. It writes few of them whatever happens: what repeats becomes
// a count on the event there is, and when many objects are concerned at once,
// one event on the Node stands for those beyond the first.
package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

// Bounds of what is written: burst events at once, then one every period.
const (
	burst  = 20
	period = time.Minute
	// maxWaiting objects of one reason wait for their turn; more are merged.
	maxWaiting = 10
	// seriesEvery is how often the count of a repeated event is written.
	seriesEvery = 5 * time.Minute
	// forgetAfter is when an event is written anew rather than counted: the API
	// server forgets events after an hour.
	forgetAfter = time.Hour
	retryAfter  = 10 * time.Second
	maxNote     = 1024 // what the API server takes
)

// controller is who reports.
const controller = "fairway.io/node-proxy"

// Event is what happened to an object.
type Event struct {
	// Regarding is the object: one from [Service] or [Node].
	Regarding corev1.ObjectReference
	// Reason is a word in CamelCase that says why; Action one that says what
	// the node proxy was doing.
	Reason, Action string
	// Note is for people: what happened and what to do.
	Note string
	// Normal is for what needs no attention; anything else is a warning.
	Normal bool
}

// Service refers to a Service.
func Service(namespace, name string) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: namespace, Name: name}
}

// Node refers to a Node. By tradition such events bear the node's name as its
// UID, and kubectl describe looks for that.
func Node(name string) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: name, UID: types.UID(name)}
}

// Recorder writes events. A nil one does nothing. It is safe for concurrent use.
type Recorder struct {
	client rest.Interface
	node   string
	lookup func(ctx context.Context, namespace, name string) types.UID
	count  *prometheus.CounterVec

	limit *rate.Limiter
	wake  chan struct{}

	mu      sync.Mutex
	waiting []*occurrence // in the order they came
	known   map[key]*occurrence
}

type key struct{ kind, namespace, name, reason string }

// occurrence is an event and how often it happened.
type occurrence struct {
	Event
	first, last time.Time
	times       int32
	name        string    // of the API object, once it was written
	written     time.Time // last time
	waits       bool
	merged      int // other objects that this one stands for
}

// New returns a recorder of the named node. The client is one for the group
// events.k8s.io/v1. lookup returns a Service's UID, "" where it cannot; nil
// means never. count has the label result.
func New(client rest.Interface, node string, lookup func(ctx context.Context, namespace, name string) types.UID, count *prometheus.CounterVec) *Recorder {
	return &Recorder{
		client: client, node: node, lookup: lookup, count: count,
		limit: rate.NewLimiter(rate.Every(period), burst), wake: make(chan struct{}, 1),
		known: make(map[key]*occurrence),
	}
}

// Record notes an event, to be written soon. It does not wait.
func (r *Recorder) Record(e Event) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.forget(now)
	o := r.occurrence(e, now)
	o.times++
	o.last = now
	if o.waits || o.name != "" && now.Sub(o.written) < seriesEvery {
		r.count.WithLabelValues("merged").Inc()
		return
	}
	o.waits = true
	r.waiting = append(r.waiting, o)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// occurrence returns the one that an event adds to: where too many objects wait
// with the same reason already, the Node's.
func (r *Recorder) occurrence(e Event, now time.Time) *occurrence {
	if o, ok := r.known[keyOf(e)]; ok {
		return o
	}
	others := 0
	for _, o := range r.waiting {
		if o.Reason == e.Reason {
			others++
		}
	}
	if others >= maxWaiting {
		e.Note = fmt.Sprintf("%s/%s and others: %s", e.Regarding.Namespace, e.Regarding.Name, e.Note)
		e.Regarding = Node(r.node)
		if o, ok := r.known[keyOf(e)]; ok {
			o.merged++
			return o
		}
	}
	o := &occurrence{Event: e, first: now}
	r.known[keyOf(e)] = o
	return o
}

func keyOf(e Event) key {
	return key{e.Regarding.Kind, e.Regarding.Namespace, e.Regarding.Name, e.Reason}
}

// forget drops what happened long ago.
func (r *Recorder) forget(now time.Time) {
	for k, o := range r.known {
		if !o.waits && now.Sub(o.last) > forgetAfter {
			delete(r.known, k)
		}
	}
}

// Run writes what was recorded until the context ends.
func (r *Recorder) Run(ctx context.Context) {
	for {
		o := r.next()
		if o == nil {
			select {
			case <-ctx.Done():
				return
			case <-r.wake:
			}
			continue
		}
		if r.limit.Wait(ctx) != nil {
			return
		}
		err := r.write(ctx, o)
		if err == nil {
			r.done(o, "sent")
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if status, ok := errors.AsType[*apierrors.StatusError](err); ok && refuses(status.Status().Code) {
			klog.FromContext(ctx).Error(err, "The API server does not take an event", "reason", o.Reason, "note", o.Note)
			r.done(o, "failed")
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryAfter):
		}
	}
}

// refuses tells whether trying again would not help.
func refuses(code int32) bool {
	return code >= 400 && code < 500 && code != http.StatusTooManyRequests
}

func (r *Recorder) next() *occurrence {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) == 0 {
		return nil
	}
	return r.waiting[0]
}

// done takes the occurrence, the first that waits, out of the queue.
func (r *Recorder) done(o *occurrence, result string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = r.waiting[1:]
	o.waits, o.written = false, time.Now()
	r.count.WithLabelValues(result).Inc()
}

// write creates the event or, if it was written before, updates its count.
func (r *Recorder) write(ctx context.Context, o *occurrence) error {
	r.mu.Lock()
	event, repeated := r.event(o), o.name != "" && time.Since(o.first) < forgetAfter
	r.mu.Unlock()
	if repeated {
		patch, err := json.Marshal(map[string]any{"series": event.Series})
		if err != nil {
			return err
		}
		err = r.client.Patch(types.MergePatchType).Namespace(event.Namespace).Resource("events").Name(o.name).Body(patch).Do(ctx).Error()
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	r.mu.Lock()
	if o.name != "" {
		o.first, o.times = o.last, 1
		event = r.event(o)
	}
	r.mu.Unlock()
	event.Series = nil
	if ref := &event.Regarding; r.lookup != nil && ref.Kind == "Service" {
		ref.UID = r.lookup(ctx, ref.Namespace, ref.Name)
	}
	if err := r.client.Post().Namespace(event.Namespace).Resource("events").Body(event).Do(ctx).Error(); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	o.name = event.Name
	return nil
}

// event returns the API object.
func (r *Recorder) event(o *occurrence) *eventsv1.Event {
	e := &eventsv1.Event{
		TypeMeta:            metav1.TypeMeta{APIVersion: "events.k8s.io/v1", Kind: "Event"},
		EventTime:           metav1.NewMicroTime(o.first),
		ReportingController: controller,
		ReportingInstance:   r.node,
		Action:              o.Action,
		Reason:              o.Reason,
		Regarding:           o.Regarding,
		Note:                o.Note,
		Type:                corev1.EventTypeWarning,
		Series:              &eventsv1.EventSeries{Count: o.times, LastObservedTime: metav1.NewMicroTime(o.last)},
	}
	if o.Normal {
		e.Type = corev1.EventTypeNormal
	}
	if o.merged > 0 {
		e.Note = fmt.Sprintf("%d more like it; %s", o.merged, e.Note)
	}
	if len(e.Note) > maxNote {
		e.Note = strings.ToValidUTF8(e.Note[:maxNote-3], "") + "..."
	}
	e.Namespace = o.Regarding.Namespace
	if e.Namespace == "" {
		e.Namespace = metav1.NamespaceDefault
	}
	e.Name = fmt.Sprintf("%s.%x", o.Regarding.Name, o.first.UnixNano())
	return e
}
