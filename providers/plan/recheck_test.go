package plan

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// marked is a surveyed cloud that can be asked for the marks of what is known.
type marked struct {
	*surveyed
	rechecks, residues int
}

func newMarked() *marked { return &marked{surveyed: &surveyed{memory: newMemory()}} }

func (m *marked) StillOwned(_ context.Context, resources []lb.Resource) (bool, error) {
	m.rechecks++
	m.mu.Lock()
	defer m.mu.Unlock()
	return !slices.ContainsFunc(resources, func(r lb.Resource) bool {
		now, exists := m.things[r.Ref]
		return !exists || !slices.Equal(now.Owners, r.Owners)
	}), m.err
}

func (m *marked) Residue(ctx context.Context, o lb.Owner, _ []lb.Resource) ([]lb.Resource, error) {
	m.residues++
	return m.memory.Observe(ctx, o)
}

// takeOver marks what ref names as another's, behind our back.
func (m *marked) takeOver(r lb.Ref) {
	taken := m.things[r]
	taken.Owners = []lb.Owner{lb.ByService(lb.ServiceRef{Namespace: "theirs", Name: "web"})}
	m.things[r] = taken
}

func remembering(t *testing.T, cloud lb.Provider) *Engine {
	t.Helper()
	e := NewEngine(cloud, Options{Trust: time.Hour})
	if _, err := e.Reconcile(t.Context(), lb.Service{ServiceRef: web}); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestDeletionFromMemory(t *testing.T) {
	stray := ref("target-group", "default/web:stray")
	cases := []struct {
		name                      string
		before                    func(*marked)
		looks, rechecks, residues int
		left                      []lb.Ref
	}{
		// Both looks are at what the cluster owns.
		{"as remembered", func(*marked) {}, 2, 1, 1, nil},
		{"with something nobody knew of", func(m *marked) {
			m.things[stray] = lb.Resource{Ref: stray, ID: "id", Owners: mine()}
		}, 4, 1, 1, nil},
		{"the load balancer is another's now", func(m *marked) {
			m.takeOver(ref("load-balancer", "default/web"))
			delete(m.things, ref("listener", "default/web:80"))
		}, 2, 1, 0, []lb.Ref{ref("load-balancer", "default/web"), ref("security-group", "backend"), ref("security-group", "default/web")}},
		{"the target group is gone", func(m *marked) {
			delete(m.things, ref("listener", "default/web:80"))
			delete(m.things, ref("targets", "default/web:80"))
			delete(m.things, ref("target-group", "default/web:80"))
		}, 4, 1, 0, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cloud := newMarked()
			e := remembering(t, cloud)
			c.before(cloud)
			cloud.looks, cloud.calls = 0, nil
			_, err := e.Delete(t.Context(), web)
			if wantErr := len(c.left) > 0; (err != nil) != wantErr {
				t.Fatal(err)
			}
			left := slices.SortedFunc(maps.Keys(cloud.things), func(a, b lb.Ref) int { return strings.Compare(a.String(), b.String()) })
			if !slices.Equal(left, c.left) {
				t.Errorf("left %v, want %v", left, c.left)
			}
			if len(c.left) == 0 && (cloud.looks != c.looks || cloud.rechecks != c.rechecks || cloud.residues != c.residues) {
				t.Errorf("%d looks, %d rechecks, %d residues; want %d, %d, %d", cloud.looks, cloud.rechecks, cloud.residues, c.looks, c.rechecks, c.residues)
			}
			if slices.Contains(cloud.calls, "delete load-balancer default/web") != (len(c.left) == 0) {
				t.Errorf("calls %v", cloud.calls)
			}
		})
	}
}

// A deletion that knows of another Service does not look at what they share.
func TestDeletionFromMemoryBesideAnother(t *testing.T) {
	cloud := newMarked()
	e := remembering(t, cloud)
	e.recall.put(lb.ServiceRef{Namespace: "default", Name: "other"}, nil, time.Now())
	cloud.looks = 0
	if _, err := e.Delete(t.Context(), web); err != nil || cloud.looks > 0 {
		t.Fatalf("%d looks, error %v", cloud.looks, err)
	}
	if backend := ref("security-group", "backend"); len(cloud.things) != 1 || cloud.things[backend].Key != "backend" {
		t.Errorf("left %v", cloud.things)
	}
}

func TestChangeFromMemory(t *testing.T) {
	balancer := ref("load-balancer", "default/web")
	wider := func(lb.Service) ([]lb.Resource, error) {
		return edit(stack(), balancer, func(r *lb.Resource) { r.Fields = lb.Fields{"subnets": lb.Set("a", "b", "c")} }), nil
	}
	t.Run("of what is ours still", func(t *testing.T) {
		cloud := newMarked()
		e := remembering(t, cloud)
		cloud.want, cloud.looks = wider, 0
		_, err := e.Reconcile(t.Context(), lb.Service{ServiceRef: web})
		if err != nil || cloud.looks != 0 || cloud.rechecks != 1 || len(cloud.things[balancer].Fields["subnets"]) != 3 {
			t.Errorf("error %v, %d looks, %d rechecks, %v", err, cloud.looks, cloud.rechecks, cloud.things[balancer])
		}
	})
	t.Run("of what is another's now", func(t *testing.T) {
		cloud := newMarked()
		e := remembering(t, cloud)
		cloud.takeOver(balancer)
		cloud.want, cloud.calls = wider, nil
		_, err := e.Reconcile(t.Context(), lb.Service{ServiceRef: web})
		if lb.KindOf(err) != lb.Conflict || len(cloud.things[balancer].Fields["subnets"]) != 2 {
			t.Errorf("error %v, now %v", err, cloud.things[balancer])
		}
	})
	t.Run("where nothing tells whose it is", func(t *testing.T) {
		cloud := &surveyed{memory: newMemory()}
		e := remembering(t, cloud)
		cloud.want, cloud.looks = wider, 0
		if _, err := e.Reconcile(t.Context(), lb.Service{ServiceRef: web}); err != nil || cloud.looks != 1 {
			t.Errorf("error %v, %d looks, want 1", err, cloud.looks)
		}
	})
	t.Run("when the marks cannot be read", func(t *testing.T) {
		cloud := newMarked()
		e := remembering(t, cloud)
		cloud.want, cloud.calls, cloud.err = wider, nil, &lb.Error{Kind: lb.Unavailable, Op: "read tags"}
		if _, err := e.Reconcile(t.Context(), lb.Service{ServiceRef: web}); lb.KindOf(err) != lb.Unavailable || len(cloud.calls) > 0 {
			t.Errorf("error %v, calls %v", err, cloud.calls)
		}
	})
	t.Run("when the marks alone may not be read", func(t *testing.T) {
		cloud := newMarked()
		e := remembering(t, cloud)
		cloud.want, cloud.looks, cloud.err = wider, 0, &lb.Error{Kind: lb.Denied, Op: "read tags"}
		if _, err := e.Reconcile(t.Context(), lb.Service{ServiceRef: web}); err != nil || cloud.looks != 1 {
			t.Errorf("error %v, %d looks, want 1", err, cloud.looks)
		}
	})
}
