package nodes

import (
	"fmt"
	"maps"
	"slices"

	"github.com/fairway-lb/fairway/providers/lb"
)

// Change is the difference between two snapshots, as names of nodes in order.
type Change struct {
	// Added nodes are targets and were none.
	Added []string
	// Removed nodes were targets and are none.
	Removed []string
	// Drained nodes were active and get no new connections now.
	Drained []string
	// Changed nodes stay targets with another address, zone, label or
	// providerID, or are active again after draining.
	Changed []string
	// Urgent is set when traffic may be lost until the change is carried out:
	// a node was removed or drained or became another machine or address.
	Urgent bool
	// Waits is set when the change is in Latest only and not yet in Snapshot:
	// more of its kind are likely to follow in a moment.
	Waits bool
}

// Empty reports whether nothing changed.
func (c Change) Empty() bool {
	return len(c.Added)+len(c.Removed)+len(c.Drained)+len(c.Changed) == 0
}

// String returns the change for a log line.
func (c Change) String() string {
	return fmt.Sprintf("%d added, %d removed, %d draining, %d changed",
		len(c.Added), len(c.Removed), len(c.Drained), len(c.Changed))
}

// between compares two lists of targets.
func between(before, after []lb.Target) Change {
	was := make(map[string]lb.Target, len(before))
	for _, t := range before {
		was[t.Node] = t
	}
	var c Change
	for _, now := range after {
		old, known := was[now.Node]
		delete(was, now.Node)
		switch {
		case !known:
			c.Added = append(c.Added, now.Node)
		case sameTarget(old, now):
		case old.State == lb.TargetActive && now.State == lb.TargetDraining:
			c.Drained = append(c.Drained, now.Node)
		default:
			c.Changed = append(c.Changed, now.Node)
			c.Urgent = c.Urgent || !sameMachine(old, now)
		}
	}
	c.Removed = slices.Sorted(maps.Keys(was))
	c.Urgent = c.Urgent || len(c.Removed) > 0 || len(c.Drained) > 0
	return c
}
