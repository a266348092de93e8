package aws

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// TestZonesKeepInStep: a subnet that is taken away from the cluster and given back
// leaves its load balancers and comes back, and nodes that it leaves unserved are
// noted.
func TestZonesKeepInStep(t *testing.T) {
	simulate(t, func(b *bench) {
		s := service()
		first := b.reconcile(s)
		if len(first.Notices) > 0 {
			t.Errorf("unwanted %v", first.Notices)
		}
		all := b.find(s, kindLoadBalancer).Fields["subnets"]
		theirs := map[string]string{clusterTagStart + "other": "owned"}
		if err := b.operatorTags(all[2], theirs); err != nil {
			t.Fatal(err)
		}
		_, writes := b.perform(s)
		b.expectWrites(writes) // not known yet
		time.Sleep(factsTTL)   // in virtual time
		r, writes := b.perform(s)
		b.expectWrites(writes, "SetSubnets")
		if got := b.find(s, kindLoadBalancer).Fields["subnets"]; !got.Equal(all[:2]) {
			t.Errorf("subnets %s, want %s", got, all[:2])
		}
		if !slices.ContainsFunc(r.Notices, func(n lb.Notice) bool {
			return n.Reason == "ZoneNotServed" && strings.Contains(n.Message, "node-3 (eu-west-1c)")
		}) {
			t.Errorf("node 3 is not noted: %v", r.Notices)
		}
		b.expectTargets(1, 2, 3) // it is where traffic goes again when the zone comes back
		if err := b.operatorUntag(all[2], theirs); err != nil {
			t.Fatal(err)
		}
		time.Sleep(factsTTL) // in virtual time
		r, writes = b.perform(s)
		b.expectWrites(writes, "SetSubnets")
		if got := b.find(s, kindLoadBalancer).Fields["subnets"]; !got.Equal(all) || len(r.Notices) > 0 {
			t.Errorf("subnets %s, want %s; notices %v", got, all, r.Notices)
		}
		b.settled(s)
		b.remove(s)
	})
}

// TestNewZoneIsLookedFor: a node in a zone that nothing is known of makes the
// network be read again, but not all the time.
func TestNewZoneIsLookedFor(t *testing.T) {
	simulate(t, func(b *bench) {
		b.reconcile(service())
		s := service(func(s *lb.Service) { s.Targets[0].Zone = "eu-west-1d" })
		looks := func() int {
			b.account.Calls().Reset()
			b.reconcile(s)
			return b.account.Calls().Counts().Of("DescribeSubnets")
		}
		if n := looks(); n != 0 {
			t.Errorf("%d looks at once, want 0: the network was just read", n)
		}
		time.Sleep(absentTTL) // in virtual time
		if n := looks() + looks(); n != 1 {
			t.Errorf("%d looks in two runs after a minute, want 1", n)
		}
	})
}

// TestListenersChangeInPlace: protocols and node ports change places between
// ports without a listener being deleted.
func TestListenersChangeInPlace(t *testing.T) {
	mixed := func(ports ...lb.Port) lb.Service { return service(func(s *lb.Service) { s.Ports = ports }) }
	tcp, udp := lb.TCP, lb.UDP
	steps := []lb.Service{
		mixed(lb.Port{Name: "a", Protocol: tcp, Port: 80, NodePort: 30080}, lb.Port{Name: "b", Protocol: udp, Port: 81, NodePort: 30081}),
		mixed(lb.Port{Name: "a", Protocol: udp, Port: 80, NodePort: 30080}, lb.Port{Name: "b", Protocol: tcp, Port: 81, NodePort: 30081}),
		mixed(lb.Port{Name: "a", Protocol: udp, Port: 80, NodePort: 30081}, lb.Port{Name: "b", Protocol: tcp, Port: 81, NodePort: 30080}),
		mixed(lb.Port{Name: "a", Protocol: udp, Port: 80, NodePort: 30081}, lb.Port{Name: "c", Protocol: tcp, Port: 80, NodePort: 30081},
			lb.Port{Name: "b", Protocol: tcp, Port: 81, NodePort: 30080}),
		mixed(lb.Port{Name: "c", Protocol: tcp, Port: 80, NodePort: 30081}, lb.Port{Name: "b", Protocol: udp, Port: 81, NodePort: 30080}),
	}
	simulate(t, func(b *bench) {
		b.reconcile(steps[0])
		b.settled(steps[0])
		for i, s := range steps[1:] {
			_, writes := b.perform(s)
			if slices.Contains(writes, "DeleteListener") || slices.Contains(writes, "CreateListener") || !slices.Contains(writes, "ModifyListener") {
				t.Errorf("step %d: %v", i+1, writes)
			}
			b.settled(s)
		}
		b.remove(steps[0])
	})
}
