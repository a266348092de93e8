package health

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/listeners"
)

// TestHealth goes through a proxy's life, in virtual time.
func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(time.Minute, "IPv4", "IPv6")
		check := func(when string, healthz, livez int) {
			t.Helper()
			for path, want := range map[string]int{"/healthz": healthz, "/livez": livez} {
				if got := ask(h, path).Code; got != want {
					t.Errorf("%s: %s says %d, want %d", when, path, got, want)
				}
			}
		}
		check("starting", 503, 200)
		h.SetEligible(true)
		check("before anything is programmed", 503, 200)
		h.Queued()
		h.Updated("IPv4", time.Now())
		check("with one family programmed", 503, 200)
		h.Updated("IPv6", time.Now())
		check("programmed", 200, 200)
		time.Sleep(time.Hour)
		check("an hour without changes", 200, 200)

		h.Queued()
		time.Sleep(59 * time.Second)
		h.Queued()
		check("with a change that waits", 200, 200)
		time.Sleep(time.Second)
		check("with a change that waits too long", 503, 503)
		h.Updated("IPv4", time.Now())
		check("with one family still late", 503, 503)
		h.Updated("IPv6", time.Now())
		check("with nothing waiting", 200, 200)

		then := time.Now()
		time.Sleep(time.Second)
		h.Queued()
		h.Updated("IPv4", then)
		h.Updated("IPv6", then)
		check("with a change that came in meanwhile", 200, 200)
		time.Sleep(time.Minute)
		check("which is forgotten", 503, 503)
		h.Updated("IPv4", time.Now())
		h.Updated("IPv6", time.Now())

		h.SetEligible(false)
		check("on a node that goes", 503, 200)
	})
}

func ask(h *Health, path string) *httptest.ResponseRecorder {
	r := httptest.NewRecorder()
	h.Handler().ServeHTTP(r, httptest.NewRequest(http.MethodGet, path, nil))
	return r
}

// TestBodies compares with what kube-proxy 1.37 says, byte for byte.
func TestBodies(t *testing.T) {
	const (
		start   = `"lastUpdated":"0001-01-01T00:00:00Z","currentTime":"2000-01-01T00:00:00Z"`
		current = `"lastUpdated":"2000-01-01T00:01:00Z","currentTime":"2000-01-01T00:01:00Z"`
		stale   = `"lastUpdated":"2000-01-01T00:00:00Z","currentTime":"2000-01-01T00:01:00Z"`
		fine    = `"status":{"IPv4":{"lastUpdated":"2000-01-01T00:00:00Z","healthy":true}}`
		late    = `"status":{"IPv4":{"lastUpdated":"2000-01-01T00:00:00Z","healthy":false}}`
	)
	for _, c := range []struct {
		name           string
		prepare        func(*Health)
		code           int
		healthz, livez string
		live           int
	}{
		{"nothing programmed yet", func(h *Health) { h.SetEligible(true) }, 503,
			`{` + start + `,"nodeEligible":true,"healthy":true}`,
			`{"lastUpdated":"2000-01-01T00:00:00Z","currentTime":"2000-01-01T00:00:00Z","healthy":true}`, 200},
		{"healthy", func(h *Health) { h.SetEligible(true); h.Updated("IPv4", time.Now()); time.Sleep(time.Minute) }, 200,
			`{` + current + `,"nodeEligible":true,"healthy":true,` + fine + `}`,
			`{` + current + `,"healthy":true,` + fine + `}`, 200},
		{"node goes", func(h *Health) { h.SetEligible(false); h.Updated("IPv4", time.Now()); time.Sleep(time.Minute) }, 503,
			`{` + stale + `,"nodeEligible":false,"healthy":true,` + fine + `}`,
			`{` + current + `,"healthy":true,` + fine + `}`, 200},
		{"stuck", func(h *Health) {
			h.SetEligible(true)
			h.Updated("IPv4", time.Now())
			h.Queued()
			time.Sleep(time.Minute)
		}, 503,
			`{` + stale + `,"nodeEligible":true,"healthy":false,` + late + `}`,
			`{` + stale + `,"healthy":false,` + late + `}`, 503},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := New(time.Minute, "IPv4")
				healthz, livez := newAnswers(), newAnswers()
				h.CountAnswers(healthz, livez)
				c.prepare(h)
				for _, a := range []struct {
					path, body string
					code       int
					count      *prometheus.CounterVec
				}{{"/healthz", c.healthz, c.code, healthz}, {"/livez", c.livez, c.live, livez}} {
					r := ask(h, a.path)
					if got := r.Body.String(); got != a.body || r.Code != a.code {
						t.Errorf("%s:\n got %d %s\nwant %d %s", a.path, r.Code, got, a.code, a.body)
					}
					if r.Header().Get("Content-Type") != "application/json" || r.Header().Get("X-Content-Type-Options") != "nosniff" {
						t.Errorf("%s: headers %v", a.path, r.Header())
					}
					if n := testutil.ToFloat64(a.count.WithLabelValues(strconv.Itoa(a.code))); n != 1 {
						t.Errorf("%s: %v answers counted", a.path, n)
					}
				}
			})
		})
	}
}

