package aws

import (
	"strings"
	"testing"

	"github.com/fairway-lb/fairway/providers/lb"
)

// TestDeletionProtection: whoever turned it on, a protected load balancer is not
// deleted, nothing else of it is taken away meanwhile, and the error says what
// to do.
func TestDeletionProtection(t *testing.T) {
	for name, protect := range map[string]func(b *bench) lb.Service{
		"by annotation": func(b *bench) lb.Service {
			s := service(annotate("attributes", "deletion_protection.enabled=true"))
			b.reconcile(s)
			return s
		},
		"by somebody else": func(b *bench) lb.Service {
			s := service()
			b.reconcile(s)
			err := b.provider.balancerSettings().modify(b.Context(), b.find(s, kindLoadBalancer).ID, map[string]string{attrProtection: "true"})
			if err != nil {
				b.Fatal(err)
			}
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(b *bench) {
				s := protect(b)
				before := b.observe(s)
				b.account.Calls().Reset()
				_, err := b.engine.Delete(b.Context(), s.ServiceRef)
				if lb.KindOf(err) != lb.Denied || !strings.Contains(err.Error(), "turn off deletion protection of fw-default-web-") {
					t.Errorf("got %v, want Denied", err)
				}
				b.expectWrites(b.writes(), "DeleteLoadBalancer")
				if after := b.observe(s); len(after) != len(before) {
					t.Errorf("%d resources are left of %d", len(after), len(before))
				}
				// Another load balancer in its place needs the old one gone too.
				if _, err := b.engine.Reconcile(b.Context(), service(annotate("scheme", "internal"))); lb.KindOf(err) != lb.Denied {
					t.Errorf("got %v, want Denied", err)
				}
				balancers, err := b.provider.listLoadBalancers(b.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, l := range balancers {
					if err := b.provider.balancerSettings().modify(b.Context(), *l.LoadBalancerArn, map[string]string{attrProtection: "false"}); err != nil {
						t.Fatal(err)
					}
				}
				b.remove(s)
			})
		})
	}
}
