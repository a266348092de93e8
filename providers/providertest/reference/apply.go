package reference

import (
	"context"
	"slices"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// Apply implements lb.Provider, for all but the entries of documents.
func (p *Provider) Apply(ctx context.Context, c lb.Change, _ lb.Lookup) (lb.Resource, error) {
	if c.Ref().Kind == kindPool {
		p.recent.add(p.nameOf(c.Ref()))
		now, err := p.applyPool(ctx, c)
		return now, failed(string(c.Op), c.Ref(), err)
	}
	now, err := p.applyDocument(ctx, c)
	return now, failed(string(c.Op), c.Ref(), err)
}

func (p *Provider) applyPool(ctx context.Context, c lb.Change) (lb.Resource, error) {
	name := p.nameOf(c.Ref())
	want := pool{Name: name, Targets: c.After.Fields["targets"], HealthPort: c.After.Fields.Text("health-port")}
	if c.Op == lb.Create {
		want.Tags = p.marks(c.After)
		made, err := p.api.createPool(ctx, want)
		if !isKind(err, lb.Conflict) {
			return poolNow(c.After, made), err
		}
	}
	have, err := p.api.getPool(ctx, name)
	if c.Op == lb.Delete {
		if isKind(err, lb.NotFound) {
			return lb.Resource{}, nil
		}
		if err == nil && !p.owned(have.Tags, c.Before) {
			err = notOurs(c.Op, c.Before, name)
		}
		if err != nil {
			return lb.Resource{}, err
		}
		err := p.api.deletePool(ctx, name, have.ID)
		if isKind(err, lb.NotFound) {
			err = nil
		}
		return lb.Resource{}, err
	}
	if err == nil && !p.owned(have.Tags, c.After) {
		err = notOurs(c.Op, c.After, name)
	}
	if err != nil {
		return lb.Resource{}, err
	}
	want.ID = have.ID
	have, err = p.api.updatePool(ctx, want)
	return poolNow(c.After, have), err
}

func poolNow(want lb.Resource, have pool) lb.Resource {
	want.ID, want.Fields = have.ID, poolFields(have)
	return want
}

// applyDocument makes, changes or deletes a document as such.
func (p *Provider) applyDocument(ctx context.Context, c lb.Change) (lb.Resource, error) {
	name := p.nameOf(c.Ref())
	if c.Op == lb.Create {
		made, err := p.api.putDocument(ctx, "", &document{Name: name, Tags: p.marks(c.After), Setting: c.After.Fields.Text("setting")})
		if !isKind(err, lb.Conflict) {
			return documentNow(c.After, made, err)
		}
	}
	r := c.After
	if c.Op == lb.Delete {
		r = c.Before
	}
	have, err := p.api.getDocument(ctx, name)
	if c.Op == lb.Delete && isKind(err, lb.NotFound) {
		return lb.Resource{}, nil
	}
	if err == nil && !p.owned(have.Tags, r) {
		err = notOurs(c.Op, r, name)
	}
	if err == nil {
		err = underWay(have)
	}
	if err != nil {
		return lb.Resource{}, err
	}
	if c.Op == lb.Delete {
		err := p.api.deleteDocument(ctx, name, have.Version)
		if isKind(err, lb.NotFound) {
			err = nil
		}
		return lb.Resource{}, err
	}
	have.Setting = c.After.Fields.Text("setting")
	now, err := p.api.putDocument(ctx, have.Version, have)
	return documentNow(c.After, now, err)
}

func documentNow(want lb.Resource, now *document, err error) (lb.Resource, error) {
	if err == nil {
		err = underWay(now)
	}
	if err != nil {
		return lb.Resource{}, err
	}
	want.ID = now.Name
	return want, nil
}

// underWay is a Pending error while a write of d has not ended.
func underWay(d *document) error {
	if d.Pending == nil {
		return nil
	}
	return &lb.Error{Kind: lb.Pending, Op: "write " + d.Name, Message: "it is under way", RetryAfter: max(time.Until(d.Ready), time.Second)}
}

// IsDocument implements lb.Documents.
func (p *Provider) IsDocument(k lb.Kind) bool { return k == kindBalancer || k == kindAdmissions }

// ReadDocument implements lb.Documents.
func (p *Provider) ReadDocument(ctx context.Context, ref lb.Ref, _ lb.Lookup) (lb.Document, error) {
	d, err := p.api.getDocument(ctx, p.nameOf(ref))
	if err == nil && !p.owned(d.Tags, lb.Resource{Ref: ref, Owners: []lb.Owner{lb.ByCluster()}}) {
		err = notOurs("read", lb.Resource{Ref: ref}, d.Name)
	}
	if err == nil {
		err = underWay(d)
	}
	if err != nil {
		return lb.Document{}, failed("read", ref, err)
	}
	return lb.Document{Ref: ref, Version: d.Version, Content: d}, nil
}

// WriteDocument implements lb.Documents.
func (p *Provider) WriteDocument(ctx context.Context, d lb.Document, changes []lb.Change, known lb.Lookup) (lb.Document, []lb.Resource, error) {
	next := d.Content.(*document).clone()
	for _, c := range changes {
		if err := p.merge(next, c, known); err != nil {
			return lb.Document{}, nil, err
		}
	}
	// Even what changes nothing is written: d may be older than what the changes
	// were found to be necessary by, and only the cloud knows its version.
	written, err := p.api.putDocument(ctx, d.Version, next)
	if err == nil {
		err = underWay(written)
	}
	if err != nil {
		return lb.Document{}, nil, failed("write", d.Ref, err)
	}
	now := make([]lb.Resource, len(changes))
	for i, c := range changes {
		if c.Op != lb.Delete {
			now[i] = fragmentNow(c.After, written, p.nameOf(c.Ref()))
		}
	}
	return lb.Document{Ref: d.Ref, Version: written.Version, Content: written}, now, nil
}

// merge makes one change in d. An entry that has our name but not our mark is
// left alone, and the change is refused as one that the others must not suffer
// from.
func (p *Provider) merge(d *document, c lb.Change, known lb.Lookup) error {
	name, r := p.nameOf(c.Ref()), c.After
	if c.Op == lb.Delete {
		r = c.Before
	}
	at := slices.IndexFunc(d.Entries, func(e entry) bool { return e.Name == name })
	if at >= 0 && !p.owned(d.Entries[at].Tags, r) {
		return &lb.Error{Kind: lb.Invalid, Op: string(c.Op), Resource: c.Ref(), Message: "entry " + name + " of " + d.Name + " does not carry this cluster's owner mark"}
	}
	if c.Op == lb.Delete {
		if at >= 0 {
			d.Entries = slices.Delete(d.Entries, at, at+1)
		}
		return nil
	}
	values := map[string]string{"ports": text(r.Fields["ports"])}
	if r.Kind == kindAdmitted {
		values["sources"] = text(r.Fields["sources"])
	} else {
		pool, ok := known(r.DependsOn[0])
		if !ok {
			return &lb.Error{Kind: lb.Invalid, Op: string(c.Op), Resource: c.Ref(), Message: "its pool is not known to exist"}
		}
		values["pool"] = pool.ID
	}
	if at < 0 {
		d.Entries = append(d.Entries, entry{Name: name, Tags: p.marks(r)})
		at = len(d.Entries) - 1
	} else if address := d.Entries[at].Values["address"]; address != "" {
		values["address"] = address
	}
	d.Entries[at].Values = values
	return nil
}

func fragmentNow(want lb.Resource, d *document, name string) lb.Resource {
	want.ID = name
	for _, e := range d.Entries {
		if e.Name == name && e.Values["address"] != "" {
			fields := lb.Fields{"address": lb.Text(e.Values["address"])}
			for field, value := range want.Fields {
				fields[field] = value
			}
			want.Fields = fields
		}
	}
	return want
}
