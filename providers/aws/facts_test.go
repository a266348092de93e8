package aws

import (
	"slices"
	"strings"
	"testing"
	"time"

	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

const (
	otherGroup = "sg-0cccccccccccccccc"
	thirdGroup = "sg-0dddddddddddddddd"
)

// grouped adds groups and puts node 1 into the given ones.
func grouped(tagged []string, node1 ...string) func(*fakeaws.World) {
	return func(w *fakeaws.World) {
		for i, id := range []string{otherGroup, thirdGroup} {
			g := fakeaws.SecurityGroup{ID: id, Name: []string{"other", "third"}[i]}
			if slices.Contains(tagged, id) {
				g.Tags = map[string]string{clusterTagStart + "demo": "owned"}
			}
			w.SecurityGroups = append(w.SecurityGroups, g)
		}
		w.Instances[0].SecurityGroups = node1
	}
}

// admitting returns the groups that got node rules.
func (b *bench) admitting(s lb.Service) []string {
	b.Helper()
	observed, err := b.provider.Observe(b.Context(), lb.ByService(s.ServiceRef))
	if err != nil {
		b.Fatal(err)
	}
	var groups []string
	for _, r := range observed {
		if r.Kind == kindNodeRules {
			groups = append(groups, r.Key)
		}
	}
	return lb.Set(groups...)
}

func TestNodeSecurityGroups(t *testing.T) {
	cases := []struct {
		name  string
		world func(*fakeaws.World)
		s     lb.Service
		want  []string
		says  string // of the error or, with groups, the notice
	}{
		{"one group", grouped(nil, testNodes), service(), []string{testNodes}, ""},
		{"two kinds of nodes", grouped([]string{otherGroup}, otherGroup), service(), []string{testNodes, otherGroup}, ""},
		{"the tagged one of two", grouped([]string{otherGroup}, otherGroup, thirdGroup), service(), []string{testNodes, otherGroup}, ""},
		{"none tagged, other nodes are clear", grouped(nil, otherGroup, thirdGroup), service(), []string{testNodes}, "NodeSecurityGroupUnknown"},
		{"none tagged", grouped(nil, otherGroup, thirdGroup), service(func(s *lb.Service) { s.Targets = s.Targets[:1] }), nil, "0 are tagged"},
		{"two tagged", grouped([]string{otherGroup, thirdGroup}, otherGroup, thirdGroup), service(func(s *lb.Service) { s.Targets = s.Targets[:1] }), nil, "2 are tagged"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			simulate(t, func(b *bench) {
				r, err := b.engine.Reconcile(b.Context(), c.s)
				if c.want == nil {
					if lb.KindOf(err) != lb.Invalid || !strings.Contains(err.Error(), c.says) {
						b.Errorf("got %v, want Invalid with %q", err, c.says)
					}
					b.expectLeft()
					return
				}
				if err != nil {
					b.Fatal(err)
				}
				if got := b.admitting(c.s); !slices.Equal(got, lb.Set(c.want...)) {
					b.Errorf("rules in %v, want %v", got, c.want)
				}
				if c.says != "" && !slices.ContainsFunc(r.Notices, func(n lb.Notice) bool { return n.Reason == c.says }) {
					b.Errorf("notices %v lack %s", r.Notices, c.says)
				}
				b.remove(c.s)
			}, c.world)
		})
	}
}

func TestConfiguredNetworkAsksForNoInstances(t *testing.T) {
	simulate(t, func(b *bench) {
		b.restart("demo-uid", func(c *Config) { c.VPC, c.NodeSecurityGroup = testVPC, testNodes })
		s := service(func(s *lb.Service) { s.Targets = nil })
		b.reconcile(s)
		s.Targets = []lb.Target{node(1)}
		b.reconcile(s)
		if n := b.account.Calls().Counts().Of("DescribeInstances"); n > 0 {
			b.Errorf("instances were read %d times", n)
		}
		b.remove(s)
	})
}

func TestNoNetworkYet(t *testing.T) {
	simulate(t, func(b *bench) {
		_, err := b.engine.Reconcile(b.Context(), service(func(s *lb.Service) { s.Targets = nil }))
		if lb.KindOf(err) != lb.Pending || lb.RetryAfterOf(err) == 0 || !strings.Contains(err.Error(), "set vpc") {
			b.Errorf("got %v, want Pending, a time to look again and what to do", err)
		}
		b.expectLeft()
	})
}

// TestFactsAge: they are read again when they are old, and at once after a
// failed change.
func TestFactsAge(t *testing.T) {
	simulate(t, func(b *bench) {
		reads := func() int { return b.account.Calls().Counts().Of("DescribeSubnets") }
		b.reconcile(service())
		b.settled(service())
		if n := reads(); n != 0 {
			b.Errorf("fresh facts were read again %d times", n)
		}
		time.Sleep(factsTTL) // in virtual time
		b.settled(service())
		if n := reads(); n != 1 {
			b.Errorf("old facts were read %d times, want once", n)
		}
		bad := service(annotate("security-groups", "sg-0000000000000000e"))
		if _, err := b.engine.Reconcile(b.Context(), bad); lb.KindOf(err) != lb.Invalid {
			b.Fatalf("got %v, want Invalid", err)
		}
		b.settled(service())
		if n := reads(); n != 1 {
			b.Errorf("after a failed change facts were read %d times, want once", n)
		}
		b.settle(func() (plan.Result, error) { return b.engine.Delete(b.Context(), service().ServiceRef) })
	})
}

func TestNewRefuses(t *testing.T) {
	cfg := testConfig()
	cases := []struct {
		name    string
		cfg     Config
		cluster lb.Cluster
		says    string
	}{
		{"no UID", cfg, lb.Cluster{Name: "demo"}, "UID"},
		{"another name", cfg, lb.Cluster{Name: "prod", UID: "u"}, `"prod"`},
		{"no name at all", Config{}, lb.Cluster{UID: "u"}, "cluster.name"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if _, err := New(t.Context(), c.cfg, c.cluster); lb.KindOf(err) != lb.Invalid || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want Invalid with %q", err, c.says)
			}
		})
	}
}
