package loadbalancer

import (
	"math/rand/v2"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/fairway-lb/fairway/controllers/nodes"
	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

// memory is what the controller remembers of one Service, so that looking at it
// again costs nothing. Only the worker that has the Service touches it. All of
// it may be lost: what must not be is on the Service and in the cloud.
type memory struct {
	// ref is the Service that resources may exist for, zero before.
	ref lb.ServiceRef
	// patched is the Service as our last write left it; the informer may still
	// show the one before.
	patched *v1.Service

	inputs  string          // fingerprint of what was last attempted
	targets *nodes.Snapshot // with these nodes; nil when none were needed
	hash    string          // of the resources wanted then, "" when that could not be told
	done    bool            // and it succeeded
	// retargeted is set when nothing but nodes calls for the next attempt.
	retargeted bool
	notBefore  time.Time       // else it is not tried again before this
	forever    bool            // or only with other inputs
	due        time.Time       // when what succeeded is verified again
	woken      <-chan struct{} // closed when what was pending has ended; may be nil
	failures   int             // in a row
	throttled  bool            // the last of them by a cloud that asked for patience
	unheard    bool            // or by one that gave no answer

	note      string    // the checkpoint that is or will be on the Service
	noteSince time.Time // when the one there began to be out of date
	noteAt    time.Time // when it is written, with whatever else must be

	unwritten int // writes to the Service that failed, in a row

	outcome []edit // what the last attempt left to be seen on the Service
	served  []edit // the same of the last success, but for its condition
	good    []edit // and that; both nil once that is known to hold no more
	partial bool   // what was attempted since may have been done in part
	// verified is the hash of what was last known to be in the cloud, "" before.
	verified string
	trouble  verdict  // what was last reported as wrong, zero when all is well
	told     []string // keys of all that was reported since the last success

	announced bool // an event said that work on it has begun
	noted     map[lb.Notice]bool
	pauseSeen bool

	downSince   time.Time    // when the cloud began to fail, zero when it does not
	wantedSince time.Time    // when a Service without addresses was noticed
	drift       []plan.Drift // what others changed, until it is repaired
}

// memoryOf returns the memory of a key, an empty one for a new key.
func (c *Controller) memoryOf(key string) *memory {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.memories[key]
	if m == nil {
		m = &memory{noted: map[lb.Notice]bool{}}
		c.memories[key] = m
	}
	return m
}

func (c *Controller) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.memories, key)
	delete(c.targeted, key)
	delete(c.suspects, key)
}

// newest returns svc, or the later state of it that our last write returned.
func (m *memory) newest(svc *v1.Service) *v1.Service {
	if svc == nil || m.patched == nil || m.patched.UID != svc.UID {
		return svc
	}
	if order, err := resourceversion.CompareResourceVersion(m.patched.ResourceVersion, svc.ResourceVersion); err == nil && order > 0 {
		return m.patched
	}
	return svc
}

// attempt begins a try with the given inputs and reports whether there is any
// need: without one, wait is when to look again, 0 for never.
func (m *memory) attempt(inputs string) (needed bool, wait time.Duration) {
	if m.inputs == inputs {
		if m.forever {
			return false, 0
		}
		next := m.notBefore
		if m.done {
			next = m.due
		}
		wait := time.Until(next)
		select {
		case <-m.woken:
			wait, m.woken = 0, nil
		default:
		}
		return wait <= 0, max(wait, 0)
	}
	m.inputs, m.hash, m.done, m.forever, m.failures, m.woken, m.retargeted = inputs, "", false, false, 0, nil, false
	return true, 0
}

// again makes the next attempt due now, for the same inputs with other nodes.
// What failed goes on counting, and a cloud that asked for patience gets it.
func (m *memory) again() {
	m.forever, m.due = false, time.Time{}
	if !m.throttled {
		m.notBefore = time.Time{}
	}
}

// succeed and fail record how the attempt ended. What succeeded is verified
// again after about the given time: up to a quarter sooner or later, so that
// Services which began together do not stay together.
func (m *memory) succeed(verify time.Duration) {
	m.done, m.unheard, m.failures, m.trouble, m.told = true, false, 0, verdict{}, nil
	m.partial, m.downSince = false, time.Time{}
	m.due = time.Now().Add(verify*3/4 + rand.N(verify/2))
}

// serve records what a success leaves to be seen on the Service.
func (m *memory) serve(c metav1.Condition, rest ...edit) {
	// Two edits of one condition would make it change at each show.
	m.served, m.good, m.verified = rest, []edit{withCondition(c)}, m.hash
	m.outcome = slices.Concat(m.served, m.good)
}

// outage returns for how long the cloud itself has failed by now.
func (m *memory) outage() time.Duration {
	if m.downSince.IsZero() {
		m.downSince = time.Now()
	}
	return time.Since(m.downSince)
}

// fail returns the trouble to report, and whether it is news.
func (m *memory) fail(v verdict) (report verdict, news bool) {
	m.done, m.forever = false, v.after == never
	m.throttled, m.unheard, m.woken = v.kind == lb.Throttled, v.kind == lb.Unavailable, v.ended
	m.notBefore = time.Now().Add(max(v.after, 0))
	m.failures++
	if !v.passing() {
		m.downSince = time.Time{}
	}
	if v.quiet() {
		return v, false
	}
	news = m.tell(v.keys)
	if !news && v.kind == m.trouble.kind {
		// The first wording stays, or a request ID in it would be a change, and so
		// would be which of several denied calls comes first.
		return m.trouble, false
	}
	m.trouble = v
	return v, news
}

// tell notes what is told and reports whether any of it is new since the last
// success.
func (m *memory) tell(keys []string) (news bool) {
	for _, key := range keys {
		if !slices.Contains(m.told, key) {
			news = true
			m.told = append(m.told, key)
		}
	}
	return news
}

// describes reports whether a condition already says what v says.
func (v verdict) describes(c *metav1.Condition) bool {
	return c != nil && c.Reason == string(v.kind) && c.Message == v.message
}
