package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

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
// deleted when scope is its only owner and nothing uses it; of one that others
// own too, scope lets go; what carries no owner mark of ours stays. A desired
// resource whose place is taken by a foreign one or another owner's is a
// Conflict error, two resources with one reference or requirements in a circle
// are programming errors of the provider and reported as Invalid; in each case
// the plan is empty.
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
		c, err := changeTo(w, have, scope)
		if err != nil {
			return Plan{}, err
		}
		if c.Op != "" {
			ups = append(ups, c)
		}
	}
	for _, h := range observed {
		if _, wanted := want[h.Ref]; wanted || !h.OwnedBy(scope) || h.InUse || scope.Kind == lb.Attached {
			continue
		}
		if others := without(h.Owners, scope); len(others) > 0 {
			ups = append(ups, leave(h, others))
		} else {
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
func changeTo(w lb.Resource, have map[lb.Ref]lb.Resource, scope lb.Owner) (lb.Change, error) {
	h, exists := have[w.Ref]
	switch attached := ofKind(w, lb.Attached); {
	case attached && exists:
		return lb.Change{}, nil
	case attached:
		return lb.Change{}, &lb.Error{Kind: lb.NotFound, Op: "attach to", Resource: w.Ref, Message: "it does not exist"}
	case !exists:
		return lb.Change{Op: lb.Create, After: w}, nil
	}
	differ := differences(h, w)
	owners, err := joined(h, w, scope, differ)
	if err != nil {
		return lb.Change{}, err
	}
	if len(owners) != len(h.Owners) {
		differ = append(differ, lb.FieldOwners)
	}
	if len(differ) == 0 {
		return lb.Change{}, nil
	}
	w.ID, w.Owners = h.ID, owners
	return lb.Change{Op: lb.Update, Before: h, After: w, Fields: differ}, nil
}

// differences names the desired fields that h has not or otherwise, sorted.
func differences(h, w lb.Resource) []string {
	var differ []string
	for _, name := range slices.Sorted(maps.Keys(w.Fields)) {
		if got, ok := h.Fields[name]; !ok || !got.Equal(w.Fields[name]) {
			differ = append(differ, name)
		}
	}
	return differ
}

// joined returns the owners that the observed h has once w is true, or why w
// cannot be: h is not ours, or another Service's, or shared with one that wants
// it otherwise. Of those that share a resource the first owner decides.
func joined(h, w lb.Resource, scope lb.Owner, differ []string) ([]lb.Owner, error) {
	taken := func(why string) error {
		return &lb.Error{Kind: lb.Conflict, Op: "change", Resource: w.Ref, Message: why}
	}
	if h.Foreign() {
		return nil, taken("it exists (" + h.ID + ") without an owner mark of this cluster; remove or rename it")
	}
	if !ofKind(w, lb.OwnedByServices) || !ofKind(h, lb.OwnedByServices) {
		if !slices.ContainsFunc(w.Owners, h.OwnedBy) {
			return nil, taken("it belongs to " + h.Owners[0].String())
		}
		return h.Owners, nil
	}
	if first := h.Owners[0]; len(differ) > 0 && !scope.Covers(first) {
		return nil, taken(fmt.Sprintf("%s shares it and wants it otherwise (%s)", first, strings.Join(differ, ", ")))
	}
	owners := slices.Clone(h.Owners)
	for _, o := range w.Owners {
		if !slices.Contains(owners, o) {
			owners = append(owners, o)
		}
	}
	return owners, nil
}

func ofKind(r lb.Resource, k lb.OwnerKind) bool {
	return slices.ContainsFunc(r.Owners, func(o lb.Owner) bool { return o.Kind == k })
}

// without returns the owners that scope does not stand for.
func without(owners []lb.Owner, scope lb.Owner) []lb.Owner {
	return slices.DeleteFunc(slices.Clone(owners), scope.Covers)
}

// leave returns the change by which one owner lets go of what others keep.
func leave(h lb.Resource, others []lb.Owner) lb.Change {
	after := h
	after.Owners = others
	return lb.Change{Op: lb.Update, Before: h, After: after, Fields: []string{lb.FieldOwners}}
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
