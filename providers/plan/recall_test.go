package plan

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// surveyed is a memory cloud that counts looks and can be surveyed.
type surveyed struct {
	*memory
	looks, surveys int
	err            error
	// lie, when set, changes what a survey shows.
	lie func(*lb.Survey)
}

func (s *surveyed) Observe(ctx context.Context, o lb.Owner) ([]lb.Resource, error) {
	s.looks++
	return s.memory.Observe(ctx, o)
}

func (s *surveyed) Survey(context.Context) (lb.Survey, error) {
	time.Sleep(time.Second) // virtual
	s.surveys++
	s.mu.Lock()
	defer s.mu.Unlock()
	found := lb.Survey{Kinds: []lb.Kind{"load-balancer", "security-group"}, Services: map[lb.ServiceRef][]lb.Resource{}}
	for _, r := range s.things {
		switch {
		case r.Kind != "load-balancer" && r.Kind != "security-group":
		case r.OwnedBy(lb.ByCluster()):
			found.Cluster = append(found.Cluster, r)
		default:
			found.Services[r.Owners[0].Service] = append(found.Services[r.Owners[0].Service], r)
		}
	}
	if s.lie != nil {
		s.lie(&found)
	}
	return found, s.err
}

func TestTrustSparesTheLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := &surveyed{memory: newMemory()}
		e := NewEngine(cloud, Options{Trust: time.Hour})
		s := lb.Service{ServiceRef: web}
		run := func(looks int, what string) {
			t.Helper()
			cloud.looks = 0
			if _, err := e.Reconcile(t.Context(), s); err != nil {
				t.Fatal(what, err)
			}
			if cloud.looks != looks {
				t.Errorf("%s: %d looks, want %d", what, cloud.looks, looks)
			}
		}
		run(1, "the first run")
		run(0, "a resync")
		targets := ref("targets", "default/web:80")
		cloud.want = func(lb.Service) ([]lb.Resource, error) {
			return edit(stack(), targets, func(r *lb.Resource) { r.Fields = lb.Fields{"instances": lb.Set("i-1", "i-2", "i-3")} }), nil
		}
		cloud.calls = nil
		run(0, "a node that joins")
		if len(cloud.calls) != 1 || len(cloud.things[targets].Fields["instances"]) != 3 {
			t.Errorf("calls %v", cloud.calls)
		}
		time.Sleep(59 * time.Minute)
		run(0, "within the hour")
		time.Sleep(time.Minute)
		delete(cloud.things, targets) // by hand, behind our back
		run(1, "after the hour")
		if _, repaired := cloud.things[targets]; !repaired {
			t.Error("the drift was not repaired")
		}

		cloud.want = func(lb.Service) ([]lb.Resource, error) { return stack(), nil }
		cloud.fail = func(lb.Change) error { return &lb.Error{Kind: lb.Unavailable, Op: "apply"} }
		if _, err := e.Reconcile(t.Context(), s); err == nil {
			t.Fatal("the fault was lost")
		}
		cloud.fail = nil
		run(1, "after an error")
		if _, err := e.Delete(t.Context(), web); err != nil {
			t.Fatal(err)
		}
		run(1, "after a deletion")
	})
}

func TestConfirm(t *testing.T) {
	balancer := ref("load-balancer", "default/web")
	denied := &lb.Error{Kind: lb.Denied, Op: "survey"}
	cases := []struct {
		name   string
		before func(*surveyed, *string)
		want   bool
		kind   lb.ErrorKind
	}{
		{name: "unchanged", want: true},
		{name: "no checkpoint", before: func(_ *surveyed, hash *string) { *hash = "" }},
		{name: "another checkpoint", before: func(_ *surveyed, hash *string) { *hash = "old" }},
		{name: "the load balancer is gone", before: func(c *surveyed, _ *string) { delete(c.things, balancer) }},
		{name: "a field is otherwise", before: func(c *surveyed, _ *string) {
			r := c.things[balancer]
			r.Fields = lb.Fields{"scheme": lb.Text("public")}
			c.things[balancer] = r
		}},
		{name: "a field is not shown", want: true, before: func(c *surveyed, _ *string) {
			r := c.things[balancer]
			r.Fields = lb.Fields{}
			c.things[balancer] = r
		}},
		{name: "there is a leftover", before: func(c *surveyed, _ *string) {
			c.things[ref("load-balancer", "old")] = lb.Resource{Ref: ref("load-balancer", "old"), Owners: mine()}
		}},
		{name: "the mark is gone", before: func(c *surveyed, _ *string) {
			r := c.things[balancer]
			r.Owners = []lb.Owner{lb.ByService(lb.ServiceRef{Name: "else"})}
			c.things[balancer] = r
		}},
		{name: "the survey is denied", before: func(c *surveyed, _ *string) { c.err = denied }, kind: lb.Denied},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cloud := &surveyed{memory: newMemory()}
				result, err := NewEngine(cloud, Options{}).Reconcile(t.Context(), lb.Service{ServiceRef: web})
				if err != nil {
					t.Fatal(err)
				}
				hash := result.Hash
				if c.before != nil {
					c.before(cloud, &hash)
				}
				cloud.calls, cloud.looks = nil, 0
				got, err := NewEngine(cloud, Options{}).Confirm(t.Context(), lb.Service{ServiceRef: web}, hash)
				if got != c.want || lb.KindOf(err) != c.kind {
					t.Errorf("got %v, %v; want %v, %q", got, err, c.want, c.kind)
				}
				if len(cloud.calls) > 0 || cloud.looks > 0 {
					t.Errorf("%d looks, calls %v", cloud.looks, cloud.calls)
				}
			})
		})
	}
}

func TestManyShareOneSurvey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := &surveyed{memory: newMemory()}
		e := NewEngine(cloud, Options{})
		result, err := e.Reconcile(t.Context(), lb.Service{ServiceRef: web})
		if err != nil {
			t.Fatal(err)
		}
		for range 500 {
			go func() {
				if ok, err := e.Confirm(context.Background(), lb.Service{ServiceRef: web}, result.Hash); !ok || err != nil {
					t.Error(ok, err)
				}
			}()
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if cloud.surveys != 1 {
			t.Errorf("%d surveys, want 1", cloud.surveys)
		}
	})
}
