package controller

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/providers/fake"
)

var (
	table  = flag.String("table", "", "measure at full size and write the tables to this file; otherwise a small size is held to its counts only")
	commit = flag.String("commit", "unknown", "the commit the tables are of")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *table != "" || !testing.Verbose() {
		klog.SetLogger(klog.Logger{}) // a line for each change of a thousand Services
	}
	os.Exit(m.Run())
}

// Sizes, of which several have the same number of nodes and several the same number
// of Services.
var (
	smallSizes = []size{{40, 20}, {80, 20}, {80, 110}}
	allSizes   = []size{{100, 100}, {300, 100}, {1000, 100}, {300, 30}, {300, 300}, {1000, 300}}
)

// TestScale holds what the controller costs to its counts, and to growing no faster
// than the number of Services and the number of nodes.
func TestScale(t *testing.T) {
	r := report{began: time.Now()}
	sizes, arriving := smallSizes, size{120, 6}
	if *table != "" {
		sizes, arriving = allSizes, size{400, 30}
	}
	for _, s := range sizes {
		f := measure(t, s)
		if t.Failed() {
			return
		}
		f.check(t)
		r.figures = append(r.figures, f)
	}
	r.checkGrowth(t)
	r.slow = slowServices(t, arriving)
	if *table == "" || t.Failed() {
		return
	}
	if err := os.MkdirAll(filepath.Dir(*table), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(*table, []byte(r.markdown()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// targetBatch is how many targets the provider registers by one call.
const targetBatch = 100

func batches(nodes int) int { return (nodes + targetBatch - 1) / targetBatch }

// check holds one run to its counts.
func (f figures) check(t *testing.T) {
	t.Helper()
	s := f.services
	exactly := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s, %s: %d, want %d", f.size, what, got, want)
		}
	}
	most := func(what string, got, most int) {
		t.Helper()
		if got > most {
			t.Errorf("%s, %s: %d, want %d at most", f.size, what, got, most)
		}
	}
	done, _ := f.create.operations()
	for operation, want := range map[string]int{
		"CreateSecurityGroup": s + 1, "CreateLoadBalancer": s, "CreateTargetGroup": s, "CreateListener": s,
		"RegisterTargets": s * batches(f.nodes),
	} {
		exactly("creation, calls of "+operation, done[operation], want)
	}
	most("creation, reads", f.create.cloud.Reads(), 8*s+50)
	most("creation, writes of status", f.create.api["patch services/status"], 4*s)
	most("creation, events", f.create.api["create events"]+f.create.api["patch events"], 3*s)

	exactly("at rest, cloud writes", f.rest.cloud.Writes(), 0)
	exactly("at rest, writes to the API server", f.rest.apiWrites(), 0)
	most("at rest, reads in two hours", f.rest.cloud.Reads(), 20*s+300)

	done, _ = f.join.operations()
	exactly("nodes join, calls of RegisterTargets", done["RegisterTargets"], s)
	exactly("nodes join, targets registered", f.joined, s*joining)

	exactly("restart, cloud writes", f.restart.cloud.Writes(), 0)
	exactly("restart, writes to the API server", f.restart.apiWrites(), 0)
	most("restart, reads", f.restart.cloud.Reads(), s/2+60)
}

// counted are the figures whose growth is held.
var counted = []struct {
	name string
	of   func(figures) int
}{
	{"creation: calls that changed something", func(f figures) int { done, _ := f.create.operations(); return writesOf(done) }},
	{"creation: reads", func(f figures) int { return f.create.cloud.Reads() }},
	{"creation: writes to the API server", func(f figures) int { return f.create.apiWrites() }},
	{"two hours at rest: reads", func(f figures) int { return f.rest.cloud.Reads() }},
	{"50 nodes join: calls that changed something", func(f figures) int { done, _ := f.join.operations(); return writesOf(done) }},
	{"restart: reads", func(f figures) int { return f.restart.cloud.Reads() }},
}

// writesOf sums up the operations that are no Describe.
func writesOf(done map[string]int) int {
	n := 0
	for operation, times := range done {
		if len(operation) < 8 || operation[:8] != "Describe" {
			n += times
		}
	}
	return n
}

// linear allows for what is left to chance.
const linear = 1.1

func (r *report) checkGrowth(t *testing.T) {
	t.Helper()
	for _, way := range r.ways() {
		for _, c := range counted {
			if g := way.growth(func(f figures) float64 { return float64(c.of(f)) }); g > linear {
				t.Errorf("%s grows with %s by an exponent of %.2f", c.name, way.name, g)
			}
		}
	}
}

// affliction is a fault that every so manieth Service has for good, and how long
// the others waited then.
type affliction struct {
	name  string
	every int
	fault fake.Fault

	healthy []time.Duration
}

// slowServices measures, and holds, what Services that the cloud does not answer
// for, or refuses, do to the others.
func slowServices(t *testing.T, s size) []affliction {
	t.Helper()
	hang := fake.Fault{Operation: "CreateLoadBalancer", Kind: fake.FaultHang}
	denied := fake.Fault{Operation: "CreateLoadBalancer", Kind: fake.FaultError, Code: "AccessDenied", Status: 403}
	all := []affliction{
		{name: "none"},
		{name: "1 % get no answer", every: 100, fault: hang},
		{name: "5 % get no answer", every: 20, fault: hang},
		{name: "10 % get no answer", every: 10, fault: hang},
		{name: "1 % are denied", every: 100, fault: denied},
		{name: "5 % are denied", every: 20, fault: denied},
	}
	if *table == "" {
		all = slices.Delete(all, 1, 3)
	}
	for i := range all {
		all[i].healthy = arrivals(t, s, all[i].every, all[i].fault)
		if t.Failed() {
			return nil
		}
		// One more round of waiting for what AWS shows late is chance.
		if got, alone := quantile(all[i].healthy, .99), quantile(all[0].healthy, .99); got > alone+2*time.Second {
			t.Errorf("where %s, the p99 time to ready of the others is %s, and %s where none are", all[i].name, got, alone)
		}
	}
	return all
}
