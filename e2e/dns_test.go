package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/e2e/cluster"
	"github.com/fairway-lb/fairway/e2e/cluster/agent"
	"github.com/fairway-lb/fairway/e2e/manifests"
)

// coreDNSImage is what manifests.KubeDNS names.
const coreDNSImage = "registry.k8s.io/coredns/coredns:v1.14.6"

// Clients of the name server: one that asks over UDP as usual, and one that its
// resolver configuration makes ask over TCP; both from a namespace of their own.
const dnsClients = `
apiVersion: v1
kind: Namespace
metadata: {name: elsewhere}
---
apiVersion: v1
kind: Pod
metadata: {name: over-udp, namespace: elsewhere}
spec:
  containers: [{name: client, image: client}]
---
apiVersion: v1
kind: Pod
metadata: {name: over-tcp, namespace: elsewhere}
spec:
  containers: [{name: client, image: client}]
  dnsConfig: {options: [{name: use-vc}]}
---
apiVersion: v1
kind: Pod
metadata: {name: once}
spec:
  containers: [{name: client, image: client}]
  dnsConfig: {options: [{name: attempts, value: "1"}, {name: timeout, value: "10"}]}
`

// TestDNS has the cluster's name server behind a Service, as every cluster has:
// Pods find Services by their names, and reach them.
func TestDNS(t *testing.T) {
	startDNS(t)
	apply(t, manifests.MyApp)
	apply(t, manifests.ClusterIP)
	apply(t, dnsClients)
	kubectl(t, "", "rollout", "status", "deployment/my-app", "--timeout=60s")
	kubectl(t, "", "wait", "--for=condition=Ready", "pods", "--all", "-n", "elsewhere", "--timeout=60s")
	kubectl(t, "", "wait", "--for=condition=Ready", "pod/once", "--timeout=60s")
	ip := kubectl(t, "", "get", "service", "my-clusterip-service", "-o", "jsonpath={.spec.clusterIP}")
	pods := strings.Fields(kubectl(t, "", "get", "pods", "-l", "app=my-app", "-o", "jsonpath={.items[*].metadata.name}"))
	eventually(t, "the name server to answer", func(context.Context) error {
		out, err := inPod("default", pods[0], podTask{Lookup: "my-clusterip-service"})
		return errors.Join(err, out.err())
	})

	t.Run("short name in every Pod of the namespace", func(t *testing.T) {
		for _, pod := range pods {
			wantLookup(t, "default", pod, "my-clusterip-service", ip, "udp")
		}
	})
	t.Run("longer names from another namespace", func(t *testing.T) {
		for pod, network := range map[string]string{"over-udp": "udp", "over-tcp": "tcp"} {
			for _, name := range []string{
				"my-clusterip-service.default", "my-clusterip-service.default.svc", "my-clusterip-service.default.svc.cluster.local",
			} {
				wantLookup(t, "elsewhere", pod, name, ip, network)
			}
			out, err := inPod("elsewhere", pod, podTask{Lookup: "my-clusterip-service"})
			if err != nil {
				t.Fatal(err)
			}
			// The upstream server, asked in the end, refuses such names.
			if len(out.Addresses) > 0 || out.Error == "" {
				t.Errorf("the Service of another namespace has the short name too: %+v", out)
			}
		}
	})
	t.Run("reached by name", func(t *testing.T) {
		for at, url := range map[[2]string]string{
			{"default", pods[0]}:      "http://my-clusterip-service/",
			{"elsewhere", "over-udp"}: "http://my-clusterip-service.default/",
			{"elsewhere", "over-tcp"}: "http://my-clusterip-service.default/",
		} {
			answered := map[string]bool{}
			for range 60 {
				out, err := inPod(at[0], at[1], podTask{URL: url})
				if err := errors.Join(err, out.err()); err != nil {
					t.Fatalf("%s from %v: %v", url, at, err)
				}
				if answered[out.Pod] = true; len(answered) == len(pods) {
					break
				}
			}
			if len(answered) != len(pods) {
				t.Errorf("%s from %v: answered by %v, want all of %v", url, at, answered, pods)
			}
		}
	})
	t.Run("a name outside of the cluster", func(t *testing.T) { testForeignName(t) })
	t.Run("the name server is replaced", func(t *testing.T) { testReplacedDNS(t) })
}

// startDNS puts the name server into the cluster. It reaches the API server as
// all Pods do, through the ClusterIP of Service default/kubernetes.
func startDNS(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	credentials, err := env.KubeconfigAt("https://10.96.0.1:443", "system:serviceaccount:kube-system:coredns",
		"system:serviceaccounts", "system:serviceaccounts:kube-system")
	if err != nil {
		t.Fatal(err)
	}
	corefile := write("Corefile", []byte(strings.NewReplacer(
		"${KUBECONFIG}", write("kubeconfig", credentials), "${UPSTREAM}", cluster.FabricAddress,
	).Replace(manifests.Corefile)))
	apply(t, strings.ReplaceAll(manifests.KubeDNS, "${COREFILE}", corefile))
	kubectl(t, "", "rollout", "status", "deployment/coredns", "-n", "kube-system", "--timeout=60s")
}

