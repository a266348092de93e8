package main

import (
	"strings"
	"testing"
	"time"
)

func TestProgressCountsWhatFinished(t *testing.T) {
	began := time.Unix(1000, 0)
	p := newProgress(map[string]int64{"a": 1_000_000, "b": 2_000_000, "c": 3_000_000, "main": 1_000_000}, 2, began)
	if p.start("fmt") {
		t.Error("a package that was not to be compiled counts as progress")
	}
	if !p.start("a") || !p.start("b") {
		t.Fatal("packages to compile are not taken for progress")
	}
	if p.done != 0 {
		t.Errorf("two packages at work on two processors: %d units done, want none", p.done)
	}
	p.start("c")
	if p.done != 1_000_000 {
		t.Errorf("third package started on two processors: %d units done, want those of the first", p.done)
	}
	if p.start("c") {
		t.Error("one package counts twice")
	}
	p.start("main")
	if want := p.total - linkUnits - 1_000_000; p.done != want {
		t.Errorf("last package started: %d units done, want all but its own and the linking (%d)", p.done, want)
	}
	if line := p.line(began.Add(125 * time.Second)); !strings.HasSuffix(line, " left: linking") || !strings.Contains(line, " 4/4 packages, 2m05s passed, ") {
		t.Errorf("line while linking: %s", line)
	}
}

func TestTimeLeftFollowsTheSpeedMet(t *testing.T) {
	const parallel, each = 2, 1_000_000
	units := map[string]int64{}
	var names []string
	for i := range 200 {
		names = append(names, "p"+string(rune('A'+i)))
		units[names[i]] = each
	}
	began := time.Unix(1000, 0)
	p := newProgress(units, parallel, began)
	total := float64(p.total)

	usual := time.Duration(total / (unitsPerSecond * parallel) * float64(time.Second))
	if got := p.left(began); (got - usual).Abs() > time.Second {
		t.Errorf("before anything is known: %s left, want the usual %s", got, usual)
	}

	// A machine that takes 10 s a package, far slower than usual.
	now := began
	for _, name := range names[:102] {
		p.start(name)
		now = now.Add(10 * time.Second)
	}
	now = now.Add(-2 * 10 * time.Second) // the two at work have not finished
	rest := time.Duration((total - float64(p.done)) / each * 10 * float64(time.Second))
	if got := p.left(now); got < rest*3/4 || got > rest {
		t.Errorf("half way at 10 s a package: %s left, want a little under %s", got, rest)
	}
	if got, early := p.left(now.Add(10*time.Minute)), p.left(now); got <= early {
		t.Errorf("no progress for 10 minutes: %s left, no more than the %s before", got, early)
	}
}

func TestTimesForPeople(t *testing.T) {
	for _, c := range []struct {
		d                       time.Duration
		wantLength, wantRoughly string
	}{
		{0, "0s", "10s"},
		{41 * time.Second, "41s", "50s"},
		{59600 * time.Millisecond, "1m00s", "60s"},
		{100 * time.Second, "1m40s", "100s"},
		{125 * time.Second, "2m05s", "2 min"},
		{9*time.Minute + 31*time.Second, "9m31s", "10 min"},
	} {
		if got := length(c.d); got != c.wantLength {
			t.Errorf("length(%s) = %q, want %q", c.d, got, c.wantLength)
		}
		if got := roughly(c.d); got != c.wantRoughly {
			t.Errorf("roughly(%s) = %q, want %q", c.d, got, c.wantRoughly)
		}
	}
}

func TestReporter(t *testing.T) {
	began := time.Unix(1000, 0)
	t.Run("a log gets a line every 15 s", func(t *testing.T) {
		var out strings.Builder
		r := newReporter(&out, 0, began)
		for s := range 46 {
			r.show(length(time.Duration(s)*time.Second), began.Add(time.Duration(s)*time.Second))
		}
		r.say("done in %d s", 46)
		if got, want := out.String(), "15s\n30s\n45s\ndone in 46 s\n"; got != want {
			t.Errorf("log:\n%swant:\n%s", got, want)
		}
	})
	t.Run("a terminal keeps one line", func(t *testing.T) {
		var out strings.Builder
		r := newReporter(&out, 11, began)
		r.show("a line that is too long", began)
		r.show("short", began)
		r.say("done")
		if got, want := out.String(), "\ra line tha\x1b[K\rshort\x1b[K\r\x1b[Kdone\n"; got != want {
			t.Errorf("terminal: %q, want %q", got, want)
		}
	})
}
