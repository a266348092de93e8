package loadbalancer

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/fairway-lb/fairway/providers/lb"
)

// memoryCloud is a cloud that really keeps what it is given: a load balancer
// per Service with a listener per port and the nodes behind it, and one group
// for the whole cluster.
type memoryCloud struct {
	mu     sync.Mutex
	things map[lb.Ref]lb.Resource
	// apply, when set, is asked before each change takes effect; it may block
	// or refuse. It is called without the lock.
	apply func(ctx context.Context, c lb.Change) error
	// look, when set, is asked before each Observe and Survey.
	look  func() error
	calls []string
	// surveyed says that the whole cloud can be listed at once.
	surveyed bool
	// terminated are the nodes whose machines are gone, with amnesia all; blind,
	// when set, is the answer to who asks for them.
	terminated map[string]bool
	amnesia    bool
	blind      error
}

// asProvider returns the cloud with or without the means for surveys.
func (m *memoryCloud) asProvider() lb.Provider {
	if m.surveyed {
		return surveyedCloud{m}
	}
	return m
}

type surveyedCloud struct{ *memoryCloud }

// Survey shows load balancers and groups, and not what is inside them.
func (m surveyedCloud) Survey(context.Context) (lb.Survey, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, "survey")
	if m.look != nil {
		if err := m.look(); err != nil {
			return lb.Survey{}, err
		}
	}
	found := lb.Survey{Kinds: []lb.Kind{"load-balancer", "group"}, Services: map[lb.ServiceRef][]lb.Resource{}}
	for _, r := range m.things {
		switch r.Kind {
		case "group":
			r.InUse = m.needed(r.Ref)
			found.Cluster = append(found.Cluster, r)
		case "load-balancer":
			found.Services[r.Owners[0].Service] = append(found.Services[r.Owners[0].Service], r)
		}
	}
	return found, nil
}

func newMemoryCloud() *memoryCloud { return &memoryCloud{things: map[lb.Ref]lb.Resource{}} }

func (m *memoryCloud) Name() string { return "memory" }

// Desired refuses a scheme that is neither internal nor internet-facing, and
// remarks on an annotation it does not honour.
func (m *memoryCloud) Desired(_ context.Context, s lb.Service) (lb.Desired, error) {
	const scheme = "example.com/scheme"
	if v, ok := s.Annotations[scheme]; ok && v != "internal" && v != "internet-facing" {
		return lb.Desired{}, lb.InvalidField(scheme, v, "must be internal or internet-facing")
	}
	owners := []lb.Owner{lb.ByService(s.ServiceRef)}
	balancer := lb.Ref{Kind: "load-balancer", Key: s.String()}
	group := lb.Ref{Kind: "group", Key: "shared"}
	d := lb.Desired{Resources: []lb.Resource{
		{Ref: group, Owners: []lb.Owner{lb.ByCluster()}, Fields: lb.Fields{}},
		{Ref: balancer, Owners: owners, DependsOn: []lb.Ref{group}, Fields: lb.Fields{"scheme": lb.Text(cmp.Or(s.Annotations[scheme], "internet-facing"))}},
		{Ref: lb.Ref{Kind: "targets", Key: balancer.Key}, Owners: owners, Parent: balancer, Brake: "nodes", Fields: lb.Fields{"nodes": targets(s)}},
	}}
	for _, p := range s.Ports {
		d.Resources = append(d.Resources, lb.Resource{
			Ref:    lb.Ref{Kind: "listener", Key: fmt.Sprintf("%s:%d", balancer.Key, p.Port)},
			Owners: owners, Parent: balancer, Fields: lb.Fields{"node-port": lb.Number(p.NodePort)},
		})
	}
	if _, ok := s.Annotations["example.com/later"]; ok {
		d.Notices = append(d.Notices, lb.Notice{Reason: "AnnotationIgnored", Message: "example.com/later is not honoured yet"})
	}
	return d, nil
}

