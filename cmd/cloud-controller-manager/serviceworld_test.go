//go:build !no_aws

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	"k8s.io/cloud-provider/app"
	cloudconfig "k8s.io/cloud-provider/app/config"
	ccmconfig "k8s.io/cloud-provider/config"
	serviceconfig "k8s.io/cloud-provider/controllers/service/config"
	componentconfig "k8s.io/component-base/config"
	controllersmetrics "k8s.io/component-base/metrics/prometheus/controllers"
	genericmanager "k8s.io/controller-manager/app"
	genericconfig "k8s.io/controller-manager/config"
	"k8s.io/utils/ptr"

	"github.com/fairway-lb/fairway/controllers/loadbalancer"
	"github.com/fairway-lb/fairway/controllers/servicetest"
	"github.com/fairway-lb/fairway/providers/aws"
	"github.com/fairway-lb/fairway/providers/fake"
	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/lb"
)

// serviceWorld is our Service controller as this program starts it, between an API
// server in memory and a fake account that the real SDK reaches under the IAM
// policy that docs/ ships, with credentials from a file; all in virtual time.
type serviceWorld struct {
	*testing.T
	account *fakeaws.Account
	client  *kubefake.Clientset
	http    *http.Client
	events  *reasons
	keys    string               // path of the credentials file
	options loadbalancer.Options // of the next start
	stock   bool                 // with the framework's own Service controller

	manager *manager
	end     context.CancelFunc // SIGTERM
	cleanUp func()
}

const leaseName = "cloud-controller-manager"

func serviceAccount(t *testing.T) fakeaws.World {
	t.Helper()
	policy, err := os.ReadFile("../../docs/aws/iam-policy.json")
	if err != nil {
		t.Fatal(err)
	}
	w := fakeaws.World{
		Region: "eu-west-1", AccountID: "123456789012", VPC: fakeaws.VPC{ID: nodesVPC, CIDR: netip.MustParsePrefix("10.0.0.0/16")},
		PublicPool: netip.MustParsePrefix("203.0.113.0/24"), Throttle: &fakeaws.Throttle{Off: true},
		Subnets: []fakeaws.Subnet{{ID: "subnet-0a0000000000000a1", Zone: "eu-west-1a", CIDR: netip.MustParsePrefix("10.0.0.0/20"), Public: true}},
		SecurityGroups: []fakeaws.SecurityGroup{{ID: "sg-0bbbbbbbbbbbbbbbb", Name: "nodes",
			Tags: map[string]string{"kubernetes.io/cluster/demo": "owned"}}},
		Policies:       []json.RawMessage{json.RawMessage(strings.ReplaceAll(string(policy), "${CLUSTER_NAME}", "demo"))},
		Administrators: []string{"AKIDOPERATOR"},
	}
	for n := range 3 {
		w.Instances = append(w.Instances, fakeaws.Instance{ID: machineID(n), Subnet: w.Subnets[0].ID,
			PrivateIP: netip.MustParseAddr(privateIP(n)), SecurityGroups: []string{"sg-0bbbbbbbbbbbbbbbb"}})
	}
	return w
}

// withServices runs test with a running controller and three nodes. What the test
// is about is not drowned in looks at single Services.
func withServices(t *testing.T, test func(*serviceWorld), edits ...func(*fakeaws.World)) {
	t.Helper()
	seed := serviceAccount(t)
	for _, edit := range edits {
		edit(&seed)
	}
	keys := write(t, "credentials", credentialsFile("AKIDFIRST"))
	t.Setenv("AWS_CONFIG_FILE", os.DevNull)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", keys)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CA_BUNDLE", "")
	synctest.Test(t, func(t *testing.T) {
		w := &serviceWorld{T: t, events: &reasons{}, keys: keys, options: loadbalancer.Options{VerifyEvery: 1000 * time.Hour}}
		account, err := fakeaws.New(seed)
		if err != nil {
			t.Fatal(err)
		}
		defer account.Close()
		w.account = account
		pipe := fake.NewPipe()
		server := &http.Server{Handler: account, ReadHeaderTimeout: time.Minute}
		go func() { _ = server.Serve(pipe) }() // returns when closed
		defer server.Close()
		transport := &http.Transport{DialContext: pipe.Dial}
		defer transport.CloseIdleConnections()
		w.http = &http.Client{Transport: transport, Timeout: 30 * time.Second}
		w.cluster("uid-1")
		w.start()
		defer func() { w.stop() }() // whichever runs by then, also after a failure
		test(w)
		if v := account.Violations(); len(v) > 0 {
			t.Errorf("requests that AWS would call malformed: %q", v)
		}
	})
}

