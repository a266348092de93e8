package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/e2e/environment"
)

// report gathers figures by number of Services and contender.
type report struct {
	rounds int
	sizes  []int
	names  []string
	all    map[int]map[string][]figures
}

func newReport(rounds int) *report {
	return &report{rounds: rounds, all: map[int]map[string][]figures{}}
}

func (r *report) add(services int, name string, f figures) {
	if r.all[services] == nil {
		r.all[services] = map[string][]figures{}
		r.sizes = append(r.sizes, services)
	}
	if !slices.Contains(r.names, name) {
		r.names = append(r.names, name)
	}
	r.all[services][name] = append(r.all[services][name], f)
}

// row is one figure, the same for all contenders; less is better.
type row struct {
	title string
	of    func(figures) float64
	show  func(float64) string
}

func seconds(v float64) string { return fmt.Sprintf("%.2f s", v) }
func millis(v float64) string  { return fmt.Sprintf("%.2f ms", v*1000) }
func micros(v float64) string  { return fmt.Sprintf("%.0f µs", v*1e6) }
func mebi(v float64) string    { return fmt.Sprintf("%.0f MiB", v/(1<<20)) }
func count(v float64) string   { return fmt.Sprintf("%.0f", v) }

var rows = []row{
	{"start to last Service reachable", func(f figures) float64 { return f.ready.Seconds() }, seconds},
	{"processor time until then", func(f figures) float64 { return f.readyCPU.Seconds() }, seconds},
	{"endpoint change to packets there, p50", follow(0.5), millis},
	{"endpoint change to packets there, p99", follow(0.99), millis},
	{"processor time for 2,000 changes", func(f figures) float64 { return f.changeCPU.Seconds() }, seconds},
	{"peak memory", func(f figures) float64 { return float64(f.peak) }, mebi},
	{"connect(), p50", func(f figures) float64 { return quantile(f.connect, 0.5).Seconds() }, micros},
	{"connect(), p99", func(f figures) float64 { return quantile(f.connect, 0.99).Seconds() }, micros},
	{"connect() without a proxy, p50", func(f figures) float64 { return quantile(f.direct, 0.5).Seconds() }, micros},
	{"connections lost in a restart", func(f figures) float64 { return float64(f.restartFailures) }, count},
}

func follow(q float64) func(figures) float64 {
	return func(f figures) float64 { return quantile(f.follow, q).Seconds() }
}

// String returns a table for each number of Services: the medians of the rounds,
// and behind each figure of another its ratio to ours.
func (r *report) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "# The node proxy beside kube-proxy\n\nMedians of %d rounds, in turns, on %s. In parentheses: times ours.\n", r.rounds, machine())
	for _, n := range r.sizes {
		fmt.Fprintf(&text, "\n## %d Services, 4 endpoints each on average\n\n| |", n)
		for _, name := range r.names {
			fmt.Fprintf(&text, " %s |", name)
		}
		fmt.Fprintf(&text, "\n|---|%s\n", strings.Repeat("---|", len(r.names)))
		for _, row := range rows {
			fmt.Fprintf(&text, "| %s |", row.title)
			our := r.median(n, ours, row)
			for _, name := range r.names {
				fmt.Fprintf(&text, " %s |", r.cell(n, name, row, our))
			}
			text.WriteString("\n")
		}
	}
	return text.String()
}

// cell is one figure, empty where a contender has none: the bare informer has
// only the first.
func (r *report) cell(n int, name string, row row, our float64) string {
	value := r.median(n, name, row)
	switch {
	case r.all[n][name][0].peak == 0 && row.title != rows[0].title:
		return ""
	case name == ours || our <= 0:
		return row.show(value)
	default:
		return fmt.Sprintf("%s (%.2g×)", row.show(value), value/our)
	}
}

func (r *report) median(n int, name string, row row) float64 {
	var values []float64
	for _, f := range r.all[n][name] {
		values = append(values, row.of(f))
	}
	slices.Sort(values)
	if len(values) == 0 {
		return 0
	}
	return values[len(values)/2]
}

// machine says what the figures were measured on.
func machine() string {
	var name unix.Utsname
	kernel := "an unknown kernel"
	if err := unix.Uname(&name); err == nil {
		kernel = "Linux " + unix.ByteSliceToString(name.Release[:])
	}
	commit := "an unknown commit"
	git := exec.Command("git", "-C", os.Getenv(environment.SourceVariable), "rev-parse", "--short", "HEAD")
	if out, err := git.Output(); err == nil {
		commit = "commit " + strings.TrimSpace(string(out))
	}
	return fmt.Sprintf("%d processors, %s, %s, %s, %s", runtime.NumCPU(), kernel, runtime.Version(), commit, time.Now().UTC().Format(time.DateOnly))
}