// targets returns the Service's active nodes, those of one pool where it names
// one, by name or by what else it asks for.
func targets(s lb.Service) lb.Value {
	pool, chosen := s.Annotations["example.com/pool"]
	var items []string
	for _, t := range s.Targets {
		if t.State != lb.TargetActive || chosen && t.Labels["pool"] != pool {
			continue
		}
		item := t.Node
		switch s.Annotations["example.com/targets-by"] {
		case "address":
			item = t.Addresses[0].String()
		case "provider-id":
			item = t.ProviderID
		case "zone":
			item += "@" + t.Zone
		}
		items = append(items, item)
	}
	return lb.Set(items...)
}

// Gone returns the nodes whose machines were terminated.
func (m *memoryCloud) Gone(_ context.Context, r lb.Resource, items []string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, "look for targets "+r.Key)
	if m.blind != nil {
		return nil, m.blind
	}
	return slices.DeleteFunc(slices.Clone(items), func(node string) bool { return !m.terminated[node] && !m.amnesia }), nil
}

func (m *memoryCloud) Observe(_ context.Context, o lb.Owner) ([]lb.Resource, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, "observe "+o.String())
	if m.look != nil {
		if err := m.look(); err != nil {
			return nil, err
		}
	}
	var seen []lb.Resource
	for _, r := range m.things {
		r.InUse = r.OwnedBy(lb.ByCluster()) && m.needed(r.Ref)
		if r.OwnedBy(o) || r.OwnedBy(lb.ByCluster()) {
			seen = append(seen, r)
		}
	}
	return seen, nil
}

func (m *memoryCloud) needed(ref lb.Ref) bool {
	for _, r := range m.things {
		if slices.Contains(r.DependsOn, ref) {
			return true
		}
	}
	return false
}

func (m *memoryCloud) Apply(ctx context.Context, c lb.Change, _ lb.Lookup) (lb.Resource, error) {
	var answer func(context.Context, lb.Change) error
	m.set(func() { answer = m.apply })
	if answer != nil {
		if err := answer(ctx, c); err != nil {
			m.record("refused " + string(c.Op) + " " + c.Ref().String())
			return lb.Resource{}, err
		}
	}
	m.record(string(c.Op) + " " + c.Ref().String())
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.Op == lb.Delete {
		delete(m.things, c.Before.Ref)
		maps.DeleteFunc(m.things, func(_ lb.Ref, r lb.Resource) bool { return r.Parent == c.Before.Ref })
		return lb.Resource{}, nil
	}
	now := c.After
	now.ID = "id-" + now.Key
	m.things[now.Ref] = now
	return now, nil
}

func (m *memoryCloud) Status(resources []lb.Resource) lb.Status {
	for _, r := range resources {
		if r.Kind == "load-balancer" {
			return lb.Status{Addresses: []lb.Address{{Hostname: strings.ReplaceAll(r.Key, "/", "-") + ".LB.example.com"}}}
		}
	}
	return lb.Status{}
}

func (m *memoryCloud) record(call string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, call)
}

// since returns and forgets the calls made so far.
func (m *memoryCloud) since() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	calls := m.calls
	m.calls = nil
	return calls
}

// put places a thing there, or changes one, as somebody else would.
func (m *memoryCloud) put(r lb.Resource) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.things[r.Ref] = r
}

// remove takes a thing and what is inside it away, as somebody else would.
func (m *memoryCloud) remove(ref lb.Ref) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.things, ref)
	maps.DeleteFunc(m.things, func(_ lb.Ref, r lb.Resource) bool { return r.Parent == ref })
}

// has reports whether a resource is there.
func (m *memoryCloud) has(kind lb.Kind, key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.things[lb.Ref{Kind: kind, Key: key}]
	return ok
}

// nodes returns the nodes behind a Service's load balancer.
func (m *memoryCloud) nodes(key string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.things[lb.Ref{Kind: "targets", Key: key}].Fields["nodes"]
}

// set changes the cloud.
func (m *memoryCloud) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

func (m *memoryCloud) empty() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.things) == 0
}
