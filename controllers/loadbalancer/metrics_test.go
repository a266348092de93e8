package loadbalancer

import (
	"flag"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-base/metrics/testutil"

	"github.com/fairway-lb/fairway/controllers/nodes"
	"github.com/fairway-lb/fairway/providers/lb"
)

var update = flag.Bool("update", false, "rewrite the table of the page")

// described takes apart what prometheus.Desc prints.
var described = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: "\[ALPHA\] ([^"]+)", unit: "", constLabels: \{\}, variableLabels: \{([^}]*)\}\}$`)

// table has a row for each metric of the controllers.
func table(t *testing.T) string {
	t.Helper()
	descs := make(chan *prometheus.Desc, 100)
	for _, c := range slices.Concat(collectors, nodes.Collectors()) {
		c.Create(nil)
		c.Describe(descs)
	}
	n := &census{}
	n.Create(nil, n)
	n.Describe(descs)
	close(descs)
	var rows []string
	for d := range descs {
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

// TestMetricsPage compares the documentation with what there is.
func TestMetricsPage(t *testing.T) {
	const page, begin, end = "../../docs/metrics.md", "<!-- metrics -->\n", "<!-- end of metrics -->"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	documented, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the marks around its table", page)
	}
	want := table(t)
	if *update {
		if err := os.WriteFile(page, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if documented != want {
		t.Errorf("%s differs from the program (run with -update)\ngot:\n%s\nwant:\n%s", page, documented, want)
	}
}

func TestServicesAreCountedByTheirCondition(t *testing.T) {
	with := func(status metav1.ConditionStatus, reason string) func(*v1.Service) {
		return func(s *v1.Service) { withCondition(condition(s, status, reason, ""))(s) }
	}
	services := cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)
	for _, s := range []*v1.Service{
		service("a", with(metav1.ConditionTrue, reasonReady)), service("b", with(metav1.ConditionTrue, reasonReady)),
		service("c", with(metav1.ConditionFalse, string(lb.Denied))), service("d", with(metav1.ConditionUnknown, string(lb.Unavailable))),
		service("e"), service("f", with(metav1.ConditionTrue, reasonReady), annotated(PauseAnnotation, "yes")),
		service("g", func(s *v1.Service) { s.Spec.Type = v1.ServiceTypeClusterIP }),
	} {
		if err := services.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	c := &census{lister: corelisters.NewServiceLister(services), counts: func(s *v1.Service) bool { return s.Spec.Type == v1.ServiceTypeLoadBalancer }}
	if err := testutil.CustomCollectAndCompare(c, strings.NewReader(`
# HELP fairway_loadbalancer_services [ALPHA] How many Services there are, by whether their load balancer is ready (true, false, unknown) and the reason in their condition, New without one, Paused while they are.
# TYPE fairway_loadbalancer_services gauge
fairway_loadbalancer_services{ready="false",reason="Denied"} 1
fairway_loadbalancer_services{ready="true",reason="Paused"} 1
fairway_loadbalancer_services{ready="true",reason="Ready"} 2
fairway_loadbalancer_services{ready="unknown",reason="New"} 1
fairway_loadbalancer_services{ready="unknown",reason="Unavailable"} 1
`), "fairway_loadbalancer_services"); err != nil {
		t.Error(err)
	}
}

func TestTimeToReadyIsCountedOncePerService(t *testing.T) {
	in(t, func(w *world) {
		const name = "fairway_loadbalancer_time_to_ready_seconds"
		before := sampleOf(t, name, nil)
		refuseBalancers(w, func(n int) error {
			if n == 1 {
				return &lb.Error{Kind: lb.Pending, Op: "create", Message: "under way", RetryAfter: 30 * time.Second}
			}
			return nil
		})
		w.create(service("web", func(s *v1.Service) { s.CreationTimestamp = metav1.Now() }))
		w.pass(time.Hour)
		w.change("web", func(s *v1.Service) { s.Spec.Ports[0].Port = 81 })
		w.stop()
		w.start()
		after := sampleOf(t, name, nil)
		w.expect("samples", after.count-before.count, 1)
		if took := after.sum - before.sum; took < 30 || took > 31 {
			t.Errorf("it took %v s", took)
		}
	})
}

func TestRequestsToTheCloudAreCounted(t *testing.T) {
	// Metrics outlive a run of the test.
	counted := func(code string) float64 {
		return value(t, "fairway_cloud_requests_total", map[string]string{"operation": t.Name(), "code": code})
	}
	wait := func() float64 {
		return value(t, "fairway_cloud_request_wait_seconds_total", map[string]string{"operation": t.Name()})
	}
	denied, done, waited := counted("AccessDenied"), counted(lb.CallOK), wait()
	before := value(t, "fairway_cloud_last_success_timestamp_seconds", nil)
	ObserveCall(lb.Call{Service: "EC2", Operation: t.Name(), Code: "AccessDenied"})
	if now := value(t, "fairway_cloud_last_success_timestamp_seconds", nil); now != before {
		t.Errorf("a refusal counts as a success: %v", now)
	}
	ObserveCall(lb.Call{Service: "EC2", Operation: t.Name(), Code: lb.CallOK, Took: time.Second, Waited: 3 * time.Second})
	if now := value(t, "fairway_cloud_last_success_timestamp_seconds", nil); now == before {
		t.Error("a success is not noticed")
	}
	if d, ok, s := counted("AccessDenied")-denied, counted(lb.CallOK)-done, wait()-waited; d != 1 || ok != 1 || s != 3 {
		t.Errorf("%v denied and %v done are counted, and %v seconds of waiting; want 1, 1 and 3", d, ok, s)
	}
}

// sample is what a metric says: a counter's or gauge's value, or how often
// something was observed and the sum of that.
type sample struct {
	value, sum float64
	count      uint64
}

// sampleOf reads a metric of that name and labels from the registry that the
// program serves; without one it is zero.
func sampleOf(t *testing.T, name string, with map[string]string) sample {
	t.Helper()
	registerOnce()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && testutil.LabelsMatch(m, with) {
				h := m.GetHistogram()
				return sample{m.GetCounter().GetValue() + m.GetGauge().GetValue(), h.GetSampleSum(), h.GetSampleCount()}
			}
		}
	}
	return sample{}
}

func value(t *testing.T, name string, with map[string]string) float64 {
	t.Helper()
	return sampleOf(t, name, with).value
}
