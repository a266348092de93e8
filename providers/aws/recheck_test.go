package aws

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

// TestTakenOverSinceWeLooked: what somebody has marked as theirs since we last
// looked is neither changed nor deleted, though the engine remembers it as ours
// and though our key may do everything in this account.
func TestTakenOverSinceWeLooked(t *testing.T) {
	theirs := map[string]string{markService: "theirs/web", markServiceUID: "theirs-uid"}
	more := service(annotate("attributes", "load_balancing.cross_zone.enabled=true", "healthcheck-interval", "30"))
	more.Ports = append(more.Ports, lb.Port{Name: "more", Protocol: lb.TCP, Port: 8080, NodePort: 30999})
	for what, do := range map[string]func(b *bench) error{
		"changed": func(b *bench) error { _, err := b.engine.Reconcile(b.Context(), more); return err },
		"deleted": func(b *bench) error { _, err := b.engine.Delete(b.Context(), more.ServiceRef); return err },
	} {
		for _, kind := range []lb.Kind{kindLoadBalancer, kindTargetGroup, kindSecurityGroup} {
			t.Run(what+" "+string(kind), func(t *testing.T) {
				simulate(t, func(b *bench) {
					p, err := New(b.Context(), testConfig(), lb.Cluster{Name: "demo", UID: "demo-uid"}, reaching(b.client, operatorKey)...)
					if err != nil {
						t.Fatal(err)
					}
					b.provider, b.engine = p, plan.NewEngine(p, plan.Options{Trust: time.Hour})
					b.reconcile(service())
					other := service(func(s *lb.Service) { s.ServiceRef = lb.ServiceRef{Namespace: "shop", Name: "cart", UID: "cart-uid"} })
					b.reconcile(other)
					taken := b.find(service(), kind)
					tag := b.provider.addTags
					if kind == kindSecurityGroup {
						tag = b.provider.addEC2Tags
					}
					if err := tag(b.Context(), taken.Ref, taken.ID, theirs); err != nil {
						t.Fatal(err)
					}
					before := b.byID(taken.ID)
					if err := do(b); err != nil {
						t.Logf("so it says: %v", err)
					}
					if after := b.byID(taken.ID); !reflect.DeepEqual(before, after) {
						t.Errorf("before %v\nafter %v", before, after)
					}
				})
			})
		}
	}
}

// byID returns what has the identifier, the zero Resource when nothing has.
func (b *bench) byID(id string) lb.Resource {
	b.Helper()
	seen, err := b.provider.Observe(b.Context(), lb.ByService(service().ServiceRef))
	if err != nil {
		b.Fatal(err)
	}
	i := slices.IndexFunc(seen, func(r lb.Resource) bool { return r.ID == id && r.Kind != kindTargets })
	if i < 0 {
		return lb.Resource{}
	}
	return seen[i]
}
