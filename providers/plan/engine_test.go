package plan

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/fairway-lb/fairway/providers/lb"
)

// memory is a cloud in a map. It refuses what a cloud would refuse: creating
// before what is required exists, and deleting what something still needs.
type memory struct {
	mu     sync.Mutex
	things map[lb.Ref]lb.Resource
	// fail, when set, is asked before each change takes effect, and lose after.
	fail, lose func(lb.Change) error
	calls      []string
	want       func(lb.Service) ([]lb.Resource, error)
}

func newMemory() *memory {
	return &memory{things: map[lb.Ref]lb.Resource{}, want: func(lb.Service) ([]lb.Resource, error) { return stack(), nil }}
}

func (m *memory) Name() string { return "memory" }

func (m *memory) Desired(_ context.Context, s lb.Service) (lb.Desired, error) {
	r, err := m.want(s)
	return lb.Desired{Resources: r, Notices: []lb.Notice{{Reason: "Remark"}}}, err
}

func (m *memory) Observe(_ context.Context, o lb.Owner) ([]lb.Resource, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var seen []lb.Resource
	for _, r := range m.things {
		r.InUse = r.OwnedBy(lb.ByCluster()) && m.needed(r.Ref)
		if r.OwnedBy(o) || r.OwnedBy(lb.ByCluster()) {
			seen = append(seen, r)
		}
	}
	return seen, nil
}

func (m *memory) needed(ref lb.Ref) bool {
	for _, r := range m.things {
		if r.Parent != ref && slices.Contains(r.Requires(), ref) {
			return true
		}
	}
	return false
}

func (m *memory) Apply(_ context.Context, c lb.Change, known lb.Lookup) (lb.Resource, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, string(c.Op)+" "+c.Ref().String())
	if m.fail != nil {
		if err := m.fail(c); err != nil {
			return lb.Resource{}, err
		}
	}
	if c.Op == lb.Delete {
		if m.needed(c.Before.Ref) {
			return lb.Resource{}, &lb.Error{Kind: lb.Pending, Op: "delete", Resource: c.Ref(), Message: "in use"}
		}
		delete(m.things, c.Before.Ref)
		maps.DeleteFunc(m.things, func(_ lb.Ref, r lb.Resource) bool { return r.Parent == c.Before.Ref })
		return lb.Resource{}, nil
	}
	if there, taken := m.things[c.Ref()]; taken && c.Op == lb.Create && !slices.Equal(there.Owners, c.After.Owners) {
		return lb.Resource{}, &lb.Error{Kind: lb.Conflict, Op: "create", Resource: c.Ref(), Message: "the name is taken"}
	}
	for _, need := range c.After.Requires() {
		if r, ok := known(need); !ok || r.ID == "" {
			return lb.Resource{}, &lb.Error{Kind: lb.Invalid, Op: "create", Resource: c.Ref(), Message: "needs " + need.String()}
		}
	}
	now := c.After
	now.ID = "id-" + now.Key
	m.things[now.Ref] = now
	if m.lose != nil {
		return now, m.lose(c)
	}
	return now, nil
}

func (m *memory) Status(resources []lb.Resource) lb.Status {
	for _, r := range resources {
		if r.Kind == "load-balancer" {
			return lb.Status{Addresses: []lb.Address{{IP: netip.MustParseAddr("192.0.2.1"), Mode: lb.ModeProxy}}}
		}
	}
	return lb.Status{}
}

func (m *memory) position(call string) int { return slices.Index(m.calls, call) }

