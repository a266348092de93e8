package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/component-base/cli"
	"k8s.io/utils/ptr"
)

// TestMain lets a test run this program as a process of its own: started with
// runAsProgram, the test binary is the program.
const runAsProgram = "FAIRWAY_TEST_RUN_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(runAsProgram) != "" {
		manager := newManager(context.Background())
		os.Exit(cli.Run(manager.command(make(chan struct{}))))
	}
	os.Exit(m.Run())
}

// program runs the program and returns its output and exit code.
func program(t *testing.T, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), runAsProgram+"=1")
	output, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(output), exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(output), 0
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHelpNamesOurControllerAndFlags(t *testing.T) {
	help, code := program(t, "--help")
	if code != 0 {
		t.Fatalf("exit code %d", code)
	}
	for _, want := range []string{"All controllers: cloud-node-controller, cloud-node-lifecycle-controller, service-lb-controller\n", "--load-balancer-class", "--dry-run",
		"--service-sync-deadline", "--shutdown-grace-period", "--logging-format", "--leader-elect", "--cloud-config"} {
		if !strings.Contains(help, want) {
			t.Errorf("--help does not mention %q", want)
		}
	}
	if strings.Contains(help, "webhook-secure-port") {
		t.Error("--help offers a webhook server")
	}
}

func TestBadConfigurationEndsTheProgramWithAMessage(t *testing.T) {
	// Nobody listens there, and nobody is asked: the configuration comes first.
	kubeconfig := write(t, "kubeconfig", `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: c, context: {cluster: c}}]
current-context: c
`)
	good := "apiVersion: fairway.io/v1alpha1\nkind: AWSConfig\ncluster: {name: demo}\n"
	cases := []struct {
		name, cloud, config, says string
	}{
		{"no cloud", "", good, "--cloud-provider cannot be empty"},
		{"a cloud that is not built in", "moon", good, "--cloud-provider=moon: there is no such cloud, this program has aws"},
		{"an unknown key", "aws", good + "regoin: eu-west-1\n", `"regoin"`},
		{"another kind", "aws", "apiVersion: fairway.io/v1alpha1\nkind: Other\n", `"Other"`},
		{"no cluster name", "aws", "apiVersion: fairway.io/v1alpha1\nkind: AWSConfig\n", "name"},
		{"no YAML", "aws", "{", "--cloud-config"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			output, code := program(t, "--cloud-provider="+c.cloud, "--cloud-config="+write(t, "cloud.yaml", c.config),
				"--kubeconfig="+kubeconfig, "--secure-port=0", "--leader-elect=false")
			if code != 1 || !strings.Contains(output, c.says) || strings.Contains(output, "goroutine ") {
				t.Errorf("exit code %d, want 1; want %q and no stack in:\n%s", code, c.says, output)
			}
		})
	}
	output, code := program(t, "--cloud-provider=aws", "--cloud-config=/nonexistent/cloud.yaml", "--kubeconfig="+kubeconfig, "--secure-port=0")
	if code != 1 || !strings.Contains(output, "/nonexistent/cloud.yaml") {
		t.Errorf("a missing file: exit code %d, output:\n%s", code, output)
	}
}

func TestClassModeStandsBesideAnotherController(t *testing.T) {
	cases := []struct {
		name        string
		args        []string
		lease, port string
		controllers string
	}{
		{"replacement", nil, "cloud-controller-manager", "10258", "[*]"},
		{"replacement without node controllers", []string{"--controllers=*,-cloud-node"}, "cloud-controller-manager", "10258", "[*,-cloud-node]"},
		{"class", []string{"--load-balancer-class=fairway.io/nlb"}, "fairway-cloud-controller-manager", "10268",
			"[*,-cloud-node-controller,-cloud-node-lifecycle-controller]"},
		{"class with wishes", []string{"--load-balancer-class=fairway.io/nlb", "--leader-elect-resource-name=mine", "--secure-port=1", "--controllers=*"}, "mine", "1", "[*]"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cmd := newManager(t.Context()).command(nil)
			cmd.SetOut(&bytes.Buffer{})
			if err := cmd.ParseFlags(c.args); err != nil {
				t.Fatal(err)
			}
			if err := cmd.PreRunE(cmd, nil); err != nil {
				t.Fatal(err)
			}
			for flag, want := range map[string]string{"leader-elect-resource-name": c.lease, "secure-port": c.port, "controllers": c.controllers,
				"concurrent-service-syncs": "10", "concurrent-node-syncs": "10", "concurrent-node-lifecycle-syncs": "10"} {
				if got := cmd.Flags().Lookup(flag).Value.String(); got != want {
					t.Errorf("--%s=%s, want %s", flag, got, want)
				}
			}
		})
	}
}

func TestLeaseIsGivenBackByItsHolderOnly(t *testing.T) {
	for _, c := range []struct{ name, thief, want string }{
		{"still ours", "", ""},
		{"taken by another", "other_1", "other_1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			leases := fake.NewClientset(&coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "ccm"},
				Spec:       coordinationv1.LeaseSpec{HolderIdentity: ptr.To("me_1"), LeaseTransitions: ptr.To[int32](3), LeaseDurationSeconds: ptr.To[int32](15)},
			}).CoordinationV1().Leases("kube-system")
			held, err := heldLease(t.Context(), leases, "ccm")
			if err != nil {
				t.Fatal(err)
			}
			if c.thief != "" {
				now, _ := leases.Get(t.Context(), "ccm", metav1.GetOptions{})
				now.Spec.HolderIdentity = &c.thief
				if _, err := leases.Update(t.Context(), now, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			if err := held.release(t.Context()); err != nil {
				t.Fatal(err)
			}
			after, err := leases.Get(t.Context(), "ccm", metav1.GetOptions{})
			if err != nil || *after.Spec.HolderIdentity != c.want || *after.Spec.LeaseTransitions != 3 {
				t.Errorf("lease %+v, error %v", after.Spec, err)
			}
		})
	}
	if _, err := heldLease(t.Context(), fake.NewClientset().CoordinationV1().Leases("kube-system"), "ccm"); err == nil {
		t.Error("a lease that does not exist cannot be held")
	}
}
