package providertest

import (
	"slices"
	"strings"

	"github.com/fairway-lb/fairway/providers/lb"
)

func (s *suite) strangers(t T) {
	for _, stranger := range s.Strangers {
		s.part(t, stranger.Name, Conditions{}, func(c *controller) {
			service, second := s.Service(0), s.Service(1)
			plant := func() []string {
				before := c.account.Raw()
				if err := stranger.Plant(c.account, service); err != nil {
					c.Fatalf("cannot plant it: %v", err)
				}
				planted := without(c.account.Raw(), before)
				if len(planted) == 0 {
					c.Fatalf("nothing was planted")
				}
				return planted
			}
			var planted []string
			if stranger.InPlace {
				c.settle(reconcile(service))
				planted = plant()
			} else {
				planted = plant()
			}
			whole := func(when string) {
				if gone := without(planted, c.account.Raw()); len(gone) > 0 {
					c.Errorf("%s, what is not ours was changed:\n%s", when, difference(gone, nil))
				}
			}
			if stranger.Blocks {
				if _, err := c.attempt(reconcile(service)); lb.KindOf(err) != lb.Conflict {
					c.Errorf("its place is taken, but the error is %v, want a Conflict", err)
				}
			} else {
				c.settle(reconcile(service))
				c.expectRest(service)
			}
			whole("after the creation")
			if !stranger.Blocks {
				c.settle(reconcile(second))
				c.settle(reconcile(s.updated()))
				whole("after an update")
				c.settle(remove(second))
			}
			c.restart()
			c.settle(remove(service))
			whole("after the deletion")
		})
	}
}

// meanwhile lets strangers come at each call of an update, be it into a document
// that is being written, or in the place of what is about to be changed.
func (s *suite) meanwhile(t T) {
	base, updated := s.Service(0), s.updated()
	update := scenario{prepare: []task{reconcile(base)}, act: reconcile(updated), want: s.wantUpdated(t)}
	deletion := scenario{prepare: []task{reconcile(base)}, act: remove(base), want: s.wantNothing(t)}
	come := func(t T, stranger Stranger, sc scenario, act func(*controller)) {
		t.Run(stranger.Name, func(t T) {
			s.count(func() { s.cases++ })
			for _, at := range s.moments(t, sc) {
				s.account(t, Conditions{}, func(c *controller) {
					sc.ready(c)
					var planted []string
					s.strike(c, at, Fault{Kind: Meanwhile, Do: func() {
						before := c.account.Raw()
						if stranger.Plant(c.account, base) == nil {
							planted = slices.DeleteFunc(without(c.account.Raw(), before),
								func(line string) bool { return !strings.Contains(line, stranger.Trace) })
							if len(planted) == 0 {
								c.Errorf("it came before %s and left no trace", at)
							}
						}
					}}, func() { act(c) })
					if gone := without(planted, c.account.Raw()); len(gone) > 0 {
						c.Fatalf("it came before %s and was changed:\n%s", at, difference(gone, nil))
					}
				})
			}
		})
	}
	for _, stranger := range s.Strangers {
		if stranger.InPlace && !stranger.Blocks {
			come(t, stranger, update, func(c *controller) { c.settle(update.act) })
		}
	}
	for _, usurper := range s.Usurpers {
		for _, sc := range []scenario{update, deletion} {
			come(t, usurper, sc, func(c *controller) {
				for range 3 {
					_, _ = c.attempt(sc.act)
				}
			})
		}
	}
}

// takenOver marks something of a Service as somebody else's, after a controller
// saw it as the Service's own and while it believes its memory. Neither an update
// nor a deletion may touch it then.
func (s *suite) takenOver(t T) {
	service := s.Service(0)
	for _, takeover := range s.Takeovers {
		for _, act := range []struct {
			name string
			do   task
		}{{"changed", reconcile(s.updated())}, {"deleted", remove(service)}} {
			s.part(t, takeover.Name+" is not "+act.name, Conditions{}, func(c *controller) {
				c.trust = trusting
				c.restart()
				c.settle(reconcile(service))
				before := c.account.Raw()
				if err := takeover.Do(c.account, service); err != nil {
					c.Fatalf("cannot take it over: %v", err)
				}
				taken := without(c.account.Raw(), before)
				if len(taken) == 0 {
					c.Fatalf("nothing was taken over")
				}
				for range 3 {
					_, _ = c.attempt(act.do)
				}
				if gone := without(taken, c.account.Raw()); len(gone) > 0 {
					c.Errorf("what is somebody else's by now was %s:\n%s", act.name, difference(gone, nil))
				}
			})
		}
	}
}

// without returns the lines of a that are not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(line string) bool { return slices.Contains(b, line) })
}

// otherCluster plays a cluster that was made again under its old name: what is
// left of the old one is not its own.
func (s *suite) otherCluster(t T) {
	want, nothing := s.wantBase(t), s.wantNothing(t)
	s.on(t, Conditions{}, func(c *controller) {
		service := s.Service(0)
		c.settle(reconcile(service))
		old := c.account.Raw()
		next := newController(c.T, c.account, lb.Cluster{Name: ourCluster.Name, UID: "cluster-uid-2"})
		defer next.stop()
		whole := func(when string) {
			if gone := without(old, c.account.Raw()); len(gone) > 0 {
				c.Errorf("%s, what is the old cluster's was changed:\n%s", when, difference(gone, nil))
			}
		}
		next.settle(reconcile(service))
		next.expectRest(service)
		whole("after the creation")
		next.settle(remove(service))
		whole("after the deletion")
		c.expect("after the new cluster's deletion", want)
		c.expectRest(service)
		c.settle(remove(service))
		c.expect("after both deletions", nothing)
	})
}
