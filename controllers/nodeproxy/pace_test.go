package nodeproxy

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// paced runs a proxy with a Service and a MinSyncPeriod as kube-proxy's files have
// it, by a clock of its own, until nothing has changed for longer than that.
func paced(t *testing.T, f func(t *testing.T, w *world, period time.Duration)) {
	t.Helper()
	const period = 10 * time.Second
	w := newWorld(t)
	w.shared = true
	w.configure = func(c *Config) { c.MinSyncPeriod = period }
	synctest.Test(t, func(t *testing.T) {
		w.start(t)
		w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web"))...)
		time.Sleep(period + 1003*time.Millisecond) // and off the beat of verification
		f(t, w, period)
	})
}

// change hands in endpoints that differ from all before, and waits until nothing
// happens any more without time passing.
func (w *world) change(t *testing.T, port int32) {
	t.Helper()
	// All at once: a family that comes later would have to wait.
	must(t, w.proxy.tracker.slices.Replace(withTargetPort(newTestSlices("web", pod("b")), port), ""))
	synctest.Wait()
}

// transactions returns how many each family had.
func (w *world) transactions(t *testing.T) (n [2]float64) {
	t.Helper()
	for family, name := range families {
		n[family] = w.value(t, fmt.Sprintf("fairway_nodeproxy_transactions_total{ip_family=%q}", name))
	}
	return n
}

// TestLoneChangeDoesNotWait makes a change long after the last one: no time passes
// until packets follow it, however long changes gather.
func TestLoneChangeDoesNotWait(t *testing.T) {
	paced(t, func(t *testing.T, w *world, _ time.Duration) {
		before := w.transactions(t)
		w.change(t, podPort)
		if got := w.transactions(t); got != [2]float64{before[0] + 1, before[1] + 1} {
			t.Errorf("%v transactions, before the change %v", got, before)
		}
		for family := range families {
			w.checkOne(t, flow{"client", clusterIP, []string{"b"}, "node"}, family, "tcp")
		}
	})
}

// TestChangesGather makes many changes: the first is sent at once, the others
// once a period, the last one too.
func TestChangesGather(t *testing.T) {
	paced(t, func(t *testing.T, w *world, period time.Duration) {
		before := w.transactions(t)
		const periods, step = 3, 70 * time.Millisecond
		for i := range int32(periods * period / step) {
			w.change(t, 10000+i)
			time.Sleep(step)
		}
		w.change(t, podPort)
		time.Sleep(period)
		want := float64(1 + periods)
		if got := w.transactions(t); got[0]-before[0] != want || got[1]-before[1] != want {
			t.Errorf("%v transactions in %d periods, before %v", got, periods, before)
		}
		for family := range families {
			w.checkOne(t, flow{"client", clusterIP, []string{"b"}, "node"}, family, "tcp")
		}
	})
}

// TestVerifiedWhileChangesGather has another program remove the tables while a
// change waits: that is noticed and repaired as soon as at any other time, and the
// change need not wait any more.
func TestVerifiedWhileChangesGather(t *testing.T) {
	paced(t, func(t *testing.T, w *world, _ time.Duration) {
		w.change(t, 10000)
		before := w.transactions(t)
		w.change(t, podPort)
		if got := w.transactions(t); got != before {
			t.Fatalf("the second change did not wait: %v transactions, before %v", got, before)
		}
		must(t, w.hosts["node"].Do(removeTables))
		time.Sleep(250 * time.Millisecond)
		synctest.Wait()
		for family, name := range families {
			if noticed, loaded := w.repairs(t, family); noticed != 1 || loaded != 2 {
				t.Errorf("after 250 ms %s was found changed %v times and loaded %v times, want once and twice", name, noticed, loaded)
			}
			w.checkOne(t, flow{"client", clusterIP, []string{"b"}, "node"}, family, "tcp")
		}
	})
}

// removeTables does what another program may, where the kernel does not forbid it.
func removeTables() error {
	f, err := nft.OpenForeign()
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Remove(nft.Removal{Tables: []nft.TableRef{{Name: nft.TableName}, {IPv6: true, Name: nft.TableName}}})
}
