package loadbalancer

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// When a Service that failed is tried again with nothing changed.
const (
	firstRetry   = time.Second       // then twice as long each time
	slowRetry    = 5 * time.Minute   // the longest, and the pace when the cure is outside Kubernetes
	pendingRetry = 5 * time.Second   // without a hint from the cloud
	never        = time.Duration(-1) // only when an object changes
)

// patience is how long trouble that passes by itself may last before the owner
// of a Service that is served is told.
const patience = 5 * time.Minute

// verdict is what an error means for the Service's next attempt and its owner.
type verdict struct {
	kind lb.ErrorKind
	// message says in one line what is wrong and what to do.
	message string
	// key is the same for the same trouble, even where the cloud words it with
	// a new request ID each time.
	key string
	// keys are those of the single errors in it.
	keys []string
	// after is when to try again, or never.
	after time.Duration
	// ended, when not nil, is closed when what is pending has ended: then it is
	// worth a look before after is over.
	ended <-chan struct{}
	// hushed is set while the trouble is too short to be told.
	hushed bool
}

// quiet reports whether the trouble is worth no event.
func (v verdict) quiet() bool { return v.kind == lb.Pending || v.hushed }

// passing reports whether the trouble is the cloud's own, which ends without
// anybody's doing and says nothing about the Service.
func (v verdict) passing() bool { return v.kind == lb.Unavailable || v.kind == lb.Throttled }

// gravity orders kinds by how much they need a person; the gravest error of
// several is the one reported.
var gravity = []lb.ErrorKind{lb.Invalid, lb.Denied, lb.Quota, lb.Held, lb.Conflict, lb.NotFound, lb.Unavailable, lb.Throttled, lb.Pending}

// judge returns the verdict on an error that is not nil. ours says that nothing
// was asked of the cloud before it, and failures how often in a row the Service
// has failed before.
func judge(err error, ours bool, failures int) verdict {
	all := leaves(err)
	gravest := slices.MinFunc(all, func(a, b *lb.Error) int {
		return cmp.Compare(slices.Index(gravity, a.Kind), slices.Index(gravity, b.Kind))
	})
	v := verdict{kind: gravest.Kind, after: never}
	var messages []string
	for _, e := range all {
		if after := retryAfter(e, ours, failures); after != never && (v.after == never || after < v.after) {
			v.after = after
		}
		if v.ended == nil {
			v.ended = e.Done
		}
		if e.Kind != gravest.Kind {
			continue
		}
		messages = append(messages, e.Error())
		key := keyOfError(e)
		v.key += key
		v.keys = append(v.keys, key)
	}
	v.message = sentence(messages, advice(v.kind, v.after))
	return v
}

// keyOfError is the same for the same trouble.
func keyOfError(e *lb.Error) string {
	key := string(e.Kind) + "|" + e.Op + "|" + e.Resource.String() + "|" + e.Code + "|"
	// How much is held may change, and so may the addresses and ports of a
	// connection that failed.
	if e.Code == "" && e.Kind != lb.Held && e.Kind != lb.Unavailable {
		key += e.Message
	}
	return key
}

// leaves returns the contract's errors within err. What is none of them is
// Unavailable: nothing is known about its effect.
func leaves(err error) []*lb.Error {
	if e, ok := err.(*lb.Error); ok { //nolint:errorlint // this walks the tree itself, to find them all
		return []*lb.Error{e}
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*lb.Error
		for _, e := range joined.Unwrap() {
			all = append(all, leaves(e)...)
		}
		return all
	}
	if inner := errors.Unwrap(err); inner != nil {
		if _, ok := errors.AsType[*lb.Error](inner); ok {
			return leaves(inner)
		}
	}
	return []*lb.Error{{Kind: lb.Unavailable, Message: err.Error(), Err: err}}
}

func retryAfter(e *lb.Error, ours bool, failures int) time.Duration {
	switch e.Kind {
	case lb.Pending:
		return cmp.Or(e.RetryAfter, pendingRetry)
	case lb.Throttled:
		return cmp.Or(e.RetryAfter, backoff(failures))
	case lb.Held:
		return max(e.RetryAfter, backoff(failures))
	case lb.Invalid:
		if ours && e.Code == "" && e.RetryAfter == 0 {
			return never
		}
		return cmp.Or(e.RetryAfter, slowRetry)
	case lb.Denied, lb.Quota:
		return cmp.Or(e.RetryAfter, slowRetry)
	default:
		return cmp.Or(e.RetryAfter, backoff(failures))
	}
}

// backoff doubles from firstRetry up to slowRetry, and up to a tenth more so
// that Services which failed together do not return together.
func backoff(failures int) time.Duration {
	d := slowRetry
	if failures < 9 { // 1 s << 9 is more than five minutes
		d = firstRetry << failures
	}
	return d + rand.N(d/10)
}

func advice(kind lb.ErrorKind, after time.Duration) string {
	switch kind {
	case lb.Invalid:
		if after == never {
			return "Nothing is done until it is changed."
		}
		return "It is tried again every few minutes."
	case lb.Denied:
		return "Grant this to the controller's cloud identity; it is tried again every few minutes."
	case lb.Quota:
		return "Raise the account's limit or free some of it; it is tried again every few minutes."
	case lb.Pending:
		return "This takes the cloud a while."
	case lb.Held:
		return "Look at why the cluster's Nodes do not show these machines, or no more as targets; taken out a few at a time, they are let go."
	case lb.Throttled:
		return "It is tried again; if this goes on, look for what else uses up the account's request rate."
	case lb.Unavailable:
		return "It is tried again; if this goes on, look at the cloud's status page, the controller's network and its log."
	case lb.Conflict:
		return "It is tried again; if this goes on, remove or rename what is in the way."
	case lb.NotFound:
		return "It is tried again; if this goes on, make what is missing, or stop naming it."
	default:
		return "It is tried again."
	}
}

// sentence joins the first few distinct messages and the advice, bounded
// because it goes into an event, whose message the API server limits to 1 kB.
func sentence(messages []string, advice string) string {
	const most, longest = 3, 800
	slices.Sort(messages)
	messages = slices.Compact(messages)
	text := strings.Join(messages[:min(most, len(messages))], "; ")
	if len(messages) > most {
		text += "; and more"
	}
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + "…"
	}
	return strings.TrimRight(text, ".") + ". " + advice
}
