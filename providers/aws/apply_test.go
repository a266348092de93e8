package aws

import (
	"strings"
	"testing"

	"github.com/fairway-lb/fairway/providers/fake"
	"github.com/fairway-lb/fairway/providers/lb"
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

// TestApplyIsIdempotent: a creation that happened already adopts what exists and
// brings it up to date; a deletion that happened already succeeds.
func TestApplyIsIdempotent(t *testing.T) {
	simulate(t, func(b *bench) {
		s := service()
		b.reconcile(s)
		observed, err := b.provider.Observe(b.Context(), lb.ByService(s.ServiceRef))
		if err != nil {
			b.Fatal(err)
		}
		known := func(ref lb.Ref) (lb.Resource, bool) {
			for _, r := range observed {
				if r.Ref == ref {
					return r, true
				}
			}
			return lb.Resource{}, false
		}
		want, err := b.provider.Desired(b.Context(), service(annotate("healthcheck-interval", "30"), func(s *lb.Service) {
			s.Ports = append(s.Ports, lb.Port{Name: "u", Protocol: lb.UDP, Port: 81, NodePort: 30081})
			s.Targets = append(s.Targets, node(4))
		}))
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range want.Resources {
			was, exists := known(r.Ref)
			if !exists || r.Owners[0].Kind == lb.Attached {
				continue
			}
			now, err := b.provider.Apply(b.Context(), lb.Change{Op: lb.Create, After: r}, known)
			if err != nil || now.ID != was.ID {
				b.Errorf("creating %s again: got %q and %v, want %q", r.Ref, now.ID, err, was.ID)
			}
		}
		after, err := b.provider.Observe(b.Context(), lb.ByService(s.ServiceRef))
		if err != nil {
			b.Fatal(err)
		}
		if len(after) != len(observed) {
			b.Errorf("%d resources became %d", len(observed), len(after))
		}
		for _, r := range after {
			switch r.Kind {
			case kindTargetGroup:
				if r.Fields.Text("health-check-interval") != "30" {
					b.Error("the target group was not brought up to date")
				}
			case kindSecurityGroup:
				if strings.Contains(r.Key, "frontend") && !strings.Contains(r.Fields["ingress"].String(), "udp/81") {
					b.Error("the frontend group was not brought up to date")
				}
			case kindTargets:
				if len(r.Fields["instances"]) != 4 {
					b.Error("the new target was not registered")
				}
			}
		}
		b.remove(s)
		for _, r := range after {
			if r.Owners[0].Kind == lb.Attached {
				continue
			}
			if _, err := b.provider.Apply(b.Context(), lb.Change{Op: lb.Delete, Before: r}, known); err != nil {
				b.Errorf("deleting %s again: %v", r.Ref, err)
			}
		}
	})
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