func credentialsFile(key string) string {
	return "[default]\naws_access_key_id = " + key + "\naws_secret_access_key = secret-of-" + key + "\n"
}

func (w *serviceWorld) put(o runtime.Object) {
	w.Helper()
	if err := w.client.Tracker().Add(o); err != nil {
		w.Fatal(err)
	}
}

// cluster makes a new cluster, with three nodes and the lease of our controller.
func (w *serviceWorld) cluster(uid types.UID) {
	w.Helper()
	w.client = servicetest.NewClient()
	w.put(&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceSystem, UID: uid}})
	w.put(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: leaseName},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: ptr.To("me")}})
	for n := range 3 {
		node := known(n)
		node.Labels = map[string]string{v1.LabelTopologyZone: "eu-west-1a"}
		w.put(node)
	}
}

// start starts the program's controller, which knows nothing.
func (w *serviceWorld) start() {
	w.Helper()
	ctx, end := context.WithCancel(w.Context())
	w.manager, w.end = newManager(ctx), end
	w.manager.options = w.options
	if w.stock {
		w.manager.services = stockServices
	}
	open := func(ctx context.Context, c lb.Cluster) (lb.Provider, error) {
		return aws.New(ctx, aws.Config{Cluster: aws.ClusterConfig{Name: "demo"}, VPC: nodesVPC}, c, awsconfig.WithRegion("eu-west-1"),
			awsconfig.WithHTTPClient(w.http), awsconfig.WithBaseEndpoint("http://aws.test"), aws.Reporting(loadbalancer.ObserveCall))
	}
	cloud := assemble("aws", "demo", open, 30*time.Minute, w.events)
	cloud.Initialize(builder{w.client}, nil)
	config := (&cloudconfig.Config{
		ClientBuilder: builder{w.client}, VersionedClient: w.client, EventRecorder: w.events,
		SharedInformers: informers.NewSharedInformerFactory(w.client, 12*time.Hour),
		ComponentConfig: ccmconfig.CloudControllerManagerConfiguration{
			ServiceController: serviceconfig.ServiceControllerConfiguration{ConcurrentServiceSyncs: 10},
			Generic: genericconfig.GenericControllerManagerConfiguration{LeaderElection: componentconfig.LeaderElectionConfiguration{
				LeaderElect: true, ResourceNamespace: metav1.NamespaceSystem, ResourceName: leaseName}},
		},
	}).Complete()
	// The framework's leader context, which no signal ends.
	leading, lost := context.WithCancel(context.Background())
	if _, _, err := w.manager.construct(app.ControllerInitContext{}, config, cloud)(leading,
		genericmanager.ControllerContext{ControllerManagerMetrics: controllersmetrics.NewControllerManagerMetrics("test")}); err != nil {
		w.Fatal(err)
	}
	config.SharedInformers.Start(leading.Done())
	w.cleanUp = func() { lost(); config.SharedInformers.Shutdown() }
	pass(time.Second)
}

// stop ends the program as SIGTERM does.
func (w *serviceWorld) stop() {
	w.end()
	w.manager.wait()
	w.cleanUp()
}

