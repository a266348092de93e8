package aws

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/providers/fake"
	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

// TestApplyRefusesWhatIsNotOurs: even if a plan asked for it.
func TestApplyRefusesWhatIsNotOurs(t *testing.T) {
	simulate(t, func(b *bench) {
		s := service()
		b.reconcile(s)
		observed, err := b.provider.Observe(b.Context(), lb.ByService(s.ServiceRef))
		if err != nil {
			b.Fatal(err)
		}
		b.account.Calls().Reset()
		for _, r := range observed {
			for name, owners := range map[string][]lb.Owner{"foreign": nil, "attached": {{Kind: lb.Attached}}} {
				r.Owners = owners
				for _, c := range []lb.Change{{Op: lb.Delete, Before: r}, {Op: lb.Update, Before: r, After: r, Fields: []string{"ingress"}}} {
					if _, err := b.provider.Apply(b.Context(), c, nil); lb.KindOf(err) != lb.Conflict {
						b.Errorf("%s of a %s %s: got %v, want a Conflict", c.Op, name, r.Kind, err)
					}
				}
			}
		}
		if n := len(b.account.Calls().Calls()); n > 0 {
			b.Errorf("%d calls were made", n)
		}
	})
}

// TestApplyIsIdempotent: a creation that happened already, even with other
// settings, adopts what exists and brings it up to date; a deletion that happened
// already succeeds.
func TestApplyIsIdempotent(t *testing.T) {
	simulate(t, func(b *bench) {
		b.reconcile(service())
		known := map[lb.Ref]lb.Resource{}
		lookup := func(ref lb.Ref) (lb.Resource, bool) { r, ok := known[ref]; return r, ok }
		for _, r := range b.observe(service()) {
			known[r.Ref] = r
		}
		s := service(annotate("healthcheck-interval", "30", "subnets", "subnet-0000000000000000a,subnet-0000000000000001a"), func(s *lb.Service) {
			s.Ports = append(s.Ports, lb.Port{Name: "u", Protocol: lb.UDP, Port: 80, NodePort: 30080}, lb.Port{Name: "v", Protocol: lb.TCP, Port: 81, NodePort: 30081})
			s.Targets = append(s.Targets, node(4))
		})
		// What this wants beside has the same listener, load balancer and groups.
		want, err := b.provider.Desired(b.Context(), s)
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range want.Resources {
			was, existed := known[r.Ref]
			if r.Owners[0].Kind == lb.Attached {
				continue
			}
			now, err := b.provider.Apply(b.Context(), lb.Change{Op: lb.Create, After: r}, lookup)
			if err != nil || existed && now.ID != was.ID {
				b.Fatalf("creating %s: got %q and %v, was %q", r.Ref, now.ID, err, was.ID)
			}
			known[r.Ref] = now
		}
		r := b.reconcile(s)
		for _, c := range r.Plan.Changes {
			if c.Op != lb.Delete { // the target group of the old listener
				b.Errorf("not brought up to date:\n%s", r.Plan)
				break
			}
		}
		after := b.observe(s)
		b.remove(s)
		for _, r := range after {
			if r.Owners[0].Kind == lb.Attached {
				continue
			}
			if _, err := b.provider.Apply(b.Context(), lb.Change{Op: lb.Delete, Before: r}, lookup); err != nil {
				b.Errorf("deleting %s again: %v", r.Ref, err)
			}
		}
	})
}

func (b *bench) observe(s lb.Service) []lb.Resource {
	b.Helper()
	observed, err := b.provider.Observe(b.Context(), lb.ByService(s.ServiceRef))
	if err != nil {
		b.Fatal(err)
	}
	return observed
}

// TestObservedLikeDesired: what is seen has the owners, the parent and the
// requirements of what was wanted, by which deletions are ordered.
func TestObservedLikeDesired(t *testing.T) {
	simulate(t, func(b *bench) {
		s := service()
		b.reconcile(s)
		want, err := b.provider.Desired(b.Context(), s)
		if err != nil {
			b.Fatal(err)
		}
		seen := map[lb.Ref]lb.Resource{}
		for _, r := range b.observe(s) {
			seen[r.Ref] = r
		}
		refs := func(list []lb.Ref) lb.Value {
			var texts []string
			for _, r := range list {
				texts = append(texts, r.String())
			}
			return lb.Set(texts...)
		}
		for _, w := range want.Resources {
			got, ok := seen[w.Ref]
			if !ok || !slices.Equal(got.Owners, w.Owners) || got.Parent != w.Parent || !refs(got.DependsOn).Equal(refs(w.DependsOn)) {
				b.Errorf("got %+v\nwant %+v", got, w)
			}
		}
		if len(seen) != len(want.Resources) {
			b.Errorf("%d resources are seen, %d were wanted", len(seen), len(want.Resources))
		}
	})
}

