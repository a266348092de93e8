package providertest

import (
	"context"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// Cloud describes one provider and its simulated cloud to the suite. All fields
// are required unless they say otherwise.
type Cloud struct {
	// Open makes a fresh account. It is called within virtual time, and so is
	// everything the account does.
	Open func(t T, c Conditions) Account

	// Service returns the n-th of any number of Services, n from 0, that have
	// nothing in common but the cluster. Each call makes a new value.
	Service func(n int) lb.Service
	// Updates are edits of a Service, each alone. Together they change every
	// field of every desired resource but those in Constant.
	Updates []Edit
	// NodeChange replaces some of the Service's nodes.
	NodeChange func(*lb.Service)
	// Invalid makes the Service one that Desired refuses.
	Invalid func(*lb.Service)

	// Drifts are changes behind the provider's back. Together they change every
	// field of every desired resource but those in Immutable, and delete one of
	// each kind.
	Drifts []Drift
	// Strangers are things in the account that are not ours.
	Strangers []Stranger

	// Usurpers take away something that the Service s owns and put a thing that
	// is not ours in its place, while the provider is at work. May be empty where
	// nothing in the cloud can be addressed by a name that may be given again.
	Usurpers []Stranger

	// Takeovers each mark one thing that the Service s owns as somebody else's.
	// May be empty where marks cannot be changed.
	Takeovers []Drift

	// Constant tells of a "kind field" that no Service can change why that is.
	Constant map[string]string
	// Immutable tells of a "kind field", or of a "kind" as a whole, that nobody
	// can change or delete behind our back why that is.
	Immutable map[string]string

	// Attempts is how often the provider tries one call by itself before it
	// returns an error. Faults come once and, when this is more than 1, again
	// that many times in a row.
	Attempts int
	// Hints says that the cloud tells how long to wait when it throttles.
	Hints bool
	// Many is how many Services come and go at once in the largest case; 0
	// means 200.
	Many int

	// RealTime says that time is not virtual: there is one account for all cases,
	// which come one after the other, and calls made at the same time arrive in
	// any order, so that a fault's call is told by its operation alone.
	RealTime bool
}

// Edit is a named change of a Service.
type Edit struct {
	Name string
	Edit func(*lb.Service)
}

// Drift changes one thing the Service s owns, behind the provider's back.
type Drift struct {
	Name string
	Do   func(a Account, s lb.Service) error
}

// Stranger is something that is not ours.
type Stranger struct {
	Name string
	// Plant puts it into the account. InPlace is set when it needs the Service s
	// to be there already: something inside what the Service or the cluster
	// owns.
	Plant   func(a Account, s lb.Service) error
	InPlace bool
	// Trace is a part of each line of Raw that tells of it, by which it is told
	// from what others do to the account at the same moment; empty takes all that
	// is new.
	Trace string
	// Blocks says that it has taken the place of something s needs: reconciling
	// must fail with a Conflict until it is gone.
	Blocks bool
}

// Conditions are how a cloud behaves apart from faults; the zero value is an
// ideal one.
type Conditions struct {
	// Latency of every call.
	Latency time.Duration
	// Lag is how long what was changed is not seen by calls that list or look
	// up, where the cloud is like that.
	Lag time.Duration
	// Slow is how long operations take that the cloud does not do at once.
	Slow time.Duration
	// PageSize is how many items a list answers at most, where the cloud pages;
	// 0 means as many as it likes.
	PageSize int
}

// Account is a simulated account. Its methods may be called from several
// goroutines at once; none of them counts as a call of the cloud.
type Account interface {
	// Provider returns a new provider that remembers nothing, as a restarted
	// controller would have.
	Provider(ctx context.Context, cluster lb.Cluster) (Instance, error)

	// Snapshot returns what is in the account: a line per thing and per entry of
	// a shared document, sorted, references by name, without generated ids,
	// versions and times. Two accounts in which the same was achieved are equal.
	Snapshot() []string
	// Raw returns the same byte for byte, ids included.
	Raw() []string

	// Calls returns the calls that all providers on the account made so far.
	Calls() Calls
	// Inject plans a fault, counting calls from now on; the zero Fault ends it.
	Inject(f Fault)
	// Hits returns which calls the last injected fault hit: the numbers of calls
	// of any operation since then, from 1.
	Hits() []int
	// FailOperation makes the next operation that takes Conditions.Slow fail at
	// its end. It returns nil when the cloud has none that can, and else what
	// reports whether there was one since.
	FailOperation() (begun func() bool)

	// Close ends everything that would still happen.
	Close()
}

// Instance is one provider in one controller.
type Instance struct {
	Provider lb.Provider
	// Kill makes the controller die: none of its calls that has not arrived
	// has an effect any more. It may be called twice.
	Kill func()
	// Dead reports whether it was killed, be it by a fault.
	Dead func() bool
}

// Calls are the calls that were made, those that failed included.
type Calls struct {
	// Operations are their operations' names, in the order they arrived.
	Operations []string
	// Writes is how many of them can change something.
	Writes int
}

// All returns how many calls there were.
func (c Calls) All() int { return len(c.Operations) }

// FaultKind is what goes wrong with a call.
type FaultKind string

// The kinds of fault.
const (
	// ErrorBefore is an answer that the cloud is out of order; nothing was done.
	ErrorBefore FaultKind = "error before effect"
	// ErrorAfter is the same answer, but the call was done.
	ErrorAfter FaultKind = "error after effect"
	// Lost does the call, and its answer never arrives.
	Lost FaultKind = "response lost after effect"
	// Throttle answers that calls come too fast, with Fault.Hint where the cloud
	// gives one; nothing was done.
	Throttle FaultKind = "throttle"
	// Timeout gives no answer for as long as the caller waits; nothing was done.
	Timeout FaultKind = "timeout"
	// Gone does the call, and the controller that made it is dead.
	Gone FaultKind = "controller gone"
	// Denied answers that the credentials may not do this; nothing was done.
	Denied FaultKind = "denied"
	// Pause holds the calling controller, this call included, for Fault.For; then
	// it goes on as if nothing had happened.
	Pause FaultKind = "controller paused"
	// Meanwhile lets something happen in the account, by Fault.Do, just before the
	// call takes effect. The call itself is as ever.
	Meanwhile FaultKind = "something else happens"
)

// Fault is one planned fault.
type Fault struct {
	Kind FaultKind
	// Operation is whose calls are counted and may fail; "" means any.
	Operation string
	// At is which call is the first to fail, counted from 1.
	At int
	// Times is how many calls in a row fail; 0 means one, less all from At on.
	Times int
	// Hint is how long to wait after a Throttle.
	Hint time.Duration
	// For is how long a Pause lasts.
	For time.Duration
	// Do is what happens Meanwhile.
	Do func()
}
