package virtual

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairway-lb/fairway/controllers/loadbalancer"
	"github.com/fairway-lb/fairway/controllers/nodes"
	"github.com/fairway-lb/fairway/providers/fake"
	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
)

// served is a cluster in which our controller runs and some Services are ready.
type served struct {
	*testing.T
	*Cluster
	services int
}

// serve runs a test in virtual time on a cluster of that many nodes and Services,
// of which every tenth sends to the nodes of the pool "edge" only.
func serve(t *testing.T, nodeCount, services int, test func(*served)) {
	t.Helper()
	Test(t, func(t *testing.T) {
		c, err := NewCluster(nodeCount)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s := &served{T: t, Cluster: c, services: services}
		s.relabel(0, "edge")
		s.relabel(1, "edge")
		for i := range services {
			s.Put(s.service(i))
		}
		r, err := c.Start()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Stop()
		err = r.OurController(loadbalancer.Options{SweepEvery: -1, VerifyEvery: 1000 * time.Hour,
			NodeFilter: nodes.Filter{ProviderIDPrefix: "aws://"}})
		if err != nil {
			t.Fatal(err)
		}
		s.until("all Services are ready", func() bool { return s.with("True", "Ready") == services })
		time.Sleep(5 * time.Minute)
		s.reset()
		test(s)
		if v := c.Violations(); len(v) > 0 {
			t.Errorf("the controller asked for what AWS does not have: %v", v)
		}
	})
}

func (s *served) service(i int) *v1.Service {
	svc := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("svc-%03d", i)},
		Spec: v1.ServiceSpec{Type: v1.ServiceTypeLoadBalancer, IPFamilies: []v1.IPFamily{v1.IPv4Protocol},
			Ports: []v1.ServicePort{{Port: 80, NodePort: int32(30000 + i), Protocol: v1.ProtocolTCP}}},
	}
	if i%10 == 0 {
		svc.Annotations = map[string]string{"service.beta.kubernetes.io/aws-load-balancer-target-node-labels": "pool=edge"}
	}
	return svc
}

func (s *served) relabel(n int, pool string) {
	node := Node(n)
	node.Labels["pool"] = pool
	s.Put(node)
}

func (s *served) edge() int { return (s.services + 9) / 10 }

// with counts the Services whose condition has that status and reason.
func (s *served) with(status metav1.ConditionStatus, reason string) int {
	n := 0
	for _, svc := range s.Services() {
		if c := meta.FindStatusCondition(svc.Status.Conditions, loadbalancer.ConditionReady); c != nil && c.Status == status && c.Reason == reason {
			n++
		}
	}
	return n
}

func (s *served) until(what string, holds func() bool) {
	s.Helper()
	for range 3600 {
		if holds() {
			return
		}
		time.Sleep(time.Second)
	}
	s.Fatalf("an hour later it does not hold that %s", what)
}

// reset forgets what was called and written.
func (s *served) reset() {
	s.Calls().Reset()
	s.Writes()
}

