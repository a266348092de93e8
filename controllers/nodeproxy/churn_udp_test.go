package nodeproxy

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// stream is a UDP flow: datagrams from one socket, one each millisecond, and who
// answers them.
type stream struct {
	name string
	conn net.Conn

	mu    sync.Mutex
	last  string // who answered last
	run   int    // how many answers in a row are from there
	from  time.Time
	heard time.Time     // the last answer
	stood time.Duration // how long answers that were due did not come, all in all
}

// follow notes who answers until the connection is closed.
func (s *stream) follow() {
	buf := make([]byte, 128)
	for {
		n, err := s.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // "connection refused", for want of endpoints
		}
		pod, _, _ := strings.Cut(string(buf[:n]), " ")
		now := time.Now()
		s.mu.Lock()
		if s.run++; pod != s.last {
			s.last, s.run, s.from = pod, 1, now
		}
		if !s.heard.IsZero() {
			s.stood += s.overdue(now)
		}
		s.heard = now
		s.mu.Unlock()
	}
}

// answeredBy returns since when the Pod alone answers, if for some datagrams now.
func (s *stream) answeredBy(pod string) (since time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.from, s.last == pod && s.run >= 10
}

// overdue returns how long the next answer should have been there.
func (s *stream) overdue(now time.Time) time.Duration {
	return max(0, now.Sub(s.heard)-2*time.Millisecond)
}

// late returns how long answers that were due did not come, all in all, since it
// was last asked.
func (s *stream) late() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	stood := s.stood + s.overdue(now)
	s.stood, s.heard = 0, now
	return stood
}

// lateness returns what tells how late the machine was since it was last asked
// with what has nothing to do with the proxy: datagrams straight to a Pod and
// back, one each millisecond. What a test sees of the proxy is as late at least.
func (w *world) lateness(t *testing.T) (since func() time.Duration) {
	t.Helper()
	plain := w.streams(t, target{"remote", podPort})
	for _, s := range plain {
		until(t, "a Pod answers without the proxy", func() bool { _, ok := s.answeredBy("remote"); return ok })
	}
	since = func() (most time.Duration) {
		for _, s := range plain {
			most = max(most, s.late())
		}
		return most
	}
	since()
	return since
}

// streams starts one to each target in each family.
func (w *world) streams(t *testing.T, targets ...target) []*stream {
	t.Helper()
	var out []*stream
	for family, name := range families {
		for _, to := range targets {
			c, err := w.hosts["client"].DialContext(t.Context(), "udp", to.at(family).String())
			must(t, err)
			out = append(out, &stream{name: to.name + " " + name, conn: c})
		}
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				for _, s := range out {
					_, _ = s.conn.Write([]byte("who?")) // may be refused
				}
			}
		}
	})
	for _, s := range out {
		wg.Go(s.follow)
	}
	t.Cleanup(func() {
		close(stop)
		for _, s := range out {
			s.conn.Close()
		}
		wg.Wait()
	})
	return out
}

// walks returns how often the flows of a family were walked through.
func (w *world) walks(t *testing.T, family int) int {
	t.Helper()
	return int(w.value(t, fmt.Sprintf("kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family=%q}", families[family])))
}

// walkTime is how long the kernel takes for a walk at the moment: the longest of
// three.
func (w *world) walkTime(t *testing.T) time.Duration {
	t.Helper()
	var longest time.Duration
	must(t, w.hosts["node"].Do(func() error {
		f, err := newFlows()
		if err != nil {
			return err
		}
		defer f.close()
		for range 3 {
			start := time.Now()
			if _, err := f.stale(unix.AF_INET, staleFlows{frontendOf(vip.at(0)): nil}); err != nil {
				return err
			}
			longest = max(longest, time.Since(start))
		}
		return nil
	}))
	return longest
}

var externalIP = target{"external", 80}

