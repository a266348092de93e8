package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fairway-lb/fairway/e2e/cluster"
	"github.com/fairway-lb/fairway/e2e/environment"
	"github.com/fairway-lb/fairway/e2e/manifests"
	"github.com/fairway-lb/fairway/providers/fake"
	"github.com/fairway-lb/fairway/providers/fake/datapath"
)

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// loadBalancer is a manifest of a Service for my-app; more is put into its
// metadata and spec, each line indented as it must be.
func loadBalancer(name, annotations, spec string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata:
  name: %s
  annotations: {%s}
spec:
  type: LoadBalancer
  selector: {app: my-app}
  ports: [{name: web, port: 80, targetPort: 8080}]
%s`, name, annotations, spec)
}

// A wrong annotation is the business of the Service that has it: an event and a
// condition say what to change, the cloud hears nothing of it, and its
// neighbour comes up.
func TestWrongAnnotationHarmsNobodyElse(t *testing.T) {
	const scheme = "service.beta.kubernetes.io/aws-load-balancer-scheme"
	apply(t, manifests.MyApp)
	apply(t, loadBalancer("wrong", scheme+": outward", ""))
	apply(t, loadBalancer("right", scheme+": internet-facing", ""))
	balancer(t, "right", 80)
	eventually(t, "an event about the wrong annotation", func(ctx context.Context) error {
		events, err := env.Kubectl(ctx, "", "get", "events", "--field-selector", "involvedObject.name=wrong,type=Warning", "-o", "jsonpath={.items[*].message}")
		if err == nil && (!strings.Contains(events, scheme) || !strings.Contains(events, "outward")) {
			err = fmt.Errorf("the events say %q", events)
		}
		return err
	})
	left, err := env.Cloud.Leftovers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range left {
		if strings.Contains(fmt.Sprint(r), "wrong") {
			t.Errorf("something was made for it: %v", r)
		}
	}
	if _, err := env.Address(t.Context(), "default", "wrong"); err == nil {
		t.Error("it has an address")
	}
	// Mended, it comes up without further ado.
	kubectl(t, "", "annotate", "--overwrite", "service", "wrong", scheme+"=internet-facing")
	balancer(t, "wrong", 80)
}

func TestUDPThroughTheLoadBalancer(t *testing.T) {
	apply(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: udp}
spec:
  replicas: 2
  selector: {matchLabels: {app: udp}}
  template:
    metadata: {labels: {app: udp}}
    spec:
      containers: [{name: udp, image: udp, ports: [{containerPort: 5353, protocol: UDP}]}]
---
apiVersion: v1
kind: Service
metadata: {name: udp}
spec:
  type: LoadBalancer
  selector: {app: udp}
  ports: [{port: 53, targetPort: 5353, protocol: UDP}]
`)
	var host string
	eventually(t, "a datagram's answer", func(ctx context.Context) (err error) {
		if host, err = env.Address(ctx, "default", "udp"); err == nil {
			_, err = outside().Send(ctx, host, 53)
		}
		return err
	})
	pods := answeredBy(t, 40, func() (environment.Reply, error) { return outside().Send(t.Context(), host, 53) })
	if len(pods) != 2 {
		t.Errorf("answered by %v, want both Pods", pods)
	}
}

// Who is not in loadBalancerSourceRanges gets no answer; a change of the ranges
// is made in place.
func TestSourceRanges(t *testing.T) {
	apply(t, manifests.MyApp)
	apply(t, loadBalancer("ranges", "", "  loadBalancerSourceRanges: [198.51.100.0/24]\n"))
	host := balancer(t, "ranges", 80)
	kubectl(t, "", "patch", "service", "ranges", "--type=merge", "-p", `{"spec":{"loadBalancerSourceRanges":["192.0.2.0/24"]}}`)
	eventually(t, "the client to be shut out", func(ctx context.Context) error {
		if _, err := outside().Get(ctx, host, 80); err == nil {
			return errors.New("it is answered")
		}
		return nil
	})
	kubectl(t, "", "patch", "service", "ranges", "--type=merge", "-p", `{"spec":{"loadBalancerSourceRanges":null}}`)
	if again := balancer(t, "ranges", 80); again != host {
		t.Errorf("the load balancer was replaced: %s, before %s", again, host)
	}
}