func TestEngineCreatesThenRestsThenDeletes(t *testing.T) {
	cloud := newMemory()
	e := NewEngine(cloud, Options{})
	s := lb.Service{ServiceRef: web}
	r, err := e.Reconcile(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if len(cloud.things) != len(stack()) || len(r.Status.Addresses) != 1 || r.Hash == "" || len(r.Notices) != 1 {
		t.Fatalf("after creation: %d resources, result %+v", len(cloud.things), r)
	}
	cloud.calls = nil
	if r, err = e.Reconcile(t.Context(), s); err != nil || !r.Plan.Empty() || len(cloud.calls) > 0 {
		t.Fatalf("second run: error %v, calls %v, %s", err, cloud.calls, r.Plan)
	}
	if _, found, err := e.Exists(t.Context(), web); err != nil || !found {
		t.Fatalf("exists: %v, %v", found, err)
	}
	if _, err = e.Delete(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	if len(cloud.things) > 0 {
		t.Errorf("left behind: %v", slices.Collect(maps.Keys(cloud.things)))
	}
	if i, j := cloud.position("delete load-balancer default/web"), cloud.position("delete target-group default/web:80"); i < 0 || j < i {
		t.Errorf("the balancer must be deleted before the target group its listener uses: %v", cloud.calls)
	}
	if slices.ContainsFunc(cloud.calls, func(c string) bool { return strings.HasPrefix(c, "delete listener") }) {
		t.Errorf("a listener goes with its load balancer without a call: %v", cloud.calls)
	}
}

func TestPreviewChangesNothing(t *testing.T) {
	cloud := newMemory()
	r, err := NewEngine(cloud, Options{}).Preview(t.Context(), lb.Service{ServiceRef: web})
	if err != nil || r.Plan.Empty() {
		t.Fatalf("preview: %v, %s", err, r.Plan)
	}
	if len(cloud.calls) > 0 || len(cloud.things) > 0 {
		t.Errorf("preview made calls: %v", cloud.calls)
	}
}

// A fault at any one change, before or after its effect, leaves a state from
// which the next run reaches exactly the clean result.
func TestEngineResumesAfterAnyFault(t *testing.T) {
	fault := &lb.Error{Kind: lb.Unavailable, Op: "apply", Message: "connection reset"}
	for _, victim := range stack() {
		for _, when := range []string{"before", "after"} {
			t.Run(when+" "+victim.Ref.String(), func(t *testing.T) {
				cloud := newMemory()
				once := func(c lb.Change) error {
					if c.Ref() == victim.Ref {
						return fault
					}
					return nil
				}
				if when == "before" {
					cloud.fail = once
				} else {
					cloud.lose = once
				}
				e := NewEngine(cloud, Options{Parallelism: 2})
				_, err := e.Reconcile(t.Context(), lb.Service{ServiceRef: web})
				if !errors.Is(err, fault) {
					t.Fatalf("the fault was lost: %v", err)
				}
				cloud.fail, cloud.lose = nil, nil
				if _, err := e.Reconcile(t.Context(), lb.Service{ServiceRef: web}); err != nil {
					t.Fatal(err)
				}
				if len(cloud.things) != len(stack()) {
					t.Errorf("got %d resources, want %d", len(cloud.things), len(stack()))
				}
			})
		}
	}
}

func TestFailedCreationKeepsTheOld(t *testing.T) {
	cloud := newMemory()
	e := NewEngine(cloud, Options{})
	if _, err := e.Reconcile(t.Context(), lb.Service{ServiceRef: web}); err != nil {
		t.Fatal(err)
	}
	cloud.want = func(lb.Service) ([]lb.Resource, error) {
		renamed := except(stack(), "listener")
		return edit(renamed, ref("load-balancer", "default/web"), func(r *lb.Resource) { r.Key = "default/web internal" }), nil
	}
	cloud.fail = func(c lb.Change) error {
		if c.Op == lb.Create {
			return &lb.Error{Kind: lb.Quota, Op: "create", Resource: c.Ref(), Message: "too many"}
		}
		return nil
	}
	if _, err := e.Reconcile(t.Context(), lb.Service{ServiceRef: web}); lb.KindOf(err) != lb.Quota {
		t.Fatalf("got %v", err)
	}
	if _, stands := cloud.things[ref("load-balancer", "default/web")]; !stands {
		t.Error("the old load balancer was deleted before the new one stood")
	}
}

func TestDeleteKeepsWhatOthersUse(t *testing.T) {
	cloud := newMemory()
	e := NewEngine(cloud, Options{})
	other := lb.ServiceRef{Namespace: "default", Name: "other", UID: "u9"}
	cloud.want = func(s lb.Service) ([]lb.Resource, error) {
		backend := ref("security-group", "backend")
		return []lb.Resource{
			{Ref: backend, Owners: []lb.Owner{lb.ByCluster()}},
			{Ref: ref("load-balancer", s.String()), Owners: []lb.Owner{lb.ByService(s.ServiceRef)}, DependsOn: []lb.Ref{backend}},
		}, nil
	}
	for _, s := range []lb.ServiceRef{web, other} {
		if _, err := e.Reconcile(t.Context(), lb.Service{ServiceRef: s}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.Delete(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	if _, kept := cloud.things[ref("security-group", "backend")]; !kept {
		t.Fatal("the cluster's group was deleted while a Service used it")
	}
	if _, err := e.Delete(t.Context(), other); err != nil || len(cloud.things) > 0 {
		t.Errorf("after the last Service: error %v, left %v", err, slices.Collect(maps.Keys(cloud.things)))
	}
}

func TestTwoLastServicesDeletedAtOnceLeaveNothing(t *testing.T) {
	for range 50 {
		cloud := newMemory()
		e := NewEngine(cloud, Options{})
		cloud.want = func(s lb.Service) ([]lb.Resource, error) {
			backend := ref("security-group", "backend")
			return []lb.Resource{
				{Ref: backend, Owners: []lb.Owner{lb.ByCluster()}},
				{Ref: ref("load-balancer", s.String()), Owners: []lb.Owner{lb.ByService(s.ServiceRef)}, DependsOn: []lb.Ref{backend}},
			}, nil
		}
		refs := []lb.ServiceRef{web, {Namespace: "default", Name: "other", UID: "u9"}}
		for _, s := range refs {
			if _, err := e.Reconcile(t.Context(), lb.Service{ServiceRef: s}); err != nil {
				t.Fatal(err)
			}
		}
		var both sync.WaitGroup
		for _, s := range refs {
			both.Go(func() {
				if _, err := e.Delete(t.Context(), s); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		if len(cloud.things) > 0 {
			t.Fatalf("left behind: %v", slices.Collect(maps.Keys(cloud.things)))
		}
	}
}

func TestDeleteStaysPendingWhileSomethingIsLeft(t *testing.T) {
	cloud := newMemory()
	e := NewEngine(cloud, Options{})
	if _, err := e.Reconcile(t.Context(), lb.Service{ServiceRef: web}); err != nil {
		t.Fatal(err)
	}
	cloud.fail = func(c lb.Change) error {
		if c.Ref() == ref("security-group", "default/web") {
			return &lb.Error{Kind: lb.Pending, Op: "delete", Resource: c.Ref(), Message: "interfaces linger", RetryAfter: 5}
		}
		return nil
	}
	_, err := e.Delete(t.Context(), web)
	if lb.KindOf(err) != lb.Pending || lb.RetryAfterOf(err) != 5 {
		t.Fatalf("got %v", err)
	}
	cloud.fail = nil
	if _, err := e.Delete(t.Context(), web); err != nil || len(cloud.things) > 0 {
		t.Errorf("error %v, left %v", err, slices.Collect(maps.Keys(cloud.things)))
	}
}
