//go:build !no_aws

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/cloud-provider/api"
	cloudconfig "k8s.io/cloud-provider/app/config"
	ccmconfig "k8s.io/cloud-provider/config"
	nodeconfig "k8s.io/cloud-provider/controllers/node/config"
	lifecycleconfig "k8s.io/cloud-provider/controllers/nodelifecycle/config"
	"k8s.io/component-base/metrics/prometheus/controllers"
	genericmanager "k8s.io/controller-manager/app"

	"github.com/fairway-lb/fairway/providers/aws"
	fairway "github.com/fairway-lb/fairway/providers/cloudprovider"
	"github.com/fairway-lb/fairway/providers/fake"
	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/lb"
)

// nodeWorld is the framework's real node controllers, as this program starts them,
// between a fake API server and a fake account that is reached by the real SDK
// under the IAM policy that docs/ ships; all in virtual time.
type nodeWorld struct {
	*testing.T
	account *fakeaws.Account
	client  *kubefake.Clientset
	manager *manager
	end     context.CancelFunc // of the program
}

const nodesVPC = "vpc-0aaaaaaaaaaaaaaaa"

func machineID(n int) string  { return fmt.Sprintf("i-0b%015d", n) }
func privateIP(n int) string  { return fmt.Sprintf("10.0.%d.%d", n/200, 10+n%200) }
func providerID(n int) string { return "aws:///eu-west-1a/" + machineID(n) }
func privateName(n int) string {
	return "ip-" + strings.ReplaceAll(privateIP(n), ".", "-") + ".eu-west-1.compute.internal"
}
func nodeOf(n int) string { return fmt.Sprintf("node-%d", n) }
func readiness(v bool) []v1.NodeCondition {
	status := v1.ConditionFalse
	if v {
		status = v1.ConditionTrue
	}
	return []v1.NodeCondition{{Type: v1.NodeReady, Status: status}}
}

// known is a Ready node that was initialised: node n on machine n.
func known(n int) *v1.Node {
	return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeOf(n)}, Spec: v1.NodeSpec{ProviderID: providerID(n)},
		Status: v1.NodeStatus{Conditions: readiness(true), Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: privateIP(n)}}}}
}

// fresh is a node as a kubelet with --cloud-provider=external registers it.
func fresh(name string, addresses ...string) *v1.Node {
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1.NodeStatus{Conditions: readiness(false)},
		Spec: v1.NodeSpec{Taints: []v1.Taint{{Key: api.TaintExternalCloudProvider, Value: "true", Effect: v1.TaintEffectNoSchedule}}}}
	for _, a := range addresses {
		node.Status.Addresses = append(node.Status.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: a})
	}
	return node
}