// An internal load balancer has addresses of the VPC: a Pod reaches it, the
// internet does not.
func TestInternal(t *testing.T) {
	apply(t, manifests.MyApp)
	apply(t, loadBalancer("internal", `service.beta.kubernetes.io/aws-load-balancer-scheme: internal`, ""))
	kubectl(t, "", "rollout", "status", "deployment/my-app", "--timeout=60s")
	var host string
	inside := environment.ClientIn(env.Nodes()[0].NetNS)
	eventually(t, "an answer inside the VPC", func(ctx context.Context) (err error) {
		if host, err = env.Address(ctx, "default", "internal"); err == nil {
			_, err = inside.Get(ctx, host, 80)
		}
		return err
	})
	if reply, err := outside().Get(t.Context(), host, 80); err == nil {
		t.Errorf("a client on the internet was answered: %+v", reply)
	}
}

// carries asks the Service behind host, each time with success, until some
// connection has gone through the node.
func carries(t *testing.T, host string, node cluster.NodeConfig) func(context.Context) error {
	return func(ctx context.Context) error {
		if _, err := outside().Get(ctx, host, 80); err != nil {
			t.Error(err)
		}
		flows, err := env.Cloud.Flows(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(flows, func(f datapath.Flow) bool { return f.Target.Addr() == node.Address }) {
			return fmt.Errorf("no connection through %s", node.Name)
		}
		return nil
	}
}

// A node that joins becomes a target, one that leaves is none any more, and the
// clients notice neither.
func TestNodesComeAndGo(t *testing.T) {
	apply(t, manifests.MyApp)
	apply(t, loadBalancer("nodes", "", ""))
	host := balancer(t, "nodes", 80)

	fourth := cluster.DefaultNode(4)
	if err := env.Cloud.AddInstance(t.Context(), fourth); err != nil {
		t.Fatal(err)
	}
	if _, err := env.AddNode(t.Context(), fourth); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new node to carry traffic", carries(t, host, fourth))

	calls := func(operation string) int {
		counts, err := env.Cloud.Counts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return counts.Of(operation)
	}
	before := calls("DeregisterTargets")
	kubectl(t, "", "delete", "node", fourth.Name)
	eventually(t, "the node to be deregistered", func(context.Context) error {
		if calls("DeregisterTargets") == before {
			return errors.New("no call")
		}
		return nil
	})
	if err := env.RemoveNode(fourth.Name); err != nil {
		t.Fatal(err)
	}
	answeredBy(t, 30, func() (environment.Reply, error) { return outside().Get(t.Context(), host, 80) })
	if err := env.Cloud.RemoveInstance(t.Context(), fourth); err != nil {
		t.Fatal(err)
	}
}

// When the last Service is gone the account is as it was, also when the
// controller was away at the moment of the deletion.
func TestNothingIsLeft(t *testing.T) {
	apply(t, manifests.MyApp)
	apply(t, loadBalancer("last", "", ""))
	balancer(t, "last", 80)
	env.StopController()
	kubectl(t, "", "delete", "service", "last", "--wait=false")
	if out := kubectl(t, "", "get", "service", "last", "-o", "jsonpath={.metadata.deletionTimestamp}"); out == "" {
		t.Fatal("the Service is gone although nobody has cleaned up behind it")
	}
	if err := env.StartController(t.Context()); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "", "wait", "--for=delete", "service/last", "--timeout=60s")
	eventually(t, "an empty account", func(ctx context.Context) error {
		left, err := env.Cloud.Leftovers(ctx)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left: %v", left)
		}
		return err
	})
}

// A controller that is told to end by a signal finishes what it has begun, here
// through refusals of the cloud, and gives the lease back: nothing is left half
// made, and the next one need not wait.
func TestSIGTERMInTheMiddleOfWork(t *testing.T) {
	apply(t, manifests.MyApp)
	if err := env.Cloud.ForgetCalls(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := env.Cloud.PlanFaults(t.Context(), fake.Fault{Operation: "CreateListener", Kind: fake.FaultThrottle, Times: 2}); err != nil {
		t.Fatal(err)
	}
	apply(t, loadBalancer("halfway", "", ""))
	eventually(t, "a refused CreateListener", func(ctx context.Context) error {
		calls, err := env.Cloud.Calls(ctx)
		if err == nil && !slices.ContainsFunc(calls, func(c fake.Call) bool { return c.Operation == "CreateListener" }) {
			err = errors.New("none so far")
		}
		return err
	})
	env.StopController()
	lease := kubectl(t, "", "get", "lease", "-n", "kube-system", "cloud-controller-manager", "-o", "jsonpath={.spec.holderIdentity}")
	address, err := env.Address(t.Context(), "default", "halfway")
	if lease != "" || err != nil {
		t.Errorf("after the controller's end the lease is held by %q, and the address is %q (%v)", lease, address, err)
	}
	if err := env.StartController(t.Context()); err != nil {
		t.Fatal(err)
	}
	balancer(t, "halfway", 80)
}
