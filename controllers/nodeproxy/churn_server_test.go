package nodeproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/health"
)

// cluster is what an API server knows: objects, and what happened to them, from
// which watches go on where they were. It serves HTTP.
type cluster struct {
	mu      sync.Mutex
	version int
	objects map[string]map[string]metav1.Object // by path and name
	past    []clusterEvent
	oldest  int           // version of which watches can go on
	changed chan struct{} // closed with the next change
	lists   map[string]int
}

type clusterEvent struct {
	version int
	path    string
	watchEvent
}

func newCluster() *cluster {
	c := &cluster{version: 1, objects: make(map[string]map[string]metav1.Object), changed: make(chan struct{}), lists: make(map[string]int)}
	for path := range kinds {
		c.objects[path] = make(map[string]metav1.Object)
	}
	return c
}

func pathOf(object any) string {
	switch object.(type) {
	case *corev1.Service:
		return pathServices
	case *corev1.Node:
		return pathNodes
	}
	return pathSlices
}

// apply creates or changes objects, remove deletes them.
func (c *cluster) apply(objects ...any)  { c.change("MODIFIED", objects) }
func (c *cluster) remove(objects ...any) { c.change("DELETED", objects) }

func (c *cluster) change(what string, objects []any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, object := range objects {
		path := pathOf(object)
		o := typed(path, object).(metav1.Object)
		c.version++
		o.SetResourceVersion(strconv.Itoa(c.version))
		name := o.GetNamespace() + "/" + o.GetName()
		kind := what
		if _, known := c.objects[path][name]; !known {
			kind = "ADDED"
		}
		c.objects[path][name] = o
		if what == "DELETED" {
			delete(c.objects[path], name)
			kind = what
		}
		c.past = append(c.past, clusterEvent{c.version, path, watchEvent{kind, o}})
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// forget makes watches impossible that begin before now.
func (c *cluster) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version++
	c.past, c.oldest = nil, c.version
}

func (c *cluster) listed() (total int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.lists {
		total += n
	}
	return total
}

func status(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status: metav1.StatusFailure, Reason: reason, Code: int32(code)})
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case q.Get("sendInitialEvents") != "":
		status(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid) // an older server: the reflector then lists
	case q.Get("watch") != "":
		c.watch(w, r)
	default:
		c.list(w, r)
	}
}

func (c *cluster) list(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	path := r.URL.Path
	c.lists[path]++
	items := []any{}
	for _, o := range c.objects[path] {
		items = append(items, o)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"apiVersion": kinds[path][0], "kind": kinds[path][1] + "List",
		"metadata": map[string]string{"resourceVersion": strconv.Itoa(c.version)}, "items": items,
	})
}

func (c *cluster) watch(w http.ResponseWriter, r *http.Request) {
	seen, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	c.mu.Lock()
	expired := err != nil || seen < c.oldest
	c.mu.Unlock()
	if expired {
		status(w, http.StatusGone, metav1.StatusReasonExpired)
		return
	}
	encoder := json.NewEncoder(w)
	for {
		c.mu.Lock()
		next := c.changed
		for _, e := range c.past {
			if e.version > seen && e.path == r.URL.Path {
				_ = encoder.Encode(e.watchEvent)
			}
		}
		seen = c.version
		c.mu.Unlock()
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-next:
		}
	}
}

// wire is a network of its own, in memory, between a server and its clients.
type wire struct {
	accepted chan net.Conn
	closed   chan struct{}

	mu    sync.Mutex
	cut   bool
	tries int
	conns []net.Conn // the server's ends
}

func newWire() *wire { return &wire{accepted: make(chan net.Conn), closed: make(chan struct{})} }

