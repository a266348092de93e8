package metrics

import (
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

var update = flag.Bool("update", false, "rewrite the table of the page")

const page = "../../../docs/node-proxy-metrics.md"

// described takes apart what prometheus.Desc prints.
var described = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: "([^"]+)", unit: "", constLabels: \{\}, variableLabels: \{([^}]*)\}\}$`)

// table is the page's table: a row for each metric of the registry but those of
// the Go runtime and the process.
func table(t *testing.T, m *Metrics) string {
	t.Helper()
	descs := make(chan *prometheus.Desc, 1000)
	m.registry.Describe(descs)
	close(descs)
	var rows []string
	for d := range descs {
		if strings.Contains(d.String(), `"go_`) || strings.Contains(d.String(), `"process_`) {
			continue
		}
		parts := described.FindStringSubmatch(d.String())
		if parts == nil {
			t.Fatalf("cannot read %v", d)
		}
		labels := ""
		if parts[3] != "" {
			labels = "`" + strings.ReplaceAll(parts[3], ",", "`, `") + "`"
		}
		rows = append(rows, "| `"+parts[1]+"` | "+labels+" | "+parts[2]+" |\n")
	}
	slices.Sort(rows)
	return "| metric | labels | meaning |\n|---|---|---|\n" + strings.Join(rows, "")
}

// TestPage compares the documentation with what there is.
func TestPage(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- metrics -->\n", "<!-- end of metrics -->"
	before, rest, ok := strings.Cut(string(text), begin)
	documented, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the marks around its table", page)
	}
	want := table(t, New())
	if *update {
		if err := os.WriteFile(page, []byte(before+begin+want+end+after), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if documented != want {
		t.Errorf("the table of %s is not what there is; go test ./controllers/nodeproxy/metrics -update writes it\ngot\n%s\nwant\n%s", page, documented, want)
	}
}

// TestDashboards looks for all that kube-proxy 1.37 registers in its nftables
// mode, and for what the usual dashboards show of any program.
func TestDashboards(t *testing.T) {
	m := New()
	m.Families("IPv4", "IPv6")
	m.Healthz.WithLabelValues("200")
	m.Livez.WithLabelValues("200")
	requestResult{m}.Increment(t.Context(), "200", "GET", "h")
	text := get(t, m, "/metrics")
	for _, want := range []string{
		`kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le="0.001"}`,
		`kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv6",le="16.384"}`,
		`kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv4"}`,
		`kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family="IPv4"}`,
		`kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}`,
		`kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"}`,
		`kubeproxy_network_programming_duration_seconds_bucket{ip_family="IPv4",le="0.25"}`,
		`kubeproxy_network_programming_duration_seconds_bucket{ip_family="IPv4",le="300"}`,
		`kubeproxy_sync_proxy_rules_endpoint_changes_pending 0`,
		`kubeproxy_sync_proxy_rules_endpoint_changes_total 0`,
		`kubeproxy_sync_proxy_rules_service_changes_pending 0`,
		`kubeproxy_sync_proxy_rules_service_changes_total 0`,
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"}`,
		`kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv4"}`,
		`kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total{ip_family="IPv4"}`,
		`kubeproxy_proxy_healthz_total{code="200"}`,
		`kubeproxy_proxy_livez_total{code="200"}`,
		`kubeproxy_conntrack_reconciler_sync_duration_seconds_bucket{ip_family="IPv4",le="0.001"}`,
		`kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv4"}`,
		`rest_client_requests_total{code="200",host="h",method="GET"} 1`,
		`process_resident_memory_bytes`, `process_cpu_seconds_total`, `go_goroutines`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if got := get(t, m, "/proxyMode") + " " + get(t, m, "/healthz"); got != "nftables ok" {
		t.Errorf("/proxyMode and /healthz say %q", got)
	}
}

func get(t *testing.T, m *Metrics, path string) string {
	t.Helper()
	r := httptest.NewRecorder()
	m.Handler().ServeHTTP(r, httptest.NewRequest(http.MethodGet, path, nil))
	body, err := io.ReadAll(r.Result().Body)
	if err != nil || r.Code != http.StatusOK {
		t.Fatalf("%s: %d, %v", path, r.Code, err)
	}
	return string(body)
}

func TestDelta(t *testing.T) {
	m := New()
	var d Delta
	for _, total := range []int{3, 3, 10, 4} { // the last began anew
		d.Add(m.Elements.WithLabelValues("IPv4"), total)
	}
	if want := `fairway_nodeproxy_elements_total{ip_family="IPv4"} 14`; !strings.Contains(get(t, m, "/metrics"), want) {
		t.Errorf("missing: %s", want)
	}
}
