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
	slices []any
	hits   []atomic.Int64
}

const firstPort = 9000

func (w *world) many(t *testing.T, n int) *many {
	t.Helper()
	m := &many{hits: make([]atomic.Int64, n)}
	for i := range n {
		at := netip.AddrPortFrom(addr("a", 0), uint16(firstPort+i))
		c, err := w.hosts["a"].ListenPacket(t.Context(), "udp", at.String())
		must(t, err)
		t.Cleanup(func() { c.Close() })
		go func() {
			buf := make([]byte, 64)
			for {
				if _, _, err := c.ReadFrom(buf); err != nil {
					return
				}
				m.hits[i].Add(1)
			}
		}()
		s := newTestSlices("web", pod("a"))[0].(*discoveryv1.EndpointSlice)
		s.Name = fmt.Sprint("web-", i)
		for p := range s.Ports {
			s.Ports[p].Port = new(int32(firstPort + i))
		}
		m.slices = append(m.slices, s)
	}
	return m
}

// draw sends n datagrams, each a flow of its own, and returns how many each of
// the endpoints got.
func (w *world) draw(t *testing.T, m *many, source netip.Addr, n int) []int64 {
	t.Helper()
	for i := range m.hits {
		m.hits[i].Store(0)
	}
	got := make([]int64, len(m.hits))
	// So few at once that none is lost for want of room in a socket.
	const most = 100
	for sent := 0; sent < n; {
		next := min(sent+most, n)
		must(t, w.hosts["client"].Do(func() error { return hit(source, sent, next) }))
		sent = next
		until(t, fmt.Sprintf("%d datagrams arrive", sent), func() bool {
			var sum int64
			for i := range m.hits {
				got[i] = m.hits[i].Load()
				sum += got[i]
			}
			return sum == int64(sent)
		})
	}
	return got
}

// hit sends datagrams, each from a port of its own, from the first to before the
// last.
func hit(source netip.Addr, first, last int) error {
	const firstPort = 20000
	to := net.UDPAddrFromAddrPort(clusterIP.at(0))
	for port := first; port < last; port++ {
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, uint16(firstPort+port))), to)
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
			sources := w.sources(t, 0, 5)
			r := rand.New(rand.NewPCG(uint64(n), 1))
			w.replace(t, append(slices.Clone(m.slices), newTestService("web"))...)
			all := make([]int, n)
			for i := range all {
				all[i] = i
			}
			for i, state := range []struct {
				name string
				keep []int
			}{
				{"fresh", all}, {"one removed", all[1:]}, {"a quarter removed", all[(n+3)/4:]}, {"all but one removed", all[n-1:]},
			} {
				t.Run(state.name, func(t *testing.T) {
					w.have(t, m, state.keep)
					expectFair(t, w.draw(t, m, sources[i], 300*len(state.keep)), state.keep)
				})
			}
			t.Run("after 1000 random changes", func(t *testing.T) {
				for range 1000 {
					r.Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
					w.set(t, m, all[:1+r.IntN(n)])
				}
				keep := slices.Sorted(slices.Values(all[:max(2, n-n/4)]))
				w.have(t, m, keep)
				expectFair(t, w.draw(t, m, sources[4], 300*len(keep)), keep)
			})
		})
	}
}

// set hands in that these endpoints are ready and the others are not.
func (w *world) set(t *testing.T, m *many, keep []int) {
	t.Helper()
	for i, s := range m.slices {
		next := s.(*discoveryv1.EndpointSlice).DeepCopy()
		next.Endpoints[0].Conditions.Ready = new(slices.Contains(keep, i))
		next.Endpoints[0].Conditions.Serving = new(false)
		must(t, w.proxy.tracker.slices.Update(next))
	}
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
