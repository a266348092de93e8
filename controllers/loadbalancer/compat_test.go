package loadbalancer

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/fairway-lb/fairway/providers/lb"
)

// TestUpdateIsNoticed has the cases of the stock controller's TestNeedsUpdate and
// of what it does not notice. Where we differ from it, the reason is given.
func TestUpdateIsNoticed(t *testing.T) {
	port := func(edit func(*v1.ServicePort)) func(*v1.Service) {
		return func(s *v1.Service) { edit(&s.Spec.Ports[0]) }
	}
	spec := func(edit func(*v1.ServiceSpec)) func(*v1.Service) {
		return func(s *v1.Service) { edit(&s.Spec) }
	}
	families := func(f ...v1.IPFamily) func(*v1.Service) {
		return spec(func(s *v1.ServiceSpec) { s.IPFamilies = f })
	}
	ranges := func(r ...string) func(*v1.Service) {
		return spec(func(s *v1.ServiceSpec) { s.LoadBalancerSourceRanges = r })
	}
	nothing := func(*v1.Service) {}
	cases := []struct {
		name          string
		before, after func(*v1.Service)
		ours, stock   bool
		because       string // where they differ
	}{
		{name: "nothing", after: nothing},
		{name: "type", after: spec(func(s *v1.ServiceSpec) { s.Type = v1.ServiceTypeClusterIP }), ours: true, stock: true},
		{name: "type, to one with a load balancer", before: spec(func(s *v1.ServiceSpec) { s.Type = v1.ServiceTypeNodePort }),
			after: spec(func(s *v1.ServiceSpec) { s.Type = v1.ServiceTypeLoadBalancer }), ours: true, stock: true},
		{name: "port", after: port(func(p *v1.ServicePort) { p.Port = 81 }), ours: true, stock: true},
		{name: "another port more", after: spec(func(s *v1.ServiceSpec) {
			s.Ports = append(s.Ports, v1.ServicePort{Name: "b", Port: 82, NodePort: 30082})
		}), ours: true, stock: true},
		{name: "port's name", after: port(func(p *v1.ServicePort) { p.Name = "http" }), ours: true, stock: true},
		{name: "protocol", after: port(func(p *v1.ServicePort) { p.Protocol = v1.ProtocolUDP }), ours: true, stock: true},
		{name: "node port", after: port(func(p *v1.ServicePort) { p.NodePort = 30099 }), ours: true, stock: true},
		{name: "target port", after: port(func(p *v1.ServicePort) { p.TargetPort = intstr.FromString("dns") }), stock: true,
			because: "the node proxy turns node ports into it; no load balancer knows it"},
		{name: "application protocol set", after: port(func(p *v1.ServicePort) { p.AppProtocol = new("http") }), ours: true, stock: true},
		{name: "application protocol changed", before: port(func(p *v1.ServicePort) { p.AppProtocol = new("http") }),
			after: port(func(p *v1.ServicePort) { p.AppProtocol = new("tcp") }), ours: true, stock: true},
		{name: "source ranges", after: ranges("10.0.0.0/8"), ours: true, stock: true},
		{name: "order of source ranges", before: ranges("10.0.0.0/8", "192.0.2.0/24"), after: ranges("192.0.2.0/24", "10.0.0.0/8"), stock: true,
			because: "they are a set"},
		{name: "source ranges by annotation", after: annotated(v1.AnnotationLoadBalancerSourceRangesKey, "10.0.0.0/8"), ours: true, stock: true},
		{name: "session affinity", after: spec(func(s *v1.ServiceSpec) { s.SessionAffinity = v1.ServiceAffinityClientIP }), ours: true, stock: true},
		{name: "session affinity's timeout", before: spec(func(s *v1.ServiceSpec) { s.SessionAffinity = v1.ServiceAffinityClientIP }),
			after: spec(func(s *v1.ServiceSpec) {
				s.SessionAffinityConfig = &v1.SessionAffinityConfig{ClientIP: &v1.ClientIPConfig{TimeoutSeconds: new(int32(60))}}
			}), ours: true, stock: true},
		{name: "wanted address", after: spec(func(s *v1.ServiceSpec) { s.LoadBalancerIP = "192.0.2.1" }), ours: true, stock: true},
		{name: "external IPs", after: spec(func(s *v1.ServiceSpec) { s.ExternalIPs = []string{"192.0.2.1"} }), stock: true,
			because: "they lead to nodes past the load balancer"},
		{name: "annotation", after: annotated("example.com/scheme", "internal"), ours: true, stock: true},
		{name: "annotation of others", after: annotated("example.com/any", "thing"), ours: true, stock: true},
		{name: "kubectl's copy of the object", after: annotated(v1.LastAppliedConfigAnnotation, "{}"), stock: true, because: "it says nothing that the object does not"},
		{name: "external traffic policy", after: spec(func(s *v1.ServiceSpec) { s.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal }), ours: true, stock: true},
		{name: "health check's node port", before: spec(func(s *v1.ServiceSpec) { s.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal }),
			after: spec(func(s *v1.ServiceSpec) { s.HealthCheckNodePort = 30123 }), ours: true, stock: true},
		{name: "two families", after: families(v1.IPv4Protocol, v1.IPv6Protocol), ours: true, stock: true},
		{name: "one family of two", before: families(v1.IPv4Protocol, v1.IPv6Protocol), after: families(v1.IPv4Protocol), ours: true, stock: true},
		{name: "another family", after: families(v1.IPv6Protocol), ours: true, because: "it is another load balancer; the stock controller counts families only"},
		{name: "label", after: func(s *v1.Service) { s.Labels = map[string]string{"a": "b"} }},
		{name: "selector", after: spec(func(s *v1.ServiceSpec) { s.Selector = map[string]string{"a": "b"} })},
		{name: "internal traffic policy", after: spec(func(s *v1.ServiceSpec) { s.InternalTrafficPolicy = new(v1.ServiceInternalTrafficPolicyLocal) })},
		{name: "node ports for load balancers", after: spec(func(s *v1.ServiceSpec) { s.AllocateLoadBalancerNodePorts = new(false) })},
		{name: "addresses that are not ready", after: spec(func(s *v1.ServiceSpec) { s.PublishNotReadyAddresses = true })},
		{name: "traffic distribution", after: spec(func(s *v1.ServiceSpec) { s.TrafficDistribution = new(v1.ServiceTrafficDistributionPreferClose) })},
		{name: "status", after: func(s *v1.Service) { s.Status = v1.ServiceStatus{} }},
		{name: "finalizers", after: func(s *v1.Service) { s.Finalizers = nil }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(w *world) {
				before := nothing
				if c.before != nil {
					before = c.before
				}
				w.create(service("web", before))
				w.quiet()
				w.change("web", c.after)
				w.expect("the cloud is asked", len(w.cloud.since()) > 0, c.ours)
				if (c.ours != c.stock) != (c.because != "") {
					t.Errorf("the stock controller's answer is %v, because: %q", c.stock, c.because)
				}
				if w.get("web").Spec.Type == v1.ServiceTypeLoadBalancer {
					w.expect("it is as before, or as it should be", w.host("web")+" "+w.condition("web"), "default-web.lb.example.com True Ready")
				}
			})
		})
	}
}

