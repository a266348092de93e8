package aws

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/fairway-lb/fairway/providers/lb"
)

// driver makes the changes of one kind of resource. Errors are *lb.Error.
type driver interface {
	// create makes want, or adopts what exists in its place under our mark.
	create(ctx context.Context, want lb.Resource, known lb.Lookup) (lb.Resource, error)
	// update changes the fields of c and returns the resource as it now is.
	update(ctx context.Context, c lb.Change, known lb.Lookup) (lb.Resource, error)
	// delete removes have; one that is gone already is no error.
	delete(ctx context.Context, have lb.Resource, known lb.Lookup) error
}

// Apply implements lb.Provider.
func (p *Provider) Apply(ctx context.Context, c lb.Change, known lb.Lookup) (lb.Resource, error) {
	if c.Implied {
		return lb.Resource{}, nil
	}
	d, ok := p.drivers[c.Ref().Kind]
	if !ok {
		return lb.Resource{}, &lb.Error{Kind: lb.Invalid, Op: string(c.Op), Resource: c.Ref(), Message: "this is not a kind of resource on AWS"}
	}
	defer p.diary.wrote(c)
	now, err := p.dispatch(ctx, d, c, known)
	switch lb.KindOf(err) {
	case lb.Invalid, lb.NotFound, lb.Conflict:
		// What was believed about the account may be why.
		p.facts.forget()
	}
	return now, err
}

func (p *Provider) dispatch(ctx context.Context, d driver, c lb.Change, known lb.Lookup) (lb.Resource, error) {
	switch c.Op {
	case lb.Create:
		p.newborns.expect(c.After)
		now, err := d.create(ctx, c.After, known)
		if now.ID == "" && certain(err) {
			p.newborns.forget(c.Ref())
		} else {
			p.newborns.expect(c.After) // throttled, it may have taken a while
		}
		return now, err
	case lb.Update:
		if err := mayChange(c); err != nil {
			return lb.Resource{}, err
		}
		now, err := d.update(ctx, c, known)
		return now, p.unlessGone(ctx, c, err)
	default:
		if err := mayChange(c); err != nil {
			return lb.Resource{}, err
		}
		err := p.unlessGone(ctx, c, d.delete(ctx, c.Before, known))
		if lb.KindOf(err) == lb.NotFound {
			err = nil
		}
		if err == nil {
			p.newborns.forget(c.Ref())
		}
		return lb.Resource{}, err
	}
}

// certain reports whether err says that nothing was made.
func certain(err error) bool {
	switch lb.KindOf(err) {
	case "", lb.Unavailable, lb.Pending:
		return false
	default:
		return true
	}
}

// mayChange refuses to touch what does not carry our mark, whoever asks.
func mayChange(c lb.Change) error {
	attached := slices.ContainsFunc(c.Before.Owners, func(o lb.Owner) bool { return o.Kind == lb.Attached })
	if c.Before.Foreign() || attached {
		return &lb.Error{Kind: lb.Conflict, Op: string(c.Op), Resource: c.Ref(), Message: "it (" + c.Before.ID + ") does not carry this cluster's owner mark"}
	}
	return nil
}

// unchangeable is for a field that the cloud fixes at creation and that is
// therefore part of the key; it differs only where someone made our resource anew.
func unchangeable(c lb.Change, fields ...string) error {
	for _, f := range fields {
		if c.Changes(f) {
			return &lb.Error{Kind: lb.Conflict, Op: "update", Resource: c.Ref(),
				Message: "its " + f + " is " + c.Before.Fields[f].String() + " and cannot be changed to " + c.After.Fields[f].String() + "; delete " + c.Before.ID + " to have it made anew"}
		}
	}
	return nil
}

// changed returns the resource as it is after the update c.
func changed(c lb.Change) lb.Resource {
	now := c.After
	now.ID, now.InUse = c.Before.ID, c.Before.InUse
	now.Fields = maps.Clone(c.Before.Fields)
	maps.Copy(now.Fields, c.After.Fields)
	return now
}

// adopt brings have, found in the place of want under our mark, to what want
// says.
func adopt(ctx context.Context, d driver, have, want lb.Resource, known lb.Lookup) (lb.Resource, error) {
	have.Ref, have.Owners = want.Ref, want.Owners
	c := lb.Change{Op: lb.Update, Before: have, After: want}
	for _, name := range slices.Sorted(maps.Keys(want.Fields)) {
		if got, ok := have.Fields[name]; !ok || !got.Equal(want.Fields[name]) {
			c.Fields = append(c.Fields, name)
		}
	}
	if len(c.Fields) == 0 {
		return changed(c), nil
	}
	return d.update(ctx, c, known)
}

// owns reports whether tags mark something as belonging to want's owners.
func (m marks) owns(tags map[string]string, want lb.Resource) bool {
	owners := m.owners(tags)
	return len(owners) > 0 && slices.Equal(owners, want.Owners)
}

// lookup returns the identifier of what a field names: the ID of the resource it
// refers to, or the text itself when it is no reference.
func lookup(known lb.Lookup, text string) (string, error) {
	kind, key, isRef := strings.Cut(text, " ")
	if !isRef {
		return text, nil
	}
	ref := lb.Ref{Kind: lb.Kind(kind), Key: key}
	r, ok := known(ref)
	if !ok || r.ID == "" {
		return "", &lb.Error{Kind: lb.Unavailable, Op: "look up", Resource: ref, Message: "it is not known to exist"}
	}
	return r.ID, nil
}

// lookupAll looks up each item.
func lookupAll(known lb.Lookup, items lb.Value) ([]string, error) {
	ids := make([]string, 0, len(items))
	for _, text := range items {
		id, err := lookup(known, text)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// missing returns the items of a that b lacks.
func missing(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(item string) bool { return slices.Contains(b, item) })
}
