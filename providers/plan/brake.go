package plan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// heldRetry is when a change that was held is looked at again.
const heldRetry = 30 * time.Second

// brake holds what would take too much away at once: an update that removes
// more than half of a braked field's items, or the last of them, keeps those
// that are not really gone. It returns the plan as it may be carried out, and a
// Held error for what it held.
//
// A node that is missing from a list is not a node that is gone: lists come out
// short when a cache is cold, a label was changed or a credential has lapsed,
// and an empty target set is an outage.
func (e *Engine) brake(ctx context.Context, p Plan) (Plan, error) {
	var errs []error
	changes := make([]lb.Change, 0, len(p.Changes))
	for _, c := range p.Changes {
		if leaves := leaving(c); tooMany(c, leaves) {
			held, err := e.stillThere(ctx, c, leaves)
			if len(held) > 0 {
				c = keep(c, held)
				errs = append(errs, heldError(c, leaves, held, err))
			}
		}
		if c.Op != lb.Update || len(c.Fields) > 0 {
			changes = append(changes, c)
		}
	}
	p.Changes = changes
	return p, errors.Join(errs...)
}

// leaving lists the items of the braked field that an update removes.
func leaving(c lb.Change) []string {
	if c.Op != lb.Update || c.After.Brake == "" {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(c.Before.Fields[c.After.Brake]), func(item string) bool {
		return slices.Contains(c.After.Fields[c.After.Brake], item)
	})
}

func tooMany(c lb.Change, leaves []string) bool {
	before := len(c.Before.Fields[c.After.Brake])
	return len(leaves) > 0 && (2*len(leaves) > before || len(c.After.Fields[c.After.Brake]) == 0)
}

// stillThere returns those of the items that the cloud still knows; with an
// error, all of them.
func (e *Engine) stillThere(ctx context.Context, c lb.Change, items []string) ([]string, error) {
	v, ok := e.provider.(lb.Verifier)
	if !ok {
		return items, nil
	}
	gone, err := v.Gone(ctx, c.Before, items)
	if err != nil {
		return items, err
	}
	return slices.DeleteFunc(slices.Clone(items), func(item string) bool { return slices.Contains(gone, item) }), nil
}

// keep returns the change without the removal of the held items; its Fields no
// longer name the braked field when nothing else differs there.
func keep(c lb.Change, held []string) lb.Change {
	fields := make(lb.Fields, len(c.After.Fields))
	for name, v := range c.After.Fields {
		fields[name] = v
	}
	fields[c.After.Brake] = lb.Set(append(slices.Clone(held), fields[c.After.Brake]...)...)
	c.After.Fields = fields
	if fields[c.After.Brake].Equal(c.Before.Fields[c.After.Brake]) {
		c.Fields = slices.DeleteFunc(slices.Clone(c.Fields), func(name string) bool { return name == c.After.Brake })
	}
	return c
}

func heldError(c lb.Change, leaves, held []string, err error) error {
	message := fmt.Sprintf("%d of %d %s would go in one step, but the cloud still has %s; they stay until they are really gone or fewer go at once",
		len(leaves), len(c.Before.Fields[c.After.Brake]), c.After.Brake, abridged(held))
	if err != nil {
		message = fmt.Sprintf("%d of %d %s would go in one step, and whether they are really gone cannot be told: %v",
			len(leaves), len(c.Before.Fields[c.After.Brake]), c.After.Brake, err)
	}
	return &lb.Error{Kind: lb.Held, Op: "shrink", Resource: c.Ref(), Message: message, RetryAfter: heldRetry, Err: err}
}

// abridged lists at most three items.
func abridged(items []string) string {
	const most = 3
	if len(items) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(items[:most], ", "), len(items)-most)
	}
	return strings.Join(items, ", ")
}
