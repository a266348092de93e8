package reference

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
	pt "github.com/fairway-lb/fairway/providers/providertest"
)

// TestSuiteCatches breaks the reference provider on purpose and expects the
// suite to say so, by the case that is named.
func TestSuiteCatches(t *testing.T) {
	if failed, first := examine(t, "", nil); len(failed) > 0 {
		t.Fatalf("the provider that is not broken fails %d cases, first %s", len(failed), first)
	}
	for _, b := range broken {
		t.Run(b.how, func(t *testing.T) {
			t.Parallel()
			failed, first := examine(t, b.caughtBy, b.wrap)
			if len(failed) == 0 {
				t.Errorf("%q does not catch it", b.caughtBy)
			}
			first, _, _ = strings.Cut(first, "\n")
			t.Logf("caught by %d cases; first %s", len(failed), first)
		})
	}
}

// deaf is an account that plans no faults, and late one in which they come a
// call later.
type (
	deaf struct{ *Account }
	late struct{ *Account }
)

func (deaf) Inject(pt.Fault) {}

func (a late) Inject(f pt.Fault) {
	f.Operation = ""
	f.At++
	a.Account.Inject(f)
}

// TestSuiteSeesFaultsMiss: a run whose fault does not hit the call it is planned
// for is not taken for one that rode it out.
func TestSuiteSeesFaultsMiss(t *testing.T) {
	for how, open := range map[string]func(pt.Conditions) pt.Account{
		"never comes": func(c pt.Conditions) pt.Account { return deaf{NewAccount(c)} },
		"comes late":  func(c pt.Conditions) pt.Account { return late{NewAccount(c)} },
	} {
		t.Run(how, func(t *testing.T) {
			d := description()
			d.Open = func(_ pt.T, c pt.Conditions) pt.Account { return open(c) }
			log := &failures{}
			pt.RunOn(recorder{host: t, part: "a fault at every call/create/error before effect", log: log}, d)
			if !strings.Contains(log.first, "was to hit call 1 (") {
				t.Errorf("the suite says %q", log.first)
			}
			t.Log(log.first)
		})
	}
}

// examine runs the suite, or the part of it that is named, on what wrap makes of
// the provider, and returns the names of the cases that fail and what is said
// first.
func examine(t *testing.T, part string, wrap func(*Provider) lb.Provider) ([]string, string) {
	t.Helper()
	d := description()
	d.Many = 6
	d.Open = func(_ pt.T, c pt.Conditions) pt.Account {
		a := NewAccount(c)
		a.wrap = wrap
		return a
	}
	log := &failures{}
	pt.RunOn(recorder{host: t, part: part, log: log}, d)
	return log.names, log.first
}

var broken = []struct {
	how, caughtBy string
	wrap          func(*Provider) lb.Provider
}{
	{"writes no owner mark", "converge from nothing", onAPI(func(a api) api { return unmarked{a} })},
	{"does not look at the cluster in an owner mark", "foreign things stay untouched", onAPI(func(a api) api { return anyCluster{a} })},
	{"ignores the version of a document", "strangers come meanwhile", onAPI(func(a api) api { return versionless{a} })},
	{"deletes by name, before it looks whose it is", "strangers come meanwhile", onAPI(func(a api) api { return byName{a} })},
	{"drops what is not its own from a document", "foreign things stay untouched", onAPI(func(a api) api { return selfish{a} })},
	{"swallows an error", "a fault at every call/node change", func(p *Provider) lb.Provider { return swallowing{p} }},
	{"takes an accepted write for a finished one", "long operations", func(p *Provider) lb.Provider { return hasty{p} }},
	{"drops the resume of an operation", "long operations/deleted while under way", func(p *Provider) lb.Provider { return forgetful{p} }},
	{"waits for operations", "long operations", onAPI(func(a api) api { return waiting{a} })},
	{"never sees an operation end", "long operations", onAPI(func(a api) api { return endless{a} })},
	{"forgets a field", "drift is repaired/health port", func(p *Provider) lb.Provider { return lacking{p} }},
	{"never sees that it is done", "second run writes nothing", func(p *Provider) lb.Provider { return restless{p} }},
	{"leaks what an interrupted update replaces", "a fault at every call/update", func(p *Provider) lb.Provider { return leaking{p} }},
	{"reads the first page only", "pagination", onAPI(func(a api) api { return firstPage{a} })},
	{"takes denied for gone", "denied is not gone", onAPI(func(a api) api { return blind{a} })},
	{"creates twice when the answer is lost", "a fault at every call/create/response lost after effect", onAPI(func(a api) api { return eager{a} })},
	{"does not pass on when to come back", "throttling", func(p *Provider) lb.Provider { return hasteful{p} }},
	{"trusts lists that lag", "eventual consistency", onAPI(func(a api) api { return trusting{a} })},
	{"does not see that others use what is shared", "delete leaves nothing/of one among two", func(p *Provider) lb.Provider { return careless{p} }},
	{"deletes what it remembers, whosever it is", "what others took over stays untouched/pool is not deleted", func(p *Provider) lb.Provider { return unasking{p} }},
	{"changes what it refuses", "invalid input changes nothing", func(p *Provider) lb.Provider { return lenient{p} }},
}

