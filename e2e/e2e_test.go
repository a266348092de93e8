// Package e2e_test applies manifests to a real Kubernetes and looks at who
// answers, through everything that is between a client and a Pod.
package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/e2e/environment"
	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// env is the one environment that all tests of this package share: each keeps
// to names of its own and cleans up behind itself.
var env *environment.Environment

// patience bounds each thing a test waits for.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	if task := os.Getenv(podVariable); task != "" {
		os.Exit(runInPod(task))
	}
	ctx := context.Background()
	sandbox.Main(suite{m},
		func() error { return environment.Prepare(ctx, os.Stderr) },
		func() error { return environment.PrepareDNS(ctx, os.Stderr) })
}

// suite runs the tests inside the sandbox, with the environment around them.
type suite struct{ tests *testing.M }

func (s suite) Run() (code int) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	logs, err := os.MkdirTemp("", "logs-")
	if err == nil {
		env, err = environment.Start(ctx, environment.Config{
			LogDir: logs, Images: map[string]string{coreDNSImage: os.Getenv(environment.CoreDNSVariable)},
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: start the environment:", err)
		return 1
	}
	code = s.tests.Run()
	if code != 0 {
		showLogs(logs)
	}
	if err := env.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: stop the environment:", err)
		return 1
	}
	return code
}

// showLogs prints the end of the logs that explain a failure: they go with the
// sandbox.
func showLogs(dir string) {
	const most = 16 << 10
	for _, name := range []string{"cloud-controller-manager", "fakecloud", "node-proxy-node-1"} {
		content, err := os.ReadFile(filepath.Join(dir, name+".log"))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			continue
		}
		fmt.Fprintf(os.Stderr, "=== the end of %s's log\n%s\n", name, content[max(0, len(content)-most):])
	}
}

// apply applies a manifest and deletes it when the test ends; the deletion of a
// LoadBalancer Service is waited for, so that none is left to the next test.
func apply(t *testing.T, manifest string) {
	t.Helper()
	kubectl(t, manifest, "apply", "-f", "-")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := env.Kubectl(ctx, manifest, "delete", "--ignore-not-found", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
}

func kubectl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := env.Kubectl(t.Context(), stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// eventually polls until f succeeds.
func eventually(t *testing.T, awaited string, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := env.Wait(ctx, awaited, f); err != nil {
		t.Fatal(err)
	}
}

// outside is the client on the internet.
func outside() *environment.Client { return environment.ClientIn(env.Outside) }

// balancer waits until a Service's load balancer answers the outside client
// over HTTP, and returns its name.
func balancer(t *testing.T, service string, port int) string {
	t.Helper()
	var host string
	eventually(t, service+" to answer through its load balancer", func(ctx context.Context) (err error) {
		if host, err = env.Address(ctx, "default", service); err == nil {
			_, err = outside().Get(ctx, host, port)
		}
		return err
	})
	return host
}

// answeredBy asks n times and counts the answers by Pod.
func answeredBy(t *testing.T, n int, ask func() (environment.Reply, error)) map[string]int {
	t.Helper()
	pods := map[string]int{}
	for range n {
		reply, err := ask()
		if err != nil {
			t.Fatal(err)
		}
		pods[reply.Pod]++
	}
	return pods
}
