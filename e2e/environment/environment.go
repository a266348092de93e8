// Package environment puts together what a demo or an end-to-end test needs: a
// Kubernetes cluster whose nodes run our node proxy, a fake cloud that carries
// packets between them and the outside, and our cloud controller manager
// between the two. It runs inside a sandbox, which takes all of it away.
package environment

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairway-lb/fairway/e2e/cluster"
	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// controllerUser is whom the cloud controller manager acts as: the service
// account that the manifest with its permissions names.
const controllerUser = "system:serviceaccount:kube-system:fairway-cloud-controller-manager"

// Config says what to start.
type Config struct {
	// Programs and Kubernetes are directories of ready programs. Empty: those
	// that Prepare left in the environment variables.
	Programs, Kubernetes string
	// Source is the repository's root, likewise.
	Source string
	// Nodes is how many nodes there are; 0 means 3.
	Nodes int
	// Images are the programs that containers run, see cluster.Config.
	Images map[string]string
	// LogDir gets a log file per process; empty: within the sandbox.
	LogDir string
	// ControllerArgs are given to the controller after the arguments it needs.
	ControllerArgs []string
	// Stage, when set, is told what has been reached, for people who watch.
	Stage func(what string)
}

// Environment is a running one.
type Environment struct {
	*cluster.Cluster
	// Cloud is the fake cloud.
	Cloud *Cloud

	config     Config
	dir        string
	controller *cluster.Program
}

// Start boots everything and returns when the controller leads. Stop must be
// called also after an error of a test; the sandbox sees to the rest.
func Start(ctx context.Context, config Config) (*Environment, error) {
	config.complete()
	e := &Environment{config: config}
	var err error
	if e.dir, err = os.MkdirTemp("", "environment-"); err != nil {
		return nil, err
	}
	if err := e.start(ctx); err != nil {
		return nil, errors.Join(err, e.Stop())
	}
	return e, nil
}

func (c *Config) complete() {
	if c.Programs == "" {
		c.Programs = os.Getenv(ProgramsVariable)
	}
	if c.Kubernetes == "" {
		c.Kubernetes = os.Getenv(KubernetesVariable)
	}
	if c.Source == "" {
		c.Source = os.Getenv(SourceVariable)
	}
	if c.Nodes == 0 {
		c.Nodes = 3
	}
	if c.Stage == nil {
		c.Stage = func(string) {}
	}
}

func (e *Environment) start(ctx context.Context) (err error) {
	nodes := make([]cluster.NodeConfig, e.config.Nodes)
	for i := range nodes {
		nodes[i] = cluster.DefaultNode(i + 1)
	}
	e.Cluster, err = cluster.Start(ctx, cluster.Config{
		Binaries:  e.config.Kubernetes,
		NodeProxy: filepath.Join(e.config.Programs, "node-proxy"),
		Nodes:     nodes,
		Images:    e.config.Images,
		LogDir:    e.config.LogDir,
	})
	if err != nil {
		return err
	}
	e.config.Stage("Kubernetes is up")
	if err := e.startCloud(ctx, nodes); err != nil {
		return err
	}
	e.config.Stage("the cloud is up")
	if err := e.StartController(ctx); err != nil {
		return err
	}
	e.config.Stage("the controller leads")
	return nil
}

// startCloud starts the fake cloud in the fabric, where all packets pass.
func (e *Environment) startCloud(ctx context.Context, nodes []cluster.NodeConfig) error {
	world := filepath.Join(e.dir, "world.yaml")
	account := seed(nodes, netip.MustParseAddr(cluster.ControlPlaneAddress))
	policy, err := shippedPolicy(e.config.Source)
	if err != nil {
		return err
	}
	account.Policies = []json.RawMessage{policy}
	account.Administrators = []string{administratorKey}
	if err := write(world, account); err != nil {
		return err
	}
	const api, dns = cluster.FabricAddress + ":4566", cluster.FabricAddress + ":53"
	if _, err := e.Run(e.Fabric, "fakecloud", nil, filepath.Join(e.config.Programs, "fakecloud"),
		"--world="+world, "--listen="+api, "--dns="+dns); err != nil {
		return err
	}
	main, err := sandbox.Current()
	if err != nil {
		return err
	}
	e.Cloud = newCloud("http://"+api, main)
	return e.Wait(ctx, "the fake cloud to answer", e.Cloud.healthy)
}