// TestUDPMovesAtOnce has flows that never pause move to another endpoint when
// theirs leaves, at all kinds of addresses at the same time, and come back from
// where there was none. Each time all of them do so within 50 ms, beyond what the
// machine is late with at that moment: with datagrams that pass by the proxy, and
// with the kernel's walk through the flows, of which there is one for each family.
func TestUDPMovesAtOnce(t *testing.T) {
	w := newWorld(t)
	w.configure = func(c *Config) { c.MinSyncPeriod = 5 * time.Millisecond } // the default
	w.start(t)
	service := newTestService("web", func(s *corev1.Service) { s.Spec.ExternalIPs = slices.Clone(addr2("external")) })
	w.replace(t, append(newTestSlices("web", pod("a")), service)...)
	late := w.lateness(t)
	streams := w.streams(t, clusterIP, atNode, vip, externalIP)
	moved := func(pod string, since time.Time) time.Duration {
		t.Helper()
		var last time.Time
		for _, s := range streams {
			until(t, fmt.Sprintf("the flow to %s is answered by %s", s.name, pod), func() bool {
				at, ok := s.answeredBy(pod)
				if ok && at.After(last) {
					last = at
				}
				return ok
			})
		}
		return last.Sub(since)
	}
	moved("a", time.Now())
	w.settleFlows(t)
	// move makes this the only endpoint and looks how long flows go elsewhere, or
	// nowhere.
	move := func(what, to string) {
		t.Helper()
		late()
		start := time.Now()
		w.update(t, newTestSlices("web", pod(to))...)
		took := moved(to, start)
		lateness, walk := late(), w.walkTime(t)
		limit := sandbox.Patience(50*time.Millisecond) + lateness + 2*max(0, walk-5*time.Millisecond)
		t.Logf("%s: all flows had moved after %v, of at most %v (a walk takes %v)", what, took, limit, walk)
		if took > limit {
			t.Errorf("%s: it took %v until all flows had moved, more than %v", what, took, limit)
		}
		w.settleFlows(t)
	}
	for round := range 12 {
		to := []string{"b", "remote", "a"}[round%3]
		before := []int{w.walks(t, 0), w.walks(t, 1)}
		move("to "+to, to)
		for family, name := range families {
			// The two families' slices may be seen one after the other.
			if n := w.walks(t, family) - before[family]; n != 1 {
				t.Errorf("%d walks through the flows of %s for one change of four frontends, want 1", n, name)
			}
		}
	}
	for _, to := range []string{"b", "remote", "a", "b"} {
		w.update(t, newTestSlices("web")...)
		w.settleFlows(t)
		move("from no endpoint to "+to, to)
	}
}

// TestWalksThroughFlows counts how often the connection tracking table is walked
// through, which costs the same however few flows there are: once for all that
// went, and not where nothing did.
func TestWalksThroughFlows(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	tcpOnly := func(s *corev1.Service) { s.Spec.Ports = s.Spec.Ports[:1] }
	type step struct {
		what    string
		service *corev1.Service
		pods    []discoveryv1.Endpoint
		walks   int // of each family
	}
	both, tcp := newTestService("web"), newTestService("web", tcpOnly)
	for _, s := range []step{
		{"a Service without UDP", tcp, podsNamed("a", "b"), 0},
		{"an endpoint of it goes", tcp, podsNamed("b"), 0},
		{"all its endpoints go", tcp, nil, 0},
		{"it is gone", nil, nil, 0},
		{"one with UDP, without endpoints", both, nil, 0},
		{"it is gone", nil, nil, 0},
		{"one with UDP, whose clients may be there before it", both, podsNamed("a"), 1},
		{"the same again", both, podsNamed("a"), 0},
		{"another endpoint comes", both, podsNamed("a", "b"), 0},
		{"one terminates and still serves", both, []discoveryv1.Endpoint{terminating(pod("a")), pod("b")}, 0},
		{"it is gone", both, podsNamed("b"), 1},
		{"the first is back, the other goes", both, podsNamed("a"), 1},
		{"UDP is not served any more", tcp, podsNamed("a"), 1},
		{"and again, from no flows to some", both, podsNamed("a"), 1},
		{"all endpoints go", both, nil, 1},
		{"they come back", both, podsNamed("a", "b", "remote"), 1},
		{"the Service goes", nil, nil, 1},
	} {
		before := []int{w.walks(t, 0), w.walks(t, 1)}
		var objects []any
		if s.service != nil {
			objects = append(newTestSlices("web", s.pods...), s.service)
		}
		w.resting(t, func() { w.hand(t, objects...) }) // the proxy sees no state in between
		w.settle(t)
		w.settleFlows(t)
		for family, name := range families {
			if n := w.walks(t, family) - before[family]; n != s.walks {
				t.Errorf("%s: %d walks through the flows of %s, want %d", s.what, n, name, s.walks)
			}
		}
	}
}
