// Package cluster boots a real Kubernetes on one machine: etcd, API server,
// controllers and scheduler as processes, and nodes that are network namespaces
// with our node proxy and an agent in place of a kubelet. All hosts hang off a
// fabric, a network namespace that routes between them and in which a fake cloud
// can put its load balancers. It runs inside a sandbox only (see package
// sandbox), which takes everything away at the end, whatever the end was.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// Config says what cluster to boot.
type Config struct {
	// Binaries is a directory with etcd, kube-apiserver,
	// kube-controller-manager, kube-scheduler and kubectl.
	Binaries string
	// NodeProxy is our node proxy's binary. Empty: the nodes have none, and no
	// Service address works.
	NodeProxy string
	// NodeProxyArgs are given to each node proxy after the arguments that it
	// needs.
	NodeProxyArgs []string
	// Nodes are those to begin with.
	Nodes []NodeConfig
	// Images are the programs that containers run instead of the small server
	// that says who it is: path by image.
	Images map[string]string
	// LameDuck is how long a Pod that is being deleted goes on serving, its
	// grace period permitting. Zero: 3 seconds.
	LameDuck time.Duration
	// LogDir gets a log file per process and one of all agents. Empty: within
	// the sandbox, and gone with it.
	LogDir string
}

// Cluster is a running cluster.
type Cluster struct {
	// Kubeconfig is a file for the administrator, usable inside the sandbox.
	Kubeconfig string
	// Client and RESTConfig act as the administrator, without a rate limit.
	Client     kubernetes.Interface
	RESTConfig *rest.Config
	// Fabric is the cloud's network. Each host's device in it bears the host's
	// name: "node-1", "control-plane", "client".
	Fabric *sandbox.NetNS
	// Outside is a client on the internet.
	Outside *sandbox.NetNS

	config          Config
	dir             string
	logger          *slog.Logger
	agentsLog       *os.File
	authority       *authority
	network         *network
	proxyKubeconfig string

	// lifetime ends with Stop or with the first component that dies.
	lifetime context.Context
	fail     context.CancelCauseFunc

	mu       sync.Mutex
	programs []*component
	nodes    map[string]*Node
}

// errStopped is why a cluster that was stopped is not usable any more.
var errStopped = errors.New("the cluster was stopped")

// Start boots a cluster and returns when every node is Ready, every node proxy
// healthy, and Pods can be created in namespace default. The context bounds the
// boot only; the cluster runs until Stop. When it cannot be booted the error
// says which part failed, with the end of that part's log, and nothing stays
// behind.
func Start(ctx context.Context, config Config) (*Cluster, error) {
	if !sandbox.Inside() {
		return nil, errors.New("a cluster can only be booted inside a sandbox")
	}
	if err := checkBinaries(config.Binaries); err != nil {
		return nil, err
	}
	if config.NodeProxy != "" {
		if _, err := exec.LookPath(config.NodeProxy); err != nil {
			return nil, fmt.Errorf("node proxy: %w", err)
		}
	}
	if config.LameDuck == 0 {
		config.LameDuck = 3 * time.Second
	}
	c := &Cluster{config: config, nodes: map[string]*Node{}}
	c.lifetime, c.fail = context.WithCancelCause(context.Background())
	ctx, cancel := c.boot(ctx)
	defer cancel()
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("booting a cluster: %w", err), c.Stop())
	}
	return c, nil
}

// boot derives a context that also ends when the cluster does, for its reason.
func (c *Cluster) boot(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.lifetime, func() { cancel(context.Cause(c.lifetime)) })
	return ctx, func() { stop(); cancel(nil) }
}

func (c *Cluster) start(ctx context.Context) (err error) {
	if err := c.prepare(); err != nil {
		return err
	}
	if c.network, err = newNetwork(); err != nil {
		return err
	}
	c.Fabric, c.Outside = c.network.fabric, c.network.outside
	nodes := make([]*Node, len(c.config.Nodes))
	first, firstCtx := errgroup.WithContext(ctx)
	first.Go(func() error { return c.startControlPlane(firstCtx) })
	first.Go(func() (err error) {
		for i, config := range c.config.Nodes {
			if nodes[i], err = c.newNode(config); err != nil {
				return fmt.Errorf("node %s: %w", config.Name, err)
			}
		}
		return nil
	})
	if err := first.Wait(); err != nil {
		return err
	}
	if err := c.allowProxies(ctx); err != nil {
		return err
	}
	second, secondCtx := errgroup.WithContext(ctx)
	second.Go(func() error { return c.waitForServiceAccount(secondCtx) })
	for _, node := range nodes {
		second.Go(func() error { return c.startNode(secondCtx, node) })
	}
	return second.Wait()
}

