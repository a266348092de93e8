package virtual

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/controllers/loadbalancer"
	"github.com/fairway-lb/fairway/controllers/nodes"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if !testing.Verbose() {
		klog.SetLogger(klog.Logger{})
	}
	// Kubernetes' second handler of errors slows their authors down, and compares the
	// virtual time with that of the program's start, decades later.
	runtime.ErrorHandlers = runtime.ErrorHandlers[:1]
	os.Exit(m.Run())
}

// step is one change that users, kubelets or machines make.
type step struct {
	name string
	do   func(*testing.T, *Cluster)
	// differs says why the stock controller does not do what ours does, empty
	// where both must reach the same state. What the step did is undone by the
	// one after it, where both must be the same again.
	differs string
}

const annotations = "service.beta.kubernetes.io/aws-load-balancer-"

// serviceOf returns a Service as the API server stores it.
func serviceOf(name string, edits ...func(*v1.Service)) *v1.Service {
	s := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
		Spec: v1.ServiceSpec{
			Type: v1.ServiceTypeLoadBalancer, IPFamilies: []v1.IPFamily{v1.IPv4Protocol}, ClusterIP: "10.96.0.10",
			ExternalTrafficPolicy: v1.ServiceExternalTrafficPolicyCluster, SessionAffinity: v1.ServiceAffinityNone,
			Ports: []v1.ServicePort{port("http", v1.ProtocolTCP, 80, 30080)},
		},
	}
	for _, edit := range edits {
		edit(s)
	}
	return s
}

func port(name string, protocol v1.Protocol, number, nodePort int32) v1.ServicePort {
	return v1.ServicePort{Name: name, Protocol: protocol, Port: number, NodePort: nodePort}
}

func creates(name string, edits ...func(*v1.Service)) func(*testing.T, *Cluster) {
	return func(_ *testing.T, c *Cluster) { c.Put(serviceOf(name, edits...)) }
}

// edits changes the Service web as a user does.
func edits(edit func(*v1.Service)) func(*testing.T, *Cluster) {
	return func(t *testing.T, c *Cluster) {
		s := c.Service("default/web")
		if s == nil {
			t.Fatal("there is no Service web")
		}
		edit(s)
		c.Put(s)
	}
}

func annotates(key, value string) func(*testing.T, *Cluster) {
	return edits(func(s *v1.Service) {
		if value == "" {
			delete(s.Annotations, annotations+key)
			return
		}
		metav1.SetMetaDataAnnotation(&s.ObjectMeta, annotations+key, value)
	})
}

func deletes(name string) func(*testing.T, *Cluster) {
	return func(_ *testing.T, c *Cluster) { c.Delete("services", "default/"+name) }
}

func joins(n int) func(*testing.T, *Cluster) {
	return func(t *testing.T, c *Cluster) {
		if err := c.Join(n); err != nil {
			t.Fatal(err)
		}
	}
}

func leaves(n int) func(*testing.T, *Cluster) {
	return func(t *testing.T, c *Cluster) {
		if err := c.RemoveInstance(instanceOf(n)); err != nil {
			t.Fatal(err)
		}
		c.Delete("nodes", Node(n).Name)
	}
}

func node(n int, edit func(*v1.Node)) func(*testing.T, *Cluster) {
	return func(_ *testing.T, c *Cluster) {
		object := Node(n)
		edit(object)
		c.Put(object)
	}
}

func local(s *v1.Service) {
	s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = v1.ServiceExternalTrafficPolicyLocal, 32000
}

func internal(s *v1.Service) {
	metav1.SetMetaDataAnnotation(&s.ObjectMeta, annotations+"scheme", "internal")
}

