package fake

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// Call is one request a cloud was asked.
type Call struct {
	Time      time.Time `json:"time"`
	Service   string    `json:"service"`
	Operation string    `json:"operation"`
	// Write says that the operation can change something.
	Write bool `json:"write"`
	// Resource names what it was about, in the cloud's own names; may be empty.
	Resource string `json:"resource,omitempty"`
	// Status is the HTTP status answered, 0 when no answer was given.
	Status int `json:"status"`
	// Code is the cloud's error code, empty on success.
	Code string `json:"code,omitempty"`
	// Fault is the kind of planned fault that hit the call, if any.
	Fault    FaultKind     `json:"fault,omitempty"`
	Duration time.Duration `json:"duration"`
}

// String is the call as one line of a log.
func (c Call) String() string {
	kind := "read "
	if c.Write {
		kind = "write"
	}
	line := fmt.Sprintf("%s %s %s:%s", c.Time.Format("15:04:05.000"), kind, c.Service, c.Operation)
	if c.Resource != "" {
		line += " " + c.Resource
	}
	switch {
	case c.Status == 0:
		line += " -> no answer"
	case c.Code != "":
		line += fmt.Sprintf(" -> %d %s", c.Status, c.Code)
	default:
		line += fmt.Sprintf(" -> %d", c.Status)
	}
	if c.Fault != "" {
		line += fmt.Sprintf(" (planned fault: %s)", c.Fault)
	}
	return line
}

// CallLog remembers the calls, oldest first. The zero value is empty and ready. It
// is safe for concurrent use.
type CallLog struct {
	mu    sync.Mutex
	calls []Call
}

// Add appends a call.
func (l *CallLog) Add(c Call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, c)
}

// Calls returns a copy of the log.
func (l *CallLog) Calls() []Call {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.calls)
}

// Reset empties the log.
func (l *CallLog) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = nil
}

// Counts sums the log up by operation.
func (l *CallLog) Counts() Counts {
	by := map[Count]*Count{}
	for _, c := range l.Calls() {
		key := Count{Service: c.Service, Operation: c.Operation, Write: c.Write}
		if by[key] == nil {
			by[key] = &Count{Service: c.Service, Operation: c.Operation, Write: c.Write}
		}
		by[key].Calls++
		if c.Code != "" || c.Status == 0 {
			by[key].Errors++
		}
	}
	counts := make(Counts, 0, len(by))
	for _, c := range by {
		counts = append(counts, *c)
	}
	slices.SortFunc(counts, func(a, b Count) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Operation, b.Operation))
	})
	return counts
}

// Count is how often one operation was called.
type Count struct {
	Service   string `json:"service"`
	Operation string `json:"operation"`
	Write     bool   `json:"write"`
	Calls     int    `json:"calls"`
	// Errors are the calls among them that failed or got no answer.
	Errors int `json:"errors"`
}

// Counts is a summary of a call log, sorted by service and operation.
type Counts []Count

// Of returns how often an operation was called, whatever its service.
func (cs Counts) Of(operation string) int {
	n := 0
	for _, c := range cs {
		if c.Operation == operation {
			n += c.Calls
		}
	}
	return n
}

// Reads returns the number of calls that cannot change anything.
func (cs Counts) Reads() int { return cs.sum(func(c Count) bool { return !c.Write }) }

// Writes returns the number of calls that can change something.
func (cs Counts) Writes() int { return cs.sum(func(c Count) bool { return c.Write }) }

func (cs Counts) sum(keep func(Count) bool) int {
	n := 0
	for _, c := range cs {
		if keep(c) {
			n += c.Calls
		}
	}
	return n
}

// String is the summary as a table with a line of totals.
func (cs Counts) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SERVICE\tOPERATION\tKIND\tCALLS\tERRORS")
	for _, c := range cs {
		kind := "read"
		if c.Write {
			kind = "write"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\n", c.Service, c.Operation, kind, c.Calls, c.Errors)
	}
	_ = w.Flush() // into memory: it cannot fail
	fmt.Fprintf(&b, "%d reads, %d writes\n", cs.Reads(), cs.Writes())
	return b.String()
}
