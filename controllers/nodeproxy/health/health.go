// Package health answers load balancers and kubelets about the node proxy, over
// HTTP with the paths, codes and bodies of kube-proxy: /healthz says whether new
// connections should be sent to this node, /livez whether the program works.
//
// Cloud load balancers check /healthz, so it also fails when the node is about
// to be removed: connections that exist go on while no new ones arrive
// (https://github.com/kubernetes/enhancements/issues/3836). /livez does not, or
// the kubelet would restart the proxy of a draining node.
package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Family names an address family as the answers do: "IPv4" or "IPv6".
type Family string

// Health is the state behind the answers. It is safe for concurrent use.
type Health struct {
	timeout time.Duration
	// Answers by code, nil where nobody counts.
	healthz, livez *prometheus.CounterVec

	mu       sync.Mutex
	families map[Family]*family
	eligible bool
}

type family struct {
	updated time.Time // last time the kernel had all that was asked for
	pending time.Time // since when something waits, zero if nothing does
	newest  time.Time // when the last change was queued
}

// New returns the health of a proxy for the given families. A family whose
// changes wait longer than timeout makes it unhealthy. Until the node is known
// to be eligible and every family was programmed once, /healthz fails.
func New(timeout time.Duration, families ...Family) *Health {
	h := &Health{timeout: timeout, families: make(map[Family]*family)}
	for _, f := range families {
		h.families[f] = &family{}
	}
	return h
}

// CountAnswers has the answers at the two paths counted, by the label code. It
// must be called before the first one.
func (h *Health) CountAnswers(healthz, livez *prometheus.CounterVec) {
	h.healthz, h.livez = healthz, livez
}

// Queued notes that a change waits to be programmed, in every family.
func (h *Health) Queued() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	for _, f := range h.families {
		f.newest = now
		if f.pending.IsZero() {
			f.pending = now
		}
	}
}

// Updated notes that the kernel has all changes of a family queued before then.
func (h *Health) Updated(name Family, then time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f, ok := h.families[name]
	if !ok {
		return
	}
	f.updated, f.pending = time.Now().UTC(), time.Time{}
	if f.newest.After(then) {
		f.pending = f.newest
	}
}

// SetEligible notes whether the node should get new connections.
func (h *Health) SetEligible(yes bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.eligible = yes
}

// report is the body of an answer. The field names are kube-proxy's.
type report struct {
	LastUpdated  time.Time               `json:"lastUpdated"`
	CurrentTime  time.Time               `json:"currentTime"`
	NodeEligible *bool                   `json:"nodeEligible,omitempty"`
	Healthy      bool                    `json:"healthy"`
	Status       map[Family]familyReport `json:"status,omitempty"`
}

type familyReport struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

// report also tells whether every family was programmed once.
func (h *Health) report() (r report, eligible, programmed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r = report{CurrentTime: time.Now().UTC(), Healthy: true, Status: make(map[Family]familyReport)}
	programmed = true
	for name, f := range h.families {
		if f.updated.IsZero() {
			programmed = false
			continue
		}
		healthy := f.pending.IsZero() || r.CurrentTime.Sub(f.pending) < h.timeout
		r.Status[name] = familyReport{LastUpdated: f.updated, Healthy: healthy}
		r.Healthy = r.Healthy && healthy
		if f.updated.After(r.LastUpdated) {
			r.LastUpdated = f.updated
		}
	}
	return r, h.eligible, programmed
}

// Handler serves /healthz and /livez.
func (h *Health) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		r, eligible, programmed := h.report()
		r.NodeEligible = &eligible
		answer(w, r, r.Healthy && eligible && programmed, h.healthz)
	})
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) {
		r, _, _ := h.report()
		answer(w, r, r.Healthy, h.livez)
	})
	return mux
}

func answer(w http.ResponseWriter, r report, ok bool, count *prometheus.CounterVec) {
	if count != nil {
		code := http.StatusOK
		if !ok {
			code = http.StatusServiceUnavailable
		}
		count.WithLabelValues(strconv.Itoa(code)).Inc()
	}
	if ok {
		// By tradition a healthy proxy was updated just now, whether or not
		// there was anything to change.
		r.LastUpdated = r.CurrentTime
	}
	body, err := json.Marshal(r)
	write(w, ok, body, err)
}

// write sends a JSON body, or the error of making it.
func write(w http.ResponseWriter, ok bool, body []byte, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(body) // the client may be gone
}

// Serve answers on a listener until the context ends, which is no error, or the
// listener is closed. It closes the listener and all connections. A header of the
// proxy protocol before a request is passed over.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    8 << 10,
	}
	defer server.Close()
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(proxied{l}); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("answering health checks on %v: %w", l.Addr(), err)
	}
	return nil
}
