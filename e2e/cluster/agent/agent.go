// Package agent is the kubelet of a test node: it registers the Node, keeps it
// Ready, and runs the Pods bound to it. A Pod gets a real network namespace and
// a real address, and readiness, termination and status as a kubelet would give
// them; but instead of containers it gets a small server, in this process, on
// every port its containers declare, which says who it is and whom it saw. So a
// cluster with nodes costs no images, no container runtime and no privileges,
// while every packet and every API call is real. Where a test needs the real
// program of an image, it names one, and that runs in the Pod instead.
//
// What it has no use for it does not pretend to do: volumes, liveness and startup
// probes, and the commands of images without a program are ignored; a port or a readiness probe of a kind that the
// server cannot serve keeps the Pod from running or from being ready, with the
// reason in its status. There are no logs and no exec: kubectl finds port 10250
// closed.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// Config is what a node needs to play its part.
type Config struct {
	// Node is the object to register. It must have a name, one Pod range and an
	// InternalIP among its addresses; conditions and capacity are filled in.
	Node *corev1.Node
	// Client acts as this node: user system:node:<name> of group system:nodes.
	Client kubernetes.Interface
	// NetNS is the node's network namespace, connected and forwarding.
	NetNS *sandbox.NetNS
	// LameDuck is how long a terminating Pod goes on serving before it shuts
	// down, its grace period permitting: the time that endpoints and load
	// balancers have to take it out.
	LameDuck time.Duration
	// Images are the programs of images: a container of such an image runs the
	// program, with its arguments and literal variables. All other containers
	// get the small server.
	Images map[string]string
	// ClusterDNS is the name server of Pods whose DNS policy is ClusterFirst. The
	// zero Addr: they have none.
	ClusterDNS netip.Addr
	// Logger gets what happens to the node and its Pods, LogDir the output of
	// their programs, in a file each.
	Logger *slog.Logger
	LogDir string
}

// Agent is one node's kubelet.
type Agent struct {
	config    Config
	nodeIP    netip.Addr
	addresses *addresses

	mu      sync.Mutex
	pods    map[types.UID]*pod
	running sync.WaitGroup
}

// New checks the configuration. Nothing happens before Run.
func New(config Config) (*Agent, error) {
	if config.Node == nil || config.Node.Name == "" {
		return nil, errors.New("node agent: the node has no name")
	}
	podRange, err := netip.ParsePrefix(config.Node.Spec.PodCIDR)
	if err != nil {
		return nil, fmt.Errorf("node agent of %s: Pod range: %w", config.Node.Name, err)
	}
	addresses, err := newAddresses(podRange)
	if err != nil {
		return nil, fmt.Errorf("node agent of %s: %w", config.Node.Name, err)
	}
	a := &Agent{config: config, addresses: addresses, pods: map[types.UID]*pod{}}
	for _, address := range config.Node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP && !a.nodeIP.IsValid() {
			if a.nodeIP, err = netip.ParseAddr(address.Address); err != nil {
				return nil, fmt.Errorf("node agent of %s: internal address: %w", config.Node.Name, err)
			}
		}
	}
	if !a.nodeIP.IsValid() {
		return nil, fmt.Errorf("node agent of %s: the node has no internal address", config.Node.Name)
	}
	return a, nil
}

// Run registers the node and runs its Pods until the context ends. Then it takes
// the Pods' namespaces away without telling the API server, as a machine does
// that is switched off. It returns an error only if the node cannot be
// registered.
func (a *Agent) Run(ctx context.Context) error {
	defer a.running.Wait()
	if err := a.register(ctx); err != nil {
		return err
	}
	a.running.Go(func() { a.heartbeat(ctx) })
	pods := cache.NewListWatchFromClient(a.config.Client.CoreV1().RESTClient(), "pods", corev1.NamespaceAll,
		fields.OneTermEqualSelector("spec.nodeName", a.config.Node.Name))
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: pods,
		ObjectType:    &corev1.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: func(object any) { a.desired(ctx, object.(*corev1.Pod)) },
			UpdateFunc: func(before, after any) {
				if before, after := before.(*corev1.Pod), after.(*corev1.Pod); before.UID != after.UID {
					a.gone(before)
				}
				a.desired(ctx, after.(*corev1.Pod))
			},
			DeleteFunc: func(object any) {
				if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
					object = last.Obj
				}
				a.gone(object.(*corev1.Pod))
			},
		},
	})
	informer.RunWithContext(ctx)
	return nil
}

// desired hands the newest state of a Pod to the goroutine that runs it.
func (a *Agent) desired(ctx context.Context, object *corev1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p, known := a.pods[object.UID]; known {
		p.updates.put(object)
		return
	}
	if isTerminal(object) || ctx.Err() != nil {
		return
	}
	p := newPod(a, object)
	p.updates.put(object) // before anybody looks for it
	a.pods[object.UID] = p
	a.running.Go(func() { a.run(ctx, p) })
}

// gone tells the goroutine that runs a Pod that its object does not exist any
// more. Its namespace goes at once.
func (a *Agent) gone(object *corev1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p, known := a.pods[object.UID]; known {
		p.updates.close()
	}
}

func (a *Agent) run(ctx context.Context, p *pod) {
	p.run(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.pods, p.uid)
}

// PodNetNS is the network namespace of a running Pod of this node. It belongs to
// the Pod: the caller must not close it.
func (a *Agent) PodNetNS(namespace, name string) (*sandbox.NetNS, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.pods {
		if p.namespace == namespace && p.name == name {
			if n := p.netns.Load(); n != nil {
				return n, true
			}
		}
	}
	return nil, false
}

// Exec starts a command in a running Pod of this node, in its network and with
// its resolver configuration. Waiting for it is up to the caller.
func (a *Agent) Exec(namespace, name string, cmd *exec.Cmd) (found bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.pods {
		if p.namespace == namespace && p.name == name {
			if n := p.netns.Load(); n != nil {
				return true, n.StartWithFiles(cmd, p.files)
			}
		}
	}
	return false, nil
}

func isTerminal(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// mailbox keeps the newest object put in, for one reader.
type mailbox struct {
	mu     sync.Mutex
	latest *corev1.Pod
	closed bool
	wake   chan struct{}
}

func (m *mailbox) put(object *corev1.Pod) {
	m.change(func() { m.latest = object })
}

// close says that there will be no further object.
func (m *mailbox) close() {
	m.change(func() { m.closed = true })
}

func (m *mailbox) change(f func()) {
	m.mu.Lock()
	f()
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *mailbox) get() (latest *corev1.Pod, closed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.latest, m.closed
}