// TestCleanup has the cases of the stock controller's TestNeedsCleanup, and those
// of classes, which it does not look at.
func TestCleanup(t *testing.T) {
	const ours, theirs = "fairway.io/nlb", "example.com/other"
	of := func(kind v1.ServiceType, class, finalizer string, deleted bool) func(*v1.Service) {
		return func(s *v1.Service) {
			s.Spec.Type = kind
			if class != "" {
				s.Spec.LoadBalancerClass = &class
			}
			if finalizer != "" {
				s.Finalizers = []string{finalizer}
			}
			if deleted {
				s.DeletionTimestamp = new(metav1.Now())
			}
		}
	}
	const balancer, nodePort = v1.ServiceTypeLoadBalancer, v1.ServiceTypeNodePort
	cases := []struct {
		name        string
		mode        string // --load-balancer-class
		service     func(*v1.Service)
		ours, stock bool // removed; stock is said of mode "" only
	}{
		{name: "another type without our finalizer", service: of(nodePort, "", "", false)},
		{name: "another type with our finalizer", service: of(nodePort, "", StockFinalizer, false), ours: true, stock: true},
		{name: "a load balancer with our finalizer", service: of(balancer, "", StockFinalizer, false)},
		{name: "deleted with our finalizer", service: of(balancer, "", StockFinalizer, true), ours: true, stock: true},
		{name: "of another type, deleted", service: of(nodePort, "", StockFinalizer, true), ours: true, stock: true},
		{name: "of another class, deleted", service: of(balancer, theirs, StockFinalizer, true), stock: true},
		{name: "of another class, with a class controller's finalizer", service: of(balancer, theirs, ClassFinalizer, true)},

		{name: "of our class, deleted", mode: ours, service: of(balancer, ours, ClassFinalizer, true), ours: true},
		{name: "of our class no more", mode: ours, service: of(balancer, theirs, ClassFinalizer, false), ours: true},
		{name: "of our class and another type", mode: ours, service: of(nodePort, "", ClassFinalizer, false), ours: true},
		{name: "of our class, served", mode: ours, service: of(balancer, ours, ClassFinalizer, false)},
		{name: "without a class, deleted, beside us", mode: ours, service: of(balancer, "", StockFinalizer, true)},
		{name: "of another class, deleted, beside us", mode: ours, service: of(balancer, theirs, StockFinalizer, true)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(w *world) {
				s := service("web", c.service)
				ref := lb.Ref{Kind: "load-balancer", Key: "default/web"}
				w.cloud.put(lb.Resource{Ref: ref, ID: "id", Fields: lb.Fields{}, Owners: []lb.Owner{lb.ByService(RefOf(s))}})
				finalizers := s.Finalizers
				w.create(s)
				w.pass(time.Minute)
				w.expect("the load balancer is removed", !w.cloud.has(ref.Kind, ref.Key), c.ours)
				after := w.get("web")
				w.expect("the finalizer is removed", after == nil || len(after.Finalizers) < len(finalizers), c.ours)
				if c.mode == "" && c.ours != c.stock && s.Spec.LoadBalancerClass == nil {
					t.Error("the stock controller does otherwise, and not for a class")
				}
			}, func(w *world) { w.options.Class = c.mode; w.options.SweepEvery = -1 })
		})
	}
}