// withNodes runs test with that many machines and the given Nodes.
func withNodes(t *testing.T, machines int, nodes []*v1.Node, test func(*nodeWorld), edits ...func(*manager)) {
	t.Helper()
	policy, err := os.ReadFile("../../docs/aws/iam-policy.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"} {
		t.Setenv(name, os.DevNull)
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CA_BUNDLE", "")
	// One of the handlers of errors pauses by a clock of the world outside.
	handlers := utilruntime.ErrorHandlers
	utilruntime.ErrorHandlers = handlers[:1]
	t.Cleanup(func() { utilruntime.ErrorHandlers = handlers })
	synctest.Test(t, func(t *testing.T) {
		w := fakeaws.World{
			Region: "eu-west-1", AccountID: "123456789012", VPC: fakeaws.VPC{ID: nodesVPC, CIDR: netip.MustParsePrefix("10.0.0.0/16")},
			PublicPool: netip.MustParsePrefix("203.0.113.0/24"), Timing: fakeaws.Timing{Latency: fake.Duration(80 * time.Millisecond)},
			Subnets:  []fakeaws.Subnet{{ID: "subnet-0a0000000000000a1", Zone: "eu-west-1a", CIDR: netip.MustParsePrefix("10.0.0.0/20")}},
			Policies: []json.RawMessage{json.RawMessage(strings.ReplaceAll(string(policy), "${CLUSTER_NAME}", "demo"))},
		}
		for n := range machines {
			i := fakeaws.Instance{ID: machineID(n), Subnet: w.Subnets[0].ID, PrivateIP: netip.MustParseAddr(privateIP(n))}
			if n == 0 {
				i.PublicIP = netip.MustParseAddr("203.0.113.100")
			}
			w.Instances = append(w.Instances, i)
		}
		account, err := fakeaws.New(w)
		if err != nil {
			t.Fatal(err)
		}
		defer account.Close()
		pipe := fake.NewPipe()
		server := &http.Server{Handler: account, ReadHeaderTimeout: time.Minute}
		go func() { _ = server.Serve(pipe) }() // returns when closed
		defer server.Close()
		transport := &http.Transport{DialContext: pipe.Dial}
		defer transport.CloseIdleConnections()

		ctx, end := context.WithCancel(t.Context())
		world := &nodeWorld{T: t, account: account, client: kubefake.NewClientset(), manager: newManager(ctx), end: end}
		world.put(&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceSystem, UID: "uid-1"}})
		for _, n := range nodes {
			world.put(n)
		}
		for _, edit := range edits {
			edit(world.manager)
		}
		stop := world.start(&http.Client{Transport: transport, Timeout: 30 * time.Second})
		test(world)
		end()
		world.manager.wait()
		stop()
		if v := account.Violations(); len(v) > 0 {
			t.Errorf("requests that AWS would call malformed: %q", v)
		}
	})
}

// start starts the controllers, with the intervals of the framework's flags, and
// returns how what they leave behind ends.
func (w *nodeWorld) start(client *http.Client) (stop func()) {
	w.Helper()
	events := record.NewBroadcaster()
	cloud := fairway.New(fairway.Config{Provider: "aws", ClusterName: "demo",
		Open: func(ctx context.Context, c lb.Cluster) (lb.Provider, error) {
			return aws.New(ctx, aws.Config{Cluster: aws.ClusterConfig{Name: "demo"}, VPC: nodesVPC}, c,
				awsconfig.WithRegion("eu-west-1"), awsconfig.WithHTTPClient(client), awsconfig.WithBaseEndpoint("http://aws.test"),
				awsconfig.WithCredentialsProvider(credentials.NewStaticCredentialsProvider("AKIDPROVIDER", "secret", "")))
		}})
	cloud.Initialize(builder{w.client}, nil)
	config := (&cloudconfig.Config{
		ClientBuilder: builder{w.client}, EventBroadcaster: events, SharedInformers: informers.NewSharedInformerFactory(w.client, 12*time.Hour),
		ComponentConfig: ccmconfig.CloudControllerManagerConfiguration{
			NodeStatusUpdateFrequency: metav1.Duration{Duration: 5 * time.Minute},
			NodeController:            nodeconfig.NodeControllerConfiguration{ConcurrentNodeSyncs: 10, ConcurrentNodeStatusUpdates: 10},
			NodeLifecycleController: lifecycleconfig.NodeLifecycleControllerConfiguration{
				NodeMonitorPeriod: metav1.Duration{Duration: 5 * time.Second}, ConcurrentNodeLifecycleSyncs: 10},
		},
	}).Complete()
	// The framework's leader context, which no signal ends.
	leading, lost := context.WithCancel(context.Background())
	for name, c := range w.manager.nodeControllers() {
		_, _, err := c.Constructor(c.InitContext, config, cloud)(leading, genericmanager.ControllerContext{
			ControllerManagerMetrics: controllers.NewControllerManagerMetrics("test")})
		if err != nil {
			w.Fatalf("start %s: %v", name, err)
		}
	}
	config.SharedInformers.Start(leading.Done())
	return func() { lost(); config.SharedInformers.Shutdown(); events.Shutdown() }
}

