package cloudprovider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/api"

	"github.com/fairway-lb/fairway/providers/lb"
)

// machines is a cloud of machines: those in listed are in the cluster's network,
// those in known exist.
type machines struct {
	memory
	listed, known    []lb.Instance
	listErr, getErr  error
	lists, questions int
}

func (m *machines) InstanceID(providerID string) (string, bool) {
	return strings.CutPrefix(providerID, "memory://")
}

func (m *machines) ListInstances(context.Context, time.Duration) (*lb.Inventory, error) {
	m.lists++
	return lb.NewInventory(m.listed), m.listErr
}

func (m *machines) GetInstance(_ context.Context, id string) (lb.Instance, error) {
	m.questions++
	if m.getErr != nil {
		return lb.Instance{}, m.getErr
	}
	for _, i := range slices.Concat(m.known, m.listed) {
		if i.ID == id {
			return i, nil
		}
	}
	return lb.Instance{}, &lb.Error{Kind: lb.NotFound, Op: "read instance " + id}
}

func machine(id, ip string, state lb.InstanceState) lb.Instance {
	return lb.Instance{ID: id, ProviderID: "memory://" + id, State: state, Type: "big", Zone: "z1", Region: "r", Addresses: []lb.InstanceAddress{
		{Type: lb.InternalIP, Address: ip}, {Type: lb.Hostname, Address: id + ".internal"}}}
}

func running(id, ip string) lb.Instance { return machine(id, ip, lb.InstanceRunning) }

// worker returns a node; address and providerID may be empty.
func worker(name, address, providerID string, taints ...string) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.NodeSpec{ProviderID: providerID}}
	if address != "" {
		n.Status.Addresses = []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: address}}
	}
	for _, key := range taints {
		n.Spec.Taints = append(n.Spec.Taints, v1.Taint{Key: key})
	}
	return n
}

// serve returns the framework's view of m, in a cluster with these nodes.
func serve(t *testing.T, m *machines, nodes ...*v1.Node) (cloudprovider.InstancesV2, *Cloud, *record.FakeRecorder) {
	t.Helper()
	recorder := record.NewFakeRecorder(10)
	c := New(Config{Provider: "memory", ClusterName: "demo", Recorder: recorder,
		Open: func(context.Context, lb.Cluster) (lb.Provider, error) { return m, nil }})
	client := fake.NewClientset(&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: "uid-1"}})
	for _, n := range nodes {
		if err := client.Tracker().Add(n); err != nil {
			t.Fatal(err)
		}
	}
	c.Initialize(clients{client}, nil)
	v2, ok := c.InstancesV2()
	if !ok {
		t.Fatal("no InstancesV2")
	}
	return v2, c, recorder
}

func TestNodeIsFoundByIDThenAddressThenName(t *testing.T) {
	a, b := running("a", "10.0.0.1"), running("b", "10.0.0.2")
	for _, c := range []struct {
		name  string
		node  *v1.Node
		known []lb.Instance
		want  string // providerID
		err   error
	}{
		{"by providerID", worker("x", "10.0.0.9", "memory://b"), nil, "memory://b", nil},
		{"by providerID though the address is another machine's", worker("x", "10.0.0.1", "memory://b"), nil, "memory://b", nil},
		{"by providerID in a network that is not listed", worker("x", "", "memory://c"), []lb.Instance{running("c", "10.1.0.3")}, "memory://c", nil},
		{"never by address when it has a providerID", worker("x", "10.0.0.1", "memory://gone"), nil, "", nil},
		{"by address", worker("b", "10.0.0.1", ""), nil, "memory://a", nil},
		{"by name", worker("b", "", ""), nil, "memory://b", nil},
		{"by name when no machine has its address", worker("b.internal", "10.0.0.9", ""), nil, "memory://b", nil},
		{"by nothing", worker("x", "10.0.0.9", ""), nil, "", cloudprovider.InstanceNotFound},
		{"terminated", worker("x", "", "memory://t"), []lb.Instance{machine("t", "", lb.InstanceTerminated)}, "", cloudprovider.InstanceNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			v2, _, _ := serve(t, &machines{listed: []lb.Instance{a, b}, known: c.known})
			got, err := v2.InstanceMetadata(t.Context(), c.node)
			if c.want == "" {
				if err == nil || c.err != nil && !errors.Is(err, c.err) {
					t.Fatalf("got %v, error %v; want an error", got, err)
				}
				return
			}
			if err != nil || got.ProviderID != c.want || got.InstanceType != "big" || got.Zone != "z1" || got.Region != "r" || len(got.NodeAddresses) != 2 {
				t.Errorf("got %+v, error %v; want %s", got, err, c.want)
			}
		})
	}
}

