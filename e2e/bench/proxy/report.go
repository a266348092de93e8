package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// bout is what came of one contender in one round.
type bout struct {
	round   int
	figures figures
	err     error
	took    time.Duration
}

// report gathers bouts by number of Services and contender.
type report struct {
	options  options
	began    time.Time
	files    []*os.File // of the report and the plot, or none
	measured subject
	complete bool
	sizes    []int
	names    []string
	neverUp  map[string]int            // how many Services were too many, by mode
	skipped  map[int]map[string]string // why, by number of Services and contender
	all      map[int]map[string][]bout
}

func newReport(o options, measured subject) *report {
	return &report{options: o, began: time.Now(), measured: measured, neverUp: map[string]int{}, skipped: map[int]map[string]string{}, all: map[int]map[string][]bout{}}
}

// know notes that there is such a contender with so many Services.
func (r *report) know(services int, c contender) {
	if r.all[services] == nil {
		r.all[services], r.skipped[services] = map[string][]bout{}, map[string]string{}
		r.sizes = append(r.sizes, services)
	}
	if !slices.Contains(r.names, c.name) {
		r.names = append(r.names, c.name)
	}
}

// skip notes why a contender was not measured.
func (r *report) skip(services int, name, reason string) { r.skipped[services][name] = reason }

func (r *report) add(services int, name string, b bout) {
	r.all[services][name] = append(r.all[services][name], b)
}

// longest is how long a contender took at most; of all of them, without a name.
func (r *report) longest(services int, name string) (longest time.Duration) {
	for of, bouts := range r.all[services] {
		for _, b := range bouts {
			if name == "" || name == of {
				longest = max(longest, b.took)
			}
		}
	}
	return longest
}

// relate works out the figures that take the baselines of the same round.
func (r *report) relate(services, round int) {
	of := func(name string) figures {
		for _, b := range r.all[services][name] {
			if b.round == round {
				return b.figures
			}
		}
		return nil
	}
	beyond := func(f figures, name, figure string, base figures) {
		value, known := f[figure]
		if floor, too := base[figure]; known && too {
			f[name] = value - floor
		}
	}
	for _, name := range r.names {
		f := of(name)
		if f == nil || name == none || name == informer || name == loader {
			continue
		}
		beyond(f, figBeyond, figReady, of(informer))
		for _, way := range []string{clusterIP, nodePort} {
			beyond(f, figDistance(way), figConnect50(way), of(none))
		}
	}
}

// values are a figure's in all rounds that have it.
func (r *report) values(services int, name, figure string) (values []float64) {
	for _, b := range r.all[services][name] {
		if v, found := b.figures[figure]; found {
			values = append(values, v)
		}
	}
	return values
}

// median is false where no round has the figure.
func (r *report) median(services int, name, figure string) (float64, bool) {
	values := r.values(services, name, figure)
	return median(values), len(values) > 0
}

// openReport opens the files of the report and of the plot beside it. They keep
// what they have until there is something to write.
func openReport(path string) (files []*os.File, err error) {
	if path == "" {
		return nil, nil
	}
	base, found := strings.CutSuffix(path, ".md")
	if !found {
		return nil, fmt.Errorf("the report %s is not a file whose name ends with .md", path)
	}
	for _, name := range []string{path, base + ".svg"} {
		file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

// write replaces what the files have, if there are any.
func (r *report) write() error {
	if len(r.files) == 0 {
		return nil
	}
	picture, err := r.plot()
	if err != nil {
		return err
	}
	for i, text := range []string{r.String(), picture} {
		_, err := r.files[i].Seek(0, io.SeekStart)
		if err := errors.Join(err, r.files[i].Truncate(0)); err != nil {
			return err
		}
		if _, err := r.files[i].WriteString(text); err != nil {
			return err
		}
	}
	return nil
}

// String returns the whole report: what was to be reached, a table for each
// number of Services, what failed, and how the figures grow.
func (r *report) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "# The node proxy beside kube-proxy\n\nWritten by `make bench-proxy`: %s.\n", r.measured)
	if !r.complete {
		text.WriteString("\n**Partial: the measurement has not ended.**\n")
	}
	text.WriteString(method)
	fmt.Fprintf(&text, "\nRounds: %d; of kube-proxy's other configurations: %d, the last. Who took longer than %s was not measured again with so many\nServices. The heads of the tables tell how many rounds there were.\n",
		r.options.rounds, min(r.options.rounds, r.options.variants), short(r.options.slow))
	r.goals(&text)
	if base, found := strings.CutSuffix(filepath.Base(r.options.report), ".md"); found {
		fmt.Fprintf(&text, "\n![start to last Service reachable and peak memory by number of Services](%s.svg)\n", base)
	}
	for _, n := range r.sizes {
		r.table(&text, n)
	}
	r.growth(&text)
	return text.String()
}

// table shows all figures with a number of Services.
func (r *report) table(text *strings.Builder, n int) {
	fmt.Fprintf(text, "\n## %d Services\n\nMedians; in parentheses: times ours.\n\n| |", n)
	for _, name := range r.names {
		fmt.Fprintf(text, " %s (%d) |", name, len(r.all[n][name]))
	}
	fmt.Fprintf(text, "\n|---|%s\n", strings.Repeat("---|", len(r.names)))
	for _, row := range rows() {
		fmt.Fprintf(text, "| %s |", row.name)
		for _, name := range r.names {
			fmt.Fprintf(text, " %s |", r.cell(n, name, row))
		}
		text.WriteString("\n")
	}
	r.failures(text, n)
}

// cell is one figure: empty where a contender has no such one, a dash where it
// should have it.
func (r *report) cell(n int, name string, row row) string {
	value, found := r.median(n, name, row.name)
	if !found {
		switch {
		case r.skipped[n][name] != "" && len(r.all[n][name]) == 0:
			return "skipped"
		case slices.ContainsFunc(r.all[n][name], func(b bout) bool { return b.err != nil }):
			return "**failed**"
		default:
			return ""
		}
	}
	our, known := r.median(n, ours, row.name)
	if name == ours || !known || our <= 0 || value < 0 {
		return row.show(value)
	}
	return fmt.Sprintf("%s (%s×)", row.show(value), ratio(value/our))
}

// short is a time without units that are nought.
func short(d time.Duration) string {
	text := strings.TrimSuffix(d.String(), "0s")
	return strings.TrimSuffix(text, "0m")
}

// ratio has two digits that count, and all those before the point.
func ratio(v float64) string {
	if v >= 10 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2g", v)
}

// failures says what went wrong, and what could not be measured at all.
func (r *report) failures(text *strings.Builder, n int) {
	for _, name := range r.names {
		if reason := r.skipped[n][name]; reason != "" {
			fmt.Fprintf(text, "\n**Skipped: %s:** %s.\n", name, reason)
		}
		for _, b := range r.all[n][name] {
			if b.err != nil {
				fmt.Fprintf(text, "\n**Failed: %s, round %d:**\n\n    %s\n", name, b.round+1, strings.ReplaceAll(b.err.Error(), "\n", "\n    "))
			}
		}
	}
}