func wantLookup(t *testing.T, namespace, pod, name, ip, network string) {
	t.Helper()
	out, err := inPod(namespace, pod, podTask{Lookup: name})
	if err := errors.Join(err, out.err()); err != nil {
		t.Errorf("%s in Pod %s/%s: %v", name, namespace, pod, err)
		return
	}
	if !slices.Equal(out.Addresses, []string{ip}) {
		t.Errorf("%s in Pod %s/%s is %v, want %s", name, namespace, pod, out.Addresses, ip)
	}
	if want := network + " " + cluster.DNSAddress + ":53"; len(out.Asked) == 0 || slices.ContainsFunc(out.Asked, func(s string) bool { return s != want }) {
		t.Errorf("%s in Pod %s/%s: asked %v, want %s only", name, namespace, pod, out.Asked, want)
	}
}

// testForeignName looks up in a Pod what a client outside reaches.
func testForeignName(t *testing.T) {
	apply(t, loadBalancer("named", "", ""))
	host := balancer(t, "named", 80)
	outside, err := outside().Resolve(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	out, err := inPod("elsewhere", "over-udp", podTask{Lookup: host})
	if err := errors.Join(err, out.err()); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, a := range outside {
		want = append(want, a.String())
	}
	slices.Sort(want)
	if slices.Sort(out.Addresses); !slices.Equal(out.Addresses, want) {
		t.Errorf("in a Pod %s is %v, outside %v", host, out.Addresses, want)
	}
}

// testReplacedDNS exchanges all Pods of the name server while another Pod asks it
// all the time, each time once: no question remains without an answer.
func testReplacedDNS(t *testing.T) {
	done := make(chan struct{})
	var out podResult
	var err error
	var asking sync.WaitGroup
	asking.Go(func() {
		for total := 0; ; {
			out, err = inPod("default", "once", podTask{Lookup: "my-clusterip-service", Times: 100})
			total += out.Lookups
			out.Lookups = total
			select {
			case <-done:
				return
			default:
			}
			if err != nil || out.Error != "" {
				return
			}
		}
	})
	kubectl(t, "", "rollout", "restart", "deployment/coredns", "-n", "kube-system")
	kubectl(t, "", "rollout", "status", "deployment/coredns", "-n", "kube-system", "--timeout=60s")
	close(done)
	asking.Wait()
	if err := errors.Join(err, out.err()); err != nil {
		t.Errorf("after %d lookups: %v", out.Lookups, err)
	}
	if out.Lookups < 100 {
		t.Errorf("only %d lookups", out.Lookups)
	}
	t.Logf("%d lookups", out.Lookups)
}

// podVariable has in a copy of this program that runs in a Pod what it shall do
// there.
const podVariable = "FAIRWAY_TEST_IN_POD"

// podTask is what a program in a Pod does: look a name up, so many times (0 is
// once), or get a URL.
type podTask struct {
	Lookup string
	Times  int
	URL    string
}

// podResult is what came of it.
type podResult struct {
	Addresses []string // of the last lookup
	Lookups   int      // that succeeded
	Asked     []string // the name server, as "udp address:port"
	Pod       string   // that answered the URL
	Error     string   // the first
}

func (r podResult) err() error {
	if r.Error == "" {
		return nil
	}
	return errors.New(r.Error)
}

// inPod runs this program in a Pod, where the resolver is the one that any
// program there has.
func inPod(namespace, pod string, task podTask) (result podResult, err error) {
	text, err := json.Marshal(task)
	if err != nil {
		return result, err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), podVariable+"="+string(text))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := env.StartInPod(namespace, pod, cmd); err != nil {
		return result, err
	}
	if err := cmd.Wait(); err != nil {
		return result, fmt.Errorf("in Pod %s/%s: %w: %s", namespace, pod, err, &stderr)
	}
	return result, json.Unmarshal(stdout.Bytes(), &result)
}

// runInPod is that program.
func runInPod(text string) (code int) {
	var task podTask
	var result podResult
	err := json.Unmarshal([]byte(text), &task)
	if err == nil {
		if err := result.do(task); err != nil {
			result.Error = err.Error()
		}
		err = json.NewEncoder(os.Stdout).Encode(result)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (r *podResult) do(task podTask) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var mu sync.Mutex
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		r.Asked = append(r.Asked, network+" "+address)
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	for r.Lookups < max(task.Times, 1) && task.Lookup != "" {
		addresses, err := resolver.LookupNetIP(ctx, "ip4", task.Lookup)
		if err != nil {
			return err
		}
		r.Addresses = nil
		for _, a := range addresses {
			r.Addresses = append(r.Addresses, a.String())
		}
		r.Lookups++
	}
	r.Asked = slices.Compact(r.Asked)
	if task.URL == "" {
		return nil
	}
	client := http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       (&net.Dialer{Resolver: resolver, Timeout: 3 * time.Second}).DialContext,
	}}
	response, err := client.Get(task.URL)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var answer agent.Answer
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<16)).Decode(&answer); err != nil {
		return err
	}
	r.Pod = answer.Pod
	return nil
}
