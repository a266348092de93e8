package main

import (
	_ "embed"
	"fmt"
	"math"
	"slices"
	"strings"
	"text/template"
)

//go:embed plot.svg.tmpl
var plotTemplate string

// picture is what the template draws: panels side by side.
type picture struct {
	Width, Height int
	Caption       string
	Panels        []panel
	Legend        []label
}

// panel is one figure against the number of Services, both logarithmic.
type panel struct {
	Title         string
	X             float64 // of its left edge
	Width, Height float64
	Columns, Rows []label // the grid
	Lines         []line
}

// label is a text somewhere; Class is the line it belongs to.
type label struct {
	X, Y        float64
	Text, Class string
}

type line struct {
	Class, Points string
	Dots          []dot
}

// dot is one value, which a pointer over it shows.
type dot struct {
	X, Y float64
	Text string
}

// drawn are the contenders of the plot, by the class that gives their colour.
var drawn = []struct{ class, name string }{
	{"ours", ours}, {"nftables", theirs}, {"iptables", iptables}, {"informer", informer}, {"loader", loader},
}

const (
	panelWidth, panelHeight = 340.0, 230.0
	panelLeft, panelTop     = 70.0, 50.0
	panelPitch              = panelWidth + 90
)

// plot draws start and memory by number of Services, as an SVG.
func (r *report) plot() (string, error) {
	p := picture{Width: int(2 * panelPitch), Height: int(panelTop + panelHeight + 90), Caption: r.measured.commit + ", " + r.measured.machine}
	p.Panels = append(p.Panels,
		r.panel(figReady, panelLeft, seconds, axis.marks),
		r.panel(figMemory, panelLeft+panelPitch, mebi, axis.marksOfMemory))
	x := panelLeft
	for _, d := range drawn {
		p.Legend = append(p.Legend, label{x, panelTop + panelHeight + 58, d.name, d.class})
		x += 48 + 6.5*float64(len(d.name))
	}
	t, err := template.New("plot").Parse(plotTemplate)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	err = t.Execute(&text, p)
	return text.String(), err
}

// panel draws one figure.
func (r *report) panel(figure string, x float64, show func(float64) string, marks func(axis) []float64) panel {
	p := panel{Title: figure, X: x, Width: panelWidth, Height: panelHeight}
	var values []float64
	for _, n := range r.sizes {
		for _, d := range drawn {
			if v, known := r.median(n, d.name, figure); known && v > 0 {
				values = append(values, v)
			}
		}
	}
	if len(values) == 0 {
		return p
	}
	across := newAxis(float64(r.sizes[0]), float64(r.sizes[len(r.sizes)-1]), panelWidth)
	up := newAxis(slices.Min(values), slices.Max(values), panelHeight)
	y := func(v float64) float64 { return panelHeight - up.at(v) }
	for _, n := range r.sizes {
		p.Columns = append(p.Columns, label{X: across.at(float64(n)), Text: fmt.Sprint(n)})
	}
	for _, v := range marks(up) {
		p.Rows = append(p.Rows, label{Y: y(v), Text: tick(v, show)})
	}
	for _, d := range drawn {
		l := line{Class: d.class}
		var points []string
		for _, n := range r.sizes {
			if v, known := r.median(n, d.name, figure); known && v > 0 {
				at := dot{across.at(float64(n)), y(v), fmt.Sprintf("%s, %d Services: %s", d.name, n, show(v))}
				l.Dots = append(l.Dots, at)
				points = append(points, fmt.Sprintf("%.1f,%.1f", at.X, at.Y))
			}
		}
		l.Points = strings.Join(points, " ")
		p.Lines = append(p.Lines, l)
	}
	return p
}

// tick shows a mark of an axis, without digits that say nothing.
func tick(v float64, show func(float64) string) string {
	number, unit, _ := strings.Cut(show(v), " ")
	if strings.Contains(number, ".") {
		number = strings.TrimSuffix(strings.TrimRight(number, "0"), ".")
	}
	return number + " " + unit
}

// axis is a logarithmic one.
type axis struct{ low, high, length float64 }

// newAxis has all from least to most, with some room beyond both.
func newAxis(least, most, length float64) axis {
	room := max(0.05*math.Log(most/least), 0.2)
	return axis{math.Log(least) - room, math.Log(most) + room, length}
}

func (a axis) at(v float64) float64 { return (math.Log(v) - a.low) / (a.high - a.low) * a.length }

// marks are round numbers of seconds: powers of ten, or more where they are few.
func (a axis) marks() (marks []float64) {
	steps := []float64{1}
	if a.high-a.low < math.Log(100) {
		steps = []float64{1, 2, 5}
	}
	for e := math.Floor(a.low / math.Ln10); e <= a.high/math.Ln10; e++ {
		for _, step := range steps {
			marks = append(marks, step*math.Pow(10, e))
		}
	}
	return a.within(marks)
}

// marksOfMemory are powers of two.
func (a axis) marksOfMemory() (marks []float64) {
	for e := math.Floor(a.low / math.Ln2); e <= a.high/math.Ln2; e++ {
		marks = append(marks, math.Pow(2, e))
	}
	return a.within(marks)
}

func (a axis) within(marks []float64) []float64 {
	return slices.DeleteFunc(marks, func(v float64) bool { return math.Log(v) < a.low || math.Log(v) > a.high })
}
