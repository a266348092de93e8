package plan

import (
	"context"
	"slices"
	"testing"

	"github.com/fairway-lb/fairway/providers/lb"
)

// verified is a memory cloud that can be asked which nodes are gone.
type verified struct {
	*memory
	gone []string
	err  error
}

func (v verified) Gone(_ context.Context, _ lb.Resource, items []string) ([]string, error) {
	return slices.DeleteFunc(slices.Clone(items), func(i string) bool { return !slices.Contains(v.gone, i) }), v.err
}

func TestBrake(t *testing.T) {
	denied := &lb.Error{Kind: lb.Denied, Op: "look", Message: "not allowed"}
	cases := []struct {
		name        string
		have, want  []string
		gone        []string
		err         error
		left        []string
		held, calls bool
	}{
		{name: "one of three goes", have: []string{"a", "b", "c"}, want: []string{"a", "b"}, left: []string{"a", "b"}, calls: true},
		{name: "half goes", have: []string{"a", "b"}, want: []string{"a"}, left: []string{"a"}, calls: true},
		{name: "more than half would go", have: []string{"a", "b", "c"}, want: []string{"a"}, left: []string{"a", "b", "c"}, held: true},
		{name: "more than half is really gone", have: []string{"a", "b", "c"}, want: []string{"a"}, gone: []string{"b", "c"}, left: []string{"a"}, calls: true},
		{name: "one of two is really gone", have: []string{"a", "b", "c"}, want: []string{"a"}, gone: []string{"b"}, left: []string{"a", "c"}, held: true, calls: true},
		{name: "the node list is suddenly empty", have: []string{"a", "b", "c"}, want: nil, left: []string{"a", "b", "c"}, held: true},
		{name: "the last one goes", have: []string{"a"}, want: nil, left: []string{"a"}, held: true},
		{name: "the last one is gone", have: []string{"a"}, want: nil, gone: []string{"a"}, left: nil, calls: true},
		{name: "denied is never gone", have: []string{"a", "b", "c"}, want: nil, gone: []string{"a", "b", "c"}, err: denied, left: []string{"a", "b", "c"}, held: true},
		{name: "all are replaced", have: []string{"a", "b"}, want: []string{"x", "y"}, left: []string{"a", "b", "x", "y"}, held: true, calls: true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cloud := verified{memory: newMemory(), gone: c.gone, err: c.err}
			targets := ref("targets", "default/web:80")
			wanted := c.have
			cloud.want = func(lb.Service) ([]lb.Resource, error) {
				return edit(stack(), targets, func(r *lb.Resource) {
					r.Brake, r.Fields = "instances", lb.Fields{"instances": lb.Set(wanted...)}
				}), nil
			}
			e := NewEngine(cloud, Options{})
			s := lb.Service{ServiceRef: web}
			if _, err := e.Reconcile(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			wanted, cloud.calls = c.want, nil
			result, err := e.Reconcile(t.Context(), s)
			if held := lb.KindOf(err) == lb.Held; held != c.held || err != nil && !held {
				t.Errorf("held %v (%v), want %v", held, err, c.held)
			}
			if c.held && lb.RetryAfterOf(err) == 0 {
				t.Error("nobody will look again")
			}
			if got := cloud.things[targets].Fields["instances"]; !got.Equal(lb.Set(c.left...)) {
				t.Errorf("left %v, want %v", got, c.left)
			}
			if called := len(cloud.calls) > 0; called != c.calls || called == result.Plan.Empty() {
				t.Errorf("calls %v for %s", cloud.calls, result.Plan)
			}
		})
	}
}
