package nodeproxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// backend is a program in a Pod that holds conversations: it says the Pod's name
// for every byte it gets, until the other side has enough.
type backend struct {
	host      string
	port      uint16
	listeners []net.Listener
	taken     atomic.Int64 // conversations there ever were
	open      atomic.Int64 // that are not over
}

// serveEverywhere gives the Service web a backend on each host that Pods are on, and
// returns its objects.
func (w *world) serveEverywhere(t *testing.T) []any {
	t.Helper()
	objects := []any{newTestService("web")}
	for _, host := range []string{"a", "b", "remote"} {
		objects = append(objects, w.backend(t, host, 9000).slices("web")...)
	}
	w.replace(t, objects...)
	return objects
}

// backend starts one. It ends with the test, or when stop is called.
func (w *world) backend(t *testing.T, host string, port uint16) *backend {
	t.Helper()
	b := &backend{host: host, port: port}
	for family := range families {
		l, err := w.hosts[host].Listen(t.Context(), "tcp", netip.AddrPortFrom(addr(host, family), port).String())
		must(t, err)
		b.listeners = append(b.listeners, l)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				quiet(c)
				b.taken.Add(1)
				b.open.Add(1)
				go func() {
					defer b.open.Add(-1)
					defer c.Close()
					b.converse(c)
				}()
			}
		}()
	}
	t.Cleanup(b.stop)
	return b
}

func (b *backend) converse(c net.Conn) {
	for buf := make([]byte, 1); ; {
		if _, err := c.Read(buf); err != nil {
			return
		}
		if _, err := c.Write([]byte{b.host[0]}); err != nil {
			return
		}
	}
}

// stop takes no more conversations. Those there are go on.
func (b *backend) stop() {
	for _, l := range b.listeners {
		l.Close()
	}
}

// slices are the EndpointSlices, one a family, in which this is the only
// endpoint of the Service, as changed by the edits.
func (b *backend) slices(service string, edits ...func(discoveryv1.Endpoint) discoveryv1.Endpoint) []any {
	e := pod(b.host)
	for _, edit := range edits {
		e = edit(e)
	}
	out := newTestSlices(service, e)
	for _, o := range out {
		s := o.(*discoveryv1.EndpointSlice)
		s.Name = fmt.Sprintf("%s-%s-%d", s.Name, b.host, b.port)
		for i := range s.Ports {
			s.Ports[i].Port = new(int32(b.port))
		}
	}
	return out
}

// say has a conversation of one word.
func say(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.Write([]byte{'?'}); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

// caller is who calls whom.
type caller struct {
	from   string
	to     target
	family int
}

func (c caller) String() string {
	return fmt.Sprintf("%s to %s %s", c.from, c.to.name, families[c.family])
}

// everyWay are callers of a Service from outside and from a Pod, at its ClusterIP
// and its NodePort, in both families.
func everyWay() (out []caller) {
	for family := range families {
		out = append(out, caller{"client", clusterIP, family}, caller{"client", atNode, family}, caller{"b", clusterIP, family})
	}
	return out
}

// calls are clients that connect, talk for some milliseconds, and connect again.
type calls struct {
	begun, ended []atomic.Int64
	finish       func() // waits for the last calls to end

	mu     sync.Mutex
	failed []failedCall
}

// failedCall is one that did not go as it should.
type failedCall struct {
	caller
	begun time.Time
	err   error
}

// failures returns the calls that began after a moment and failed.
func (c *calls) failures(after time.Time) []failedCall {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.failed), func(f failedCall) bool { return f.begun.Before(after) })
}

// call starts the callers, each of which has one connection at a time.
func (w *world) call(t *testing.T, callers ...caller) *calls {
	t.Helper()
	out := &calls{begun: make([]atomic.Int64, len(callers)), ended: make([]atomic.Int64, len(callers))}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i, c := range callers {
		wg.Go(func() {
			for ctx.Err() == nil {
				n := out.begun[i].Add(1)
				begun := time.Now()
				if err := w.converse(c, int(n%4)*3); err != nil {
					out.mu.Lock()
					out.failed = append(out.failed, failedCall{c, begun, err})
					out.mu.Unlock()
					time.Sleep(10 * time.Millisecond) // leave the machine to who can mend it
				}
				out.ended[i].Add(1)
			}
		})
	}
	out.finish = func() { cancel(); wg.Wait() }
	t.Cleanup(out.finish)
	return out
}

// converse connects and says some words, a millisecond apart.
func (w *world) converse(c caller, words int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := w.hosts[c.from].DialContext(ctx, "tcp", c.to.at(c.family).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	for word := range words + 1 {
		if word > 0 {
			time.Sleep(time.Millisecond)
		}
		if err := say(conn); err != nil {
			return fmt.Errorf("word %d from %v: %w", word, conn.LocalAddr(), err)
		}
	}
	return nil
}

// more waits until every caller made a call that began after now.
func (c *calls) more(t *testing.T) {
	t.Helper()
	for i := range c.begun {
		now := c.begun[i].Load()
		until(t, "calls are made", func() bool { return c.ended[i].Load() > now })
	}
}

// stop ends the calls and the test if one failed, and returns how many there were.
func (c *calls) stop(t *testing.T) (total int64) {
	t.Helper()
	c.finish()
	for i := range c.ended {
		total += c.ended[i].Load()
	}
	if failed := c.failures(time.Time{}); len(failed) > 0 {
		t.Fatalf("%d of %d calls failed, the first %v: %v", len(failed), total, failed[0].caller, failed[0].err)
	}
	return total
}

// hold opens a connection for each caller and returns a function that fails
// where one does not work any more.
func (w *world) hold(t *testing.T, callers ...caller) (works func(when string)) {
	t.Helper()
	conns := make([]net.Conn, len(callers))
	for i, c := range callers {
		var err error
		conns[i], err = w.hosts[c.from].DialContext(t.Context(), "tcp", c.to.at(c.family).String())
		must(t, err)
		t.Cleanup(func() { conns[i].Close() })
		quiet(conns[i])
	}
	works = func(when string) {
		t.Helper()
		for i, c := range conns {
			if err := say(c); err != nil {
				t.Errorf("%s, a connection of %v from before is broken: %v", when, callers[i], err)
			}
		}
	}
	works("in the beginning")
	return works
}

// quiet lets a connection with nothing to say send nothing: what comes while the
// packet filter is gone is translated by nobody, and breaks it.
func quiet(c net.Conn) {
	_ = c.(*net.TCPConn).SetKeepAlive(false) // fails on one that is closed
}

// newClusterIPService is a Service at a ClusterIP of its own and nowhere else.
func newClusterIPService(name string, i int) *corev1.Service {
	return newTestService(name, func(s *corev1.Service) {
		s.Spec.Type, s.Status = corev1.ServiceTypeClusterIP, corev1.ServiceStatus{}
		four := clusterIPOf(i).Addr().String()
		s.Spec.ClusterIP, s.Spec.ClusterIPs = four, []string{four, fmt.Sprintf("fd00:96::1:%x", i+1)}
		for p := range s.Spec.Ports {
			s.Spec.Ports[p].NodePort = 0
		}
	})
}

// clusterIPOf is where to ask for the Service of that number.
func clusterIPOf(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(1 + i/250), byte(1 + i%250)}), 80)
}
