package controller

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// report is all that was measured.
type report struct {
	began   time.Time
	figures []figures
	slow    []affliction
}

// way is a series of runs in which one thing grows.
type way struct {
	name     string
	from, to figures
	n1, n2   int
}

func (w way) growth(of func(figures) float64) float64 {
	return growth(w.n1, w.n2, of(w.from), of(w.to))
}

// ways returns the longest series with the same number of nodes, and of Services.
func (r *report) ways() []way {
	longest := func(same, grows func(figures) int) (from, to figures) {
		best := 0.0
		for _, a := range r.figures {
			for _, b := range r.figures {
				if ratio := float64(grows(b)) / float64(grows(a)); same(a) == same(b) && ratio > best {
					best, from, to = ratio, a, b
				}
			}
		}
		return from, to
	}
	services, nodes := func(f figures) int { return f.services }, func(f figures) int { return f.nodes }
	f1, t1 := longest(nodes, services)
	f2, t2 := longest(services, nodes)
	return []way{
		{fmt.Sprintf("Services, %d to %d with %d nodes", f1.services, t1.services, f1.nodes), f1, t1, f1.services, t1.services},
		{fmt.Sprintf("nodes, %d to %d with %d Services", f2.nodes, t2.nodes, f2.services), f2, t2, f2.nodes, t2.nodes},
	}
}

// floor is the least time that AWS's published limits allow for a creation: three
// writes of Elastic Load Balancing per Service at 3 a second, and the registrations
// at 4 a second, each with a burst of 20.
func (f figures) floor() time.Duration {
	writes, registrations := float64(3*f.services-20)/3, float64(f.services*batches(f.nodes)-20)/4
	return time.Duration(max(writes, registrations, 0) * float64(time.Second))
}

func (r *report) markdown() string {
	var b bytes.Buffer
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	fmt.Fprintf(&b, `# What the Service controller costs

Written by `+"`make bench-controller`"+` at commit %s on %d cores (%s, Linux %s, %s) in %s.

The controller, the engine, the AWS provider, the AWS SDK and client-go are the real ones, with the program's defaults
(10 workers, 20 requests a second to the API server). The account and the API server are in memory, and time is virtual:
a call takes 80 ms, a new group is seen after 300 ms, and the account keeps AWS's published request limits. Quotas are
raised. Each Service has one port; all are created in the same moment. `+"`go test ./e2e/bench/controller`"+` holds a
smaller size to these counts.

## Creation, and a controller at rest

`, *commit, runtime.NumCPU(), runtime.GOARCH, strings.TrimSpace(string(kernel)), runtime.Version(), time.Since(r.began).Round(time.Second))
	r.sizes(&b)
	r.operations(&b)
	r.afterwards(&b)
	r.growths(&b)
	r.slowness(&b)
	return b.String()
}

func (r *report) sizes(b *bytes.Buffer) {
	fmt.Fprint(b, `| Services × nodes | p50 ready | p99 ready | last ready | AWS's limits allow | calls that changed something | refused, made again | reads | writes to the API server | peak heap, cloud and API server included | the controller's own, when it has worked on all | per Service |
|---|---|---|---|---|---|---|---|---|---|---|---|
`)
	for _, f := range r.figures {
		done, refused := f.create.operations()
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %d | %d | %d | %d | %s | %s | %.1f kB |\n", f.size,
			short(quantile(f.ready, .5)), short(quantile(f.ready, .99)), short(quantile(f.ready, 1)), short(f.floor()),
			writesOf(done), refused, f.create.cloud.Reads(), f.create.apiWrites(), megabytes(f.peak), megabytes(f.own), float64(f.own)/float64(f.services)/1e3)
	}
	fmt.Fprintf(b, `
What limits a creation is AWS: 3 calls a second that change load balancers, target groups or listeners, of which a Service
takes three, and 4 a second that register targets, of which it takes one for %d nodes.

`, targetBatch)
}

// largest is the run with the most Services and nodes.
func (r *report) largest() figures {
	return slices.MaxFunc(r.figures, func(a, b figures) int { return cmp.Compare(a.services*a.nodes, b.services*b.nodes) })
}

func (r *report) operations(b *bytes.Buffer) {
	f := r.largest()
	fmt.Fprintf(b, "## Each call of a creation, %s\n\n| call | done | refused, made again | per Service |\n|---|---|---|---|\n", f.size)
	for _, c := range f.create.cloud {
		fmt.Fprintf(b, "| %s | %d | %d | %.2f |\n", c.Operation, c.Calls-c.Errors, c.Errors, float64(c.Calls)/float64(f.services))
	}
	for _, what := range sortedByName(f.create.api) {
		fmt.Fprintf(b, "| API server: %s | %d | | %.2f |\n", what, f.create.api[what], float64(f.create.api[what])/float64(f.services))
	}
}

func (r *report) afterwards(b *bytes.Buffer) {
	fmt.Fprintf(b, `
## Afterwards

%d nodes join within %s: one call of RegisterTargets for each target group (a call takes %d targets). The restart is another
process that finds all Services as they shall be: it looks at the account by lists, and writes nothing.

| Services × nodes | two hours at rest: reads | writes, cloud and API server | %d nodes join: RegisterTargets | other calls that changed something | reads | writes to the API server | restart: reads | writes, cloud and API server |
|---|---|---|---|---|---|---|---|---|
`, joining, joining*joinEvery, targetBatch, joining)
	for _, f := range r.figures {
		done, _ := f.join.operations()
		fmt.Fprintf(b, "| %s | %d | %d | %d | %d | %d | %d | %d | %d |\n", f.size, f.rest.cloud.Reads(), f.rest.cloud.Writes()+f.rest.apiWrites(),
			done["RegisterTargets"], writesOf(done)-done["RegisterTargets"], f.join.cloud.Reads(), f.join.apiWrites(),
			f.restart.cloud.Reads(), f.restart.cloud.Writes()+f.restart.apiWrites())
	}
}

func (r *report) growths(b *bytes.Buffer) {
	ways := r.ways()
	fmt.Fprintf(b, `
## Growth, as measured

The exponent by which a figure grows: 1 is linear, 0 is constant. None may be above %.1f for a count.

| figure | with %s | with %s |
|---|---|---|
`, linear, ways[0].name, ways[1].name)
	row := func(name string, of func(figures) float64) {
		fmt.Fprintf(b, "| %s | %.2f | %.2f |\n", name, ways[0].growth(of), ways[1].growth(of))
	}
	for _, c := range counted {
		row(c.name, func(f figures) float64 { return float64(c.of(f)) })
	}
	row("time until the last is ready", func(f figures) float64 { return float64(quantile(f.ready, 1)) })
	row("peak heap, cloud and API server included", func(f figures) float64 { return float64(f.peak) })
	row("the controller's own heap", func(f figures) float64 { return float64(f.own) })
}

func (r *report) slowness(b *bytes.Buffer) {
	fmt.Fprintf(b, `
## Slow and broken Services

Services arrive one by one, every %s, so that AWS throttles none. Some are broken for good: the cloud never answers the call
that makes their load balancer, or denies it. The times from creation to readiness of the others:

| broken | others | p50 | p99 | longest |
|---|---|---|---|---|
`, arriveEvery)
	for _, a := range r.slow {
		fmt.Fprintf(b, "| %s | %d | %s | %s | %s |\n", a.name, len(a.healthy), short(quantile(a.healthy, .5)), short(quantile(a.healthy, .99)), short(quantile(a.healthy, 1)))
	}
}

func short(d time.Duration) string {
	if d < time.Minute {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func megabytes(n uint64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