// builder is the framework's client builder around one client.
type builder struct{ kubernetes.Interface }

func (b builder) Config(string) (*rest.Config, error)         { return &rest.Config{}, nil }
func (b builder) ConfigOrDie(string) *rest.Config             { return &rest.Config{} }
func (b builder) Client(string) (kubernetes.Interface, error) { return b.Interface, nil }
func (b builder) ClientOrDie(string) kubernetes.Interface     { return b.Interface }

func (w *nodeWorld) put(o runtime.Object) {
	w.Helper()
	if err := w.client.Tracker().Add(o); err != nil {
		w.Fatal(err)
	}
}

// join registers a Node while the controllers run.
func (w *nodeWorld) join(n *v1.Node) {
	w.Helper()
	if _, err := w.client.CoreV1().Nodes().Create(w.Context(), n, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
}

// node returns a Node, nil when there is none.
func (w *nodeWorld) node(name string) *v1.Node {
	w.Helper()
	n, err := w.client.CoreV1().Nodes().Get(w.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.Fatal(err)
	}
	return n
}

// ready says that a node's kubelet is heard of, or is not.
func (w *nodeWorld) ready(name string, yes bool) {
	w.Helper()
	n := w.node(name)
	for i, c := range n.Status.Conditions {
		if c.Type == v1.NodeReady {
			n.Status.Conditions[i] = readiness(yes)[0]
		}
	}
	if _, err := w.client.CoreV1().Nodes().UpdateStatus(w.Context(), n, metav1.UpdateOptions{}); err != nil {
		w.Fatal(err)
	}
}

func (w *nodeWorld) state(n int, s fakeaws.InstanceState) {
	w.Helper()
	if err := w.account.SetInstanceState(machineID(n), s); err != nil {
		w.Fatal(err)
	}
}

func (w *nodeWorld) faults(faults ...fake.Fault) {
	w.Helper()
	if err := w.account.Faults().Set(faults); err != nil {
		w.Fatal(err)
	}
}

// pass lets virtual time go by.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// described returns how often instances were listed, and how often one was asked
// for by its ID.
func (w *nodeWorld) described() (lists, byID int) {
	for _, c := range w.account.Calls().Calls() {
		switch {
		case strings.HasPrefix(c.Resource, "vpc-id="):
			lists++
		case strings.HasPrefix(c.Resource, "i-"):
			byID++
		default:
			w.Errorf("another call: %s", c)
		}
	}
	return lists, byID
}

func tainted(n *v1.Node, key string) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t v1.Taint) bool { return t.Key == key })
}

func addresses(n *v1.Node) string {
	var all []string
	for _, a := range n.Status.Addresses {
		all = append(all, string(a.Type)+"="+a.Address)
	}
	return strings.Join(all, " ")
}

func TestNewNodeIsInitialised(t *testing.T) {
	withNodes(t, 3, nil, func(w *nodeWorld) {
		w.join(fresh("by-address", privateIP(0)))
		w.join(fresh(privateName(1)))
		w.join(fresh("ip-10-0-0-12"))
		pass(10 * time.Second)
		for n, name := range []string{"by-address", privateName(1), "ip-10-0-0-12"} {
			got := w.node(name)
			if tainted(got, api.TaintExternalCloudProvider) || got.Spec.ProviderID != providerID(n) {
				t.Errorf("%s: taints %v, providerID %q", name, got.Spec.Taints, got.Spec.ProviderID)
			}
			for label, want := range map[string]string{v1.LabelTopologyZone: "eu-west-1a", v1.LabelTopologyRegion: "eu-west-1", v1.LabelInstanceTypeStable: "m7i.large"} {
				if got.Labels[label] != want {
					t.Errorf("%s: label %s=%q, want %q", name, label, got.Labels[label], want)
				}
			}
		}
		want := "InternalIP=10.0.0.10 ExternalIP=203.0.113.100 InternalDNS=" + privateName(0) + " Hostname=" + privateName(0) +
			" ExternalDNS=ec2-203-0-113-100.eu-west-1.compute.amazonaws.com"
		if got := addresses(w.node("by-address")); got != want {
			t.Errorf("addresses %s\nwant      %s", got, want)
		}
	})
}

