package plan

import (
	"context"
	"slices"

	"github.com/fairway-lb/fairway/providers/lb"
)

// stillOwned reports whether a plan made from memory may be carried out: what it
// was made from bears our marks still, or the plan only changes who is a member
// of target sets. Those membership changes are what happens all day, and cost one
// call each; a cloud that allows it checks the mark in that very call (on AWS by
// the tag conditions of the policy).
func (e *Engine) stillOwned(ctx context.Context, p Plan, remembered []lb.Resource) (bool, error) {
	if !slices.ContainsFunc(p.Changes, func(c lb.Change) bool { return !membership(c) }) {
		return true, nil
	}
	from, ok := e.provider.(lb.Rechecker)
	if !ok {
		return false, nil
	}
	own := owned(remembered, p.Scope)
	if len(own) == 0 {
		return false, nil
	}
	ok, err := from.StillOwned(ctx, own)
	if lb.KindOf(err) == lb.Denied {
		// Who may not ask this may still look; and if not, each attempt, from
		// memory or not, is refused in the same words.
		return false, nil
	}
	return ok, err
}

// membership reports whether c changes nothing but the items of a braked set.
func membership(c lb.Change) bool {
	return c.Op == lb.Update && c.After.Brake != "" && slices.Equal(c.Fields, []string{c.After.Brake})
}

// owned returns those of the resources that o owns.
func owned(resources []lb.Resource, o lb.Owner) []lb.Resource {
	return slices.DeleteFunc(slices.Clone(resources), func(r lb.Resource) bool { return !r.OwnedBy(o) })
}

// removeKnown deletes what is remembered of owner, if that is its own still, and
// reports whether nothing else was left. Otherwise, or with nothing to go by, the
// cloud must be looked at.
func (e *Engine) removeKnown(ctx context.Context, owner lb.Owner, remembered []lb.Resource) (Result, bool, error) {
	result := Result{Plan: Plan{Scope: owner}}
	from, ok := e.provider.(lb.Rechecker)
	if !ok || len(owned(remembered, owner)) == 0 {
		return result, false, nil
	}
	p, err := Diff(nil, remembered, owner)
	if err != nil {
		return result, false, err
	}
	if ok, err := e.stillOwned(ctx, p, remembered); err != nil || !ok {
		return result, false, err
	}
	result.Plan = p
	if _, err := e.apply(ctx, p, remembered); err != nil {
		return result, false, err
	}
	left, err := from.Residue(ctx, owner, owned(remembered, owner))
	return result, err == nil && len(owned(left, owner)) == 0, err
}