func (s *served) expect(what string, got, want any) {
	s.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		s.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// done returns how many calls of an operation changed something: that one too many
// at a time is refused and made again says nothing about the controller.
func (s *served) done(operation string) int {
	n := 0
	for _, c := range s.Calls().Counts() {
		if c.Operation == operation || operation == "" && c.Write {
			n += c.Calls - c.Errors
		}
	}
	return n
}

// sizes returns how many load balancers have how many targets that are not on
// their way out.
func (s *served) sizes() map[int]int {
	sizes := map[int]int{}
	for _, b := range s.Dataplane().LoadBalancers {
		for _, l := range b.Listeners {
			sizes[len(slices.DeleteFunc(slices.Clone(l.Targets), func(t fake.Target) bool { return t.State == fake.StateDraining }))]++
		}
	}
	return sizes
}

func (s *served) try(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// 50 nodes that join within five seconds are one registration per target group,
// and a handful of reads for all of them together.
func TestFiftyJoiningNodesAreOneRegistrationPerTargetGroup(t *testing.T) {
	serve(t, 6, 40, func(s *served) {
		for n := range 50 {
			s.try(s.Join(6 + n))
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		counts := s.Calls().Counts()
		s.expect("registrations", s.done("RegisterTargets"), 36)
		s.expect("writes in all", s.done(""), 36)
		if reads := counts.Reads(); reads > 5 {
			s.Errorf("%d reads:\n%v", reads, counts)
		}
		s.expect("targets of load balancers", s.sizes(), map[int]int{56: 36, 2: 4})
		time.Sleep(2 * time.Minute)
		s.expect("written to the API server", s.Writes(), map[string]int{"patch services/status": 36})
	})
}

// What a node does all day costs nothing; what concerns one pool's node costs
// those Services alone that send to it.
func TestNodeChangesCostThoseWhoSelectThem(t *testing.T) {
	serve(t, 6, 40, func(s *served) {
		for beat := range 60 { // ten minutes
			for n := range 6 {
				node := Node(n)
				if n < 2 {
					node.Labels["pool"] = "edge"
				}
				node.Status.Conditions[0].LastHeartbeatTime = metav1.Now()
				node.Annotations = map[string]string{"beat": fmt.Sprint(beat)}
				s.Put(node)
			}
			time.Sleep(10 * time.Second)
		}
		s.expect("calls for heartbeats", len(s.Calls().Calls()), 0)
		s.expect("writes for heartbeats", len(s.Writes()), 0)

		s.relabel(2, "edge")
		time.Sleep(time.Minute)
		s.expect("registrations of a node that enters the pool", s.done("RegisterTargets"), s.edge())
		s.expect("writes in all", s.done(""), s.edge())
		s.expect("targets of load balancers", s.sizes(), map[int]int{6: 36, 3: 4})

		s.reset()
		doomed := Node(2)
		doomed.Labels["pool"] = "edge"
		doomed.Spec.Taints = []v1.Taint{{Key: nodes.TaintKarpenterDisrupted, Effect: v1.TaintEffectNoSchedule}}
		s.Put(doomed)
		time.Sleep(time.Minute)
		s.expect("deregistrations of a node that drains", s.done("DeregisterTargets"), s.services)

		s.reset()
		s.Delete("nodes", doomed.Name)
		s.try(s.SetInstanceState(instanceOf(2), fakeaws.Terminated))
		time.Sleep(time.Minute)
		s.expect("calls when a drained node ends", len(s.Calls().Calls()), 0)
	})
}

// Nodes that are no machines of the account, or not yet, concern no Service.
func TestNodesThatCanBeNoTargetCostNothing(t *testing.T) {
	serve(t, 3, 10, func(s *served) {
		for i, edit := range []func(*v1.Node){
			func(n *v1.Node) { n.Spec.ProviderID = "" },
			func(n *v1.Node) { n.Spec.Taints = []v1.Taint{{Key: nodes.TaintUninitialized}} },
			func(n *v1.Node) { n.Spec.ProviderID = "kind://docker/kind/worker" },
			func(n *v1.Node) { n.Spec.ProviderID = "eks-hybrid:///eu-west-1/demo/mi-0123" },
			func(n *v1.Node) { n.Labels["type"] = "virtual-kubelet" },
			func(n *v1.Node) {
				n.Spec.ProviderID = "aws:///eu-west-1a/0123-4567/fargate-ip-10-0-0-11"
				n.Labels["eks.amazonaws.com/compute-type"] = "fargate"
			},
		} {
			n := Node(1000 + i)
			edit(n)
			s.Put(n)
			time.Sleep(time.Minute)
		}
		s.expect("calls", len(s.Calls().Calls()), 0)
		s.expect("writes", s.Writes(), map[string]int{})
		s.expect("Services that are ready", s.with("True", "Ready"), 10)
	})
}

// The list of Nodes is suddenly empty: the account's target groups stay as they
// are, at a small price, until the machines are gone as well.
func TestEmptyNodeListEmptiesNoTargetGroup(t *testing.T) {
	serve(t, 12, 40, func(s *served) {
		full := s.sizes()
		for n := range 12 {
			s.Delete("nodes", Node(n).Name)
		}
		time.Sleep(time.Minute)
		s.expect("targets", s.sizes(), full)
		s.expect("Services that say so", s.with("False", "Held"), 40)
		s.expect("writes to the cloud", s.Calls().Counts().Writes(), 0)
		time.Sleep(time.Hour)
		s.expect("targets an hour later", s.sizes(), full)
		counts := s.Calls().Counts()
		// All ask for the machines now and then, mostly sharing an answer, and look at
		// the rest no more often than any Service that nodes change.
		if machines, looks := counts.Of("DescribeInstances"), counts.Of("DescribeTargetHealth"); machines < 10 || machines > 200 || looks > 2*40 {
			s.Errorf("an hour of holding 40 Services costs:\n%v", counts)
		}
		writes := s.Writes()
		s.expect("status patches", writes["patch services/status"], 40)

		// Half of the machines turn out to be gone, then all.
		for n := range 6 {
			s.try(s.SetInstanceState(instanceOf(n), fakeaws.Terminated))
		}
		time.Sleep(10 * time.Minute)
		s.expect("targets when half of the machines are gone", s.sizes(), map[int]int{6: 36, 0: 4})
		for n := range 6 {
			s.try(s.SetInstanceState(instanceOf(6+n), fakeaws.Terminated))
		}
		time.Sleep(10 * time.Minute)
		s.expect("targets when all are gone", s.sizes(), map[int]int{0: 40})
		s.expect("Services without targets", s.with("False", "NoTargets"), 40)

		// A new node is there soon.
		s.try(s.Join(100))
		time.Sleep(2 * time.Minute) // the cloud refuses some of 36 at a time, and is asked again
		s.expect("targets with a new node", s.sizes(), map[int]int{1: 36, 0: 4})
	})
}

// Zones vanish from the list of Nodes while their machines run: one of three goes,
// two of three are held, and come back without a trace.
func TestVanishedZones(t *testing.T) {
	serve(t, 12, 9, func(s *served) {
		inZone := func(zone string) (all []int) {
			for n := range 12 {
				if strings.HasSuffix(zoneOf(n), zone) {
					all = append(all, n)
				}
			}
			return all
		}
		s.expect("targets", s.sizes(), map[int]int{12: 8, 2: 1})
		for _, n := range slices.Concat(inZone("b"), inZone("c")) {
			s.Delete("nodes", Node(n).Name)
		}
		time.Sleep(time.Minute)
		s.expect("targets without two zones", s.sizes(), map[int]int{12: 8, 1: 1})
		s.expect("Services held", s.with("False", "Held"), 8)
		for _, n := range inZone("b") {
			s.Put(Node(n))
		}
		time.Sleep(time.Minute)
		s.expect("targets without one zone", s.sizes(), map[int]int{8: 8, 1: 1})
		s.expect("Services ready", s.with("True", "Ready"), 9)
		for _, n := range inZone("c") {
			s.Put(Node(n))
		}
		time.Sleep(time.Minute)
		s.expect("targets with all zones", slices.Sorted(maps.Keys(s.sizes())), []int{1, 12})
	})
}

// A controller that starts does nothing to the account before it knows the Nodes,
// however long that takes.
func TestNothingIsTakenOutBeforeNodesAreKnown(t *testing.T) {
	serve(t, 6, 3, func(s *served) {
		full := s.sizes()
		second, err := s.Start()
		s.try(err)
		defer second.Stop()
		controller, err := loadbalancer.New(loadbalancer.Options{
			Client: second.Client.CoreV1(), Recorder: second.Recorder, Engine: second.Cloud,
			Services: second.Informer.Core().V1().Services(), Nodes: second.Informer.Core().V1().Nodes(),
		})
		s.try(err)
		second.running.Go(func() { controller.Run(second.ctx) })
		second.running.Go(func() { second.Informer.Core().V1().Services().Informer().RunWithContext(second.ctx) })
		time.Sleep(time.Hour)
		s.expect("calls", len(s.Calls().Calls()), 0)
		s.expect("targets", s.sizes(), full)
	})
}
