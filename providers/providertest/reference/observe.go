package reference

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// Observe implements lb.Provider.
func (p *Provider) Observe(ctx context.Context, o lb.Owner) ([]lb.Resource, error) {
	v := &view{Provider: p, owner: o, pools: map[string]lb.Ref{}}
	if o.Kind == lb.OwnedByService {
		if err := v.addPools(ctx); err != nil {
			return nil, failed("list pools", lb.Ref{}, err)
		}
	}
	for _, ref := range []lb.Ref{balancerRef, admissionsRef} {
		if err := v.addDocument(ctx, ref); err != nil {
			return nil, failed("read", ref, err)
		}
	}
	return v.resources, nil
}

// view is what is seen on behalf of an owner.
type view struct {
	*Provider
	owner     lb.Owner
	resources []lb.Resource
	pools     map[string]lb.Ref // by ID
}

// refs are what the owner's things of a kind may be called, by their names.
func (v *view) refs(kind lb.Kind) map[string]lb.Ref {
	var all []lb.Ref
	switch kind {
	case kindAdmitted:
		all = []lb.Ref{admittedRef(v.owner.Service)}
	case kindPool, kindFrontend:
		for _, scheme := range schemes {
			all = append(all, lb.Ref{Kind: kind, Key: poolRef(v.owner.Service, scheme).Key})
		}
	}
	named := map[string]lb.Ref{}
	for _, ref := range all {
		named[v.nameOf(ref)] = ref
	}
	return named
}

// identify returns the resource that a name and tags stand for, which is foreign
// when only the name is the owner's; false when it is none of the owner's.
func (v *view) identify(kind lb.Kind, name string, tags map[string]string) (lb.Resource, bool) {
	r := lb.Resource{Ref: lb.Ref{Kind: kind, Key: tags[tagResource]}, ID: name, Owners: []lb.Owner{v.owner}}
	if v.owned(tags, r) {
		return r, true
	}
	ref, taken := v.refs(kind)[name]
	return lb.Resource{Ref: ref, ID: name}, taken
}

// addPools adds the Service's pools: those that are listed, and, because lists
// lag behind, as they are now those changed a moment ago.
func (v *view) addPools(ctx context.Context) error {
	listed, err := v.api.listPools(ctx)
	if err != nil {
		return err
	}
	for name := range v.refs(kindPool) {
		if !v.recent.has(name) {
			continue
		}
		listed = slices.DeleteFunc(listed, func(p pool) bool { return p.Name == name })
		p, err := v.api.getPool(ctx, name)
		if isKind(err, lb.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		listed = append(listed, p)
	}
	for _, p := range listed {
		r, ok := v.identify(kindPool, p.Name, p.Tags)
		if !ok {
			continue
		}
		r.ID = p.ID
		r.Fields = poolFields(p)
		v.pools[p.ID] = r.Ref
		v.resources = append(v.resources, r)
	}
	return nil
}

func poolFields(p pool) lb.Fields {
	return lb.Fields{"targets": lb.Set(p.Targets...), "health-port": lb.Text(p.HealthPort)}
}

// addDocument adds a document and the owner's entries in it. What a write under
// way is about to change is there, but with no fields: it is neither what it was
// nor yet what it will be.
func (v *view) addDocument(ctx context.Context, ref lb.Ref) error {
	d, err := v.api.getDocument(ctx, v.nameOf(ref))
	if isKind(err, lb.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	doc := lb.Resource{Ref: ref, ID: d.Name, Owners: []lb.Owner{lb.ByCluster()}, InUse: len(d.all()) > 0}
	if !v.owned(d.Tags, doc) {
		doc.Owners = nil
	}
	if !d.Creating && (d.Pending == nil || d.Pending.Setting == d.Setting) {
		doc.Fields = lb.Fields{"setting": lb.Text(d.Setting)}
	}
	v.resources = append(v.resources, doc)
	if v.owner.Kind == lb.OwnedByService {
		v.addEntries(d, ref)
	}
	return nil
}

func (v *view) addEntries(d *document, parent lb.Ref) {
	kind := kindFrontend
	if parent == admissionsRef {
		kind = kindAdmitted
	}
	seen := map[string]bool{}
	for _, e := range d.all() {
		r, ok := v.identify(kind, e.Name, e.Tags)
		if !ok || seen[e.Name] {
			continue
		}
		seen[e.Name] = true
		r.Parent = parent
		if settled(d, e) {
			r.Fields = v.entryFields(kind, e)
		}
		for _, now := range d.all() {
			if pool, known := v.pools[now.Values["pool"]]; known && now.Name == e.Name && !slices.Contains(r.DependsOn, pool) {
				r.DependsOn = append(r.DependsOn, pool)
			}
		}
		v.resources = append(v.resources, r)
	}
}

// settled reports whether e is in d and no write under way changes it.
func settled(d *document, e entry) bool {
	if d.Pending == nil {
		return true
	}
	same := func(f entry) bool { return f.equal(e) }
	return slices.ContainsFunc(d.Entries, same) && slices.ContainsFunc(d.Pending.Entries, same)
}

func (v *view) entryFields(kind lb.Kind, e entry) lb.Fields {
	if kind == kindAdmitted {
		return lb.Fields{"sources": items(e.Values["sources"]), "ports": items(e.Values["ports"])}
	}
	sendsTo := e.Values["pool"]
	if pool, known := v.pools[sendsTo]; known {
		sendsTo = pool.String()
	}
	return lb.Fields{"pool": lb.Text(sendsTo), "ports": items(e.Values["ports"]), "address": lb.Text(e.Values["address"])}
}

// items and text are a set as the cloud holds it.
func items(text string) lb.Value {
	if text == "" {
		return lb.Set()
	}
	return lb.Set(strings.Split(text, "; ")...)
}

func text(v lb.Value) string { return strings.Join(v, "; ") }

// recent are the names of pools changed a moment ago, which lists may still show
// as they were before.
type recent struct {
	mu    sync.Mutex
	until map[string]time.Time
}

// listLag is how long the cloud promises lists to lag behind at most.
const listLag = 10 * time.Second

func (r *recent) add(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.until == nil {
		r.until = map[string]time.Time{}
	}
	r.until[name] = time.Now().Add(listLag)
}

func (r *recent) has(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	until, ok := r.until[name]
	if ok && time.Now().After(until) {
		delete(r.until, name)
		return false
	}
	return ok
}
