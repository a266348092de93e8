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
