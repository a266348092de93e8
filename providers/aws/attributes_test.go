package aws

import (
	"strings"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/providers/fake"
	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

// TestGroupAttributes: what a Service asks for is what the account has, and what
// it asks for no longer is AWS's default again.
func TestGroupAttributes(t *testing.T) {
	udp := func(s *lb.Service) { s.Ports[0].Protocol = lb.UDP }
	sticky := func(s *lb.Service) { s.ClientAffinity = defaultAffinity }
	two := func(s *lb.Service) {
		s.Ports = append(s.Ports, lb.Port{Name: "dns", Protocol: lb.UDP, Port: 53, NodePort: 30053})
	}
	cases := []struct {
		name string
		s    lb.Service
		// want is what differs from the defaults, by target group.
		want map[string]string
	}{
		{"nothing", service(), nil},
		{"defaults", service(annotate("target-group-attributes", "stickiness.enabled=false,preserve_client_ip.enabled=true")), nil},
		{"affinity", service(sticky), map[string]string{"tcp-30080": attrSticky + "=true"}},
		{"affinity of UDP", service(udp, sticky), map[string]string{"udp-30080": attrSticky + "=true"}},
		{"affinity refused", service(annotate("target-group-attributes", "stickiness.enabled=false"), sticky), nil},
		{"proxy protocol", service(annotate("proxy-protocol", "*"), two), map[string]string{
			"tcp-30080": attrProxyProtocol + "=true", "udp-30053": attrProxyProtocol + "=true"}},
		{"proxy protocol by port", service(annotate("proxy-protocol-per-target-group", "80"), two), map[string]string{"tcp-30080": attrProxyProtocol + "=true"}},
		{"draining", service(annotate("connection-draining-timeout", "30")), map[string]string{"tcp-30080": attrDraining + "=30"}},
		{"no draining", service(annotate("connection-draining-enabled", "false")), map[string]string{"tcp-30080": attrDraining + "=0"}},
		{"draining by default", service(annotate("connection-draining-timeout", "300")), nil},
		{"a default of TCP with UDP", service(udp, annotate("target-group-attributes", "deregistration_delay.connection_termination.enabled=false")),
			map[string]string{"udp-30080": "deregistration_delay.connection_termination.enabled=false"}},
		{"by port", service(annotate("target-group-attributes", "deregistration_delay.timeout_seconds=10",
			"target-group-attributes.53", "deregistration_delay.timeout_seconds=20,target_health_state.unhealthy.draining_interval_seconds=5",
			"target-group-attributes.80", "preserve_client_ip.enabled=false"), two), map[string]string{
			"tcp-30080": attrDraining + "=10, " + attrPreserve + "=false",
			"udp-30053": attrDraining + "=20, " + attrDrainInterval + "=5"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			simulate(t, func(b *bench) {
				_, writes := b.perform(c.s)
				b.expectGroupAttributes(c.want)
				modified := 0
				for _, op := range writes {
					switch op {
					case "ModifyTargetGroupAttributes":
						modified++
					case "ModifyTargetGroup", "AddTags":
						t.Errorf("a new target group takes a call of %s", op)
					}
				}
				if modified != len(c.want) {
					t.Errorf("%d calls for %d groups with attributes", modified, len(c.want))
				}
				b.settled(c.s)
				if n := b.account.Calls().Counts().Of("DescribeTargetGroupAttributes"); n != len(c.want) {
					t.Errorf("the attributes of %d groups are read with %d calls", len(c.want), n)
				}
				// Without the wish, all is as if it had never been.
				plain := c.s
				plain.Annotations, plain.ClientAffinity = nil, 0
				b.reconcile(plain)
				b.expectGroupAttributes(nil)
				b.settled(plain)
				if n := b.account.Calls().Counts().Of("DescribeTargetGroupAttributes"); n != 0 {
					t.Errorf("attributes that nobody set are read with %d calls", n)
				}
				b.reconcile(c.s)
				b.expectGroupAttributes(c.want)
				b.settled(c.s)
				b.remove(c.s)
			})
		})
	}
}

// expectGroupAttributes compares what differs from the defaults in the account.
func (b *bench) expectGroupAttributes(want map[string]string) {
	b.Helper()
	groups, err := b.provider.listTargetGroups(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for _, g := range groups {
		found, err := b.provider.groupSettings().read(b.Context(), *g.TargetGroupArn)
		if err != nil {
			b.Fatal(err)
		}
		name := socket(string(g.Protocol), uint16(*g.Port))
		if got := groupAttributes.field(found, string(g.Protocol)); got.String() != orDefault(want[name], "none") {
			b.Errorf("%s: %s, want %s", name, got, orDefault(want[name], "none"))
		}
		if len(found) != len(groupAttributes.known) {
			b.Errorf("AWS has %d attributes, the table %d", len(found), len(groupAttributes.known))
		}
	}
}

func TestGroupAttributesRefused(t *testing.T) {
	udp := func(s *lb.Service) { s.Ports[0].Protocol = lb.UDP }
	cases := []struct {
		s    lb.Service
		says string
	}{
		{service(udp, annotate("target-group-attributes", "preserve_client_ip.enabled=false")), "AWS keeps the client address of UDP, and port 80 is UDP"},
		{service(annotate("target-group-attributes.80", "preserve_client_ip.enabled=false"), func(s *lb.Service) {
			s.Ports = append(s.Ports, lb.Port{Name: "u", Protocol: lb.UDP, Port: 80, NodePort: 30080})
		}), "port 80 is TCP_UDP"},
		{service(udp, annotate("target-group-attributes", "target_health_state.unhealthy.connection_termination.enabled=true")), "AWS cannot do so with UDP"},
		{service(annotate("target-group-attributes", "target_health_state.unhealthy.draining_interval_seconds=5")), "an interval needs"},
	}
	for _, c := range cases {
		resources, _, err := wanted(c.s, testFacts())
		if lb.KindOf(err) != lb.Invalid || len(resources) > 0 || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "target-group-attributes.80") {
			t.Errorf("got %v with %d resources, want Invalid with %q", err, len(resources), c.says)
		}
	}
}

// TestAttributeDrift: from the first attribute that a Service asks for on, all
// are kept as it wants them.
func TestAttributeDrift(t *testing.T) {
	simulate(t, func(b *bench) {
		s := service(annotate("connection-draining-timeout", "30"))
		b.reconcile(s)
		group := b.find(s, kindTargetGroup)
		for _, harm := range []map[string]string{{attrDraining: "0"}, {attrDraining: "300"}, {attrProxyProtocol: "true"}} {
			if err := b.provider.groupSettings().modify(b.Context(), group.ID, harm); err != nil {
				t.Fatal(err)
			}
			_, writes := b.perform(s)
			b.expectWrites(writes, "ModifyTargetGroupAttributes")
			b.expectGroupAttributes(map[string]string{"tcp-30080": attrDraining + "=30"})
			b.settled(s)
		}
	})
}

// TestAttributesAfterACrash: whatever of several calls was the last, the next
// controller ends the work.
func TestAttributesAfterACrash(t *testing.T) {
	plain, wish := service(), service(annotate("connection-draining-timeout", "30", "cross-zone-load-balancing-enabled", "true"))
	for _, step := range []struct {
		name          string
		before, after lb.Service
		want          map[string]string
	}{
		{"set", plain, wish, map[string]string{"tcp-30080": attrDraining + "=30"}},
		{"reset", wish, plain, nil},
	} {
		t.Run(step.name, func(t *testing.T) {
			for k := 1; k <= 16; k++ {
				simulate(t, func(b *bench) {
					b.reconcile(step.before)
					b.failFrom(k)
					_, err := b.engine.Reconcile(b.Context(), step.after)
					if err == nil && k < 8 {
						t.Errorf("call %d did not fail", k)
					}
					b.failFrom(0)
					b.restart("demo-uid")
					b.settle(func() (plan.Result, error) { return b.engine.Reconcile(b.Context(), step.after) })
					b.expectGroupAttributes(step.want)
					b.settled(step.after)
					b.remove(step.after)
				})
			}
		})
	}
}

// TestAffinityTimeout: a timeout that AWS cannot keep is noted, the default one
// is nobody's wish.
func TestAffinityTimeout(t *testing.T) {
	for timeout, notices := range map[time.Duration]int{0: 0, defaultAffinity: 0, time.Minute: 1} {
		_, got, err := wanted(service(func(s *lb.Service) { s.ClientAffinity = timeout }), testFacts())
		if err != nil || len(got) != notices {
			t.Errorf("%s: %v, %v", timeout, got, err)
		}
	}
}

// TestWishesAreCarried: from the Service to what the data path does.
func TestWishesAreCarried(t *testing.T) {
	affinity := func(s *lb.Service) { s.ClientAffinity = defaultAffinity }
	for name, c := range map[string]struct {
		wish   func(*lb.Service)
		obeyed func(fake.Listener) bool
	}{
		"affinity":       {affinity, func(l fake.Listener) bool { return l.Sticky }},
		"proxy protocol": {annotate("proxy-protocol", "*"), func(l fake.Listener) bool { return l.ProxyProtocol && l.HealthCheck.ProxyProtocol }},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(b *bench) {
				for _, wished := range []bool{false, true, false} {
					s := service()
					if wished {
						c.wish(&s)
					}
					b.reconcile(s)
					if got := c.obeyed(b.account.Dataplane().LoadBalancers[0].Listeners[0]); got != wished {
						t.Errorf("wished: %v, carried: %v", wished, got)
					}
				}
			})
		})
	}
}
