package nodeproxy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// many are endpoints that all live at Pod "a", each at a port of its own.
type many struct {
	slices [][]any // of each endpoint, one a family
	ready  []bool  // as was handed in
	hits   [][]atomic.Int64
}

const firstPort = 9000

func (w *world) many(t *testing.T, n int) *many {
	t.Helper()
	m := &many{ready: make([]bool, n)}
	for family := range families {
		hits := make([]atomic.Int64, n)
		m.hits = append(m.hits, hits)
		for i := range n {
			at := netip.AddrPortFrom(addr("a", family), uint16(firstPort+i))
			c, err := w.hosts["a"].ListenPacket(t.Context(), "udp", at.String())
			must(t, err)
			t.Cleanup(func() { c.Close() })
			go func() {
				buf := make([]byte, 64)
				for {
					if _, _, err := c.ReadFrom(buf); err != nil {
						return
					}
					hits[i].Add(1)
				}
			}()
		}
	}
	for i := range n {
		own := withTargetPort(newTestSlices("web", pod("a")), int32(firstPort+i))
		for _, o := range own {
			o.(*discoveryv1.EndpointSlice).Name += fmt.Sprint("-", i)
		}
		m.slices = append(m.slices, own)
		m.ready[i] = true
	}
	return m
}

// draw sends n datagrams, each a flow of its own, and returns how many each of
// the endpoints got.
func (w *world) draw(t *testing.T, m *many, family int, source netip.Addr, n int) []int64 {
	t.Helper()
	hits := m.hits[family]
	for i := range hits {
		hits[i].Store(0)
	}
	got := make([]int64, len(hits))
	// So few at once that none is lost for want of room in a socket.
	const most = 100
	for sent := 0; sent < n; {
		next := min(sent+most, n)
		must(t, w.hosts["client"].Do(func() error { return hit(clusterIP.at(family), source, sent, next) }))
		sent = next
		until(t, fmt.Sprintf("%d datagrams arrive", sent), func() bool {
			var sum int64
			for i := range hits {
				got[i] = hits[i].Load()
				sum += got[i]
			}
			return sum == int64(sent)
		})
	}
	return got
}

// hit sends datagrams, each from a port of its own, from the first to before the
// last.
func hit(to netip.AddrPort, source netip.Addr, first, last int) error {
	const firstPort = 20000
	for port := first; port < last; port++ {
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, uint16(firstPort+port))), net.UDPAddrFromAddrPort(to))
		if err != nil {
			return err
		}
		if _, err := c.Write([]byte("hit")); err != nil {
			return err
		}
		c.Close()
	}
	return nil
}

// TestFairness draws endpoints and tests by chi-squared that all are as likely:
// of fresh pools and of such that endpoints have left.
func TestFairness(t *testing.T) {
	for _, n := range []int{3, 7, 33} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			w := newWorld(t)
			w.start(t)
			m := w.many(t, n)
			w.replace(t, append(slices.Concat(m.slices...), newTestService("web"))...)
			all := make([]int, n)
			for i := range all {
				all[i] = i
			}
			sources := [][]netip.Addr{w.sources(t, 0, 5), w.sources(t, 1, 5)}
			fair := func(t *testing.T, state int, keep []int) {
				t.Helper()
				w.have(t, m, keep)
				for family, name := range families {
					t.Run(name, func(t *testing.T) {
						expectFair(t, w.draw(t, m, family, sources[family][state], 300*len(keep)), keep)
					})
				}
			}
			for i, state := range []struct {
				name string
				keep []int
			}{
				{"fresh", all}, {"one removed", all[1:]}, {"a quarter removed", all[(n+3)/4:]}, {"all but one removed", all[n-1:]},
			} {
				t.Run(state.name, func(t *testing.T) { fair(t, i, state.keep) })
			}
			t.Run("after 1000 random changes", func(t *testing.T) {
				w.changeRandomly(t, m, 1000)
				r := rand.New(rand.NewPCG(uint64(n), 2))
				fair(t, 4, slices.Sorted(slices.Values(r.Perm(n)[:max(2, n-n/4)])))
			})
		})
	}
}

// changeRandomly gives the Service other endpoints again and again, and waits each
// time until the kernel has them: in each family there is a transaction for each.
func (w *world) changeRandomly(t *testing.T, m *many, changes int) {
	t.Helper()
	n := len(m.ready)
	r := rand.New(rand.NewPCG(uint64(n), 1))
	transactions := func(family int) float64 {
		return w.value(t, fmt.Sprintf("fairway_nodeproxy_transactions_total{ip_family=%q}", families[family]))
	}
	before := []float64{transactions(0), transactions(1)}
	for done := 0; done < changes; {
		if w.set(t, m, r.Perm(n)[:1+r.IntN(n)]) {
			done++
			w.settle(t)
		}
	}
	for family, name := range families {
		if got := transactions(family) - before[family]; got < float64(changes) {
			t.Errorf("%d changes made %v transactions of %s", changes, got, name)
		}
	}
}

// set hands in that these endpoints are ready and the others are not, and tells
// whether that is a change.
func (w *world) set(t *testing.T, m *many, keep []int) (changed bool) {
	t.Helper()
	for i, own := range m.slices {
		ready := slices.Contains(keep, i)
		if ready == m.ready[i] {
			continue
		}
		m.ready[i], changed = ready, true
		for _, s := range own {
			next := s.(*discoveryv1.EndpointSlice).DeepCopy()
			next.Endpoints[0].Conditions.Ready = &ready
			next.Endpoints[0].Conditions.Serving = new(false)
			must(t, w.proxy.tracker.slices.Update(next))
		}
	}
	return changed
}

func (w *world) have(t *testing.T, m *many, keep []int) {
	t.Helper()
	w.set(t, m, keep)
	w.settle(t)
	w.settleFlows(t)
}

// expectFair fails if hits are spread as unevenly as one fair draw in a million is.
func expectFair(t *testing.T, hits []int64, keep []int) {
	t.Helper()
	var sum int64
	for i, h := range hits {
		sum += h
		if h > 0 && !slices.Contains(keep, i) {
			t.Errorf("endpoint %d is gone and got %d", i, h)
		}
	}
	want := float64(sum) / float64(len(keep))
	chi := 0.0
	for _, i := range keep {
		chi += math.Pow(float64(hits[i])-want, 2) / want
	}
	// Wilson and Hilferty's approximation of the quantile.
	const z = 4.75
	df := float64(len(keep) - 1)
	limit := df * math.Pow(1-2/(9*df)+z*math.Sqrt(2/(9*df)), 3)
	if df > 0 && chi > limit {
		t.Errorf("chi-squared %.1f, more than %.1f: %v", chi, limit, hits)
	}
}
