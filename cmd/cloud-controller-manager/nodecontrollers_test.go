//go:build !no_aws

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cloud-provider/api"

	fairway "github.com/fairway-lb/fairway/providers/cloudprovider"
	"github.com/fairway-lb/fairway/providers/fake"
	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
)

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
		pass(8 * time.Second)
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
