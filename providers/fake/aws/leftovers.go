package aws

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Resource is something in the account.
type Resource struct {
	// Kind is load-balancer, listener, target-group, security-group,
	// security-group-rule or tag.
	Kind string `json:"kind"`
	// ID is the ARN or EC2 id; of a tag, that of the tagged resource.
	ID string `json:"id"`
	// Name is what people call it: its name, a rule's content, a tag's key.
	Name string            `json:"name"`
	Tags map[string]string `json:"tags,omitempty"`
}

// String is the resource as a line of a list.
func (r Resource) String() string { return fmt.Sprintf("%s %s (%s)", r.Kind, r.Name, shortARN(r.ID)) }

// Leftovers returns what clients made and have not removed: load balancers with
// their listeners, target groups, security groups, rules added to groups of the
// seed and tags added to resources of the seed. An empty list means that the
// account is as it was at first, but for interfaces of deleted load balancers,
// which go by themselves.
func (a *Account) Leftovers() []Resource {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.agenda.RunDue()
	left := []Resource{}
	add := func(kind, id, name string) {
		left = append(left, Resource{Kind: kind, ID: id, Name: name, Tags: maps.Clone(a.tags[id])})
	}
	for _, lb := range sorted(a.loadBalancers) {
		add("load-balancer", lb.arn, lb.name)
		for _, l := range a.listenersOf(lb.arn) {
			add("listener", l.arn, fmt.Sprintf("%s %s:%d", lb.name, l.protocol, l.port))
		}
	}
	for _, tg := range sorted(a.targetGroups) {
		add("target-group", tg.arn, tg.name)
	}
	for _, g := range sorted(a.groups) {
		if !a.seed.resources[g.id] {
			add("security-group", g.id, g.name)
			continue
		}
		for _, r := range g.rules {
			if !a.seed.rules[r.id] {
				add("security-group-rule", r.id, fmt.Sprintf("%s: %s", g.name, r))
			}
		}
	}
	return append(left, a.leftoverTags()...)
}

func (a *Account) leftoverTags() []Resource {
	var left []Resource
	for _, id := range slices.Sorted(maps.Keys(a.tags)) {
		kind, _, _ := cutID(id)
		seeded := a.seed.resources[id] || !slices.Contains([]string{"sg", "sgr"}, kind) && !strings.HasPrefix(id, "arn:")
		for _, key := range slices.Sorted(maps.Keys(a.tags[id])) {
			if value, ok := a.seed.tags[id][key]; seeded && (!ok || value != a.tags[id][key]) {
				left = append(left, Resource{Kind: "tag", ID: id, Name: key + "=" + a.tags[id][key]})
			}
		}
	}
	return left
}
