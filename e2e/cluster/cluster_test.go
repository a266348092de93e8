package cluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairway-lb/fairway/e2e/cluster"
	"github.com/fairway-lb/fairway/e2e/cluster/agent"
	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// Where the programs are that the cluster runs: see prepare.
const (
	kubernetesVariable = "FAIRWAY_KUBERNETES"
	programsVariable   = "FAIRWAY_BIN"
)

func TestMain(m *testing.M) {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: building what the cluster runs:", err)
		os.Exit(1)
	}
	sandbox.Main(m)
}

// prepare builds the binaries, outside of the sandbox, where modules can be
// downloaded. Inside, the variables are set.
func prepare() error {
	if os.Getenv(kubernetesVariable) == "" {
		out, err := exec.Command("go", "-C", "../kubernetes", "run", "./build").Output()
		if err != nil {
			return err
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		os.Setenv(kubernetesVariable, lines[len(lines)-1])
	}
	if os.Getenv(programsVariable) == "" {
		dir, err := filepath.Abs("../../bin")
		if err != nil {
			return err
		}
		build := exec.Command("go", "build", "-o", filepath.Join(dir, "node-proxy"), "../../cmd/node-proxy")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		os.Setenv(programsVariable, dir)
	}
	return nil
}

// boot starts a cluster for a test, and stops it after.
func boot(t *testing.T, config cluster.Config) *cluster.Cluster {
	t.Helper()
	config.Binaries = os.Getenv(kubernetesVariable)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	started := time.Now()
	c, err := cluster.Start(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("cluster up after %v", time.Since(started).Round(time.Millisecond))
	t.Cleanup(func() {
		if err := c.Err(); err != nil {
			t.Errorf("the cluster ended early: %v", err)
		}
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func nodes(count int) (configs []cluster.NodeConfig) {
	for i := range count {
		configs = append(configs, cluster.DefaultNode(i+1))
	}
	return configs
}

func kubectl(t *testing.T, c *cluster.Cluster, stdin string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := c.Kubectl(ctx, stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// web is a Deployment with a Pod per node, that speaks TCP and UDP.
const web = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: web
        image: web
        ports:
        - {name: http, containerPort: 8080}
        - {name: datagrams, containerPort: 5353, protocol: UDP}
        readinessProbe: {httpGet: {path: /readyz, port: http}, periodSeconds: 1, failureThreshold: 1}
`

// webPods deploys web and returns its Pods, one of each node, in the order of
// the nodes' names.
func webPods(t *testing.T, c *cluster.Cluster) []corev1.Pod {
	t.Helper()
	kubectl(t, c, web, "apply", "-f", "-")
	kubectl(t, c, "", "rollout", "status", "deployment/web", "--timeout=50s")
	list, err := c.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Pod) int { return strings.Compare(a.Spec.NodeName, b.Spec.NodeName) })
	if len(list.Items) != 3 {
		t.Fatalf("%d Pods, want 3", len(list.Items))
	}
	return list.Items
}

// get asks for the answer of whoever listens on an address.
func get(ctx context.Context, from *sandbox.NetNS, address string) (agent.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var answer agent.Answer
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return answer, err
	}
	client := http.Client{Transport: &http.Transport{DialContext: from.DialContext, DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return answer, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return answer, err
	}
	return answer, json.Unmarshal(body, &answer)
}

// ask does the same with a datagram.
func ask(ctx context.Context, from *sandbox.NetNS, address string) (agent.Answer, error) {
	var answer agent.Answer
	conn, err := from.DialContext(ctx, "udp", address)
	if err != nil {
		return answer, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return answer, err
	}
	if _, err := conn.Write([]byte("who are you?")); err != nil {
		return answer, err
	}
	buffer := make([]byte, 4<<10)
	n, err := conn.Read(buffer)
	if err != nil {
		return answer, err
	}
	return answer, json.Unmarshal(buffer[:n], &answer)
}

// eventually waits for a condition, and fails the test with its last error.
func eventually(t *testing.T, condition func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

// TestCluster boots once and looks at everything that Pods and nodes do without
// a Service.
func TestCluster(t *testing.T) {
	c := boot(t, cluster.Config{Nodes: nodes(3)})
	pods := webPods(t, c)
	t.Run("who reaches a Pod, and as whom", func(t *testing.T) { testReach(t, c, pods) })
	t.Run("readiness", func(t *testing.T) { testReadiness(t, c, pods[2]) })
	t.Run("graceful deletion", func(t *testing.T) { testGracefulDeletion(t, c, pods[0]) })
	t.Run("forced deletion", func(t *testing.T) { testForcedDeletion(t, c, pods[1]) })
	t.Run("a Pod that cannot run", func(t *testing.T) { testCannotRun(t, c) })
	t.Run("a Pod of the node's network", func(t *testing.T) { testHostNetwork(t, c) })
	t.Run("a node more, a node less", func(t *testing.T) { testNodes(t, c) })
}

func testReach(t *testing.T, c *cluster.Cluster, pods []corev1.Pod) {
	inFirst, err := c.PodNetNS("default", pods[0].Name)
	if err != nil {
		t.Fatal(err)
	}
	main, err := sandbox.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer main.Close()
	for name, from := range map[string]struct {
		netns   *sandbox.NetNS
		address string
	}{
		"a Pod of the first node":  {inFirst, pods[0].Status.PodIP},
		"the first node":           {c.Nodes()[0].NetNS, "10.0.0.11"},
		"the control plane":        {main, cluster.ControlPlaneAddress},
		"a client on the internet": {c.Outside, cluster.OutsideAddress},
	} {
		for _, to := range pods {
			want := from.address
			if name == "the first node" && to.Name == pods[0].Name {
				want = "10.244.1.1" // its own address on the way to its own Pods
			}
			for protocol, say := range map[string]func(context.Context, *sandbox.NetNS, string) (agent.Answer, error){"8080": get, "5353": ask} {
				answer, err := say(t.Context(), from.netns, to.Status.PodIP+":"+protocol)
				if err != nil {
					t.Errorf("%s to port %s of the Pod on %s: %v", name, protocol, to.Spec.NodeName, err)
					continue
				}
				if answer.Pod != to.Name || answer.Node != to.Spec.NodeName || answer.PodIP != netip.MustParseAddr(to.Status.PodIP) ||
					answer.Local.String() != to.Status.PodIP+":"+protocol || answer.Client.Addr().String() != want {
					t.Errorf("%s (%s) to port %s of the Pod on %s: it says %+v", name, want, protocol, to.Spec.NodeName, answer)
				}
			}
		}
	}
	if _, err := get(t.Context(), inFirst, pods[1].Status.PodIP+":81"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a port without a server: %v, want a refusal", err)
	}
}

func ready(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func testReadiness(t *testing.T, c *cluster.Cluster, pod corev1.Pod) {
	for _, want := range []bool{false, true} {
		client := http.Client{Transport: &http.Transport{DialContext: c.Outside.DialContext, DisableKeepAlives: true}}
		response, err := client.Post(fmt.Sprintf("http://%s:8080/readyz?ready=%v", pod.Status.PodIP, want), "", nil)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		eventually(t, func(ctx context.Context) error {
			now, err := c.Client.CoreV1().Pods("default").Get(ctx, pod.Name, metav1.GetOptions{})
			if err == nil && ready(now) != want {
				err = fmt.Errorf("Pod ready: %v, want %v: %v", !want, want, now.Status.Conditions)
			}
			return err
		})
	}
}

// testGracefulDeletion deletes a Pod under traffic: until it is unready in the
// endpoints' eyes nothing may fail, and in the end it is gone with its address.
func testGracefulDeletion(t *testing.T, c *cluster.Cluster, pod corev1.Pod) {
	started := time.Now()
	if err := c.Client.CoreV1().Pods("default").Delete(t.Context(), pod.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	served := time.Duration(0)
	eventually(t, func(ctx context.Context) error {
		if _, err := get(ctx, c.Outside, pod.Status.PodIP+":8080"); err != nil {
			return nil
		}
		served = time.Since(started)
		return errors.New("the Pod still answers")
	})
	if served < 2*time.Second {
		t.Errorf("the Pod stopped answering after %v, want about 3 s of lame duck time", served)
	}
	eventually(t, func(ctx context.Context) error {
		_, err := c.Client.CoreV1().Pods("default").Get(ctx, pod.Name, metav1.GetOptions{})
		if err == nil {
			return errors.New("the Pod's object is still there")
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	if _, err := c.PodNetNS("default", pod.Name); err == nil {
		t.Error("the Pod still has a network namespace")
	}
}

func testForcedDeletion(t *testing.T, c *cluster.Cluster, pod corev1.Pod) {
	kubectl(t, c, "", "delete", "pod", pod.Name, "--force", "--grace-period=0")
	started := time.Now()
	eventually(t, func(context.Context) error {
		if _, err := c.PodNetNS("default", pod.Name); err == nil {
			return errors.New("the Pod still has a network namespace")
		}
		return nil
	})
	if took := time.Since(started); took > 2*time.Second {
		t.Errorf("the Pod lived on for %v", took)
	}
}

func testCannotRun(t *testing.T, c *cluster.Cluster) {
	kubectl(t, c, `
apiVersion: v1
kind: Pod
metadata: {name: twice}
spec:
  containers:
  - {name: a, image: a, ports: [{containerPort: 80}]}
  - {name: b, image: b, ports: [{containerPort: 80}]}
`, "apply", "-f", "-")
	eventually(t, func(ctx context.Context) error {
		pod, err := c.Client.CoreV1().Pods("default").Get(ctx, "twice", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, status := range pod.Status.ContainerStatuses {
			if w := status.State.Waiting; w != nil && strings.Contains(w.Message, "container b, port 80/TCP") {
				return nil
			}
		}
		return fmt.Errorf("the status does not say why the Pod does not run: %+v", pod.Status)
	})
	kubectl(t, c, "", "delete", "pod", "twice", "--timeout=20s")
}

func testHostNetwork(t *testing.T, c *cluster.Cluster) {
	kubectl(t, c, "", "run", "host", "--image=x", "--port=9000", "--overrides", `{"spec": {"hostNetwork": true, "nodeName": "node-2"}}`)
	kubectl(t, c, "", "wait", "--for=condition=Ready", "pod/host", "--timeout=20s")
	if answer, err := get(t.Context(), c.Outside, "10.0.16.11:9000"); err != nil || answer.Pod != "host" {
		t.Errorf("on its node's address it says %+v, %v", answer, err)
	}
	kubectl(t, c, "", "delete", "pod", "host", "--timeout=20s")
	if _, err := get(t.Context(), c.Outside, "10.0.16.11:9000"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("after its deletion: %v, want a refusal", err)
	}
}

func testNodes(t *testing.T, c *cluster.Cluster) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := c.AddNode(ctx, cluster.DefaultNode(4)); err != nil {
		t.Fatal(err)
	}
	kubectl(t, c, "", "run", "fourth", "--image=x", "--port=80", "--overrides", `{"spec": {"nodeName": "node-4"}}`)
	kubectl(t, c, "", "wait", "--for=condition=Ready", "pod/fourth", "--timeout=20s")
	pod, err := c.Client.CoreV1().Pods("default").Get(ctx, "fourth", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := get(ctx, c.Outside, pod.Status.PodIP+":80"); err != nil || answer.Node != "node-4" {
		t.Errorf("the new node's Pod says %+v, %v", answer, err)
	}
	if err := c.RemoveNode("node-4"); err != nil {
		t.Fatal(err)
	}
	if _, err := get(ctx, c.Outside, pod.Status.PodIP+":80"); err == nil {
		t.Error("a Pod of a removed node answers")
	}
	if _, err := get(ctx, c.Outside, "10.244.1.1:1"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("the other nodes cannot be reached any more: %v", err)
	}
	eventually(t, func(ctx context.Context) error {
		node, err := c.Client.CoreV1().Nodes().Get(ctx, "node-4", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionUnknown {
				return nil
			}
		}
		return errors.New("the cluster still takes the removed node for Ready")
	})
}
