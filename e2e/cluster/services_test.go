package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairway-lb/fairway/e2e/cluster"
	"github.com/fairway-lb/fairway/e2e/cluster/agent"
	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// services has the same ports of web as a ClusterIP and on every node.
const services = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  clusterIP: 10.96.0.80
  ports:
  - {name: http, port: 80, targetPort: http, nodePort: 30080}
  - {name: datagrams, port: 53, targetPort: datagrams, protocol: UDP, nodePort: 30053}
`

// TestServices puts our node proxy on the nodes: Services are reached from
// wherever a packet for them may come from, and every Pod gets its share.
func TestServices(t *testing.T) {
	c := boot(t, cluster.Config{Nodes: nodes(3), NodeProxy: filepath.Join(os.Getenv(programsVariable), "node-proxy")})
	pods := webPods(t, c)
	kubectl(t, c, services, "apply", "-f", "-")
	inFirst, err := c.PodNetNS("default", pods[0].Name)
	if err != nil {
		t.Fatal(err)
	}
	for name, way := range map[string]struct {
		from     *sandbox.NetNS
		tcp, udp string
	}{
		"ClusterIP from a Pod":          {from: inFirst, tcp: "10.96.0.80:80", udp: "10.96.0.80:53"},
		"ClusterIP from a node":         {from: c.Nodes()[1].NetNS, tcp: "10.96.0.80:80", udp: "10.96.0.80:53"},
		"NodePort of one's own node":    {from: inFirst, tcp: "10.0.0.11:30080", udp: "10.0.0.11:30053"},
		"NodePort from outside, node-1": {from: c.Outside, tcp: "10.0.0.11:30080", udp: "10.0.0.11:30053"},
		"NodePort from outside, node-2": {from: c.Outside, tcp: "10.0.16.11:30080", udp: "10.0.16.11:30053"},
		"NodePort from outside, node-3": {from: c.Outside, tcp: "10.0.32.11:30080", udp: "10.0.32.11:30053"},
	} {
		t.Run(name, func(t *testing.T) {
			everyPodAnswers(t, way.from, way.tcp, get)
			everyPodAnswers(t, way.from, way.udp, ask)
		})
	}
	t.Run("the API server by its ClusterIP", func(t *testing.T) {
		conn, err := inFirst.DialContext(t.Context(), "tcp", "10.96.0.1:443")
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	})
	t.Run("a Pod deleted under traffic", func(t *testing.T) { testDeletionUnderTraffic(t, c, pods[1].Name) })
}

// everyPodAnswers asks until each of the three Pods has answered.
func everyPodAnswers(t *testing.T, from *sandbox.NetNS, address string,
	say func(context.Context, *sandbox.NetNS, string) (agent.Answer, error),
) {
	t.Helper()
	answered := map[string]bool{}
	eventually(t, func(ctx context.Context) error {
		answer, err := say(ctx, from, address)
		if err != nil {
			return fmt.Errorf("%s: %w", address, err)
		}
		if answered[answer.Node] = true; len(answered) < 3 {
			return fmt.Errorf("%s: answers only from %v", address, slices.Collect(maps.Keys(answered)))
		}
		return nil
	})
}

// testDeletionUnderTraffic sends requests through every node while a Pod goes,
// and some more. The time in which it still serves must be enough for all node
// proxies.
func testDeletionUnderTraffic(t *testing.T, c *cluster.Cluster, name string) {
	if err := c.Client.CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline, after := time.Now().Add(20*time.Second), 0
	for requests := 0; after < 100; requests++ {
		<-tick.C
		node := c.Nodes()[requests%3]
		if _, err := get(t.Context(), c.Outside, node.Address.String()+":30080"); err != nil {
			t.Fatalf("request %d, through %s: %v", requests, node.Name, err)
		}
		if _, err := c.PodNetNS("default", name); err != nil {
			after++
		}
		if time.Now().After(deadline) {
			t.Fatal("the Pod does not go")
		}
	}
}

// TestDeadComponent checks what a person reads when a part of the cluster dies.
func TestDeadComponent(t *testing.T) {
	proxy := filepath.Join(t.TempDir(), "node-proxy")
	script := "#!/bin/sh\necho cannot find my keys\nexit 3\n"
	if err := os.WriteFile(proxy, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := cluster.Start(ctx, cluster.Config{
		Binaries: os.Getenv(kubernetesVariable), Nodes: nodes(1), NodeProxy: proxy,
	})
	if err == nil {
		t.Fatal(errors.Join(errors.New("a cluster with a dead node proxy counts as up"), c.Stop()))
	}
	for _, want := range []string{"node-proxy-node-1 ended by itself", "exit status 3", "cannot find my keys"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	if left, err := os.ReadDir("/run/netns"); err != nil || len(left) > 0 {
		t.Errorf("network namespaces left: %v, %v", left, err)
	}
	if left, err := filepath.Glob("/proc/[0-9]*"); err != nil || len(left) > 2 {
		t.Errorf("processes left besides process 1 and this one: %v, %v", left, err)
	}
}

func TestBadConfig(t *testing.T) {
	good := os.Getenv(kubernetesVariable)
	for name, test := range map[string]struct {
		config cluster.Config
		want   string
	}{
		"no binaries":      {cluster.Config{}, "no directory"},
		"binaries missing": {cluster.Config{Binaries: t.TempDir()}, "etcd"},
		"no node proxy":    {cluster.Config{Binaries: good, NodeProxy: "/no/such/file"}, "node proxy"},
	} {
		if _, err := cluster.Start(t.Context(), test.config); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want something with %q", name, err, test.want)
		}
	}
}
