package main

import (
	"fmt"
	"io"
	"time"
)

// progress follows one build. What is to be done is measured in units of work
// (see compileUnits); the go command tells when it starts a package.
type progress struct {
	units    map[string]int64 // of each package still to compile
	total    int64            // all packages and the linking
	parallel int              // packages compiled at once
	began    time.Time

	started int     // packages started
	done    int64   // units finished
	running []int64 // units of the packages last started, at most parallel
	current string  // what is done now, for people
}

func newProgress(units map[string]int64, parallel int, now time.Time) *progress {
	p := &progress{units: units, total: linkUnits, parallel: parallel, began: now, current: "starting"}
	for _, u := range units {
		p.total += u
	}
	if len(units) <= 1 { // the program itself is never up to date for "go list"
		p.current = "linking"
	}
	return p
}

// start notes that the go command began to compile pkg; false when pkg is no
// package that was to be compiled. With as many at work as there are
// processors, a new one means that an older one has finished.
func (p *progress) start(pkg string) bool {
	units, ok := p.units[pkg]
	if !ok {
		return false
	}
	delete(p.units, pkg)
	p.started++
	p.current = pkg
	p.running = append(p.running, units)
	if len(p.running) > p.parallel {
		p.done += p.running[0]
		p.running = p.running[1:]
	}
	if len(p.units) == 0 { // the program itself, which waited for all others
		p.done = p.total - linkUnits - units
		p.current = "linking"
	}
	return true
}

// left is how long the rest takes, at the speed met so far. The usual speed is
// mixed in, because the first few packages say little.
func (p *progress) left(now time.Time) time.Duration {
	const doubt = 15 // seconds at the usual speed
	usual := unitsPerSecond * float64(p.parallel)
	speed := (float64(p.done) + usual*doubt) / (now.Sub(p.began).Seconds() + doubt)
	return time.Duration(float64(p.total-p.done) / speed * float64(time.Second))
}

// line says all of it for one line of a log or a terminal.
func (p *progress) line(now time.Time) string {
	return fmt.Sprintf("kubernetes: %d%%, %d/%d packages, %s passed, about %s left: %s",
		p.done*100/p.total, p.started, p.started+len(p.units),
		length(now.Sub(p.began)), roughly(p.left(now)), p.current)
}

// length is a time for people: 45s, 2m05s.
func length(d time.Duration) string {
	d = d.Round(time.Second)
	if d < time.Minute {
		return fmt.Sprintf("%ds", d/time.Second)
	}
	return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
}

// roughly is an estimated time, no finer than it deserves.
func roughly(d time.Duration) string {
	if d <= 100*time.Second {
		return fmt.Sprintf("%ds", max(10, (d+9*time.Second)/(10*time.Second)*10))
	}
	return fmt.Sprintf("%d min", (d+30*time.Second)/time.Minute)
}

// reporter shows a line that changes: on a terminal always in the same place,
// elsewhere as a new line now and then.
type reporter struct {
	out   io.Writer
	width int // columns of the terminal; 0: no terminal
	last  time.Time
}

// logInterval is the time between two lines where each stays, as in CI.
const logInterval = 15 * time.Second

func newReporter(out io.Writer, width int, now time.Time) *reporter {
	return &reporter{out: out, width: width, last: now}
}

func (r *reporter) show(line string, now time.Time) {
	if r.width > 0 {
		fmt.Fprintf(r.out, "\r%s\x1b[K", line[:min(len(line), r.width-1)])
		return
	}
	if now.Sub(r.last) >= logInterval {
		r.last = now
		fmt.Fprintln(r.out, line)
	}
}

// say prints text that stays.
func (r *reporter) say(format string, args ...any) {
	r.clear()
	fmt.Fprintf(r.out, format+"\n", args...)
}

// clear takes the changing line away.
func (r *reporter) clear() {
	if r.width > 0 {
		fmt.Fprint(r.out, "\r\x1b[K")
	}
}