func onAPI(wrap func(api) api) func(*Provider) lb.Provider {
	return func(p *Provider) lb.Provider {
		p.api = wrap(p.api)
		return p
	}
}

type unmarked struct{ api }

func (a unmarked) createPool(ctx context.Context, p pool) (pool, error) {
	p.Tags = nil
	return a.api.createPool(ctx, p)
}

type anyCluster struct{ api }

func (a anyCluster) listPools(ctx context.Context) ([]pool, error) {
	pools, err := a.api.listPools(ctx)
	for i := range pools {
		pools[i] = disguised(pools[i])
	}
	return pools, err
}

func (a anyCluster) getPool(ctx context.Context, name string) (pool, error) {
	p, err := a.api.getPool(ctx, name)
	return disguised(p), err
}

func disguised(p pool) pool {
	if p.Tags = maps.Clone(p.Tags); p.Tags[tagCluster] != "" {
		p.Tags[tagCluster] = "cluster-uid-1"
	}
	return p
}

type versionless struct{ api }

func (a versionless) putDocument(ctx context.Context, version string, d *document) (*document, error) {
	if version != "" {
		now, err := a.api.getDocument(ctx, d.Name)
		if err != nil {
			return nil, err
		}
		version = now.Version
	}
	return a.api.putDocument(ctx, version, d)
}

type byName struct{ api }

func (a byName) deletePool(ctx context.Context, name, _ string) error {
	p, err := a.api.getPool(ctx, name)
	if err != nil {
		return err
	}
	return a.api.deletePool(ctx, name, p.ID)
}

type selfish struct{ api }

func (a selfish) putDocument(ctx context.Context, version string, d *document) (*document, error) {
	d.Entries = slices.DeleteFunc(d.Entries, func(e entry) bool { return e.Tags[tagCluster] == "" })
	return a.api.putDocument(ctx, version, d)
}

type swallowing struct{ *Provider }

func (p swallowing) Apply(ctx context.Context, c lb.Change, known lb.Lookup) (lb.Resource, error) {
	now, err := p.Provider.Apply(ctx, c, known)
	if c.Op == lb.Update && lb.KindOf(err) == lb.Unavailable {
		return c.After, nil
	}
	return now, err
}

// Each wrapper of a *Provider that changes only one of its interfaces keeps the
// other by embedding.

type hasty struct{ *Provider }

func (p hasty) WriteDocument(ctx context.Context, d lb.Document, changes []lb.Change, known lb.Lookup) (lb.Document, []lb.Resource, error) {
	written, now, err := p.Provider.WriteDocument(ctx, d, changes, known)
	if lb.KindOf(err) != lb.Pending {
		return written, now, err
	}
	for _, c := range changes {
		now = append(now, c.After)
	}
	return lb.Document{}, now, nil
}

// forgetful does not look for operations that are under way.
type forgetful struct{ *Provider }

func (p forgetful) Observe(ctx context.Context, o lb.Owner) ([]lb.Resource, error) {
	seen, err := p.Provider.Observe(ctx, o)
	return slices.DeleteFunc(seen, func(r lb.Resource) bool { return r.Fields == nil }), err
}

type waiting struct{ api }

func (a waiting) putDocument(ctx context.Context, version string, d *document) (*document, error) {
	now, err := a.api.putDocument(ctx, version, d)
	for err == nil && now.Pending != nil {
		if err = sleep(ctx, time.Until(now.Ready)+time.Millisecond); err == nil {
			now, err = a.api.getDocument(ctx, d.Name)
		}
	}
	return now, err
}

// endless goes on waiting for an operation that has ended.
type endless struct{ api }