func (n *wire) Accept() (net.Conn, error) {
	select {
	case c := <-n.accepted:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *wire) Close() error   { close(n.closed); return nil }
func (n *wire) Addr() net.Addr { return &net.UnixAddr{} }

func (n *wire) dial(context.Context, string, string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tries++
	if n.cut {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	near, far := net.Pipe()
	n.conns = append(n.conns, far)
	n.accepted <- far
	return near, nil
}

// setCut ends all connections and refuses new ones, or lets them be made again.
// It returns how many were tried since the last call.
func (n *wire) setCut(cut bool) (tries int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = cut
	for _, c := range n.conns {
		c.Close()
	}
	n.conns = nil
	tries, n.tries = n.tries, 0
	return tries
}

// TestServerAwayForAMinute cuts a proxy off from the API server for a minute, of
// a clock of its own, while Services and endpoints change and traffic flows: none
// of which fails. When the server is back, what was missed is taken up, and of
// all else nothing is written; the server is asked for what it has only if it
// cannot tell what happened since.
func TestServerAwayForAMinute(t *testing.T) {
	for _, forgetful := range []bool{false, true} {
		t.Run(fmt.Sprintf("forgetful=%v", forgetful), func(t *testing.T) {
			w := newWorld(t)
			synctest.Test(t, func(t *testing.T) { w.awayForAMinute(t, forgetful) })
		})
	}
}

func (w *world) awayForAMinute(t *testing.T, forgetful bool) {
	c, network := newCluster(), newWire()
	server := &http.Server{Handler: c}
	done := make(chan error, 2)
	go func() { done <- server.Serve(network) }()
	c.apply(newTestNode(addr2("node")...), newTestService("web"))
	c.apply(newTestSlices("web", pod("a"))...)
	for i := range 100 {
		name := fmt.Sprintf("s%d", i)
		c.apply(newClusterIPService(name, i))
		c.apply(newTestSlices(name, pod("a"), pod("b"))...)
	}
	transport := &http.Transport{DialContext: network.dial}
	must(t, w.hosts["node"].Do(func() (err error) {
		w.proxy, err = New(Config{NodeName: "node", API: &rest.Config{Host: "http://cluster", Transport: transport}, IPv6: true, SharedTable: w.shared},
			health.New(time.Minute, "IPv4", "IPv6"))
		return err
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- w.proxy.Run(ctx) }()
	defer func() {
		cancel()
		must(t, <-done)
		w.proxy.Close()
		transport.CloseIdleConnections()
		network.setCut(true)
		server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	written := func() (messages float64) {
		for _, f := range families {
			n := w.value(t, fmt.Sprintf("fairway_nodeproxy_netlink_messages_total{ip_family=%q}", f))
			if n <= 0 {
				t.Fatalf("%v messages are counted", n)
			}
			messages += n
		}
		return messages
	}
	answers := func(pod string) bool {
		four, six := w.ask(t, "client", "tcp", atNode.at(0), patience).pod, w.ask(t, "client", "tcp", clusterIP.at(1), patience).pod
		if four != "a" && four != "b" || six != "a" && six != "b" {
			t.Fatalf("answered by %q and %q", four, six)
		}
		return four == pod && six == pod
	}
	// soon tells after how long both families' traffic goes there.
	soon := func(pod string, most time.Duration) time.Duration {
		t.Helper()
		start := time.Now()
		for !answers(pod) {
			if time.Since(start) > most {
				t.Fatalf("after %v %s does not answer", most, pod)
			}
			time.Sleep(10 * time.Millisecond)
		}
		return time.Since(start)
	}
	<-w.proxy.Programmed()
	if !answers("a") {
		t.Fatal("Pod a does not answer")
	}

	// What a change costs while the server is there.
	before := written()
	c.apply(newTestSlices("web", pod("b"))...)
	soon("b", 5*time.Second)
	time.Sleep(time.Second)
	cost := written() - before

	network.setCut(true)
	before, start, asked := written(), time.Now(), c.listed()
	for second := range 60 {
		switch second {
		case 20:
			c.apply(newTestSlices("web", pod("a"))...)
		case 40:
			c.remove(newClusterIPService("s7", 7), newTestSlices("s7")[0], newTestSlices("s7")[1])
		}
		for range 2 {
			if !answers("b") {
				t.Fatalf("%v after the server went another Pod answers", time.Since(start))
			}
			time.Sleep(500 * time.Millisecond)
		}
	}
	if n := written() - before; n != 0 {
		t.Errorf("%v messages for the kernel while nothing was known to have changed", n)
	}
	if forgetful {
		c.forget()
	}
	tries := network.setCut(false)
	if tries < len(kinds) || tries > 15*len(kinds) {
		t.Errorf("%d attempts to reach the server in a minute", tries)
	}
	took := soon("a", 90*time.Second)
	gone := clusterIPOf(7)
	for slices.Contains([]string{"a", "b"}, w.ask(t, "client", "tcp", gone, patience/10).pod) {
		time.Sleep(100 * time.Millisecond)
		if time.Since(start) > 4*time.Minute {
			t.Fatal("the Service that was deleted meanwhile still answers")
		}
	}
	time.Sleep(2 * time.Minute) // all watches are back
	relisted := c.listed() - asked
	if want := map[bool]int{false: 0, true: len(kinds)}[forgetful]; relisted != want {
		t.Errorf("%d lists, want %d", relisted, want)
	}
	// Beside that change one Service went, of 102, its endpoints maybe first.
	if n := written() - before - cost; n <= 0 || n > 20 {
		t.Errorf("%v messages more than for the endpoints that changed, of which one Service's end takes at most 20", n)
	}
	t.Logf("%d attempts in the minute, back after %v of a clock of its own, %d lists, %v messages", tries, took, relisted, written()-before)
}
