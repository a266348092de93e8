package virtual

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/watch"
)

// object is what the store keeps.
type object interface {
	metav1.Object
	runtime.Object
}

// kinds are the resources served, each as an empty object of its kind.
var kinds = map[string]object{
	"namespaces": &v1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}},
	"services":   &v1.Service{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}},
	"nodes":      &v1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}},
	"events":     &v1.Event{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Event"}},
}

// store is what etcd and the storage layer of an API server do: objects with one
// growing version, and a log of their changes.
type store struct {
	mu      sync.Mutex
	version int64
	objects map[string]map[string]object // by resource, and "namespace/name"
	log     []change
	changed chan struct{} // closed at the next change
	notify  func(metav1.Object)
}

// change is one entry of the log.
type change struct {
	version  int64
	resource string
	kind     watch.EventType
	object   json.RawMessage
}

func newStore() *store {
	s := &store{objects: map[string]map[string]object{}, changed: make(chan struct{})}
	for resource := range kinds {
		s.objects[resource] = map[string]object{}
	}
	return s
}

func keyOf(o metav1.Object) string { return strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/") }

// resourceOf returns the resource that o is one of.
func resourceOf(o object) string {
	for resource, kind := range kinds {
		if fmt.Sprintf("%T", kind) == fmt.Sprintf("%T", o) {
			return resource
		}
	}
	panic(fmt.Sprintf("objects of type %T are not served", o))
}

// record notes that o is now as given, with mu held. Its identity is set.
func (s *store) record(kind watch.EventType, resource string, o object) {
	s.version++
	o.SetResourceVersion(strconv.FormatInt(s.version, 10))
	o.GetObjectKind().SetGroupVersionKind(kinds[resource].GetObjectKind().GroupVersionKind())
	if kind == watch.Deleted {
		delete(s.objects[resource], keyOf(o))
	} else {
		s.objects[resource][keyOf(o)] = o
	}
	if s.notify != nil {
		s.notify(o)
	}
	// Nobody watches events, of which there are the most.
	if resource != "events" {
		s.log = append(s.log, change{s.version, resource, kind, encode(o)})
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

func encode(o any) json.RawMessage {
	text, err := json.Marshal(o)
	if err != nil {
		panic(err) // API types can be written
	}
	return text
}

// put creates o, or replaces what has its name. A new object gets a UID unless it
// has one.
func (s *store) put(o object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, kind, resource := o.DeepCopyObject().(object), watch.Added, resourceOf(o)
	if old, exists := s.objects[resource][keyOf(o)]; exists {
		kind = watch.Modified
		o.SetUID(old.GetUID())
		o.SetGeneration(old.GetGeneration() + 1)
	} else {
		o.SetCreationTimestamp(metav1.Now())
		o.SetGeneration(1)
		if o.GetUID() == "" {
			o.SetUID(uidOf(resource, s.version+1))
		}
	}
	s.record(kind, resource, o)
}

// remove deletes an object; one with finalizers is marked and stays.
func (s *store) remove(resource, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, exists := s.objects[resource][key]
	if !exists {
		return
	}
	o := old.DeepCopyObject().(object)
	if len(o.GetFinalizers()) == 0 {
		s.record(watch.Deleted, resource, o)
		return
	}
	if o.GetDeletionTimestamp() == nil {
		now := metav1.NewTime(time.Now())
		o.SetDeletionTimestamp(&now)
		s.record(watch.Modified, resource, o)
	}
}

// get returns an object that must not be changed, nil without one.
func (s *store) get(resource, key string) object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects[resource][key]
}

// list returns the objects of a resource, which must not be changed, and the
// version they are of, in no order.
func (s *store) list(resource string) ([]object, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.objects[resource])), s.version
}

// since returns the changes after a version and a channel that is closed when
// there are more.
func (s *store) since(version int64) ([]change, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first, _ := slices.BinarySearchFunc(s.log, version+1, func(c change, v int64) int { return int(c.version - v) })
	return s.log[first:], s.changed
}

// patch applies a strategic merge patch. One of the status subresource changes
// metadata and status only. A patch that says another UID is a conflict.
func (s *store) patch(resource, key, subresource string, data []byte) (object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	group := v1.Resource(resource)
	before, exists := s.objects[resource][key]
	if !exists {
		return nil, apierrors.NewNotFound(group, key)
	}
	merged, err := strategicpatch.StrategicMergePatch(encode(before), data, kinds[resource])
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	after := kinds[resource].DeepCopyObject().(object)
	if err := json.Unmarshal(merged, after); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if after.GetUID() != before.GetUID() {
		return nil, apierrors.NewConflict(group, key, fmt.Errorf("its UID is %s", before.GetUID()))
	}
	if service, ok := after.(*v1.Service); ok && subresource == "status" {
		service.Spec = before.(*v1.Service).Spec
	}
	kind := watch.Modified
	if after.GetDeletionTimestamp() != nil && len(after.GetFinalizers()) == 0 {
		kind = watch.Deleted
	}
	s.record(kind, resource, after)
	return after, nil
}

// listOf is objects as a List of their kind.
func listOf(resource string, objects []object, version int64) any {
	gvk := kinds[resource].GetObjectKind().GroupVersionKind()
	return struct {
		metav1.TypeMeta
		Metadata metav1.ListMeta `json:"metadata"`
		Items    []object        `json:"items"`
	}{
		metav1.TypeMeta{APIVersion: "v1", Kind: gvk.Kind + "List"},
		metav1.ListMeta{ResourceVersion: strconv.FormatInt(version, 10)}, objects,
	}
}
