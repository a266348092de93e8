package nodeproxy

import (
	"fmt"
	"slices"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// TestRollingReplacement replaces all endpoints of a Service, again and again, one
// after the other and all at once, as a Deployment does: new ones come, old ones
// terminate, finish their conversations, and are gone. No call fails, and none
// reaches an endpoint that no more is ready.
func TestRollingReplacement(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	var serving []*backend
	port := uint16(9000)
	next := func(host string) *backend {
		port++
		return w.backend(t, host, port)
	}
	objects := []any{newTestService("web")}
	for _, host := range []string{"a", "b", "remote"} {
		serving = append(serving, next(host))
		objects = append(objects, serving[len(serving)-1].slices("web")...)
	}
	w.replace(t, objects...)
	calls := w.call(t, everyWay()...)
	calls.more(t)

	// replace has each of the old ones replaced by another of the same host.
	replace := func(old ...*backend) {
		t.Helper()
		var come, terminate []any
		for _, b := range old {
			successor := next(b.host)
			serving[slices.Index(serving, b)] = successor
			come = append(come, successor.slices("web")...)
			terminate = append(terminate, b.slices("web", terminating)...)
		}
		w.update(t, come...)
		w.update(t, terminate...)
		calls.more(t) // those that were on their way have arrived
		taken := make([]int64, len(old))
		for i, b := range old {
			taken[i] = b.taken.Load()
		}
		calls.more(t)
		for i, b := range old {
			if more := b.taken.Load() - taken[i]; more > 0 {
				t.Fatalf("%d calls reached %s after it began to terminate", more, b.host)
			}
			until(t, fmt.Sprintf("the last conversation with %s is over", b.host), func() bool { return b.open.Load() == 0 })
			b.stop()
			for _, s := range b.slices("web") {
				must(t, w.proxy.tracker.slices.Delete(s.(*discoveryv1.EndpointSlice)))
			}
		}
		w.settle(t)
	}
	for range 3 {
		for _, b := range slices.Clone(serving) {
			replace(b)
		}
		replace(slices.Clone(serving)...)
	}
	calls.more(t)
	t.Logf("%d calls while 18 endpoints were replaced", calls.stop(t))
	for _, b := range serving {
		if b.taken.Load() == 0 {
			t.Errorf("the last endpoint on %s got no call", b.host)
		}
	}
}

// TestDrain lets all endpoints of a Service terminate: while there is a ready one
// it takes the new connections, and when there is none those that still serve do;
// conversations that are under way end when they want to.
func TestDrain(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	one, two := w.backend(t, "a", 9001), w.backend(t, "remote", 9002)
	w.replace(t, append(one.slices("web"), newTestService("web"))...)
	works := w.hold(t, everyWay()...)
	w.update(t, two.slices("web")...)
	w.update(t, one.slices("web", terminating)...)
	works("with the endpoint terminating")
	before := one.taken.Load()
	calls := w.call(t, everyWay()...)
	calls.more(t)
	if n := one.taken.Load() - before; n > 0 {
		t.Errorf("%d new calls went to the endpoint that terminates", n)
	}
	w.update(t, two.slices("web", terminating)...)
	calls.more(t)
	works("with all endpoints terminating")
	until(t, "both take calls, for want of ready ones", func() bool {
		return one.taken.Load() > before
	})
	calls.stop(t)
	works("in the end")
}

// TestAffinityFullIsTold has more clients than session affinity has room for: all
// are served, and the metric says how many are not remembered.
func TestAffinityFullIsTold(t *testing.T) {
	w := newWorld(t)
	w.configure = func(c *Config) { c.AffinitySize = 2 }
	w.start(t)
	w.replace(t, append(newTestSlices("web", pod("a"), pod("b")), newTestService("web", sticky(10800)))...)
	for family, name := range families {
		sources := w.sources(t, family, 8)
		metric := fmt.Sprintf("fairway_nodeproxy_affinity_full_total{ip_family=%q}", name)
		before := w.value(t, metric)
		w.served(t, sources, vip.at(family), "tcp")
		w.served(t, sources, vip.at(family), "udp")
		w.resting(t, func() { w.proxy.sweep(t.Context()) })
		// The kernel's count of what is in the map may be a little late.
		if got := w.value(t, metric) - before; before != 0 || got < 8 || got > 16 {
			t.Errorf("%s: %v of 16 connections are counted beside %v before, with room for 2 of them", name, got, before)
		}
	}
}
