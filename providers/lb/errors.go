package lb

import (
	"errors"
	"strings"
	"time"
)

// ErrorKind says what an error means for whoever must decide what to do next.
// It is given once, at the edge, from the cloud's error code.
type ErrorKind string

const (
	// NotFound means that the thing is not there: deleting it has succeeded.
	NotFound ErrorKind = "NotFound"
	// Conflict means that someone else changed or took it: read again, retry.
	Conflict ErrorKind = "Conflict"
	// Throttled means too many calls: wait RetryAfter, slow everything down.
	Throttled ErrorKind = "Throttled"
	// Quota means that an account limit is reached. Retried slowly: the cure is
	// outside Kubernetes.
	Quota ErrorKind = "Quota"
	// Denied means that our credentials may not do this. Retried slowly.
	Denied ErrorKind = "Denied"
	// Invalid means that what was asked for cannot be. Found by our own Desired
	// it waits for an object to change; answered by a cloud it is retried slowly.
	Invalid ErrorKind = "Invalid"
	// Pending means accepted and under way: look again after RetryAfter.
	Pending ErrorKind = "Pending"
	// Held means that we ourselves do not do it for now, because too much would
	// go at once: look again after RetryAfter.
	Held ErrorKind = "Held"
	// Unavailable means no usable answer: nothing is known about the effect.
	Unavailable ErrorKind = "Unavailable"
)

// Error is every error that crosses the Provider contract.
type Error struct {
	Kind ErrorKind
	// Op is what was attempted: "create", "observe", "read configuration".
	Op string
	// Resource is what it was attempted on; zero when it was no resource.
	Resource Ref
	// Code is the cloud's own code, "" when the error is ours.
	Code string
	// Message says what is wrong in words a user can act on.
	Message string
	// RetryAfter is the server's or our own hint when to look again; 0 when
	// there is none.
	RetryAfter time.Duration
	// Done, when not nil, is closed when what is Pending has ended, so that
	// nobody needs to look in vain.
	Done <-chan struct{}
	// Err is the cause, nil when there is none.
	Err error
}

// Error returns "op resource: message (code)".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if !e.Resource.IsZero() {
		if b.Len() > 0 {
			b.WriteString(" ")
		}
		b.WriteString(e.Resource.String())
	}
	what := e.Message
	if what == "" && e.Err != nil {
		what = e.Err.Error()
	}
	if what == "" {
		what = string(e.Kind)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(what)
	if e.Code != "" {
		b.WriteString(" (" + e.Code + ")")
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the first Error in err's chain. An error without
// one is Unavailable, because nothing is known about its effect; nil has the
// empty kind.
func KindOf(err error) ErrorKind {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Unavailable
}

// RetryAfterOf returns the hint of the first Error in err's chain, 0 without.
func RetryAfterOf(err error) time.Duration {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.RetryAfter
	}
	return 0
}

// InvalidField returns an Invalid error about an annotation or field: its name,
// the refused value (shortened when long) and why, so that a user always learns
// what to change.
func InvalidField(name, value, why string) error {
	return &Error{Kind: Invalid, Op: name + ": " + quote(value), Message: why}
}

func quote(s string) string {
	const most = 80
	if len(s) > most {
		s = s[:most] + "…"
	}
	return `"` + s + `"`
}
