package reference

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
	pt "github.com/fairway-lb/fairway/providers/providertest"
)

// Account is an account of the cloud in memory.
type Account struct {
	pt.Meter
	cloud      *cloud
	conditions pt.Conditions
	// wrap, when set, puts something between a controller and its provider.
	wrap func(*Provider) lb.Provider
}

var _ pt.Account = (*Account)(nil)

// NewAccount returns an empty account.
func NewAccount(c pt.Conditions) *Account {
	return &Account{cloud: newCloud(c.Lag, c.Slow, c.PageSize), conditions: c}
}

// Provider implements providertest.Account.
func (a *Account) Provider(_ context.Context, cluster lb.Cluster) (pt.Instance, error) {
	c := &client{Account: a}
	p := newProvider(c, cluster)
	instance := pt.Instance{Provider: p, Kill: func() { c.dead.Store(true) }, Dead: c.dead.Load}
	if a.wrap != nil {
		instance.Provider = a.wrap(p)
	}
	return instance, nil
}

// Snapshot implements providertest.Account.
func (a *Account) Snapshot() []string { return a.lines(false) }

// Raw implements providertest.Account.
func (a *Account) Raw() []string { return a.lines(true) }

func (a *Account) lines(raw bool) []string {
	c := a.cloud
	c.mu.Lock()
	defer c.mu.Unlock()
	var lines []string
	for name := range c.pools {
		p := c.poolAt(name, time.Now())
		if p == nil {
			continue
		}
		line := fmt.Sprintf("pool %s %v health %s targets %s", name, p.Tags, p.HealthPort, strings.Join(p.Targets, ","))
		if raw {
			line += " id " + p.ID
		}
		lines = append(lines, line)
	}
	for _, d := range c.documents {
		line := fmt.Sprintf("document %s %v setting %s", d.Name, d.Tags, d.Setting)
		if d.Pending != nil && (d.Setting != d.Pending.Setting || !slices.EqualFunc(d.Entries, d.Pending.Entries, entry.equal)) {
			line += ", a write is under way"
		}
		lines = append(lines, line)
		for _, e := range d.Entries {
			values := maps.Clone(e.Values)
			if p := c.poolByID(values["pool"]); p != nil && !raw {
				values["pool"] = p.Name
			}
			if !raw {
				delete(values, "address")
			}
			lines = append(lines, fmt.Sprintf("entry %s of %s %v %v", e.Name, d.Name, e.Tags, values))
		}
	}
	slices.Sort(lines)
	return lines
}

// FailOperation implements providertest.Account.
func (a *Account) FailOperation() func() bool {
	a.cloud.mu.Lock()
	defer a.cloud.mu.Unlock()
	a.cloud.failNext = true
	return func() bool {
		a.cloud.mu.Lock()
		defer a.cloud.mu.Unlock()
		return !a.cloud.failNext
	}
}

// Close implements providertest.Account. What is still under way ends in its
// time and touches nothing but the account.
func (a *Account) Close() {}
