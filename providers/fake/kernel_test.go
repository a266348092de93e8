package fake

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestAgendaRunsInOrderOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var ran []string
		a := NewAgenda(&mu)
		note := func(s string) func() { return func() { ran = append(ran, s) } }
		mu.Lock()
		a.After(3*time.Second, note("late"))
		a.After(time.Second, func() {
			note("first")()
			a.After(time.Second, note("planned by first"))
		})
		a.After(time.Second, note("second"))
		mu.Unlock()

		time.Sleep(2 * time.Second)
		synctest.Wait()
		mu.Lock()
		if want := []string{"first", "second", "planned by first"}; !slices.Equal(ran, want) {
			t.Errorf("after 2 s ran %q, want %q", ran, want)
		}
		a.Stop()
		a.After(0, note("after stop"))
		mu.Unlock()

		time.Sleep(time.Hour)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if len(ran) != 3 {
			t.Errorf("a stopped agenda ran %q", ran[3:])
		}
	})
}

func TestAgendaRunsWhatIsDueBeforeTheTimerDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		a := NewAgenda(&mu)
		defer a.Stop()
		runs := 0
		mu.Lock()
		a.After(time.Second, func() { runs++ })
		// The timer's goroutine cannot have the lock: only RunDue can run it.
		time.Sleep(time.Second)
		if !a.RunDue() || runs != 1 {
			t.Errorf("RunDue left what was due undone (%d runs)", runs)
		}
		mu.Unlock()
		synctest.Wait()
		if runs != 1 {
			t.Errorf("it ran %d times", runs)
		}
	})
}

func TestIDsAreTheSameInEveryRun(t *testing.T) {
	a, b, other := NewIDs("x"), NewIDs("x"), NewIDs("y")
	_ = b.Hex("sg", 16)
	first, second := a.Hex("i", 16), a.Hex("i", 16)
	if first == second {
		t.Errorf("two identifiers are equal: %s", first)
	}
	if again := b.Hex("i", 16); again != first {
		t.Errorf("the same seed gave %s and %s; other kinds must not matter", first, again)
	}
	if other.Hex("i", 16) == first {
		t.Error("another seed gave the same identifier")
	}
}

func TestThrottleRefills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := NewThrottle([]Limit{
			{Operations: "elb:Describe*", Burst: 3, PerSecond: 2},
			{Operations: "ec2:*", Each: true, Burst: 1, PerSecond: 1},
		})
		allowed := func(operations ...string) (n int) {
			for _, o := range operations {
				if th.Allow(o) {
					n++
				}
			}
			return n
		}
		if n := allowed("elb:DescribeA", "elb:DescribeB", "elb:DescribeA", "elb:DescribeB"); n != 3 {
			t.Errorf("a full bucket of 3 let %d of 4 through", n)
		}
		if n := allowed("ec2:A", "ec2:B", "ec2:A"); n != 2 {
			t.Errorf("a bucket each let %d through, want 2", n)
		}
		if n := allowed(slices.Repeat([]string{"sts:Any"}, 100)...); n != 100 {
			t.Errorf("an operation without a limit was throttled after %d", n)
		}
		time.Sleep(time.Second)
		if n := allowed(slices.Repeat([]string{"elb:DescribeA"}, 5)...); n != 2 {
			t.Errorf("a second refilled %d, want 2", n)
		}
	})
}

