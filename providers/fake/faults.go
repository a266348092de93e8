package fake

import (
	"fmt"
	"path"
	"strings"
	"sync"
)

// FaultKind is what goes wrong with a call.
type FaultKind string

// The kinds of fault.
const (
	// FaultError answers with an error instead of doing the call; with AfterEffect
	// it does it first.
	FaultError FaultKind = "error"
	// FaultThrottle answers as the cloud does when calls come too fast; nothing is
	// done.
	FaultThrottle FaultKind = "throttle"
	// FaultLost does the call and then closes the connection without an answer.
	FaultLost FaultKind = "lost"
	// FaultHang gives no answer until the caller goes away; the call is done only
	// with AfterEffect.
	FaultHang FaultKind = "hang"
	// FaultLater does the call and answers well, but what it began, and the cloud
	// goes on with by itself, fails in the end. It makes no difference to a call
	// that begins nothing.
	FaultLater FaultKind = "later"
)

// Fault is one planned fault.
type Fault struct {
	// Operation is a pattern as Match takes it; empty matches every call.
	Operation string `json:"operation,omitempty"`
	// Resource is a part of what the call is about, as the call log has it; empty
	// matches every call.
	Resource string `json:"resource,omitempty"`
	// Nth is which of the matching calls, counted from 1 since the faults were set,
	// is the first to fail; 0: the first.
	Nth int `json:"nth,omitempty"`
	// Times is how many matching calls in a row fail; 0: one; negative: all from
	// Nth on.
	Times int       `json:"times,omitempty"`
	Kind  FaultKind `json:"kind"`
	// AfterEffect lets the call have its effect before it fails (FaultError and
	// FaultHang).
	AfterEffect bool `json:"afterEffect,omitempty"`
	// Code, Message and Status (HTTP) of a FaultError; empty: the cloud's own
	// internal error.
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
	Status  int    `json:"status,omitempty"`
}

// Faults is the plan of what will go wrong. The zero value plans nothing. It is
// safe for concurrent use.
type Faults struct {
	mu    sync.Mutex
	rules []Fault
	seen  []int
}

// Set replaces the plan and starts counting calls afresh. A fault with an unknown
// kind, a malformed pattern or fields that its kind does not have is an error
// and leaves the plan as it was.
func (f *Faults) Set(rules []Fault) error {
	for i, r := range rules {
		if err := r.validate(); err != nil {
			return fmt.Errorf("fault %d: %w", i, err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append([]Fault(nil), rules...)
	f.seen = make([]int, len(rules))
	return nil
}

// Next counts a call of "service:Operation" about a resource and returns the first
// fault planned for it, if any.
func (f *Faults) Next(operation, resource string) (Fault, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	hit := -1
	for i, r := range f.rules {
		if !Match(r.Operation, operation) || !strings.Contains(resource, r.Resource) {
			continue
		}
		f.seen[i]++
		first, times := max(r.Nth, 1), r.Times
		if times == 0 {
			times = 1
		}
		if hit < 0 && f.seen[i] >= first && (times < 0 || f.seen[i] < first+times) {
			hit = i
		}
	}
	if hit < 0 {
		return Fault{}, false
	}
	return f.rules[hit], true
}

func (r Fault) validate() error {
	if _, err := path.Match(r.Operation, ""); err != nil {
		return fmt.Errorf("operation %q: %w", r.Operation, err)
	}
	if r.Nth < 0 {
		return fmt.Errorf("nth %d is negative", r.Nth)
	}
	switch r.Kind {
	case FaultError, FaultThrottle, FaultLost, FaultHang, FaultLater:
	default:
		return fmt.Errorf("kind %q is none of error, throttle, lost, hang, later", r.Kind)
	}
	if r.Kind != FaultError && (r.Code != "" || r.Message != "" || r.Status != 0) {
		return fmt.Errorf("kind %s takes no code, message or status", r.Kind)
	}
	if r.Status != 0 && (r.Status < 400 || r.Status > 599) {
		return fmt.Errorf("status %d is no HTTP error status", r.Status)
	}
	if r.AfterEffect && r.Kind != FaultError && r.Kind != FaultHang {
		return fmt.Errorf("kind %s takes no afterEffect", r.Kind)
	}
	return nil
}

// Match says whether a pattern covers "service:Operation". A pattern has the form
// of package path ("ec2:Describe*"); without a colon it is about the operation of
// any service ("Describe*"); the empty pattern covers everything. A malformed
// pattern covers nothing.
func Match(pattern, operation string) bool {
	if pattern == "" {
		return true
	}
	if !strings.Contains(pattern, ":") {
		_, operation, _ = strings.Cut(operation, ":")
	}
	ok, err := path.Match(pattern, operation)
	return err == nil && ok
}
