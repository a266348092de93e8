package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairway-lb/fairway/e2e/cluster"
	"github.com/fairway-lb/fairway/e2e/environment"
	"github.com/fairway-lb/fairway/e2e/manifests"
	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
)

// A node that registers as a kubelet does, knowing nothing of its cloud, is told by
// us what it is and becomes a target, at no cost to the load balancers but the
// registration. While its machine is stopped its Node stays, tainted; when that is
// terminated the Node goes by itself.
func TestNodeLivesAndDiesWithItsInstance(t *testing.T) {
	apply(t, manifests.MyApp)
	apply(t, loadBalancer("instances", "", ""))
	host := balancer(t, "instances", 80)
	if err := env.Cloud.ForgetCalls(t.Context()); err != nil {
		t.Fatal(err)
	}

	fifth := cluster.DefaultNode(5)
	fifth.Uninitialized = true
	if err := env.Cloud.AddInstance(t.Context(), fifth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Cloud.RemoveInstance(context.Background(), fifth); err != nil {
			t.Error(err)
		}
	})
	if _, err := env.AddNode(t.Context(), fifth); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node to be initialised", initialised(fifth))
	eventually(t, "the new node to carry traffic", carries(t, host, fifth))
	calls, err := env.Cloud.Calls(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range calls {
		if c.Operation == "DescribeInstances" && strings.HasPrefix(c.Resource, "instance-id=") {
			t.Errorf("the load balancers looked for the instance themselves: %s", c)
		}
	}

	set := func(state fakeaws.InstanceState) {
		if err := env.Cloud.SetInstanceState(t.Context(), fifth, state); err != nil {
			t.Fatal(err)
		}
	}
	set(fakeaws.Stopped)
	if err := env.RemoveNode(fifth.Name); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the taint of a node whose machine is off", func(ctx context.Context) error {
		return has(ctx, fifth.Name, "node.cloudprovider.kubernetes.io/shutdown", true)
	})
	set(fakeaws.Terminated)
	eventually(t, "the Node to go", func(ctx context.Context) error {
		_, err := env.Client.CoreV1().Nodes().Get(ctx, fifth.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("it is there"))
	})
	answeredBy(t, 10, func() (environment.Reply, error) { return outside().Get(t.Context(), host, 80) })
	if len(env.Nodes()) != 3 {
		t.Errorf("%d nodes are left", len(env.Nodes()))
	}
	for _, n := range env.Nodes() {
		if err := has(t.Context(), n.Name, "node.cloudprovider.kubernetes.io/shutdown", false); err != nil {
			t.Error(err)
		}
	}
}

// initialised says what a Node lacks of what a cloud controller manager gives it.
func initialised(config cluster.NodeConfig) func(context.Context) error {
	return func(ctx context.Context) error {
		node, err := env.Client.CoreV1().Nodes().Get(ctx, config.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if node.Spec.ProviderID != config.ProviderID {
			return fmt.Errorf("its providerID is %q", node.Spec.ProviderID)
		}
		for label, want := range map[string]string{corev1.LabelTopologyZone: config.Zone, corev1.LabelTopologyRegion: config.Region,
			corev1.LabelInstanceTypeStable: config.InstanceType} {
			if node.Labels[label] != want {
				return fmt.Errorf("its label %s is %q, want %q", label, node.Labels[label], want)
			}
		}
		for _, a := range node.Status.Addresses {
			if a.Type == corev1.NodeInternalDNS && strings.HasSuffix(a.Address, ".compute.internal") {
				return has(ctx, config.Name, "node.cloudprovider.kubernetes.io/uninitialized", false)
			}
		}
		return fmt.Errorf("its addresses are %v", node.Status.Addresses)
	}
}

// has is an error unless the Node bears the taint, or does not, as wanted.
func has(ctx context.Context, name, taint string, want bool) error {
	node, err := env.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == taint }) != want {
		return fmt.Errorf("the taints of %s are %v", name, node.Spec.Taints)
	}
	return nil
}