// StartController starts the cloud controller manager and waits until it leads.
func (e *Environment) StartController(ctx context.Context) error {
	if _, err := e.Kubectl(ctx, "", "apply", "-f", filepath.Join(e.config.Source, "cmd", "cloud-controller-manager", "rbac.yaml")); err != nil {
		return fmt.Errorf("grant the controller its permissions: %w", err)
	}
	kubeconfig, err := e.KubeconfigFor(controllerUser, "system:serviceaccounts", "system:serviceaccounts:kube-system")
	if err != nil {
		return err
	}
	config := filepath.Join(e.dir, "aws.yaml")
	if err := write(config, controllerConfig()); err != nil {
		return err
	}
	e.controller, err = e.Run(nil, "cloud-controller-manager", []string{
		"AWS_ENDPOINT_URL=" + e.Cloud.endpoint, "AWS_REGION=" + region, "AWS_EC2_METADATA_DISABLED=true",
		"AWS_ACCESS_KEY_ID=AKIDFAKECLOUD0000001", "AWS_SECRET_ACCESS_KEY=no-secret-at-all",
	}, append([]string{
		filepath.Join(e.config.Programs, "cloud-controller-manager"),
		"--cloud-provider=aws", "--cloud-config=" + config, "--kubeconfig=" + kubeconfig,
		"--leader-elect-lease-duration=6s", "--leader-elect-renew-deadline=4s", "--leader-elect-retry-period=1s",
	}, e.config.ControllerArgs...)...)
	if err != nil {
		return err
	}
	return e.Wait(ctx, "the controller to lead", e.leads)
}

// controllerConfig is the provider's configuration file: a probe every five
// seconds, the shortest that AWS offers.
func controllerConfig() any {
	return map[string]any{
		"apiVersion":  "fairway.io/v1alpha1",
		"kind":        "AWSConfig",
		"cluster":     map[string]any{"name": clusterName},
		"region":      region,
		"healthCheck": map[string]any{"interval": "5s", "timeout": "2s"},
	}
}

// StopController ends the controller with SIGTERM and waits for its end.
func (e *Environment) StopController() {
	if e.controller != nil {
		e.controller.Stop()
		e.controller = nil
	}
}

// ControllerLog returns what the controller has printed so far.
func (e *Environment) ControllerLog() (string, error) { return e.controller.Log() }

func (e *Environment) leads(ctx context.Context) error {
	holder, err := e.Kubectl(ctx, "", "get", "lease", "-n", "kube-system", "cloud-controller-manager", "-o", "jsonpath={.spec.holderIdentity}")
	if err == nil && holder == "" {
		err = errors.New("nobody holds the lease")
	}
	return err
}

// Wait polls until f succeeds. It ends when ctx does or the cluster dies; the
// error then says what was awaited and what f said last.
func (e *Environment) Wait(ctx context.Context, awaited string, f func(context.Context) error) error {
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-e.Done():
			return fmt.Errorf("wait for %s: %w", awaited, e.Err())
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; last: %w", awaited, context.Cause(ctx), err)
		}
	}
}

// Address returns where a Service's load balancer is reached: a name or an IP.
// It is an error as long as the Service's status has none.
func (e *Environment) Address(ctx context.Context, namespace, name string) (string, error) {
	s, err := e.Client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	for _, ingress := range s.Status.LoadBalancer.Ingress {
		return cmp.Or(ingress.Hostname, ingress.IP), nil
	}
	return "", fmt.Errorf("service %s/%s has no address yet", namespace, name)
}

// Stop ends everything that was started.
func (e *Environment) Stop() error {
	var err error
	if e.Cluster != nil {
		e.StopController()
		err = e.Cluster.Stop()
	}
	return errors.Join(err, os.RemoveAll(e.dir))
}