func TestFaultsHitTheirCalls(t *testing.T) {
	calls := strings.Fields("elb:Create elb:Describe elb:Create ec2:Describe elb:Create elb:Create")
	about := []string{"", "loadbalancer/net/web-1/aa", "shop", "vpc-1", "loadbalancer/net/web-2/bb", ""}
	tests := []struct {
		name string
		rule Fault
		want string // + where the fault hits
	}{
		{"the first of any", Fault{Kind: FaultLost}, "+....."},
		{"the fifth of any", Fault{Nth: 5, Kind: FaultLost}, "....+."},
		{"the second of an operation", Fault{Operation: "Create", Nth: 2, Kind: FaultError}, "..+..."},
		{"three in a row", Fault{Operation: "elb:Create", Nth: 2, Times: 3, Kind: FaultThrottle}, "..+.++"},
		{"all from the second", Fault{Operation: "*", Nth: 2, Times: -1, Kind: FaultHang}, ".+++++"},
		{"one service", Fault{Operation: "ec2:*", Times: -1, Kind: FaultLost}, "...+.."},
		{"one resource", Fault{Resource: "net/web-", Times: -1, Kind: FaultHang}, ".+..+."},
		{"the second about a resource", Fault{Resource: "web", Nth: 2, Kind: FaultHang}, "....+."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var f Faults
			for round := range 2 { // setting them again counts afresh
				if err := f.Set([]Fault{tt.rule}); err != nil {
					t.Fatal(err)
				}
				got := ""
				for i, c := range calls {
					fault, hit := f.Next(c, about[i])
					switch {
					case hit && fault.Kind == tt.rule.Kind:
						got += "+"
					case hit:
						got += "?"
					default:
						got += "."
					}
				}
				if got != tt.want {
					t.Errorf("round %d: hit %s, want %s", round, got, tt.want)
				}
			}
		})
	}
}

func TestWrongFaultsAreRefusedWhole(t *testing.T) {
	var f Faults
	if err := f.Set([]Fault{{Operation: "A", Kind: FaultLost}}); err != nil {
		t.Fatal(err)
	}
	for name, rule := range map[string]Fault{
		"unknown kind":             {Kind: "explode"},
		"no kind":                  {},
		"malformed pattern":        {Kind: FaultLost, Operation: "["},
		"negative nth":             {Kind: FaultLost, Nth: -1},
		"code without error":       {Kind: FaultThrottle, Code: "X"},
		"status that is no error":  {Kind: FaultError, Status: 200},
		"after effect of throttle": {Kind: FaultThrottle, AfterEffect: true},
	} {
		if err := f.Set([]Fault{{Operation: "B", Kind: FaultLost}, rule}); err == nil || !strings.Contains(err.Error(), "fault 1") {
			t.Errorf("%s: error %v, want one about fault 1", name, err)
		}
	}
	if _, hit := f.Next("x:A", ""); !hit {
		t.Error("a refused plan replaced the one before")
	}
}

func TestCallLogCounts(t *testing.T) {
	var l CallLog
	at := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	for _, c := range []Call{
		{Time: at, Service: "elb", Operation: "Describe", Status: 200},
		{Time: at, Service: "elb", Operation: "Create", Write: true, Resource: "web", Status: 400, Code: "Duplicate"},
		{Time: at, Service: "elb", Operation: "Create", Write: true, Resource: "web", Fault: FaultLost},
		{Time: at, Service: "ec2", Operation: "Describe", Status: 200},
	} {
		l.Add(c)
	}
	const table = `SERVICE  OPERATION  KIND   CALLS  ERRORS
ec2      Describe   read   1      0
elb      Create     write  2      2
elb      Describe   read   1      0
2 reads, 2 writes
`
	counts := l.Counts()
	if counts.String() != table {
		t.Errorf("table:\n%s\nwant:\n%s", counts, table)
	}
	if counts.Of("Describe") != 2 || counts.Of("Delete") != 0 {
		t.Errorf("%d Describe and %d Delete, want 2 and 0", counts.Of("Describe"), counts.Of("Delete"))
	}
	if line, want := l.Calls()[1].String(), "03:04:05.006 write elb:Create web -> 400 Duplicate"; line != want {
		t.Errorf("line %q, want %q", line, want)
	}
	if line, want := l.Calls()[2].String(), "03:04:05.006 write elb:Create web -> no answer (planned fault: lost)"; line != want {
		t.Errorf("line %q, want %q", line, want)
	}
	l.Reset()
	if len(l.Calls()) != 0 || len(l.Counts()) != 0 {
		t.Error("a reset log remembers calls")
	}
}

func TestDurationsAreText(t *testing.T) {
	var d Duration
	if err := d.UnmarshalJSON([]byte(`"1m30s"`)); err != nil || time.Duration(d) != 90*time.Second {
		t.Errorf("1m30s gave %v, %v", time.Duration(d), err)
	}
	for _, wrong := range []string{`90`, `"90"`, `"-1s"`, `"soon"`} {
		if err := d.UnmarshalJSON([]byte(wrong)); err == nil {
			t.Errorf("%s was taken as %v", wrong, time.Duration(d))
		}
	}
}