func (a endless) getDocument(ctx context.Context, name string) (*document, error) {
	d, err := a.api.getDocument(ctx, name)
	if err == nil && d.Ready != (time.Time{}) && d.Pending == nil {
		d.Pending = d.clone()
	}
	return d, err
}

type lacking struct{ *Provider }

func (p lacking) Desired(ctx context.Context, s lb.Service) (lb.Desired, error) {
	d, err := p.Provider.Desired(ctx, s)
	for _, r := range d.Resources {
		delete(r.Fields, "health-port")
	}
	return d, err
}

type restless struct{ *Provider }

func (p restless) Observe(ctx context.Context, o lb.Owner) ([]lb.Resource, error) {
	seen, err := p.Provider.Observe(ctx, o)
	for _, r := range seen {
		delete(r.Fields, "sources")
	}
	return seen, err
}

// leaking looks only where it would create today.
type leaking struct{ *Provider }

func (p leaking) Observe(ctx context.Context, o lb.Owner) ([]lb.Resource, error) {
	seen, err := p.Provider.Observe(ctx, o)
	inside := func(r lb.Resource) bool { return strings.HasSuffix(r.Key, "/internal") }
	if slices.ContainsFunc(seen, inside) {
		seen = slices.DeleteFunc(seen, func(r lb.Resource) bool { return strings.HasSuffix(r.Key, "/external") })
	}
	return seen, err
}

type firstPage struct{ api }

func (a firstPage) listPools(ctx context.Context) ([]pool, error) {
	pools, err := a.api.listPools(ctx)
	return pools[:min(len(pools), 2)], err
}

type blind struct{ api }

func (a blind) getDocument(ctx context.Context, name string) (*document, error) {
	d, err := a.api.getDocument(ctx, name)
	if isKind(err, lb.Denied) {
		err = fail(404, "DocumentNotFound", "not seen")
	}
	return d, err
}

func (a blind) listPools(ctx context.Context) ([]pool, error) {
	pools, err := a.api.listPools(ctx)
	if isKind(err, lb.Denied) {
		return nil, nil
	}
	return pools, err
}

// eager tries a creation again at once, under a name that cannot be taken.
type eager struct{ api }

func (a eager) createPool(ctx context.Context, p pool) (pool, error) {
	made, err := a.api.createPool(ctx, p)
	if isKind(err, lb.Unavailable) {
		p.Name += "-2"
		made, err = a.api.createPool(ctx, p)
	}
	return made, err
}

type hasteful struct{ *Provider }

func (p hasteful) Observe(ctx context.Context, o lb.Owner) ([]lb.Resource, error) {
	seen, err := p.Provider.Observe(ctx, o)
	if lb.KindOf(err) == lb.Throttled {
		err = &lb.Error{Kind: lb.Throttled, Op: "observe", Err: err}
	}
	return seen, err
}

// trusting answers a direct question from a list.
type trusting struct{ api }

func (a trusting) getPool(ctx context.Context, name string) (pool, error) {
	pools, err := a.api.listPools(ctx)
	if err != nil {
		return pool{}, err
	}
	for _, p := range pools {
		if p.Name == name {
			return p, nil
		}
	}
	return pool{}, fail(404, "PoolNotFound", "not listed")
}

type careless struct{ *Provider }

func (p careless) Observe(ctx context.Context, o lb.Owner) ([]lb.Resource, error) {
	seen, err := p.Provider.Observe(ctx, o)
	for i := range seen {
		seen[i].InUse = false
	}
	return seen, err
}

// unasking does not ask again whose a pool is that it has seen to be its own.
type unasking struct{ *Provider }

func (p unasking) StillOwned(context.Context, []lb.Resource) (bool, error) { return true, nil }

func (p unasking) Apply(ctx context.Context, c lb.Change, known lb.Lookup) (lb.Resource, error) {
	if c.Op != lb.Delete || c.Ref().Kind != kindPool {
		return p.Provider.Apply(ctx, c, known)
	}
	name := p.nameOf(c.Ref())
	p.recent.add(name)
	err := p.api.deletePool(ctx, name, c.Before.ID)
	if isKind(err, lb.NotFound) {
		err = nil
	}
	return lb.Resource{}, failed("delete", c.Ref(), err)
}

type lenient struct{ *Provider }

func (p lenient) Desired(ctx context.Context, s lb.Service) (lb.Desired, error) {
	d, err := p.Provider.Desired(ctx, s)
	if lb.KindOf(err) == lb.Invalid {
		s.Annotations = nil
		s.Targets = nil
		return p.Provider.Desired(ctx, s)
	}
	return d, err
}