// steps are one life with what users and nodes do in it.
var steps = []step{
	{name: "a Service is created", do: creates("web")},
	{name: "a port is added", do: edits(func(s *v1.Service) { s.Spec.Ports = append(s.Spec.Ports, port("https", v1.ProtocolTCP, 443, 30443)) })},
	{name: "a UDP port is added", do: edits(func(s *v1.Service) { s.Spec.Ports = append(s.Spec.Ports, port("dns", v1.ProtocolUDP, 53, 30053)) })},
	{name: "a port is removed", do: edits(func(s *v1.Service) { s.Spec.Ports = slices.Delete(s.Spec.Ports, 1, 2) })},
	{name: "a NodePort changes", do: edits(func(s *v1.Service) { s.Spec.Ports[0].NodePort = 30081 })},
	{name: "source ranges are set", do: edits(func(s *v1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24", "10.0.0.0/8"} })},
	{name: "source ranges are removed", do: edits(func(s *v1.Service) { s.Spec.LoadBalancerSourceRanges = nil })},
	{name: "an internal Service with policy Local is created", do: creates("shop", internal, local)},
	{name: "a node joins", do: joins(3)},
	{name: "a node leaves", do: leaves(0)},
	{name: "a node without a providerID joins", do: node(7, func(n *v1.Node) { n.Spec.ProviderID = "" })},
	{name: "a node of another cloud joins", do: node(8, func(n *v1.Node) { n.Spec.ProviderID = "other://machine-8" })},
	{name: "a node is excluded by its label", do: node(1, func(n *v1.Node) { n.Labels[v1.LabelNodeExcludeBalancers] = "" })},
	{name: "the label reads false", do: node(1, func(n *v1.Node) { n.Labels[v1.LabelNodeExcludeBalancers] = "false" })},
	{name: "the label is removed", do: node(1, func(*v1.Node) {})},
	{name: "a node's address changes", do: node(2, func(n *v1.Node) { n.Status.Addresses[0].Address = "10.0.0.250" })},
	{name: "a node turns not ready", do: node(2, func(n *v1.Node) { n.Status.Conditions[0].Status = v1.ConditionFalse })},
	{name: "it is ready again", do: node(2, func(*v1.Node) {})},
	{name: "session affinity is set", do: edits(func(s *v1.Service) { s.Spec.SessionAffinity = v1.ServiceAffinityClientIP })},
	{name: "session affinity is removed", do: edits(func(s *v1.Service) { s.Spec.SessionAffinity = v1.ServiceAffinityNone })},
	{name: "the traffic policy turns Local", do: edits(local)},
	{name: "and Cluster again", do: edits(func(s *v1.Service) {
		s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = v1.ServiceExternalTrafficPolicyCluster, 0
	})},
	{name: "the scheme changes to internal", do: annotates("scheme", "internal")},
	{name: "an annotation has a value that is none", do: annotates("scheme", "interal")},
	{name: "it is removed", do: annotates("scheme", "")},
	{name: "the type changes to ClusterIP", do: edits(func(s *v1.Service) { s.Spec.Type = v1.ServiceTypeClusterIP })},
	{name: "and back to LoadBalancer", do: edits(func(s *v1.Service) { s.Spec.Type = v1.ServiceTypeLoadBalancer })},
	{name: "a Service of another class is created", do: creates("foreign", func(s *v1.Service) { class := "example.com/other"; s.Spec.LoadBalancerClass = &class })},

	{
		name: "the autoscaler is about to delete a node", do: node(2, func(n *v1.Node) {
			n.Spec.Taints = []v1.Taint{{Key: nodes.TaintAutoscalerDelete, Effect: v1.TaintEffectNoSchedule}}
		}),
		differs: "the stock controller does not look at taints until something else makes it look at nodes",
	},
	{name: "it does not delete it", do: node(2, func(*v1.Node) {})},
	{
		name: "somebody deletes a load balancer",
		do: func(t *testing.T, c *Cluster) {
			if err := c.DeleteLoadBalancer(t.Context(), "fw-default-web"); err != nil {
				t.Fatal(err)
			}
		},
		differs: "the stock controller never compares what is at rest with the cloud",
	},
	{name: "the Service is edited", do: edits(func(s *v1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"} })},

	{name: "a Service is deleted", do: deletes("web")},
	{name: "and made again under its name", do: creates("web", func(s *v1.Service) { s.UID = "uid-web-2" })},
	{name: "all are deleted", do: func(t *testing.T, c *Cluster) {
		for _, name := range []string{"web", "shop", "foreign"} {
			deletes(name)(t, c)
		}
	}},
}

// settled is after how long a step's effects have ended: new nodes are waited for
// together, retries back off, targets drain for five minutes and interfaces of
// deleted load balancers linger. Our sweeps, every ten minutes, come within it.
const settled = 20 * time.Minute

// TestStockControllerReachesTheSameState has the framework's Service controller, on
// our adapter, and our own live through the same in two clusters, and compares the
// accounts after each step, field by field.
func TestStockControllerReachesTheSameState(t *testing.T) {
	Test(t, func(t *testing.T) {
		ours := startCluster(t, func(r *Run) error { return r.OurController(loadbalancer.Options{}) })
		stock := startCluster(t, (*Run).StockController)
		seed := look(t, ours)
		for _, s := range steps {
			s.do(t, ours)
			s.do(t, stock)
			time.Sleep(settled)
			a, b := look(t, ours), look(t, stock)
			difference := differing(a, b)
			switch {
			case s.differs == "" && len(difference) > 0:
				t.Errorf("%s: ours (+) and the stock controller (-) differ:\n%s", s.name, strings.Join(difference, "\n"))
			case s.differs != "" && len(difference) == 0:
				t.Errorf("%s: no difference is left, though %s", s.name, s.differs)
			case s.differs != "":
				t.Logf("%-52s %3d fields in %2d things; differ in %d by design: %s", s.name, len(a), things(a), len(difference), s.differs)
			default:
				t.Logf("%-52s %3d fields in %2d things, equal", s.name, len(a), things(a))
			}
		}
		if left := differing(look(t, stock), seed); len(left) > 0 {
			t.Errorf("in the end there is left:\n%s", strings.Join(left, "\n"))
		}
	})
}

// startCluster returns a cluster of three nodes with one of the controllers.
func startCluster(t *testing.T, controller func(*Run) error) *Cluster {
	t.Helper()
	c, err := NewCluster(3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	r, err := c.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	if err := controller(r); err != nil {
		t.Fatal(err)
	}
	return c
}

func look(t *testing.T, c *Cluster) []string {
	t.Helper()
	lines, err := c.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// differing returns the lines of one only, those of a with a plus.
func differing(a, b []string) []string {
	var lines []string
	for _, line := range a {
		if !slices.Contains(b, line) {
			lines = append(lines, "+ "+line)
		}
	}
	for _, line := range b {
		if !slices.Contains(a, line) {
			lines = append(lines, "- "+line)
		}
	}
	return lines
}

// things returns how many things the lines of a snapshot are about.
func things(lines []string) int {
	of := map[string]bool{}
	for _, line := range lines {
		kind, rest, _ := strings.Cut(line, " ")
		name, _, _ := strings.Cut(rest, ".")
		of[kind+fmt.Sprint(" ", name)] = true
	}
	return len(of)
}
