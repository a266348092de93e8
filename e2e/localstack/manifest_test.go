package localstack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairway-lb/fairway/e2e/cluster"
	"github.com/fairway-lb/fairway/e2e/environment"
	"github.com/fairway-lb/fairway/e2e/manifests"
)

// bootTime is for Kubernetes and the controller to come up, awaited for each
// thing that shall happen then.
const (
	bootTime = 2 * time.Minute
	awaited  = time.Minute
)

// TestSeedManifest applies the manifest the project began from, word for word,
// to a real Kubernetes whose cloud is the emulator.
func TestSeedManifest(t *testing.T) {
	w := theWorld(t)
	c := startCluster(t, w)
	before := lookAt(t, w)
	if len(before) == 0 {
		t.Fatal("the world is empty: nothing can be seen in it")
	}

	kubectl(t, c, manifests.LoadBalancer, "apply", "-f", "-")
	var service *corev1.Service
	eventually(t, c, "the Service to have an address", func(ctx context.Context) (err error) {
		if service, err = c.Client.CoreV1().Services("default").Get(ctx, "my-loadbalancer-service", metav1.GetOptions{}); err != nil {
			return err
		}
		if len(service.Status.LoadBalancer.Ingress) == 0 {
			return fmt.Errorf("its status is %+v", service.Status)
		}
		return nil
	})
	w.expectServed(t, service)

	kubectl(t, c, manifests.LoadBalancer, "delete", "-f", "-", "--timeout=60s")
	eventually(t, c, "the account to be as it was", func(context.Context) error {
		if now := lookAt(t, w); !slices.Equal(before, now) {
			return fmt.Errorf("it holds:\n%s\nand at first held:\n%s", strings.Join(now, "\n"), strings.Join(before, "\n"))
		}
		return nil
	})
}

// startCluster boots a control plane, three nodes that are the world's instances
// and our controller with the emulator as its cloud.
func startCluster(t *testing.T, w *world) *cluster.Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	nodes := make([]cluster.NodeConfig, len(zones))
	for i := range nodes {
		nodes[i] = cluster.DefaultNode(i + 1)
		nodes[i].ProviderID = w.providerID(i + 1)
	}
	dir := t.TempDir()
	c, err := cluster.Start(ctx, cluster.Config{Binaries: os.Getenv(environment.KubernetesVariable), Nodes: nodes, LogDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			showLog(filepath.Join(dir, "cloud-controller-manager.log"))
		}
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	kubectl(t, c, "", "apply", "-f", filepath.Join(os.Getenv(environment.SourceVariable), "cmd", "cloud-controller-manager", "rbac.yaml"))
	kubeconfig, err := c.KubeconfigFor("system:serviceaccount:kube-system:fairway-cloud-controller-manager", "system:serviceaccounts", "system:serviceaccounts:kube-system")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "aws.yaml")
	configuration := fmt.Sprintf("apiVersion: fairway.io/v1alpha1\nkind: AWSConfig\ncluster: {name: %s}\nregion: %s\n", clusterName, region)
	if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Run(nil, "cloud-controller-manager", []string{
		"AWS_ENDPOINT_URL=" + endpoint, "AWS_EC2_METADATA_DISABLED=true", "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test",
	}, filepath.Join(os.Getenv(environment.ProgramsVariable), "cloud-controller-manager"),
		"--cloud-provider=aws", "--cloud-config="+file, "--kubeconfig="+kubeconfig, "--leader-elect=false"); err != nil {
		t.Fatal(err)
	}
	return c
}

