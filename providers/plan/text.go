package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fairway-lb/fairway/providers/lb"
)

// String returns the plan in the one form that logs, dry runs, goldens and the
// demo share: a line per resource, "+" created, "~" updated, "-" deleted, and
// below it a line per field; for an update only the fields that differ. It ends
// with a newline.
func (p Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "plan for %s: %s\n", p.Scope, p.Summary())
	for _, c := range p.Changes {
		switch c.Op {
		case lb.Create:
			fmt.Fprintf(&b, "  + %s\n", title(c.After))
			writeFields(&b, c.After.Fields)
		case lb.Update:
			fmt.Fprintf(&b, "  ~ %s\n", title(c.After))
			for _, name := range c.Fields {
				before, after := c.Before.Fields[name], c.After.Fields[name]
				if name == lb.FieldOwners {
					before, after = owners(c.Before), owners(c.After)
				}
				fmt.Fprintf(&b, "      %-24s %s\n", name, difference(before, after))
			}
		case lb.Delete:
			fmt.Fprintf(&b, "  - %s%s\n", title(c.Before), fate(c))
		}
	}
	return b.String()
}

// title is the resource's reference, with its owner where that is not the one
// Service that the whole plan is for.
func title(r lb.Resource) string {
	for _, o := range r.Owners {
		if o.Kind != lb.OwnedByService {
			return fmt.Sprintf("%s (of %s)", r.Ref, o)
		}
	}
	return r.String()
}

// owners lists who owns a resource as if it were a field with several items.
func owners(r lb.Resource) lb.Value {
	all := lb.Value{}
	for _, o := range r.Owners {
		all = append(all, o.String())
	}
	return all
}

func fate(c lb.Change) string {
	if c.Implied {
		return " (goes with " + c.Before.Parent.String() + ")"
	}
	return ""
}

func writeFields(b *strings.Builder, fields lb.Fields) {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		fmt.Fprintf(b, "      %-24s %s\n", name, fields[name])
	}
}

// difference shows scalars as "old -> new" and sets by what comes and goes.
func difference(before, after lb.Value) string {
	if len(before) == 1 && len(after) == 1 {
		return before.String() + " -> " + after.String()
	}
	var parts []string
	for _, item := range after {
		if !slices.Contains(before, item) {
			parts = append(parts, "+"+item)
		}
	}
	for _, item := range before {
		if !slices.Contains(after, item) {
			parts = append(parts, "-"+item)
		}
	}
	return strings.Join(parts, " ")
}
