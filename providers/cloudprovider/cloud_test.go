package cloudprovider

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/cloud-provider/api"

	"github.com/fairway-lb/fairway/providers/lb"
)

// memory is a cloud that keeps a load balancer per Service, and a group that is
// deleted after it.
type memory struct {
	mu     sync.Mutex
	things map[lb.Ref]lb.Resource
	// slow, when set, runs before each change.
	slow func(lb.Change) error
}

func (m *memory) Name() string { return "memory" }

func (m *memory) Desired(_ context.Context, s lb.Service) (lb.Desired, error) {
	owners := []lb.Owner{lb.ByService(s.ServiceRef)}
	group := lb.Ref{Kind: "group", Key: s.String()}
	var nodes []string
	for _, t := range s.Targets {
		nodes = append(nodes, t.Node)
	}
	return lb.Desired{Resources: []lb.Resource{
		{Ref: group, Owners: owners, Fields: lb.Fields{}},
		{Ref: lb.Ref{Kind: "balancer", Key: group.Key}, Owners: owners, DependsOn: []lb.Ref{group}, Fields: lb.Fields{"nodes": lb.Set(nodes...)}},
	}}, nil
}

func (m *memory) Observe(_ context.Context, o lb.Owner) ([]lb.Resource, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var seen []lb.Resource
	for _, r := range m.things {
		if r.OwnedBy(o) {
			seen = append(seen, r)
		}
	}
	return seen, nil
}

func (m *memory) Apply(_ context.Context, c lb.Change, _ lb.Lookup) (lb.Resource, error) {
	if m.slow != nil {
		if err := m.slow(c); err != nil {
			return lb.Resource{}, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.Op == lb.Delete {
		delete(m.things, c.Before.Ref)
		return lb.Resource{}, nil
	}
	now := c.After
	now.ID = "id"
	m.things[now.Ref] = now
	return now, nil
}

func (m *memory) Status(resources []lb.Resource) lb.Status {
	if slices.ContainsFunc(resources, func(r lb.Resource) bool { return r.Kind == "balancer" }) {
		return lb.Status{Addresses: []lb.Address{{Hostname: "web.example.com"}}}
	}
	return lb.Status{}
}

// clients is the framework's client builder around one client.
type clients struct{ kubernetes.Interface }

func (c clients) Config(string) (*rest.Config, error)         { return &rest.Config{}, nil }
func (c clients) ConfigOrDie(string) *rest.Config             { return &rest.Config{} }
func (c clients) Client(string) (kubernetes.Interface, error) { return c.Interface, nil }
func (c clients) ClientOrDie(string) kubernetes.Interface     { return c.Interface }

var web = &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u1"}}

// newCloud returns a cloud on m in a cluster whose identity is "demo", "uid-1".
func newCloud(m *memory, opening func(lb.Cluster) error) *Cloud {
	c := New(Config{
		Provider:    "memory",
		ClusterName: "demo",
		Open: func(_ context.Context, cluster lb.Cluster) (lb.Provider, error) {
			if err := opening(cluster); err != nil {
				return nil, err
			}
			return m, nil
		},
		Service: func(s *v1.Service, nodes []*v1.Node) (lb.Service, error) {
			spec := lb.Service{ServiceRef: lb.ServiceRef{Namespace: s.Namespace, Name: s.Name, UID: string(s.UID)}}
			for _, n := range nodes {
				spec.Targets = append(spec.Targets, lb.Target{Node: n.Name})
			}
			return spec, nil
		},
		Status: func(status lb.Status, _ []v1.ServicePort) v1.LoadBalancerStatus {
			var result v1.LoadBalancerStatus
			for _, a := range status.Addresses {
				result.Ingress = append(result.Ingress, v1.LoadBalancerIngress{Hostname: a.Hostname})
			}
			return result
		},
	})
	c.Initialize(clients{fake.NewClientset(&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: "uid-1"}})}, nil)
	return c
}

func opens(lb.Cluster) error { return nil }

func node(name string) *v1.Node { return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }

