package nodeproxy

import (
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
)

// store takes what a reflector lists and watches and keeps a record of each
// object, straight from the wire: there is no second copy. R is the record.
type store[O runtime.Object, R any] struct {
	mu      *sync.Mutex // shared by the stores of one tracker
	records map[string]R
	synced  bool
	// convert returns the record of an object, or none if it does not concern us.
	convert func(O) (R, bool)
	// changed is called, under the mutex, with the record that was and the one
	// that is; either may be nil.
	changed func(key string, before, after *R)
	// wake is called after changes, once for all of them and without the mutex:
	// who is woken needs it.
	wake func()
}

var _ cache.ReflectorStore = (*store[runtime.Object, struct{}])(nil)

// Add implements cache.ReflectorStore.
func (s *store[O, R]) Add(obj any) error { return s.Update(obj) }

// Update implements cache.ReflectorStore.
func (s *store[O, R]) Update(obj any) error {
	defer s.wake()
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.upsert(obj)
	return err
}

// Delete implements cache.ReflectorStore.
func (s *store[O, R]) Delete(obj any) error {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
	if err != nil {
		return err
	}
	defer s.wake()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(key)
	return nil
}

// Replace implements cache.ReflectorStore.
func (s *store[O, R]) Replace(list []any, _ string) error {
	defer s.wake()
	s.mu.Lock()
	defer s.mu.Unlock()
	listed := make(map[string]bool, len(list))
	for _, obj := range list {
		key, err := s.upsert(obj)
		if err != nil {
			return err
		}
		listed[key] = true
	}
	for key := range s.records {
		if !listed[key] {
			s.remove(key)
		}
	}
	if !s.synced {
		s.synced = true
		s.changed("", nil, nil)
	}
	return nil
}

// Resync implements cache.ReflectorStore; records need none.
func (s *store[O, R]) Resync() error { return nil }

func (s *store[O, R]) upsert(obj any) (string, error) {
	o, ok := obj.(O)
	if !ok {
		return "", fmt.Errorf("got a %T where a %T was expected", obj, o)
	}
	key, err := cache.MetaNamespaceKeyFunc(o)
	if err != nil {
		return "", err
	}
	record, ok := s.convert(o)
	if !ok {
		s.remove(key)
		return key, nil
	}
	var before *R
	if old, had := s.records[key]; had {
		before = &old
	}
	s.records[key] = record
	s.changed(key, before, &record)
	return key, nil
}

func (s *store[O, R]) remove(key string) {
	if old, had := s.records[key]; had {
		delete(s.records, key)
		s.changed(key, &old, nil)
	}
}
