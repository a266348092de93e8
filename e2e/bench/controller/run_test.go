package controller

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairway-lb/fairway/controllers/loadbalancer"
	"github.com/fairway-lb/fairway/e2e/virtual"
	"github.com/fairway-lb/fairway/providers/fake"
)

// joining is how many nodes join in a burst, one every joinEvery.
const (
	joining   = 50
	joinEvery = 100 * time.Millisecond
)

// bench is a cluster with our controller at work on it.
type bench struct {
	*testing.T
	*virtual.Cluster
	run *virtual.Run

	mu      sync.Mutex
	created map[string]time.Time // by Service
	ready   map[string]time.Duration
}

// newBench returns a bench with the given number of nodes and a started controller.
func newBench(t *testing.T, nodes int) *bench {
	t.Helper()
	cluster, err := virtual.NewCluster(nodes)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, Cluster: cluster, created: map[string]time.Time{}, ready: map[string]time.Duration{}}
	cluster.OnChange(b.note)
	b.start()
	return b
}

func (b *bench) start() {
	b.Helper()
	run, err := b.Start()
	if err != nil {
		b.Fatal(err)
	}
	if err := run.OurController(loadbalancer.Options{}); err != nil {
		b.Fatal(err)
	}
	b.run = run
}

func (b *bench) close() {
	b.run.Stop()
	if v := b.Violations(); len(v) > 0 {
		b.Errorf("requests that AWS would call malformed: %q", v)
	}
	b.Close()
}

// note remembers when a Service became ready.
func (b *bench) note(o metav1.Object) {
	s, ok := o.(*v1.Service)
	if !ok || !meta.IsStatusConditionTrue(s.Status.Conditions, loadbalancer.ConditionReady) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, known := b.ready[s.Name]; !known {
		b.ready[s.Name] = time.Since(b.created[s.Name])
	}
}

// create makes Service i, of a name that begins as given.
func (b *bench) create(prefix string, i int) {
	name := fmt.Sprintf("%s-%04d", prefix, i)
	b.mu.Lock()
	b.created[name] = time.Now()
	b.mu.Unlock()
	b.Put(&v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: v1.ServiceSpec{
			Type: v1.ServiceTypeLoadBalancer, IPFamilies: []v1.IPFamily{v1.IPv4Protocol},
			Ports: []v1.ServicePort{{Name: "http", Port: 80, NodePort: int32(30000 + i), Protocol: v1.ProtocolTCP}},
		},
	})
}

// readyOf returns the sorted times of the Services whose names begin as given.
func (b *bench) readyOf(prefix string) []time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	var times []time.Duration
	for name, d := range b.ready {
		if strings.HasPrefix(name, prefix) {
			times = append(times, d)
		}
	}
	slices.Sort(times)
	return times
}

// until lets time pass until done, for three hours at most.
func (b *bench) until(what string, done func() bool) {
	b.Helper()
	deadline := time.Now().Add(3 * time.Hour)
	for !done() {
		if time.Now().After(deadline) {
			b.Fatalf("after three hours not yet: %s\n%s", what, b.Calls().Counts())
		}
		time.Sleep(time.Second)
	}
}

// take returns what happened since it was called last.
func (b *bench) take() phase {
	p := phase{cloud: b.Calls().Counts(), api: b.Writes()}
	b.Calls().Reset()
	return p
}

// succeeded returns how often an operation was carried out since take.
func (b *bench) succeeded(operation string) int {
	for _, c := range b.Calls().Counts() {
		if c.Operation == operation {
			return c.Calls - c.Errors
		}
	}
	return 0
}

// measure takes the figures of one size.
func measure(t *testing.T, s size) (f figures) {
	t.Helper()
	t.Run(s.String(), func(t *testing.T) {
		virtual.Test(t, func(t *testing.T) {
			b := newBench(t, s.nodes)
			defer b.close()
			f = b.figures(s)
		})
	})
	return f
}

func (b *bench) figures(s size) figures {
	b.Helper()
	f := figures{size: s}
	before := collected()
	for i := range s.services {
		b.create("web", i)
	}
	b.until("all Services are ready", func() bool {
		f.peak = max(f.peak, above(before, liveHeap()))
		return len(b.readyOf("web")) == s.services
	})
	f.ready, f.create = b.readyOf("web"), b.take()

	time.Sleep(2 * time.Hour) // looks, sweeps and the informers' resyncs
	f.rest = b.take()

	for n := range joining {
		if err := b.Join(s.nodes + n); err != nil {
			b.Fatal(err)
		}
		time.Sleep(joinEvery)
	}
	b.until("the nodes are targets", func() bool { return b.succeeded("RegisterTargets") >= s.services })
	time.Sleep(time.Minute)
	f.join, f.joined = b.take(), b.targets()-s.services*s.nodes

	b.run.Stop()
	b.run = nil
	without := collected()
	b.start()
	time.Sleep(30 * time.Minute)
	f.restart = b.take()

	// One node more has it work on, and so remember, each Service.
	if err := b.Join(s.nodes + joining); err != nil {
		b.Fatal(err)
	}
	b.until("one node more is a target", func() bool { return b.succeeded("RegisterTargets") >= s.services })
	time.Sleep(time.Minute)
	f.own = above(without, collected())
	return f
}

// targets returns how many targets all target groups have.
func (b *bench) targets() int {
	n := 0
	for _, balancer := range b.Dataplane().LoadBalancers {
		for _, listener := range balancer.Listeners {
			n += len(listener.Targets)
		}
	}
	return n
}

// arriveEvery is the time between two new Services where they come one by one: so
// few that AWS throttles none.
const arriveEvery = 2 * time.Second

// arrivals returns the sorted times to readiness of the healthy Services when they
// arrive one by one, and every so manieth is hit by a fault for good; 0 for none.
func arrivals(t *testing.T, s size, every int, fault fake.Fault) (healthy []time.Duration) {
	t.Helper()
	virtual.Test(t, func(t *testing.T) {
		b := newBench(t, s.nodes)
		defer b.close()
		if every > 0 {
			fault.Resource, fault.Times = "sick", -1
			if err := b.Faults().Set([]fake.Fault{fault}); err != nil {
				t.Fatal(err)
			}
		}
		want := 0
		for i := range s.services {
			if every > 0 && i%every == 0 {
				b.create("sick", i)
			} else {
				b.create("web", i)
				want++
			}
			time.Sleep(arriveEvery)
		}
		b.until("the healthy Services are ready", func() bool { return len(b.readyOf("web")) == want })
		healthy = b.readyOf("web")
	})
	return healthy
}
