package reference

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// document is written as a whole.
type document struct {
	Name string
	// Version changes with every write, when one begins and when it ends.
	Version string
	Tags    map[string]string
	// Setting is the document's own property.
	Setting string
	Entries []entry
	// Creating says that the document's creation is under way.
	Creating bool
	// Pending is what a write that is under way will make of it, nil when none
	// is. Until its end, further writes are refused.
	Pending *document
	// Ready is when the write that is under way ends.
	Ready time.Time
}

// entry is one item of a document. Others' entries are kept as they are.
type entry struct {
	Name   string
	Tags   map[string]string
	Values map[string]string
}

func (e entry) equal(f entry) bool {
	return e.Name == f.Name && maps.Equal(e.Tags, f.Tags) && maps.Equal(e.Values, f.Values)
}

func (d *document) clone() *document {
	c := *d
	c.Tags = maps.Clone(d.Tags)
	c.Entries = nil
	for _, e := range d.Entries {
		c.Entries = append(c.Entries, entry{e.Name, maps.Clone(e.Tags), maps.Clone(e.Values)})
	}
	if d.Pending != nil {
		c.Pending = d.Pending.clone()
	}
	return &c
}

// all returns the entries that are or that a write under way will bring.
func (d *document) all() []entry {
	if d.Pending == nil {
		return d.Entries
	}
	return append(slices.Clone(d.Entries), d.Pending.Entries...)
}

func (c *cloud) getDocument(name string) (*document, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, ok := c.documents[name]
	if !ok {
		return nil, fail(http.StatusNotFound, "DocumentNotFound", "there is no document %s", name)
	}
	return d.clone(), nil
}

// putDocument creates (version "") or replaces a document. Balancers take time:
// the answer then has Pending set.
func (c *cloud) putDocument(version string, want *document) (*document, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	have, exists := c.documents[want.Name]
	if exists && have.Pending != nil {
		return nil, c.busy(have)
	}
	if exists != (version != "") || exists && have.Version != version {
		return nil, fail(http.StatusPreconditionFailed, "VersionMismatch", "%s has another version than %q", want.Name, version)
	}
	if err := c.check(want); err != nil {
		return nil, err
	}
	next := want.clone()
	next.Pending, next.Creating = nil, false
	c.address(next)
	if !strings.HasPrefix(want.Name, balancerPrefix) || c.slow == 0 {
		c.replace(next)
		return next.clone(), nil
	}
	if !exists {
		have = &document{Name: want.Name, Tags: maps.Clone(want.Tags), Setting: want.Setting, Creating: true}
	}
	under := have.clone()
	under.Pending, under.Ready = next, time.Now().Add(c.slow)
	c.replace(under)
	fails := c.failNext
	c.failNext = false
	time.AfterFunc(c.slow, func() { c.finish(under, fails) })
	return under.clone(), nil
}

// finish ends the write that is under way: with what was asked for, or, when it
// fails, with what was before.
func (c *cloud) finish(under *document, fails bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !fails:
		c.replace(under.Pending)
	case under.Creating:
		delete(c.documents, under.Name)
	default:
		before := under.clone()
		before.Pending = nil
		c.replace(before)
	}
}

// replace gives d its version and makes it the one that is.
func (c *cloud) replace(d *document) {
	c.ids++
	d.Version = "v" + strconv.Itoa(c.ids)
	c.documents[d.Name] = d
}

func (c *cloud) busy(d *document) error {
	return &failure{status: http.StatusConflict, code: "OperationInProgress", text: "a write of " + d.Name + " is under way",
		retryAfter: time.Until(d.Ready)}
}

// check refuses a document with two entries of one name, or with one that sends
// to a pool that does not exist.
func (c *cloud) check(d *document) error {
	names := map[string]bool{}
	for _, e := range d.Entries {
		if names[e.Name] {
			return fail(http.StatusBadRequest, "DuplicateEntry", "%s has two entries %s", d.Name, e.Name)
		}
		names[e.Name] = true
		if id, sends := e.Values["pool"]; sends && c.poolByID(id) == nil {
			return fail(http.StatusBadRequest, "BadReference", "entry %s of %s sends to %s, which does not exist", e.Name, d.Name, id)
		}
	}
	return nil
}

// address gives each new frontend its address.
func (c *cloud) address(d *document) {
	if !strings.HasPrefix(d.Name, balancerPrefix) {
		return
	}
	for i := range d.Entries {
		if d.Entries[i].Values["address"] == "" {
			c.ids++
			d.Entries[i].Values["address"] = "198.18." + strconv.Itoa(c.ids>>8&255) + "." + strconv.Itoa(c.ids&255)
		}
	}
}

// deleteDocument refuses while the document has entries.
func (c *cloud) deleteDocument(name, version string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	have, exists := c.documents[name]
	switch {
	case !exists:
		return fail(http.StatusNotFound, "DocumentNotFound", "there is no document %s", name)
	case have.Pending != nil:
		return c.busy(have)
	case have.Version != version:
		return fail(http.StatusPreconditionFailed, "VersionMismatch", "%s has another version than %q", name, version)
	case len(have.Entries) > 0:
		return fail(http.StatusConflict, "DocumentInUse", "%s has %d entries", name, len(have.Entries))
	}
	delete(c.documents, name)
	return nil
}