// TestNodesOfOthersAreLeftAlone: none of the three questions leads the framework to
// do anything, nor costs a call.
func TestNodesOfOthersAreLeftAlone(t *testing.T) {
	m := &machines{}
	v2, _, _ := serve(t, m)
	for _, n := range []*v1.Node{worker("x", "10.0.0.1", "azure:///vm"), worker("x", "10.0.0.1", "azure:///vm", api.TaintExternalCloudProvider)} {
		metadata, err := v2.InstanceMetadata(t.Context(), n)
		// The framework follows the pointer of a node that bears no taint.
		if tainted := len(n.Spec.Taints) > 0; err != nil || (metadata == nil) != tainted || metadata != nil && (metadata.ProviderID != "" || len(metadata.NodeAddresses) > 0) {
			t.Errorf("tainted %v: metadata %+v, error %v", tainted, metadata, err)
		}
		if exists, err := v2.InstanceExists(t.Context(), n); !exists || err != nil {
			t.Errorf("exists %v, error %v", exists, err)
		}
		if off, err := v2.InstanceShutdown(t.Context(), n); off || err != nil {
			t.Errorf("shut down %v, error %v", off, err)
		}
	}
	if m.lists+m.questions > 0 {
		t.Errorf("the cloud was asked %d times", m.lists+m.questions)
	}
}

// TestNodeIsGoneOnlyByItsID: the framework deletes a Node when InstanceExists is
// false without an error, and never else.
func TestNodeIsGoneOnlyByItsID(t *testing.T) {
	other := running("other", "10.0.0.1")
	fails := func(k lb.ErrorKind) error { return &lb.Error{Kind: k, Op: "read"} }
	for _, c := range []struct {
		name          string
		cloud         *machines
		node          *v1.Node
		gone, off, ok bool
		questions     int
	}{
		{"it runs", &machines{listed: []lb.Instance{running("a", "10.0.0.2")}}, worker("x", "", "memory://a"), false, false, true, 0},
		{"it is off", &machines{listed: []lb.Instance{machine("a", "10.0.0.2", lb.InstanceStopped)}}, worker("x", "", "memory://a"), false, true, true, 0},
		{"it is not found by its ID", &machines{listed: []lb.Instance{other}}, worker("x", "", "memory://a"), true, false, true, 1},
		{"its ID says terminated", &machines{listed: []lb.Instance{other}, known: []lb.Instance{machine("a", "", lb.InstanceTerminated)}}, worker("x", "", "memory://a"), true, false, true, 1},
		{"terminated in the list, running by its ID", &machines{listed: []lb.Instance{machine("a", "", lb.InstanceTerminated)}, known: []lb.Instance{running("a", "")}}, worker("x", "", "memory://a"), false, false, true, 1},
		{"not in the list, running by its ID", &machines{listed: []lb.Instance{other}, known: []lb.Instance{running("a", "")}}, worker("x", "", "memory://a"), false, false, true, 1},
		{"the list is denied", &machines{listErr: fails(lb.Denied)}, worker("x", "", "memory://a"), false, false, false, 0},
		{"the list fails", &machines{listErr: fails(lb.Unavailable)}, worker("x", "", "memory://a"), false, false, false, 0},
		{"its ID is denied", &machines{listed: []lb.Instance{other}, getErr: fails(lb.Denied)}, worker("x", "", "memory://a"), false, false, false, 1},
		{"its ID is throttled", &machines{listed: []lb.Instance{other}, getErr: fails(lb.Throttled)}, worker("x", "", "memory://a"), false, false, false, 1},
		{"the account has no machine at all", &machines{}, worker("x", "", "memory://a"), false, false, false, 1},
		{"the network is not known", &machines{listErr: fails(lb.Pending)}, worker("x", "", "memory://a"), false, false, false, 1},
		{"the network is not known, the machine is", &machines{listErr: fails(lb.Pending), known: []lb.Instance{running("a", "")}}, worker("x", "", "memory://a"), false, false, true, 1},
		{"it has no ID", &machines{listed: []lb.Instance{other}}, worker("x", "10.0.0.9", ""), false, false, true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			v2, _, _ := serve(t, c.cloud)
			exists, err := v2.InstanceExists(t.Context(), c.node)
			if gone := !exists && err == nil; gone != c.gone || (err == nil) != c.ok {
				t.Errorf("exists %v, error %v; want gone %v", exists, err, c.gone)
			}
			if c.cloud.questions > c.questions {
				t.Errorf("%d questions by ID, want at most %d", c.cloud.questions, c.questions)
			}
			if c.gone {
				return // the framework does not ask further
			}
			if off, err := v2.InstanceShutdown(t.Context(), c.node); off != c.off || c.ok != (err == nil) {
				t.Errorf("shut down %v, error %v; want %v", off, err, c.off)
			}
		})
	}
}

