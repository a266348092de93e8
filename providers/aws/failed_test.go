package aws

import (
	"strings"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/providers/fake"
	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

// TestLoadBalancerThatCouldNotBeSetUp: AWS accepts a load balancer and minutes
// later gives up on it. Nobody waits for that; the next sweep finds it, the error
// says what is done and what to look at, and it is made anew.
func TestLoadBalancerThatCouldNotBeSetUp(t *testing.T) {
	const setUp = 3 * time.Minute
	slow := func(w *fakeaws.World) { w.Timing.Provisioning = fake.Duration(setUp) }
	simulate(t, func(b *bench) {
		b.engine = plan.NewEngine(b.provider, plan.Options{Trust: time.Hour})
		s := service()
		if err := b.account.Faults().Set([]fake.Fault{{Operation: "*:CreateLoadBalancer", Kind: fake.FaultLater}}); err != nil {
			b.Fatal(err)
		}
		if r := b.reconcile(s); len(r.Status.Addresses) != 1 {
			b.Fatalf("its name is not published at once: %v", r.Status)
		}
		drift := func() []plan.Drift {
			b.Helper()
			time.Sleep(setUp)
			sweep, err := b.engine.Sweep(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			return sweep.Drift[s.ServiceRef]
		}
		if found := drift(); len(found) != 1 || found[0].Field != "failure" {
			b.Fatalf("the sweep finds %v", found)
		}
		r, err := b.engine.Reconcile(b.Context(), s)
		if lb.KindOf(err) != lb.Unavailable || !strings.Contains(err.Error(), "could not be set up") || !strings.Contains(err.Error(), "8 free addresses") {
			b.Errorf("it says: %v", err)
		}
		if len(r.Status.Addresses) > 0 {
			b.Errorf("clients are still sent to %v", r.Status)
		}
		if r := b.reconcile(s); len(r.Status.Addresses) != 1 {
			b.Errorf("made anew, its name is not published: %v", r.Status)
		}
		if found := drift(); len(found) > 0 {
			b.Errorf("once more, the sweep finds %v", found)
		}
		b.settled(s)
		b.remove(s)
	}, slow)
}