func newAnswers() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "answers"}, []string{"code"})
}

func TestNodePorts(t *testing.T) {
	h := New(time.Minute, "IPv4")
	h.Updated("IPv4", time.Now())
	var taken error // what the next listen fails with
	var at string   // where the last one listened
	n := NewNodePorts(h, func(ctx context.Context, network, address string) (net.Listener, error) {
		if taken != nil {
			return nil, taken
		}
		if !strings.HasSuffix(address, ":32000") {
			t.Errorf("listens at %s", address)
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, network, "127.0.0.1:0")
		if err == nil {
			at = l.Addr().String()
		}
		return l, err
	})
	n.SetAddresses([]netip.Addr{netip.MustParseAddr("127.0.0.1")})
	n.Set("ns/web", 32000, 3)

	now := time.Now()
	taken = errors.New("address in use")
	if failed := n.Reconcile(t.Context(), now); len(failed) != 1 || !errors.Is(failed["ns/web"], taken) {
		t.Fatalf("a port that is taken: %v", failed)
	}
	taken = nil
	if err := n.Reconcile(t.Context(), now.Add(time.Second)); err != nil || at != "" {
		t.Fatalf("tried again at once: %v, at %s", err, at)
	}
	if err := n.Reconcile(t.Context(), now.Add(listeners.Retry)); err != nil || at == "" {
		t.Fatalf("not tried again: %v", err)
	}
	code, weight, body := fetch(t, at)
	if want := "{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 3,\n\t\"serviceProxyHealthy\": true\n}"; code != 200 || weight != "3" || body != want {
		t.Errorf("%d, weight %s, %s", code, weight, body)
	}
	n.Set("ns/web", 32000, 0)
	if code, weight, _ := fetch(t, at); code != 503 || weight != "0" {
		t.Errorf("without endpoints: %d, weight %s", code, weight)
	}
	n.Set("ns/web", 0, 0)
	n.Set("ns/heir", 32000, 2)
	if err := n.Reconcile(t.Context(), now.Add(2*listeners.Retry)); err != nil {
		t.Fatal(err)
	}
	if code, weight, body := fetch(t, at); code != 200 || weight != "2" || !strings.Contains(body, `"heir"`) {
		t.Errorf("of another Service: %d, weight %s, %s", code, weight, body)
	}
	n.Set("ns/heir", 0, 0)
	if err := n.Reconcile(t.Context(), now.Add(2*listeners.Retry)); err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", at); err == nil {
		c.Close()
		t.Error("still open without a Service")
	}
}

func fetch(t *testing.T, at string) (code int, weight, body string) {
	t.Helper()
	resp, err := http.Get("http://" + at + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("X-Load-Balancing-Endpoint-Weight"), string(data)
}
