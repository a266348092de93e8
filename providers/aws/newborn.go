package aws

import (
	"slices"
	"sync"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// newbornTime is how long something just made may be absent from AWS's lists, and
// such a list be believed.
const newbornTime = 20*time.Second + longestBelief

// newborns remembers what was made a moment ago. Lists of AWS are eventually
// consistent: without this memory, a Service deleted right after its creation
// would seem to own nothing, and all of it would stay behind. What a call made
// that never got an answer counts as well. It is safe for concurrent use.
type newborns struct {
	mu   sync.Mutex
	born map[lb.Ref]birth
}

type birth struct {
	owners []lb.Owner
	at     time.Time
}

// listedLate reports whether resources of kind k are found by listing them.
func listedLate(k lb.Kind) bool {
	return k == kindSecurityGroup || k == kindLoadBalancer || k == kindTargetGroup
}

// expect notes that r is about to be made, or has been.
func (n *newborns) expect(r lb.Resource) {
	if !listedLate(r.Kind) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.born == nil {
		n.born = map[lb.Ref]birth{}
	}
	n.born[r.Ref] = birth{r.Owners, time.Now()}
}

// forget notes that ref was not made after all, or is deleted.
func (n *newborns) forget(ref lb.Ref) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.born, ref)
}

// unseen returns a Pending error when something was just made for owner, or for
// the cluster, and is not among what is seen.
func (n *newborns) unseen(owner lb.Owner, seen []lb.Resource) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for ref, b := range n.born {
		if time.Since(b.at) > newbornTime || slices.ContainsFunc(seen, func(r lb.Resource) bool { return r.Ref == ref }) {
			delete(n.born, ref)
		}
	}
	for ref, b := range n.born {
		if slices.Contains(b.owners, owner) || slices.Contains(b.owners, lb.ByCluster()) {
			return &lb.Error{Kind: lb.Pending, Op: "observe", Resource: ref, RetryAfter: 2 * time.Second,
				Message: "it was just made and AWS does not list it yet"}
		}
	}
	return nil
}
