package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/fairway-lb/fairway/e2e/environment"
	"github.com/fairway-lb/fairway/e2e/manifests"
	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// The three manifests the project began from, word for word, each reached as
// its type promises.
func TestSeedManifests(t *testing.T) {
	apply(t, manifests.MyApp)
	kubectl(t, "", "rollout", "status", "deployment/my-app", "--timeout=60s")
	apply(t, manifests.ClusterIP)
	apply(t, manifests.NodePort)
	apply(t, manifests.LoadBalancer)

	t.Run("ClusterIP from a Pod", func(t *testing.T) {
		ip := kubectl(t, "", "get", "service", "my-clusterip-service", "-o", "jsonpath={.spec.clusterIP}")
		for _, pod := range strings.Fields(kubectl(t, "", "get", "pods", "-l", "app=my-app", "-o", "jsonpath={.items[*].metadata.name}")) {
			from, err := env.PodNetNS("default", pod)
			if err != nil {
				t.Fatal(err)
			}
			reachesAll(t, from, ip, 80, 3)
		}
	})
	t.Run("NodePort on every node", func(t *testing.T) {
		// From inside the VPC: the nodes' security group lets nobody else in.
		main, err := sandbox.Current()
		if err != nil {
			t.Fatal(err)
		}
		for _, node := range env.Nodes() {
			reachesAll(t, main, node.Address.String(), 30080, 3)
			if reply, err := outside().Get(t.Context(), node.Address.String(), 30080); err == nil {
				t.Errorf("%s answered a client outside at its NodePort: %+v", node.Name, reply)
			}
		}
	})
	t.Run("LoadBalancer from outside", func(t *testing.T) {
		host := balancer(t, "my-loadbalancer-service", 80)
		if !strings.HasSuffix(host, ".elb.eu-west-1.amazonaws.com") {
			t.Errorf("the load balancer's name is %s", host)
		}
		reachesAll(t, env.Outside, host, 80, 3)
		ports := kubectl(t, "", "get", "service", "my-loadbalancer-service", "-o",
			"jsonpath={.status.loadBalancer.ingress[0].ports[*].port}/{.status.loadBalancer.ingress[0].ports[*].protocol}")
		if ports != "80/TCP" {
			t.Errorf("the status lists ports %q", ports)
		}
	})
}

// The two commands the project began from, word for word.
func TestSeedExposeCommands(t *testing.T) {
	apply(t, manifests.Exposed)
	kubectl(t, "", "rollout", "status", "deployment/myapp", "--timeout=60s")
	kubectl(t, "", "wait", "--for=condition=Ready", "pod/myapp", "--timeout=60s")

	t.Run("pod", func(t *testing.T) {
		expose(t, "myapp-svc", "expose pod myapp --name=myapp-svc --port=8080 --target-port=80 --type=NodePort")
		port := kubectl(t, "", "get", "service", "myapp-svc", "-o", "jsonpath={.spec.ports[0].nodePort}")
		main, err := sandbox.Current()
		if err != nil {
			t.Fatal(err)
		}
		for _, node := range env.Nodes() {
			reachesAll(t, main, node.Address.String(), atoi(t, port), 1)
		}
	})
	t.Run("deployment", func(t *testing.T) {
		expose(t, "myapp-lb", "expose deployment myapp --type=LoadBalancer --name=myapp-lb")
		host := balancer(t, "myapp-lb", 80)
		reachesAll(t, env.Outside, host, 80, 2)
	})
}

func expose(t *testing.T, service, command string) {
	t.Helper()
	kubectl(t, "", strings.Fields(command)...)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := env.Kubectl(ctx, "", "delete", "service", service); err != nil {
			t.Error(err)
		}
	})
}

// reachesAll asks until as many different Pods have answered as there are
// behind a Service. The first answer may be waited for, while the Service is
// being programmed; from then on every request must be answered.
func reachesAll(t *testing.T, from *sandbox.NetNS, host string, port, pods int) {
	t.Helper()
	client := environment.ClientIn(from)
	ask := func(ctx context.Context) (environment.Reply, error) { return client.Get(ctx, host, port) }
	eventually(t, fmt.Sprintf("an answer at %s port %d", host, port), func(ctx context.Context) error {
		_, err := ask(ctx)
		return err
	})
	const most = 60 // three Pods all answer within 60 requests but once in 10^10 runs
	seen := map[string]int{}
	for range most {
		reply, err := ask(t.Context())
		if err != nil {
			t.Fatalf("%s port %d from %s, after %v: %v", host, port, from.Name(), seen, err)
		}
		if seen[reply.Pod]++; len(seen) == pods {
			return
		}
	}
	t.Errorf("%s port %d: %d Pods answered %d requests, want %d Pods: %v", host, port, len(seen), most, pods, seen)
}
