package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fairway-lb/fairway/providers/lb"
)

// What stands in Drift.Field for a whole resource.
const (
	// Missing says that the resource is not there, or not ours any more.
	Missing = "missing"
	// Unexpected says that the resource is there and nobody wants it.
	Unexpected = "unexpected"
)

// Drift is one way in which the cloud is not as it was left.
type Drift struct {
	lb.Ref
	// Field is the name of a field, Missing or Unexpected.
	Field string
	// Want and Have are the field's values; nil for a whole resource.
	Want, Have lb.Value
}

// String tells the difference as a person would: "load-balancer default/web is
// missing".
func (d Drift) String() string {
	switch {
	case d.Field == Missing:
		return d.Ref.String() + " is missing"
	case d.Field == Unexpected:
		return d.Ref.String() + " is not wanted"
	case len(d.Want) == 1 && len(d.Have) == 1:
		return fmt.Sprintf("%s of %s is %s instead of %s", d.Field, d.Ref, d.Have, d.Want)
	default:
		return fmt.Sprintf("%s of %s differs: %s", d.Field, d.Ref, difference(d.Want, d.Have))
	}
}

// DriftIn returns what a plan repairs, when nothing was wanted anew: what
// vanishes with something else is not counted again.
func DriftIn(p Plan) []Drift {
	var all []Drift
	for _, c := range p.Changes {
		switch {
		case c.Op == lb.Create:
			all = append(all, Drift{Ref: c.Ref(), Field: Missing})
		case c.Op == lb.Update:
			for _, name := range c.Fields {
				all = append(all, fieldDrift(c.Ref(), name, c.After, c.Before))
			}
		case !c.Implied:
			all = append(all, Drift{Ref: c.Ref(), Field: Unexpected})
		}
	}
	return all
}

func fieldDrift(ref lb.Ref, name string, want, have lb.Resource) Drift {
	if name == lb.FieldOwners {
		return Drift{ref, name, owners(want), owners(have)}
	}
	return Drift{ref, name, want.Fields[name], have.Fields[name]}
}

// deviations returns how what a survey shows differs from what s shall have, as
// far as the survey looked: every desired resource of a kind that it looked for
// is there with no field otherwise, and nothing more of the Service.
func deviations(found lb.Survey, desired []lb.Resource, s lb.ServiceRef) []Drift {
	seen := map[lb.Ref]lb.Resource{}
	for _, r := range slices.Concat(found.Services[s], found.Cluster) {
		seen[r.Ref] = r
	}
	var all []Drift
	wanted := map[lb.Ref]bool{}
	for _, w := range desired {
		wanted[w.Ref] = true
		if !slices.Contains(found.Kinds, w.Kind) || ofKind(w, lb.Attached) {
			continue
		}
		h, exists := seen[w.Ref]
		if !exists || !slices.ContainsFunc(w.Owners, h.OwnedBy) {
			all = append(all, Drift{Ref: w.Ref, Field: Missing})
			continue
		}
		for _, name := range differences(h, w) {
			if _, shown := h.Fields[name]; shown {
				all = append(all, fieldDrift(w.Ref, name, w, h))
			}
		}
	}
	for _, r := range found.Services[s] {
		if !wanted[r.Ref] {
			all = append(all, Drift{Ref: r.Ref, Field: Unexpected})
		}
	}
	return all
}

// describe joins what several drifts say.
func describe(all []Drift) string {
	texts := make([]string, len(all))
	for i, d := range all {
		texts[i] = d.String()
	}
	slices.Sort(texts)
	return strings.Join(texts, "; ")
}
