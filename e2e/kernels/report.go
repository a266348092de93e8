package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

func (r result) String() string {
	word := "ok"
	if r.err != nil {
		word = "FAIL"
	}
	text := fmt.Sprintf("%-4s %s under %s: %d passed, %d failed, %d skipped, %v", word, r.test.name, r.kernel.release,
		len(r.passed), len(r.failed), len(r.skipped), r.took.Round(time.Second))
	if r.err != nil {
		text += ": " + r.err.Error()
	}
	if len(r.skipped) > 0 {
		text += "; skipped: " + strings.Join(r.skipped, ", ")
	}
	return text
}

// cell is the result in a table.
func (r result) cell() string {
	text := fmt.Sprintf("ok, %d", len(r.passed))
	if r.err != nil {
		text = fmt.Sprintf("**FAIL**, %d of %d", len(r.failed), len(r.failed)+len(r.passed))
	}
	if len(r.skipped) > 0 {
		text += fmt.Sprintf(", %d skipped", len(r.skipped))
	}
	return text
}

// table shows results in Markdown, a row for each package and a column for each
// kernel. The numbers count tests and subtests.
func table(results []result) string {
	var kernels []kernel
	var packages []string
	cells := map[[2]string]string{}
	for _, r := range results {
		if !slices.Contains(kernels, r.kernel) {
			kernels = append(kernels, r.kernel)
		}
		if !slices.Contains(packages, r.test.name) {
			packages = append(packages, r.test.name)
		}
		cells[[2]string{r.test.name, r.kernel.release}] = r.cell()
	}
	var b strings.Builder
	b.WriteString("| tests |")
	for _, k := range kernels {
		fmt.Fprintf(&b, " Linux %s (Debian %s) |", k.series, k.version)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(kernels)) + "\n")
	for _, p := range packages {
		fmt.Fprintf(&b, "| `%s` |", p)
		for _, k := range kernels {
			fmt.Fprintf(&b, " %s |", cells[[2]string{p, k.release}])
		}
		b.WriteString("\n")
	}
	return b.String()
}

// The lines in a Markdown file between which its table is.
const (
	tableBegin = "<!-- written by make test-kernels TABLE=1 -->\n"
	tableEnd   = "<!-- end -->\n"
)

// replaceTable puts a table into a Markdown file in place of the one before, with
// the commit that it is of.
func replaceTable(file, table, commit string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, begun := strings.Cut(string(text), tableBegin)
	_, after, ended := strings.Cut(rest, tableEnd)
	if !begun || !ended {
		return errors.New(file + " has no place for the table")
	}
	return os.WriteFile(file, []byte(before+tableBegin+"At commit "+commit+":\n\n"+table+tableEnd+after), 0o644)
}
