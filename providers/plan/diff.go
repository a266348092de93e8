package plan

import (
	"fmt"
	"maps"
	"slices"

	"github.com/fairway-lb/fairway/providers/lb"
)

// Plan is what has to change for one owner, in an order in which it can be
// carried out: whatever a resource requires comes before it, and deletions
// come last, dependents first.
type Plan struct {
	Scope   lb.Owner
	Changes []lb.Change
}

// Empty reports whether there is nothing to do.
func (p Plan) Empty() bool { return len(p.Changes) == 0 }

// Diff compares desired with observed resources and returns the changes that
// lead from the one to the other. An observed resource that is not desired is
// deleted when scope owns it alone; what the cluster or several Services own
// and what carries no owner mark of ours stays. A desired resource whose place
// is taken by a foreign one is a Conflict error, two resources with one
// reference or requirements in a circle are programming errors of the provider
// and reported as Invalid; in each case the plan is empty.
func Diff(desired, observed []lb.Resource, scope lb.Owner) (Plan, error) {
	have, err := index(observed)
	if err != nil {
		return Plan{}, err
	}
	want, err := index(desired)
	if err != nil {
		return Plan{}, err
	}
	var ups, downs []lb.Change
	for _, w := range desired {
		c, err := changeTo(w, have)
		if err != nil {
			return Plan{}, err
		}
		if c.Op != "" {
			ups = append(ups, c)
		}
	}
	for _, h := range observed {
		if _, wanted := want[h.Ref]; !wanted && deletable(h, scope) {
			downs = append(downs, lb.Change{Op: lb.Delete, Before: h})
		}
	}
	if ups, err = inOrder(ups); err != nil {
		return Plan{}, err
	}
	markImplied(downs)
	if downs, err = inOrder(downs); err != nil {
		return Plan{}, err
	}
	slices.Reverse(downs)
	return Plan{Scope: scope, Changes: append(ups, downs...)}, nil
}

func index(resources []lb.Resource) (map[lb.Ref]lb.Resource, error) {
	byRef := make(map[lb.Ref]lb.Resource, len(resources))
	for _, r := range resources {
		if _, twice := byRef[r.Ref]; twice {
			return nil, &lb.Error{Kind: lb.Invalid, Op: "compare", Resource: r.Ref, Message: "is listed twice"}
		}
		byRef[r.Ref] = r
	}
	return byRef, nil
}

// changeTo returns the change that makes w true; its Op is empty when there is
// nothing to do. Attached resources exist by definition and never change.
func changeTo(w lb.Resource, have map[lb.Ref]lb.Resource) (lb.Change, error) {
	attached := slices.ContainsFunc(w.Owners, func(o lb.Owner) bool { return o.Kind == lb.Attached })
	h, exists := have[w.Ref]
	switch {
	case attached && exists:
		return lb.Change{}, nil
	case attached:
		return lb.Change{}, &lb.Error{Kind: lb.NotFound, Op: "attach to", Resource: w.Ref, Message: "it does not exist"}
	case !exists:
		return lb.Change{Op: lb.Create, After: w}, nil
	case h.Foreign():
		return lb.Change{}, &lb.Error{Kind: lb.Conflict, Op: "change", Resource: w.Ref,
			Message: "it exists (" + h.ID + ") without an owner mark of this cluster; remove or rename it"}
	}
	var differ []string
	for _, name := range slices.Sorted(maps.Keys(w.Fields)) {
		if got, ok := h.Fields[name]; !ok || !got.Equal(w.Fields[name]) {
			differ = append(differ, name)
		}
	}
	if len(differ) == 0 {
		return lb.Change{}, nil
	}
	w.ID = h.ID
	return lb.Change{Op: lb.Update, Before: h, After: w, Fields: differ}, nil
}

// deletable reports whether scope may delete h: it is the only owner, and where
// others may hang on to it the observation found nobody.
func deletable(h lb.Resource, scope lb.Owner) bool {
	return len(h.Owners) == 1 && h.OwnedBy(scope) && !h.InUse && scope.Kind != lb.Attached
}

// count returns how many changes have the given operation.
func (p Plan) count(op lb.Op) int {
	n := 0
	for _, c := range p.Changes {
		if c.Op == op {
			n++
		}
	}
	return n
}

// Summary returns "2 to create, 1 to update, 0 to delete", or "nothing to do".
func (p Plan) Summary() string {
	if p.Empty() {
		return "nothing to do"
	}
	return fmt.Sprintf("%d to create, %d to update, %d to delete", p.count(lb.Create), p.count(lb.Update), p.count(lb.Delete))
}
