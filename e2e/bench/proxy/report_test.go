package main

import (
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var keep = flag.String("keep", "", "keep the report and the plot of the test in this `directory`")

// measured is a report of three sizes, in which figures grow as they might.
func measured(t *testing.T) *report {
	t.Helper()
	r := newReport(options{rounds: 2, variants: 1, slow: 2 * time.Minute}, subject{"commit 0123456789ab", "go, against kube-proxy", "2 processors"})
	for _, n := range []int{1000, 10000, 30000} {
		k := float64(n) / 10000
		for round := range 2 {
			for name, f := range map[string]figures{
				ours: {figReady: 0.1 + 0.5*k, figMemory: (20 + 30*k) * (1 << 20), figChangeCPU: 0.5, figFollow99: 0.004, figUDP99: 0.060,
					figConnect50(clusterIP): 20e-6 + float64(round)*4e-6, figPerSecond(clusterIP): 40000, figLost(restart): float64(round), figTried(restart): 1000},
				theirs: {figReady: 1 + 20*k*k, figMemory: (60 + 130*k) * (1 << 20), figChangeCPU: 15 * k,
					figConnect50(clusterIP): 19e-6 + float64(round)*2e-6, figPerSecond(clusterIP): 42500, figLost(restart): 2, figTried(restart): 1000},
				informer: {figReady: 0.05 + 0.3*k, figMemory: (30 + 60*k) * (1 << 20)},
				loader:   {figReady: 0.1 * k},
				none:     {figConnect50(clusterIP): 14e-6},
			} {
				r.know(n, contender{name: name})
				r.add(n, name, bout{round: round, figures: f, took: time.Minute})
			}
			r.relate(n, round)
		}
	}
	return r
}

func TestGoals(t *testing.T) {
	text := measured(t).String()
	for _, want := range []string{
		"| start to last Service reachable, beyond a bare informer's sync | 10000 | ≤ 0.3 s | 0.25 s | yes |",
		"| the same | 30000 | ≤ 0.8 s | 0.65 s | yes |",
		"| start to last Service reachable | 10000 | ≥ 20× sooner than kube-proxy | 0.60 s against 21.00 s: 35× | yes |",
		"| processor time for 2,000 endpoint changes | 10000 | ≥ 20× less than kube-proxy | 0.50 s against 15.00 s: 30× | yes |",
		"| endpoint change to packets of an established UDP flow there, p99 | 30000 | ≤ 50 ms | 60.0 ms | **no** |",
		"| ClusterIP, connect(), p50 | 1000 | no worse than kube-proxy | 22.0 µs against 20.0 µs; no netfilter: 14.0 µs | rounds overlap |",
		"| ClusterIP, connections per second at saturation | 1000 | no worse than kube-proxy | 40000 against 42500 | **no** |",
		"| NodePort, connect(), p50 | 30000 | no worse than kube-proxy | not measured | ? |",
		"| connections lost in a restart | 1000 | 0 | 1 of 2000 (kube-proxy: 2 in a round) | **no** |",
		"| ClusterIP, connect(), p50, beyond no netfilter | ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks\n%s", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// TestFailuresShow holds that what is missing is seen to be, and that what else
// was measured stays.
func TestFailuresShow(t *testing.T) {
	r := measured(t)
	r.know(10000, contender{name: iptables})
	r.skip(10000, iptables, "it runs iptables")
	r.add(10000, theirs, bout{round: 2, figures: figures{figReady: 22}, err: errors.New("it ended: out of memory")})
	text := r.String()
	for _, want := range []string{
		"**Partial: the measurement has not ended.**", "| " + theirs + " (3) |", "| 21.00 s (35×) |",
		"**Failed: " + theirs + ", round 3:**\n\n    it ended: out of memory\n",
		"**Skipped: " + iptables + ":** it runs iptables.", "| skipped |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks\n%s", want)
		}
	}
	r.complete = true
	if strings.Contains(r.String(), "Partial") {
		t.Error("a complete report calls itself partial")
	}
}

// TestTurns holds who is measured when.
func TestTurns(t *testing.T) {
	o := options{rounds: 3, variants: 1, slow: 2 * time.Minute, budget: time.Hour}
	for name, c := range map[string]struct {
		contender contender
		took      time.Duration
		elapsed   time.Duration
		round     int
		want      bool
	}{
		"ours":                       {contender{name: ours}, time.Minute, 0, 1, true},
		"who was slow":               {contender{name: theirs}, 3 * time.Minute, 0, 1, false},
		"a variant before the last":  {contender{name: iptables, variant: true}, 0, 0, 1, false},
		"a variant in the last":      {contender{name: iptables, variant: true}, 0, 0, 2, true},
		"a variant without time":     {contender{name: iptables, variant: true}, 0, time.Hour, 2, false},
		"ours, whatever the time is": {contender{name: ours}, 0, time.Hour, 2, true},
		"what is not installed":      {contender{name: iptables, missing: "no iptables"}, 0, 0, 0, false},
	} {
		r := newReport(o, subject{})
		r.began = time.Now().Add(-c.elapsed)
		r.know(1000, c.contender)
		if c.took > 0 {
			r.add(1000, c.contender.name, bout{took: c.took})
		}
		if got := r.turn(1000, c.round, c.contender); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestFiles writes a longer report and then a shorter one into the same files.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	if *keep != "" {
		dir = *keep
	}
	path := filepath.Join(dir, "report.md")
	files, err := openReport(path)
	if err != nil {
		t.Fatal(err)
	}
	empty := newReport(options{}, subject{})
	for _, r := range []*report{empty, measured(t), empty, measured(t)} {
		r.files = files
		if err := r.write(); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil || string(text) != r.String() {
			t.Errorf("the file is not the report: %v", err)
		}
		picture, err := os.ReadFile(filepath.Join(dir, "report.svg"))
		if err != nil {
			t.Fatal(err)
		}
		for d := xml.NewDecoder(strings.NewReader(string(picture))); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("the plot is no XML: %v\n%s", err, picture)
			}
		}
		lines := strings.Count(string(picture), "<polyline")
		if want := len(r.sizes) / 3 * 7; lines != want {
			t.Errorf("the plot has %d lines, want %d", lines, want)
		}
	}
	if _, err := openReport(filepath.Join(dir, "report.txt")); err == nil {
		t.Error("a report that is no .md was accepted")
	}
}