// TestHintIsHonouredOnEveryPath: the cloud asks to come back after 90 seconds,
// whatever was tried.
func TestHintIsHonouredOnEveryPath(t *testing.T) {
	cases := []struct {
		name string
		try  func(*world) // what makes the controller ask the cloud
		done func(*world) bool
	}{
		{"creation", func(w *world) { w.create(service("new")) },
			func(w *world) bool { return w.condition("new") == "True Ready" }},
		{"update", func(w *world) { w.change("web", func(s *v1.Service) { s.Spec.Ports[0].Port = 81 }) },
			func(w *world) bool { return w.cloud.has("listener", "default/web:81") }},
		{"node change", func(w *world) { w.removeNode("node-1"); w.settle() },
			func(w *world) bool { return len(w.cloud.nodes("default/web")) == 1 }},
		{"repair", func(w *world) { w.cloud.remove(lb.Ref{Kind: "listener", Key: "default/web:80"}); w.stop(); w.start() },
			func(w *world) bool { return w.cloud.has("listener", "default/web:80") }},
		{"deletion", func(w *world) { w.remove("web") },
			func(w *world) bool { return w.cloud.empty() }},
		{"another type", func(w *world) { w.change("web", func(s *v1.Service) { s.Spec.Type = v1.ServiceTypeClusterIP }) },
			func(w *world) bool { return w.cloud.empty() }},
		{"deletion without our finalizer", func(w *world) {
			w.check(w.client.CoreV1().Services("default").Delete(w.t.Context(), "web", metav1.DeleteOptions{}))
			w.settle()
		}, func(w *world) bool { return w.cloud.empty() }},
	}
	for _, kind := range []lb.ErrorKind{lb.Throttled, lb.Pending, lb.Unavailable, lb.Denied, lb.Quota, lb.Conflict} {
		for _, c := range cases {
			t.Run(c.name+", "+string(kind), func(t *testing.T) {
				in(t, func(w *world) {
					w.create(service("web"))
					var attempts atomic.Int64
					w.cloud.apply = func(context.Context, lb.Change) error {
						if attempts.Add(1) == 1 {
							return &lb.Error{Kind: kind, Op: "do it", Code: "Soon", Message: "later", RetryAfter: 90 * time.Second}
						}
						return nil
					}
					c.try(w)
					w.expect("it was tried", attempts.Load(), 1)
					w.pass(85 * time.Second)
					w.expect("tries before the time", attempts.Load(), 1)
					w.pass(10 * time.Second)
					w.expect("it is done after it", c.done(w), true)
				}, func(w *world) { w.options.SweepEvery = -1 })
			})
		}
	}
}

// What the controller itself writes on a Service is not taken for a wish.
func TestOwnNotesAreNoWish(t *testing.T) {
	in(t, func(w *world) {
		w.create(service("web"))
		w.pass(time.Minute)
		w.expect("looks", howMany(w.cloud.since(), "observe"), 1)
	})
}