// expectServed looks at everything that the Service shall have in the account.
func (w *world) expectServed(t *testing.T, s *corev1.Service) {
	t.Helper()
	ctx := t.Context()
	balancers, err := w.balancers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(balancers) != 1 {
		t.Fatalf("%d load balancers, want 1", len(balancers))
	}
	b := balancers[0]
	if got := s.Status.LoadBalancer.Ingress[0].Hostname; got == "" || got != aws.ToString(b.DNSName) {
		t.Errorf("the Service's hostname is %q, the load balancer's %q", got, aws.ToString(b.DNSName))
	}
	if b.Type != "network" || b.Scheme != "internet-facing" || !slices.Equal(subnets(b), slices.Sorted(slices.Values(w.public))) || len(b.SecurityGroups) != 2 {
		t.Errorf("the load balancer is %s, %s, in subnets %v (public ones are %v) and groups %v", b.Type, b.Scheme, subnets(b), w.public, b.SecurityGroups)
	}
	groups, err := w.targetGroups(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(groups) != 1 {
		t.Fatalf("%d target groups, want 1", len(groups))
	}
	g := groups[0]
	if aws.ToInt32(g.Port) != s.Spec.Ports[0].NodePort || g.TargetType != "instance" || g.Protocol != "TCP" {
		t.Errorf("the target group is for %s port %d of %s, want TCP port %d of instances", g.Protocol, aws.ToInt32(g.Port), g.TargetType, s.Spec.Ports[0].NodePort)
	}
	health, err := w.elb.DescribeTargetHealth(ctx, &elb.DescribeTargetHealthInput{TargetGroupArn: g.TargetGroupArn})
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, d := range health.TargetHealthDescriptions {
		targets = append(targets, aws.ToString(d.Target.Id))
	}
	slices.Sort(targets)
	if nodes := slices.Sorted(slices.Values(w.instances[:len(zones)])); !slices.Equal(targets, nodes) {
		t.Errorf("targets are %v, the nodes %v", targets, nodes)
	}
	listeners, err := w.elb.DescribeListeners(ctx, &elb.DescribeListenersInput{LoadBalancerArn: b.LoadBalancerArn})
	if err != nil {
		t.Fatal(err)
	}
	if len(listeners.Listeners) != 1 {
		t.Fatalf("%d listeners, want 1", len(listeners.Listeners))
	}
	if l := listeners.Listeners[0]; aws.ToInt32(l.Port) != 80 || l.Protocol != "TCP" || target(l) != aws.ToString(g.TargetGroupArn) {
		t.Errorf("the listener is %s port %d to %s, want TCP port 80 to %s", l.Protocol, aws.ToInt32(l.Port), target(l), aws.ToString(g.TargetGroupArn))
	}
	w.expectRules(t, b.SecurityGroups)
}

// expectRules checks that the load balancer's groups admit the clients, and the
// nodes' group the load balancer.
func (w *world) expectRules(t *testing.T, balancer []string) {
	t.Helper()
	groups, err := w.securityGroups(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var clients, nodes []string
	for _, g := range groups {
		for _, p := range g.IpPermissions {
			rule := fmt.Sprintf("%s %d-%d", aws.ToString(p.IpProtocol), aws.ToInt32(p.FromPort), aws.ToInt32(p.ToPort))
			switch {
			case slices.Contains(balancer, aws.ToString(g.GroupId)):
				for _, r := range p.IpRanges {
					clients = append(clients, rule+" from "+aws.ToString(r.CidrIp))
				}
			case aws.ToString(g.GroupId) == w.nodeGroup:
				for _, pair := range p.UserIdGroupPairs {
					if slices.Contains(balancer, aws.ToString(pair.GroupId)) {
						nodes = append(nodes, rule)
					}
				}
			}
		}
	}
	slices.Sort(clients)
	slices.Sort(nodes)
	if want := []string{"icmp 3-4 from 0.0.0.0/0", "tcp 80-80 from 0.0.0.0/0"}; !slices.Equal(clients, want) {
		t.Errorf("the load balancer's groups admit %v, want %v", clients, want)
	}
	if want := []string{"tcp 10256-10256", "tcp 30000-32767", "udp 30000-32767"}; !slices.Equal(nodes, want) {
		t.Errorf("the nodes admit %v from the load balancer, want %v", nodes, want)
	}
}

func lookAt(t *testing.T, w *world) []string {
	t.Helper()
	p, err := w.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p.lines
}

func kubectl(t *testing.T, c *cluster.Cluster, stdin string, args ...string) {
	t.Helper()
	if _, err := c.Kubectl(t.Context(), stdin, args...); err != nil {
		t.Fatal(err)
	}
}

// eventually polls until f succeeds.
func eventually(t *testing.T, c *cluster.Cluster, what string, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), awaited)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-c.Done():
			t.Fatalf("wait for %s: %v", what, c.Err())
		case <-ctx.Done():
			t.Fatalf("wait for %s: %v; last: %v", what, ctx.Err(), err)
		}
	}
}