func TestPauseKeepsNodes(t *testing.T) {
	other, off := running("other", "10.0.0.1"), machine("off", "10.0.0.2", lb.InstanceStopped)
	v2, cloud, _ := serve(t, &machines{listed: []lb.Instance{other, off}})
	for _, paused := range []bool{true, false} {
		cloud.PauseNodes(paused)
		if exists, err := v2.InstanceExists(t.Context(), worker("x", "", "memory://gone")); exists != paused || err != nil {
			t.Errorf("paused %v: exists %v, error %v", paused, exists, err)
		}
		if shut, err := v2.InstanceShutdown(t.Context(), worker("x", "", "memory://off")); shut == paused || err != nil {
			t.Errorf("paused %v: shut down %v, error %v", paused, shut, err)
		}
		if _, err := v2.InstanceMetadata(t.Context(), worker("other", "", "")); err != nil {
			t.Errorf("paused %v: a new node: %v", paused, err)
		}
	}
}

// TestAmbiguityIsACondition: it is told once, stays as long as it lasts, stops
// nothing but the one node, and is no reason to delete it.
func TestAmbiguityIsACondition(t *testing.T) {
	m := &machines{listed: []lb.Instance{running("a", "10.0.0.1"), running("b", "10.0.0.2")}}
	node := worker("x", "10.0.0.1", "", api.TaintExternalCloudProvider)
	node.Status.Addresses = append(node.Status.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: "10.0.0.2"})
	node.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionFalse}}
	v2, cloud, recorder := serve(t, m, node)
	now := func() *v1.Node {
		t.Helper()
		n, err := cloud.client.CoreV1().Nodes().Get(t.Context(), "x", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	conditions := func() string {
		var all []string
		for _, c := range now().Status.Conditions {
			all = append(all, fmt.Sprintf("%s=%s", c.Type, c.Status))
		}
		return strings.Join(all, " ")
	}
	for range 3 {
		if _, err := v2.InstanceMetadata(t.Context(), now()); err == nil || !strings.Contains(err.Error(), "a, b") || !strings.Contains(err.Error(), "--provider-id") {
			t.Fatalf("error %v, want both machines and what to do", err)
		}
	}
	if got := conditions(); got != "Ready=False fairway.io/InstanceAmbiguous=True" {
		t.Errorf("conditions %s", got)
	}
	if n := len(recorder.Events); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
	if exists, err := v2.InstanceExists(t.Context(), now()); !exists || err != nil {
		t.Errorf("exists %v, error %v", exists, err)
	}
	m.listErr = &lb.Error{Kind: lb.Denied, Op: "list"}
	if _, err := v2.InstanceMetadata(t.Context(), now()); lb.KindOf(err) != lb.Denied {
		t.Errorf("error %v", err)
	}
	if got := conditions(); !strings.Contains(got, "Ambiguous=True") {
		t.Errorf("conditions after a list that failed: %s", got)
	}
	m.listErr, m.listed = nil, m.listed[:1]
	if got, err := v2.InstanceMetadata(t.Context(), now()); err != nil || got.ProviderID != "memory://a" {
		t.Fatalf("when one is left: %v, error %v", got, err)
	}
	if got := conditions(); got != "Ready=False" {
		t.Errorf("conditions when one is left: %s", got)
	}
}

func TestProviderWithoutInstances(t *testing.T) {
	c := newCloud(&memory{}, opens)
	v2, _ := c.InstancesV2()
	if _, err := v2.InstanceMetadata(t.Context(), node("a")); !errors.Is(err, cloudprovider.NotImplemented) {
		t.Errorf("got %v", err)
	}
	if exists, err := v2.InstanceExists(t.Context(), node("a")); !exists || !errors.Is(err, cloudprovider.NotImplemented) {
		t.Errorf("exists %v, error %v", exists, err)
	}
}
