package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// target is a figure that was to be reached, at some numbers of Services.
type target struct {
	name, want string
	sizes      []int
	// measured returns what is there instead, and whether that is enough; ""
	// where it is not known.
	measured func(r *report, n int) (text string, v verdict)
}

// verdict is whether a target was reached.
type verdict string

const (
	reached  verdict = "yes"
	missed   verdict = "**no**"
	overlaps verdict = "rounds overlap"
	unknown  verdict = "?"
)

func reachedIf(ok bool) verdict {
	if ok {
		return reached
	}
	return missed
}

// noise is by how much a figure of the data path may be worse than another and
// still be no worse: it differs as much between rounds.
const noise = 1.05

func targets() []target {
	all := []target{
		{"start to last Service reachable, beyond a bare informer's sync", "≤ 0.3 s", []int{10000}, atMost(figBeyond, seconds, 0.3)},
		{"the same", "≤ 0.8 s", []int{30000}, atMost(figBeyond, seconds, 0.8)},
		{"start to last Service reachable", "≥ 20× sooner than kube-proxy", []int{10000, 30000}, times(figReady, seconds, 20)},
		{"endpoint change to packets there, p99, beyond a bare watch", "≤ 10 ms", []int{10000, 30000}, atMost(figFollow99, millis, 0.010)},
		{"endpoint change to packets of an established UDP flow there, p99", "≤ 50 ms", []int{10000, 30000}, atMost(figUDP99, millis, 0.050)},
		{"processor time for 2,000 endpoint changes", "≥ 20× less than kube-proxy", []int{10000, 30000}, times(figChangeCPU, seconds, 20)},
		{"peak memory", "≤ ½ of kube-proxy's (aim: ⅓)", []int{10000, 30000}, times(figMemory, mebi, 2)},
	}
	for _, way := range []string{clusterIP, nodePort} {
		all = append(all,
			target{figConnect50(way), "no worse than kube-proxy", []int{1000, 30000}, noWorse(figConnect50(way), micros, false)},
			target{figConnect99(way), "no worse than kube-proxy", []int{1000, 30000}, noWorse(figConnect99(way), micros, false)},
			target{figPerSecond(way), "no worse than kube-proxy", []int{1000, 30000}, noWorse(figPerSecond(way), count, true)})
	}
	sizes := []int{1000, 10000, 30000}
	return append(all, target{figLost(restart), "0", sizes, noneLost(ours, restart)}, target{figLost(upgrade), "0", sizes, noneLost(ours, upgrade)},
		target{"connections lost in taking over from kube-proxy's nftables mode", "0", sizes, noneLost(theirs, takeover)},
		target{"connections lost in taking over from kube-proxy's iptables mode", "0", sizes, noneLost(iptables, takeover)})
}

func atMost(figure string, show func(float64) string, limit float64) func(*report, int) (string, verdict) {
	return func(r *report, n int) (string, verdict) {
		value, known := r.median(n, ours, figure)
		if !known {
			return "", unknown
		}
		return show(value), reachedIf(value <= limit)
	}
}

// times wants kube-proxy's figure to be so many times ours.
func times(figure string, show func(float64) string, factor float64) func(*report, int) (string, verdict) {
	return func(r *report, n int) (string, verdict) {
		our, known := r.median(n, ours, figure)
		their, too := r.median(n, theirs, figure)
		if !known || !too || our <= 0 {
			return "", unknown
		}
		return fmt.Sprintf("%s against %s: %s×", show(our), show(their), ratio(their/our)), reachedIf(their >= factor*our)
	}
}

// noWorse compares with kube-proxy in its nftables mode, and tells of its
// iptables mode.
func noWorse(figure string, show func(float64) string, more bool) func(*report, int) (string, verdict) {
	return func(r *report, n int) (string, verdict) {
		our, known := r.median(n, ours, figure)
		their, too := r.median(n, theirs, figure)
		if !known || !too {
			return "", unknown
		}
		text := fmt.Sprintf("%s against %s", show(our), show(their))
		if v, known := r.median(n, iptables, figure); known {
			text += fmt.Sprintf(" (iptables: %s)", show(v))
		}
		if v, known := r.median(n, none, figure); known {
			text += fmt.Sprintf("; no netfilter: %s", show(v))
		}
		v, w := r.values(n, ours, figure), r.values(n, theirs, figure)
		good, near := our <= their*noise, slices.Min(v) <= slices.Max(w)
		if more {
			good, near = our*noise >= their, slices.Max(v) >= slices.Min(w)
		}
		if !good && near {
			return text, overlaps
		}
		return text, reachedIf(good)
	}
}

// noneLost counts all rounds of what comes after a contender.
func noneLost(name, kind string) func(*report, int) (string, verdict) {
	return func(r *report, n int) (string, verdict) {
		var lost, tried float64
		for _, v := range r.values(n, name, figLost(kind)) {
			lost += v
		}
		for _, v := range r.values(n, name, figTried(kind)) {
			tried += v
		}
		if tried == 0 {
			return "", unknown
		}
		text := fmt.Sprintf("%.0f of %.0f", lost, tried)
		if v, known := r.median(n, theirs, figLost(kind)); known && name == ours {
			text += fmt.Sprintf(" (kube-proxy: %.0f in a round)", v)
		}
		return text, reachedIf(lost == 0)
	}
}

// goals shows what was to be reached. A goal is for some numbers of Services;
// where none of them was measured, for the largest that was.
func (r *report) goals(text *strings.Builder) {
	text.WriteString("\n## To reach\n\n\"kube-proxy\" is its nftables mode with the default period. \"No worse\" leaves 5 % to chance;\nwhere it is more, but rounds of one are as good as rounds of the other, that is said.\n\n" +
		"| figure | Services | to reach | measured | reached? |\n|---|---|---|---|---|\n")
	for _, t := range targets() {
		var sizes []int
		for _, n := range r.sizes {
			if slices.Contains(t.sizes, n) {
				sizes = append(sizes, n)
			}
		}
		if len(sizes) == 0 {
			sizes = r.sizes[max(0, len(r.sizes)-1):]
		}
		for _, n := range sizes {
			measured, v := t.measured(r, n)
			if v == unknown {
				measured = "not measured"
			}
			fmt.Fprintf(text, "| %s | %d | %s | %s | %s |\n", t.name, n, t.want, measured, v)
		}
	}
}

// growth shows by which power of the number of Services figures grow.
func (r *report) growth(text *strings.Builder) {
	if len(r.sizes) < 2 {
		return
	}
	from, to := r.sizes[0], r.sizes[len(r.sizes)-1]
	names := []string{ours, theirs, iptables, informer, loader}
	fmt.Fprintf(text, "\n## Growth from %d to %d Services\n\nThe exponent: 0 is constant, 1 linear, 2 quadratic.\n\n| | %s |\n|---|%s\n",
		from, to, strings.Join(names, " | "), strings.Repeat("---|", len(names)))
	figs := []string{figReady, figReadyCPU, figMemory, figChangeCPU, figFollow99}
	for _, way := range []string{clusterIP, nodePort} {
		figs = append(figs, figConnect50(way), figPerSecond(way))
	}
	for _, figure := range figs {
		fmt.Fprintf(text, "| %s |", figure)
		for _, name := range names {
			a, known := r.median(from, name, figure)
			b, too := r.median(to, name, figure)
			if known && too && a > 0 && b > 0 {
				fmt.Fprintf(text, " %.2f |", math.Log(b/a)/math.Log(float64(to)/float64(from)))
			} else {
				text.WriteString(" |")
			}
		}
		text.WriteString("\n")
	}
}
