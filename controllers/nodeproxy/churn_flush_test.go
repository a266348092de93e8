package nodeproxy

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// repairs returns how often a family's table was found changed, and how often it
// was loaded.
func (w *world) repairs(t *testing.T, family int) (noticed, loaded float64) {
	t.Helper()
	of := `{ip_family="` + families[family] + `"}`
	return w.value(t, "fairway_nodeproxy_foreign_changes_total"+of), w.value(t, "kubeproxy_sync_full_proxy_rules_duration_seconds_count"+of)
}

// TestFlushUnderLoad lets another program at the table while calls are made.
func TestFlushUnderLoad(t *testing.T) {
	requireTool(t)
	prepare := func(t *testing.T, shared bool) (*world, *calls, func(string)) {
		w := newWorld(t)
		w.shared = shared
		w.start(t)
		w.serveEverywhere(t)
		works := w.hold(t, everyWay()...)
		return w, w.call(t, everyWay()...), works
	}

	// The kernel keeps others from the table (Linux 6.9): nothing happens.
	t.Run("owned", func(t *testing.T) {
		w, calls, works := prepare(t, false)
		if !w.proxy.planes[0].table.Owned() {
			t.Skip("NOT CHECKED: this kernel has no owned tables that persist (Linux 6.9)")
		}
		dumps := w.stats(t).Dumps
		for range 10 {
			w.nft(t, "flush", "ruleset")
			calls.more(t)
		}
		t.Logf("%d calls during 10 flushes", calls.stop(t))
		works("after 10 flushes")
		for family, name := range families {
			if noticed, loaded := w.repairs(t, family); noticed > 0 || loaded != 1 {
				t.Errorf("%s was found changed %v times and loaded %v times", name, noticed, loaded)
			}
		}
		if now := w.stats(t).Dumps; now != dumps {
			t.Errorf("the kernel was read %d times", now-dumps)
		}
	})

	// It cannot: what others did is noticed within 250 ms and repaired within a
	// second, each time, beyond what the machine is late with at that moment. That
	// is measured, as the load here is meant to be heavy. Connections that have
	// nothing to say meanwhile do not notice; those that are tried are refused,
	// or else succeed with the next attempt.
	t.Run("shared", func(t *testing.T) {
		w, calls, works := prepare(t, true)
		calls.more(t)
		late := w.lateness(t)
		// within fails where more time passed since than allowed, beyond what the
		// machine was late with meanwhile.
		within := func(what string, since time.Time, allowed time.Duration) {
			t.Helper()
			took, limit := time.Since(since), sandbox.Patience(allowed)+late()
			t.Logf("%s after %v, of at most %v", what, took, limit)
			if took > limit {
				t.Errorf("%s after %v, more than %v", what, took, limit)
			}
		}
		for _, command := range []string{
			"flush ruleset",
			"delete table ip fairway; delete table ip6 fairway",
			"flush chain ip fairway nat-postrouting; delete chain ip fairway nat-postrouting; flush chain ip6 fairway nat-postrouting; delete chain ip6 fairway nat-postrouting",
			"delete element ip fairway services { 10.96.0.10 . tcp . 80 }; delete element ip6 fairway services { fd00:96::10 . tcp . 80 }",
		} {
			noticed, loaded := make([]float64, 2), make([]float64, 2)
			for family := range families {
				noticed[family], loaded[family] = w.repairs(t, family)
			}
			w.nft(t, command)
			late()
			start := time.Now()
			until(t, "noticed: "+command, func() bool {
				four, _ := w.repairs(t, 0)
				six, _ := w.repairs(t, 1)
				return four == noticed[0]+1 && six == noticed[1]+1
			})
			within("noticed", start, 250*time.Millisecond)
			until(t, "repaired: "+command, func() bool {
				_, four := w.repairs(t, 0)
				_, six := w.repairs(t, 1)
				return four == loaded[0]+1 && six == loaded[1]+1
			})
			repaired := time.Now()
			within("repaired", start, time.Second)
			calls.more(t)
			calls.more(t)
			if late := calls.failures(repaired); len(late) > 0 {
				t.Fatalf("%s: %d calls failed that began after the repair, the first %v: %v", command, len(late), late[0].caller, late[0].err)
			}
			works("after " + command)
		}
		t.Logf("%d calls failed between", len(calls.failures(time.Time{})))

		// Others' own tables are nobody's business.
		dumps := w.stats(t).Dumps
		before := len(calls.failures(time.Time{}))
		for range 5 {
			w.nft(t, "add table ip other; add chain ip other fairway; add map ip other services { type ipv4_addr : verdict; }; add element ip other services { 10.96.0.10 : drop }")
			calls.more(t)
			w.nft(t, "delete table ip other")
			w.resting(t, func() {
				for _, p := range w.proxy.planes {
					must(t, p.table.Verify())
				}
			})
		}
		if now := w.stats(t).Dumps; now != dumps {
			t.Errorf("after changes of others' tables ours was read %d times", now-dumps)
		}
		calls.finish()
		for _, f := range calls.failures(time.Time{}) {
			// A conversation that was under way may have been cut.
			if op, _ := errors.AsType[*net.OpError](f.err); op != nil && op.Op == "dial" && op.Timeout() {
				t.Errorf("a call of %v was never answered: %v", f.caller, f.err)
			}
		}
		if n := len(calls.failures(time.Time{})) - before; n > 0 {
			t.Errorf("%d calls failed while others changed their own tables", n)
		}
	})
}