// A node may join before its machine is listed.
func TestNodeWaitsForItsMachine(t *testing.T) {
	withNodes(t, 1, nil, func(w *nodeWorld) {
		w.join(fresh("early", privateIP(7)))
		pass(time.Minute)
		if n := w.node("early"); !tainted(n, api.TaintExternalCloudProvider) || n.Spec.ProviderID != "" {
			t.Fatalf("initialised as nothing: %v", n.Spec)
		}
		if err := w.account.AddInstance(fakeaws.Instance{ID: machineID(7), Subnet: "subnet-0a0000000000000a1", PrivateIP: netip.MustParseAddr(privateIP(7))}); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Minute)
		if n := w.node("early"); tainted(n, api.TaintExternalCloudProvider) || n.Spec.ProviderID != providerID(7) {
			t.Errorf("not initialised: %v", n.Spec)
		}
	})
}

// All nodes of a sweep share one call, and so do those that join together.
func TestManyNodesCostOneList(t *testing.T) {
	const many = 100 // as many as the fake API server takes in a second or two
	var nodes []*v1.Node
	for n := range many {
		nodes = append(nodes, known(n))
	}
	withNodes(t, many+50, nodes, func(w *nodeWorld) {
		pass(4 * time.Minute)
		if lists, byID := w.described(); lists != 1 || byID != 0 {
			t.Errorf("the first sweep of %d nodes: %d lists, %d by ID; want 1 list", many, lists, byID)
		}
		if got := addresses(w.node(nodeOf(many - 1))); !strings.Contains(got, privateName(many-1)) {
			t.Errorf("addresses of the last %s", got)
		}
		w.account.Calls().Reset()
		pass(5 * time.Minute)
		if lists, byID := w.described(); lists != 1 || byID != 0 {
			t.Errorf("the next sweep: %d lists, %d by ID; want 1 list", lists, byID)
		}
		pass(2 * time.Minute)
		w.account.Calls().Reset()
		for n := many; n < many+50; n++ {
			w.join(fresh(nodeOf(n), privateIP(n)))
		}
		pass(30 * time.Second)
		for n := many; n < many+50; n++ {
			if got := w.node(nodeOf(n)).Spec.ProviderID; got != providerID(n) {
				t.Errorf("node %d: providerID %q", n, got)
			}
		}
		if lists, byID := w.described(); lists != 1 || byID != 0 {
			t.Errorf("50 nodes that join: %d lists, %d by ID; want 1 list", lists, byID)
		}
	})
}

func TestTerminatedInstanceTakesItsNodeAlong(t *testing.T) {
	withNodes(t, 3, []*v1.Node{known(0), known(1), known(2)}, func(w *nodeWorld) {
		pass(time.Minute)
		w.account.Calls().Reset()
		w.state(0, fakeaws.Terminated)
		pass(time.Minute)
		if w.node(nodeOf(0)) == nil {
			t.Fatal("the Node went while its kubelet was still heard of")
		}
		w.state(1, fakeaws.ShuttingDown)
		w.ready(nodeOf(0), false)
		w.ready(nodeOf(1), false)
		pass(time.Minute)
		if w.node(nodeOf(0)) != nil {
			t.Error("the Node of a terminated instance is still there")
		}
		if _, byID := w.described(); byID != 1 {
			t.Errorf("it was asked for by its ID %d times, want once", byID)
		}
		if n := w.node(nodeOf(1)); n == nil || tainted(n, api.TaintNodeShutdown) {
			t.Errorf("while its instance shuts down, the Node is %v", n)
		}
		w.state(1, fakeaws.Terminated)
		if err := w.account.RemoveInstance(machineID(1)); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if w.node(nodeOf(1)) != nil {
			t.Error("the Node of an instance that EC2 has forgotten is still there")
		}
		if w.node(nodeOf(2)) == nil {
			t.Error("the node that runs is gone")
		}
	})
}