// TestAnswerLostAndDeleted: a load balancer whose creation got no answer, and
// that AWS does not list yet, is not left behind by a deletion.
func TestAnswerLostAndDeleted(t *testing.T) {
	simulate(t, func(b *bench) {
		other := service(func(s *lb.Service) { s.Name, s.UID = "other", "other-uid" })
		b.settle(func() (plan.Result, error) { return b.engine.Reconcile(b.Context(), other) })
		s := service()
		if err := b.account.Faults().Set([]fake.Fault{{Operation: "CreateLoadBalancer", Kind: fake.FaultHang, AfterEffect: true}}); err != nil {
			b.Fatal(err)
		}
		for made := false; !made; {
			ctx, cancel := context.WithTimeout(b.Context(), time.Second)
			_, err := b.engine.Reconcile(ctx, s)
			cancel()
			made = ctx.Err() != nil
			if err == nil {
				b.Fatal("the call that hangs was not made")
			}
			if !made {
				time.Sleep(time.Second) // in virtual time
			}
		}
		b.settle(func() (plan.Result, error) { return b.engine.Delete(b.Context(), s.ServiceRef) })
		b.remove(other)
	}, realTiming)
}

func TestOwnerMarks(t *testing.T) {
	m := marks{cluster: lb.Cluster{Name: "demo", UID: "u"}}
	extra := lb.Fields{"tags": lb.Set("team=edge=west")}
	s := lb.ServiceRef{Namespace: "default", Name: "web", UID: "w"}
	ofService := m.tags(lb.Resource{Ref: lb.Ref{Key: "k"}, Owners: []lb.Owner{lb.ByService(s)}, Fields: extra})
	ofCluster := m.tags(lb.Resource{Ref: lb.Ref{Key: "k"}, Owners: []lb.Owner{lb.ByCluster()}})
	if ofService["team"] != "edge=west" || len(ofService) != 7 || len(ofCluster) != 3 || !ourTags(ofService).Equal(extra["tags"]) {
		t.Errorf("tags %v and %v", ofService, ofCluster)
	}
	without := func(tags map[string]string, key, value string) map[string]string {
		tags = maps.Clone(tags)
		tags[key] = value
		return tags
	}
	cases := []struct {
		name string
		tags map[string]string
		want []lb.Owner
	}{
		{"service", ofService, []lb.Owner{lb.ByService(s)}},
		{"cluster", ofCluster, []lb.Owner{lb.ByCluster()}},
		{"no tags", nil, nil},
		{"another cluster", without(ofService, markCluster, "prod"), nil},
		{"the cluster's next life", without(ofService, markClusterUID, "v"), nil},
		{"no key", without(ofService, markResource, ""), nil},
		{"another Service's life", without(ofService, markServiceUID, "x"), []lb.Owner{lb.ByService(lb.ServiceRef{Namespace: "default", Name: "web", UID: "x"})}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := m.owners(c.tags); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// TestTagsComeInBatches: twenty at a time, and one that goes in between does not
// hide the others.
func TestTagsComeInBatches(t *testing.T) {
	simulate(t, func(b *bench) {
		s := service(func(s *lb.Service) {
			for n := range 14 {
				s.Ports = append(s.Ports, lb.Port{Protocol: lb.UDP, Port: uint16(1000 + n), NodePort: uint16(31000 + n)})
			}
		})
		b.reconcile(s)
		b.settled(s)
		if n := b.account.Calls().Counts().Of("DescribeTags"); n != 2 {
			b.Errorf("the tags of 31 resources took %d calls, want 2", n)
		}
		if err := b.account.Faults().Set([]fake.Fault{{Operation: "DescribeTags", Kind: fake.FaultError, Code: "ListenerNotFound", Status: 400}}); err != nil {
			b.Fatal(err)
		}
		b.settled(s)
		b.remove(s)
	})
}
