package reference

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// cloud is the server: what exists, and what may be done with it. Its methods
// are the operations of its API; all of them answer at once.
type cloud struct {
	lag, slow time.Duration
	pageSize  int

	mu        sync.Mutex
	pools     map[string][]poolVersion // by name, oldest first
	poolNames map[string]string        // by ID
	documents map[string]*document     // by name
	ids       int
	failNext  bool
}

func newCloud(lag, slow time.Duration, pageSize int) *cloud {
	return &cloud{lag: lag, slow: slow, pageSize: pageSize, pools: map[string][]poolVersion{}, poolNames: map[string]string{}, documents: map[string]*document{}}
}

// failure is an answer that is no success.
type failure struct {
	status     int
	code, text string
	retryAfter time.Duration
}

func (f *failure) Error() string { return fmt.Sprintf("%d %s: %s", f.status, f.code, f.text) }

func fail(status int, code, format string, args ...any) error {
	return &failure{status: status, code: code, text: fmt.Sprintf(format, args...)}
}

// pool is a set of nodes that share traffic. Names are unique and, like ID and
// Tags, fixed at creation.
type pool struct {
	ID, Name   string
	Tags       map[string]string
	Targets    []string
	HealthPort string
}

// poolVersion is a pool as it was from a time on; deleted when pool is nil.
type poolVersion struct {
	from time.Time
	pool *pool
}

// poolAt returns the named pool as it was at the given time, nil if it was not.
func (c *cloud) poolAt(name string, at time.Time) *pool {
	for _, v := range slices.Backward(c.pools[name]) {
		if !v.from.After(at) {
			return v.pool
		}
	}
	return nil
}

func (c *cloud) setPool(name string, p *pool) {
	c.pools[name] = append(c.pools[name], poolVersion{time.Now(), p})
}

func (c *cloud) getPool(name string) (pool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.poolAt(name, time.Now())
	if p == nil {
		return pool{}, fail(http.StatusNotFound, "PoolNotFound", "there is no pool %s", name)
	}
	return *p, nil
}

// listPools returns a page of the pools by name and where the next one begins,
// "" after the last. Lists lag behind.
func (c *cloud) listPools(after string) ([]pool, string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var page []pool
	for _, name := range slices.Sorted(maps.Keys(c.pools)) {
		p := c.poolAt(name, time.Now().Add(-c.lag))
		if p == nil || name <= after {
			continue
		}
		if c.pageSize > 0 && len(page) == c.pageSize {
			return page, page[len(page)-1].Name, nil
		}
		page = append(page, *p)
	}
	return page, "", nil
}

func (c *cloud) createPool(p pool) (pool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.poolAt(p.Name, time.Now()) != nil {
		return pool{}, fail(http.StatusConflict, "PoolExists", "there is a pool %s already", p.Name)
	}
	c.ids++
	p.ID = "pool-" + strconv.Itoa(c.ids)
	c.poolNames[p.ID] = p.Name
	c.setPool(p.Name, &p)
	return p, nil
}

func (c *cloud) updatePool(p pool) (pool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	have := c.poolAt(p.Name, time.Now())
	if have == nil || have.ID != p.ID {
		return pool{}, fail(http.StatusNotFound, "PoolNotFound", "there is no pool %s with the id %s", p.Name, p.ID)
	}
	now := *have
	now.Targets, now.HealthPort = p.Targets, p.HealthPort
	c.setPool(p.Name, &now)
	return now, nil
}

// deletePool refuses while an entry of a document sends to the pool, and when
// the pool of that name has another ID than asked for.
func (c *cloud) deletePool(name, id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	have := c.poolAt(name, time.Now())
	if have == nil || have.ID != id {
		return fail(http.StatusNotFound, "PoolNotFound", "there is no pool %s with the id %s", name, id)
	}
	for _, d := range c.documents {
		for _, e := range d.all() {
			if e.Values["pool"] == have.ID {
				return fail(http.StatusConflict, "PoolInUse", "entry %s of %s sends to it", e.Name, d.Name)
			}
		}
	}
	c.setPool(name, nil)
	return nil
}

// poolByID returns the pool that has the ID, nil if there is none.
func (c *cloud) poolByID(id string) *pool {
	if p := c.poolAt(c.poolNames[id], time.Now()); p != nil && p.ID == id {
		return p
	}
	return nil
}