func TestStoppedInstanceIsTaintedNotDeleted(t *testing.T) {
	withNodes(t, 2, []*v1.Node{known(0), known(1)}, func(w *nodeWorld) {
		w.state(1, fakeaws.Stopping)
		w.ready(nodeOf(1), false)
		pass(time.Minute)
		if n := w.node(nodeOf(1)); n == nil || tainted(n, api.TaintNodeShutdown) {
			t.Fatalf("while it stops, the Node is %v", n)
		}
		w.state(1, fakeaws.Stopped)
		pass(time.Minute)
		if n := w.node(nodeOf(1)); n == nil || !tainted(n, api.TaintNodeShutdown) {
			t.Fatalf("stopped, the Node is %v", n)
		}
		w.state(1, fakeaws.Running)
		w.ready(nodeOf(1), true)
		pass(time.Minute)
		if n := w.node(nodeOf(1)); tainted(n, api.TaintNodeShutdown) {
			t.Errorf("it runs again, taints %v", n.Spec.Taints)
		}
	})
}

// "Denied", "unreachable" and a wrong account are never "gone", however long they
// last, and cost few calls.
func TestNothingIsDeletedWithoutAnAnswer(t *testing.T) {
	// An hour of a call per minute, and of the SDK's six attempts every half minute.
	most := map[string]int{"denied": 61, "unreachable": 720}
	for name, trouble := range map[string]func(*nodeWorld){
		"denied": func(w *nodeWorld) {
			w.faults(fake.Fault{Operation: "DescribeInstances", Kind: fake.FaultError, Code: "UnauthorizedOperation", Status: 403, Times: -1})
		},
		"unreachable": func(w *nodeWorld) {
			w.faults(fake.Fault{Operation: "DescribeInstances", Kind: fake.FaultError, Code: "InternalError", Status: 500, Times: -1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 3, []*v1.Node{known(0), known(1), known(2)}, func(w *nodeWorld) {
				pass(10 * time.Second)
				trouble(w)
				w.account.Calls().Reset()
				w.state(0, fakeaws.Terminated)
				w.state(1, fakeaws.Terminated)
				w.ready(nodeOf(0), false)
				w.ready(nodeOf(1), false)
				pass(time.Hour)
				if w.node(nodeOf(0)) == nil || w.node(nodeOf(1)) == nil {
					t.Error("a Node was deleted")
				}
				if n := len(w.account.Calls().Calls()); n > most[name] {
					t.Errorf("%d calls in the hour, want at most %d", n, most[name])
				}
				w.faults()
				pass(time.Minute)
				if w.node(nodeOf(0)) != nil || w.node(nodeOf(1)) != nil || w.node(nodeOf(2)) == nil {
					t.Error("not exactly the Nodes of the terminated instances went when there were answers again")
				}
			})
		})
	}
	t.Run("another account", func(t *testing.T) {
		withNodes(t, 0, []*v1.Node{known(0), known(1)}, func(w *nodeWorld) {
			w.ready(nodeOf(0), false)
			pass(time.Hour)
			if w.node(nodeOf(0)) == nil {
				t.Error("a Node was deleted by an account that has no instances")
			}
		})
	})
}