// prepare makes the directory, the logs, the keys and the administrator's
// client.
func (c *Cluster) prepare() (err error) {
	if c.dir, err = os.MkdirTemp("", "cluster-"); err != nil {
		return err
	}
	if c.config.LogDir == "" {
		c.config.LogDir = filepath.Join(c.dir, "logs")
	}
	if err := os.MkdirAll(c.config.LogDir, 0o755); err != nil {
		return err
	}
	if c.agentsLog, err = os.Create(filepath.Join(c.config.LogDir, "agents.log")); err != nil {
		return err
	}
	c.logger = slog.New(slog.NewTextHandler(c.agentsLog, nil))
	if c.authority, err = newAuthority(); err != nil {
		return err
	}
	if c.Kubeconfig, err = c.KubeconfigFor("admin", "system:masters"); err != nil {
		return err
	}
	if c.proxyKubeconfig, err = c.KubeconfigFor(proxyUser); err != nil {
		return err
	}
	if c.RESTConfig, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig); err != nil {
		return err
	}
	c.RESTConfig.QPS = -1
	c.Client, err = kubernetes.NewForConfig(c.RESTConfig)
	return err
}

// Done is closed when the cluster was stopped or one of its components died; Err
// then says which and why, with the end of its log. Before that Err is nil.
func (c *Cluster) Done() <-chan struct{} { return c.lifetime.Done() }

// Err is nil while the cluster runs; see Done.
func (c *Cluster) Err() error { return context.Cause(c.lifetime) }

// Stop ends every process and removes every namespace of the cluster. It may be
// called more than once.
func (c *Cluster) Stop() error {
	c.fail(errStopped)
	c.mu.Lock()
	nodes, programs := c.nodes, c.programs
	c.nodes, c.programs = map[string]*Node{}, nil
	c.mu.Unlock()
	var errs []error
	for _, node := range nodes {
		errs = append(errs, node.close())
	}
	for _, program := range slices.Backward(programs) {
		program.stop(false)
	}
	if c.network != nil {
		errs = append(errs, c.network.close())
		c.network = nil
	}
	c.agentsLog.Close()
	if c.dir != "" {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}

// Nodes are the cluster's nodes, in the order of their names.
func (c *Cluster) Nodes() []*Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	nodes := make([]*Node, 0, len(c.nodes))
	for _, node := range c.nodes {
		nodes = append(nodes, node)
	}
	slices.SortFunc(nodes, func(a, b *Node) int { return strings.Compare(a.Name, b.Name) })
	return nodes
}

// PodNetNS is the network namespace of a running Pod, to see the cluster from
// within it. It is gone when the Pod is; the caller must not close it.
func (c *Cluster) PodNetNS(namespace, name string) (*sandbox.NetNS, error) {
	for _, node := range c.Nodes() {
		if a := node.agent.Load(); a != nil {
			if n, found := a.PodNetNS(namespace, name); found {
				return n, nil
			}
		}
	}
	return nil, fmt.Errorf("no Pod %s/%s runs on any node", namespace, name)
}

// StartInPod starts a command in a running Pod, with its network and its resolver
// configuration. Waiting for it is up to the caller.
func (c *Cluster) StartInPod(namespace, name string, cmd *exec.Cmd) error {
	for _, node := range c.Nodes() {
		if a := node.agent.Load(); a != nil {
			if found, err := a.Exec(namespace, name, cmd); found {
				return err
			}
		}
	}
	return fmt.Errorf("no Pod %s/%s runs on any node", namespace, name)
}

// KubeconfigFor writes a client configuration for a user with groups, and
// returns its path. What the user may do is up to RBAC objects that the caller
// applies.
func (c *Cluster) KubeconfigFor(user string, groups ...string) (string, error) {
	content, err := c.KubeconfigAt(apiAddress, user, groups...)
	if err != nil {
		return "", err
	}
	path := filepath.Join(c.dir, strings.NewReplacer(":", "-", "/", "-").Replace(user)+".kubeconfig")
	return path, os.WriteFile(path, content, 0o600)
}

// KubeconfigAt is the content of a client configuration that reaches the API
// server under another address, "https://127.0.0.1:…" of a relay for instance.
// The server's certificate is valid for 127.0.0.1 and localhost too.
func (c *Cluster) KubeconfigAt(server, user string, groups ...string) ([]byte, error) {
	return c.authority.kubeconfig(server, user, groups)
}

// Kubectl runs kubectl as the administrator, with stdin as its standard input,
// and returns its standard output. The error holds what it said on its standard
// error.
func (c *Cluster) Kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.config.Binaries, "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig, "KUBECACHEDIR="+filepath.Join(c.dir, "kubectl"))
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if died := c.Err(); died != nil {
			err = errors.Join(err, died)
		}
		return stdout.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
