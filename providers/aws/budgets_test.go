package aws

import (
	"fmt"
	"testing"
	"time"

	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

// TestBudgets holds what a Service may cost in calls, SDK retries and injected
// delays aside. The cluster's first Service pays for the facts and for what all
// share; it is others that are counted.
func TestBudgets(t *testing.T) {
	simulate(t, func(b *bench) {
		ports := func(n int) func(*lb.Service) {
			return func(s *lb.Service) {
				s.Ports = nil
				for i := range n {
					s.Ports = append(s.Ports, lb.Port{Name: fmt.Sprint(i), Protocol: lb.TCP, Port: uint16(80 + i), NodePort: uint16(30180 + i)})
				}
			}
		}
		first := service()
		second := service(func(s *lb.Service) { s.ServiceRef = lb.ServiceRef{Namespace: "shop", Name: "cart", UID: "cart-uid"} })
		b.engine = plan.NewEngine(b.provider, plan.Options{Trust: time.Hour})
		b.reconcile(first)

		row := func(what string, reads, writes int, do func()) {
			t.Helper()
			b.account.Calls().Reset()
			do()
			counts := b.account.Calls().Counts()
			t.Logf("%-52s %2d reads (allowed %2d), %2d writes (allowed %2d)", what, counts.Reads(), reads, counts.Writes(), writes)
			if counts.Reads() > reads || counts.Writes() > writes {
				t.Errorf("%s:\n%s", what, counts)
			}
		}
		reconcile := func(s lb.Service) func() { return func() { b.reconcile(s) } }
		gone := func(s lb.Service) func() {
			return func() {
				b.settle(func() (plan.Result, error) { return b.engine.Delete(b.Context(), s.ServiceRef) })
			}
		}

		row("create, 1 port, 3 nodes", 3, 6, reconcile(second))
		row("nothing to do, remembered", 0, 0, reconcile(second))
		b.engine = plan.NewEngine(b.provider, plan.Options{Trust: time.Hour})
		row("nothing to do, looked at", 6, 0, reconcile(second))
		b.reconcile(first)
		second.Targets = append(second.Targets, node(4))
		row("a node new to the cluster, 1 target group", 1, 1, reconcile(second))
		first.Targets = append(first.Targets, node(4))
		row("the same node in the next Service", 0, 1, reconcile(first))
		b.list(0) // as the node controllers do when it joins
		second.Targets = append(second.Targets, node(5))
		row("a node that the node controllers have initialised", 0, 1, reconcile(second))
		second.Targets = second.Targets[1:]
		row("a node gone", 0, 1, reconcile(second))
		ports(5)(&second)
		row("4 ports more, another NodePort for the first", 2, 17, reconcile(second))
		second.Targets = append(second.Targets, node(1))
		row("a node, 5 target groups", 0, 5, reconcile(second))
		ports(1)(&second)
		row("4 ports fewer", 2, 9, reconcile(second))
		row("delete", 3, 3, gone(second))
		row("delete what is gone", 3, 0, gone(second))
		row("delete the cluster's last", 8, 5, gone(first))
		b.expectLeft()
	}, func(w *fakeaws.World) { w.Throttle = &fakeaws.Throttle{Off: true} })
}

// TestBudgetsWithAConfiguredGroup: where the configuration says what the nodes'
// group and network are, no instance is ever looked at.
func TestBudgetsWithAConfiguredGroup(t *testing.T) {
	simulate(t, func(b *bench) {
		b.restart("demo-uid", func(c *Config) { c.NodeSecurityGroup, c.VPC = testNodes, testVPC })
		b.engine = plan.NewEngine(b.provider, plan.Options{Trust: time.Hour})
		s := service()
		b.reconcile(s)
		b.account.Calls().Reset()
		s.Targets = append(s.Targets, node(4))
		b.reconcile(s)
		if counts := b.account.Calls().Counts(); counts.Reads() > 0 || counts.Writes() != 1 {
			t.Errorf("a new node costs\n%s", counts)
		}
		b.engine = plan.NewEngine(b.provider, plan.Options{})
		b.settled(s)
		b.remove(s)
	})
}