func TestAmbiguousNodeWaits(t *testing.T) {
	withNodes(t, 2, nil, func(w *nodeWorld) {
		w.join(fresh("twofold", privateIP(0), privateIP(1)))
		pass(10 * time.Minute)
		n := w.node("twofold")
		if n == nil || !tainted(n, api.TaintExternalCloudProvider) || n.Spec.ProviderID != "" {
			t.Fatalf("the Node is %v", n)
		}
		i := slices.IndexFunc(n.Status.Conditions, func(c v1.NodeCondition) bool { return c.Type == fairway.ConditionAmbiguous })
		if i < 0 || n.Status.Conditions[i].Status != v1.ConditionTrue || !strings.Contains(n.Status.Conditions[i].Message, machineID(0)+", "+machineID(1)) {
			t.Fatalf("conditions %v", n.Status.Conditions)
		}
		n.Spec.ProviderID = providerID(1)
		if _, err := w.client.CoreV1().Nodes().Update(w.Context(), n, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		pass(20 * time.Minute)
		n = w.node("twofold")
		if tainted(n, api.TaintExternalCloudProvider) || len(n.Status.Conditions) != 1 {
			t.Errorf("told which it is, taints %v, conditions %v", n.Spec.Taints, n.Status.Conditions)
		}
	})
}

func TestForeignNodesAreNotTouched(t *testing.T) {
	var nodes []*v1.Node
	for n, id := range []string{"azure:///subscriptions/s/vm", "aws:///eu-west-1a/fargate-ip-10-0-0-9", "aws:///us-east-1a/i-0b000000000000009", "kwok://node"} {
		node := known(0)
		node.Name, node.Spec.ProviderID, node.Status.Conditions = fmt.Sprintf("foreign-%d", n), id, readiness(false)
		nodes = append(nodes, node)
		node = fresh(fmt.Sprintf("tainted-%d", n), privateIP(0))
		node.Spec.ProviderID = id
		nodes = append(nodes, node)
	}
	withNodes(t, 1, nodes, func(w *nodeWorld) {
		pass(time.Hour)
		for _, n := range nodes {
			if got := w.node(n.Name); got == nil || fmt.Sprint(got.Spec, got.Status) != fmt.Sprint(n.Spec, n.Status) {
				t.Errorf("%s was\n%v\nand is\n%v", n.Name, n, got)
			}
		}
		if lists, byID := w.described(); lists+byID > 0 {
			t.Errorf("%d calls", lists+byID)
		}
	})
}

func TestChangedAddressIsPickedUp(t *testing.T) {
	withNodes(t, 1, []*v1.Node{known(0)}, func(w *nodeWorld) {
		pass(time.Minute)
		if got := addresses(w.node(nodeOf(0))); !strings.Contains(got, "ExternalIP=203.0.113.100") {
			t.Fatalf("addresses %s", got)
		}
		w.state(0, fakeaws.Stopped) // and started again at another address
		w.state(0, fakeaws.Running)
		pass(5 * time.Minute)
		if got := addresses(w.node(nodeOf(0))); !strings.Contains(got, "ExternalIP=203.0.113.") || strings.Contains(got, "203.0.113.100") {
			t.Errorf("addresses %s", got)
		}
	})
}

func TestDryRunLeavesNodesAlone(t *testing.T) {
	withNodes(t, 1, []*v1.Node{fresh("new", privateIP(0)), known(5)}, func(w *nodeWorld) {
		w.ready(nodeOf(5), false)
		pass(time.Hour)
		if !tainted(w.node("new"), api.TaintExternalCloudProvider) || w.node(nodeOf(5)) == nil {
			t.Error("a dry run changed a Node")
		}
	}, func(m *manager) { m.options.DryRun = true })
}

// After the program's end, when another may lead, no Node is deleted any more.
func TestNodesAreLeftAloneAfterTheEnd(t *testing.T) {
	withNodes(t, 2, []*v1.Node{known(0), known(1)}, func(w *nodeWorld) {
		pass(time.Minute)
		w.end()
		w.manager.wait()
		w.state(0, fakeaws.Terminated)
		w.ready(nodeOf(0), false)
		pass(time.Hour)
		if w.node(nodeOf(0)) == nil {
			t.Error("a Node was deleted")
		}
	})
}