// create makes a Service with one port.
func (w *serviceWorld) create(name string, edits ...func(*v1.Service)) {
	w.Helper()
	s := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), CreationTimestamp: metav1.Now()},
		Spec: v1.ServiceSpec{Type: v1.ServiceTypeLoadBalancer, IPFamilies: []v1.IPFamily{v1.IPv4Protocol},
			Ports: []v1.ServicePort{{Port: 80, NodePort: 30080, Protocol: v1.ProtocolTCP}}},
	}
	for _, edit := range edits {
		edit(s)
	}
	if _, err := w.client.CoreV1().Services("default").Create(w.Context(), s, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
}

// get returns a Service, nil when there is none.
func (w *serviceWorld) get(name string) *v1.Service {
	w.Helper()
	s, err := w.client.CoreV1().Services("default").Get(w.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.Fatal(err)
	}
	return s
}

func (w *serviceWorld) change(name string, edit func(*v1.Service)) {
	w.Helper()
	s := w.get(name)
	edit(s)
	if _, err := w.client.CoreV1().Services("default").Update(w.Context(), s, metav1.UpdateOptions{}); err != nil {
		w.Fatal(err)
	}
}

// condition returns "status reason" of a Service's condition.
func (w *serviceWorld) condition(name string) string {
	w.Helper()
	c := meta.FindStatusCondition(w.get(name).Status.Conditions, loadbalancer.ConditionReady)
	if c == nil {
		return ""
	}
	return string(c.Status) + " " + c.Reason
}

func (w *serviceWorld) expect(what string, got, want any) {
	w.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		w.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// left lists what clients made in the account, by kind.
func (w *serviceWorld) left() map[string]int {
	kinds := map[string]int{}
	for _, r := range w.account.Leftovers() {
		kinds[r.Kind]++
	}
	return kinds
}

// called returns and forgets how often each operation was called.
func (w *serviceWorld) called() map[string]int {
	counts := map[string]int{}
	for _, c := range w.account.Calls().Calls() {
		counts[c.Operation]++
	}
	w.account.Calls().Reset()
	return counts
}

// deleteLoadBalancer deletes a Service's as an operator would in the console.
func (w *serviceWorld) deleteLoadBalancer(name string) {
	w.Helper()
	for _, r := range w.account.Leftovers() {
		if r.Kind != "load-balancer" || r.Tags["fairway.io/service"] != "default/"+name {
			continue
		}
		form := url.Values{"Action": {"DeleteLoadBalancer"}, "Version": {"2015-12-01"}, "LoadBalancerArn": {r.ID}}
		request, err := http.NewRequestWithContext(w.Context(), http.MethodPost, "http://aws.test/", strings.NewReader(form.Encode()))
		if err != nil {
			w.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIDOPERATOR/20000101/eu-west-1/elasticloadbalancing/aws4_request, "+
			"SignedHeaders=host, Signature=0")
		answer, err := w.http.Do(request)
		if err != nil {
			w.Fatal(err)
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			w.Fatalf("deleting the load balancer of %s: %s", name, answer.Status)
		}
		return
	}
	w.Fatalf("%s has no load balancer", name)
}

// reasons is a recorder that keeps "object reason: message" of events.
type reasons struct {
	record.EventRecorder
	mu  sync.Mutex
	all []string
}

func (r *reasons) Eventf(o runtime.Object, _, reason, format string, args ...any) {
	name := ""
	switch o := o.(type) {
	case *v1.Service:
		name = o.Name
	case *v1.ObjectReference:
		name = o.Kind
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, name+" "+reason+": "+fmt.Sprintf(format, args...))
}

// since returns and forgets the events so far.
func (r *reasons) since() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.all
	r.all = nil
	return all
}

// short leaves the messages out, and sorts.
func short(events []string) []string {
	all := make([]string, len(events))
	for i, e := range events {
		all[i], _, _ = strings.Cut(e, ":")
	}
	slices.Sort(all)
	return all
}