func TestLoadBalancerLives(t *testing.T) {
	m := &memory{things: map[lb.Ref]lb.Resource{}}
	balancer, ok := newCloud(m, opens).LoadBalancer()
	if !ok {
		t.Fatal("no load balancers")
	}
	if _, exists, err := balancer.GetLoadBalancer(t.Context(), "", web); exists || err != nil {
		t.Errorf("before creation: exists %v, error %v", exists, err)
	}
	status, err := balancer.EnsureLoadBalancer(t.Context(), "", web, []*v1.Node{node("a")})
	if err != nil || len(status.Ingress) != 1 || status.Ingress[0].Hostname != "web.example.com" {
		t.Fatalf("status %v, error %v", status, err)
	}
	if err := balancer.UpdateLoadBalancer(t.Context(), "", web, []*v1.Node{node("b"), node("c")}); err != nil {
		t.Fatal(err)
	}
	if got := m.things[lb.Ref{Kind: "balancer", Key: "default/web"}].Fields["nodes"].String(); got != "b, c" {
		t.Errorf("nodes %s", got)
	}
	if err := balancer.EnsureLoadBalancerDeleted(t.Context(), "", web); err != nil || len(m.things) > 0 {
		t.Errorf("after deletion: error %v, left %v", err, m.things)
	}
}

// The stock controller never calls EnsureLoadBalancerDeleted, and drops its
// finalizer, once GetLoadBalancer says there is none (kubernetes#91392).
func TestLoadBalancerExistsWhileAnythingIsLeft(t *testing.T) {
	m := &memory{things: map[lb.Ref]lb.Resource{}}
	balancer, _ := newCloud(m, opens).LoadBalancer()
	if _, err := balancer.EnsureLoadBalancer(t.Context(), "", web, nil); err != nil {
		t.Fatal(err)
	}
	delete(m.things, lb.Ref{Kind: "balancer", Key: "default/web"})
	if _, exists, err := balancer.GetLoadBalancer(t.Context(), "", web); !exists || err != nil {
		t.Errorf("with a group left: exists %v, error %v", exists, err)
	}
}

func TestCallsForOneServiceWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		m := &memory{things: map[lb.Ref]lb.Resource{}, slow: func(lb.Change) error {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			time.Sleep(time.Second)
			return nil
		}}
		balancer, _ := newCloud(m, opens).LoadBalancer()
		var all sync.WaitGroup
		for _, name := range []string{"a", "b", "c"} {
			all.Go(func() {
				if err := balancer.UpdateLoadBalancer(t.Context(), "", web, []*v1.Node{node(name)}); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := balancer.EnsureLoadBalancer(ctx, "", web, nil); lb.KindOf(err) != lb.Unavailable {
			t.Errorf("waiting beyond the deadline: %v", err)
		}
		all.Wait()
		if most.Load() != 1 {
			t.Errorf("%d changes of one Service at a time", most.Load())
		}
	})
}

func TestHintsReachTheFramework(t *testing.T) {
	m := &memory{things: map[lb.Ref]lb.Resource{}, slow: func(lb.Change) error {
		return &lb.Error{Kind: lb.Pending, Op: "create", RetryAfter: 7 * time.Second}
	}}
	balancer, _ := newCloud(m, opens).LoadBalancer()
	_, err := balancer.EnsureLoadBalancer(t.Context(), "", web, nil)
	if hint, ok := errors.AsType[*api.RetryError](err); !ok || hint.RetryAfter() != 7*time.Second {
		t.Errorf("got %v", err)
	}
}

func TestClusterIsIdentifiedAndOpeningIsTriedAgain(t *testing.T) {
	attempts := 0
	c := newCloud(&memory{things: map[lb.Ref]lb.Resource{}}, func(cluster lb.Cluster) error {
		if cluster != (lb.Cluster{Name: "demo", UID: "uid-1"}) {
			t.Errorf("cluster %v", cluster)
		}
		if attempts++; attempts == 1 {
			return &lb.Error{Kind: lb.Invalid, Op: "find the region", Message: "there is none"}
		}
		return nil
	})
	spec := lb.Service{ServiceRef: lb.ServiceRef{Namespace: "default", Name: "web", UID: "u1"}}
	_, err := c.Reconcile(t.Context(), spec)
	if lb.RetryAfterOf(err) == 0 || !strings.Contains(err.Error(), "there is none") {
		t.Errorf("the error must say why and when to try again: %v", err)
	}
	for range 2 {
		if _, err := c.Reconcile(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
	}
	if attempts != 2 {
		t.Errorf("opened %d times", attempts)
	}
}

func TestWithoutAnAPIServerNothingIsOpened(t *testing.T) {
	c := newCloud(&memory{}, func(lb.Cluster) error { t.Error("opened"); return nil })
	c.Initialize(clients{fake.NewClientset()}, nil)
	_, err := c.Delete(t.Context(), lb.ServiceRef{Name: "web"})
	if lb.KindOf(err) != lb.Unavailable {
		t.Errorf("got %v", err)
	}
}
