// Package cloudprovider is the one place where k8s.io/cloud-provider and
// providers/lb meet. Cloud is what the framework calls a cloud; its
// LoadBalancer runs on the same engine as our own Service controller, so that
// the stock controller, where somebody prefers it, reaches the same result.
package cloudprovider

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/api"

	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

// Config is what a Cloud is made of.
type Config struct {
	// Provider is the cloud's short name: "aws".
	Provider string
	// ClusterName is the operator's name for the cluster.
	ClusterName string
	// Open makes the cloud's provider, once the cluster's identity is known.
	Open func(ctx context.Context, cluster lb.Cluster) (lb.Provider, error)
	// Service turns a Service and the nodes chosen for it into the neutral
	// model. The arguments are read only.
	Service func(s *v1.Service, nodes []*v1.Node) (lb.Service, error)
	// Status turns a status of the neutral model into that of a Service with
	// the given ports.
	Status func(status lb.Status, ports []v1.ServicePort) v1.LoadBalancerStatus
	// OnPlan is told each plan before it is applied; may be nil.
	OnPlan func(plan.Plan)
}

// Cloud implements the framework's Interface. Use New.
type Cloud struct {
	config Config

	mu     sync.Mutex // guards what follows
	client kubernetes.Interface
	engine *plan.Engine
}

// New returns a cloud that is not open yet; it opens at the first use after
// Initialize.
func New(c Config) *Cloud { return &Cloud{config: c} }

// The framework's view of what we are.
var (
	_ cloudprovider.Interface    = (*Cloud)(nil)
	_ cloudprovider.LoadBalancer = balancers{}
)

// Initialize implements cloudprovider.Interface.
func (c *Cloud) Initialize(clients cloudprovider.ControllerClientBuilder, _ <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.client = clients.ClientOrDie("cloud-provider")
}

// open returns the one engine of this process; the first call that succeeds
// makes it. It needs the cluster's identity, and for that the API server.
func (c *Cloud) open(ctx context.Context) (*plan.Engine, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.engine != nil {
		return c.engine, nil
	}
	if c.client == nil {
		return nil, &lb.Error{Kind: lb.Unavailable, Op: "open the cloud", Message: "it is not initialised"}
	}
	// KEP-2149: the kube-system namespace lives exactly as long as its cluster.
	system, err := c.client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return nil, &lb.Error{Kind: lb.Unavailable, Op: "identify the cluster", Err: err}
	}
	provider, err := c.config.Open(ctx, lb.Cluster{Name: c.config.ClusterName, UID: string(system.UID)})
	if err != nil {
		return nil, fmt.Errorf("open the cloud: %w", err)
	}
	c.engine = plan.NewEngine(provider, plan.Options{OnPlan: c.config.OnPlan})
	return c.engine, nil
}

// Reconcile is plan.Engine's, on an engine that is opened when first needed.
func (c *Cloud) Reconcile(ctx context.Context, s lb.Service) (plan.Result, error) {
	engine, err := c.open(ctx)
	if err != nil {
		return plan.Result{}, err
	}
	return engine.Reconcile(ctx, s)
}

// Preview is plan.Engine's.
func (c *Cloud) Preview(ctx context.Context, s lb.Service) (plan.Result, error) {
	engine, err := c.open(ctx)
	if err != nil {
		return plan.Result{}, err
	}
	return engine.Preview(ctx, s)
}

// Delete is plan.Engine's.
func (c *Cloud) Delete(ctx context.Context, s lb.ServiceRef) (plan.Result, error) {
	engine, err := c.open(ctx)
	if err != nil {
		return plan.Result{}, err
	}
	return engine.Delete(ctx, s)
}

// LoadBalancer implements cloudprovider.Interface.
func (c *Cloud) LoadBalancer() (cloudprovider.LoadBalancer, bool) { return balancers{c}, true }

// Instances implements cloudprovider.Interface: superseded by InstancesV2.
func (c *Cloud) Instances() (cloudprovider.Instances, bool) { return nil, false }

// InstancesV2 implements cloudprovider.Interface: there is none yet.
func (c *Cloud) InstancesV2() (cloudprovider.InstancesV2, bool) { return nil, false }

// Zones implements cloudprovider.Interface: deprecated.
func (c *Cloud) Zones() (cloudprovider.Zones, bool) { return nil, false }

// Clusters implements cloudprovider.Interface: deprecated.
func (c *Cloud) Clusters() (cloudprovider.Clusters, bool) { return nil, false }

// Routes implements cloudprovider.Interface: Pod routes are not ours to make.
func (c *Cloud) Routes() (cloudprovider.Routes, bool) { return nil, false }

// ProviderName implements cloudprovider.Interface.
func (c *Cloud) ProviderName() string { return c.config.Provider }

// HasClusterID implements cloudprovider.Interface: the name is required and the
// UID always there.
func (c *Cloud) HasClusterID() bool { return true }

// balancers implements the framework's LoadBalancer.
type balancers struct{ *Cloud }

// GetLoadBalancer reports that the load balancer exists as long as anything of
// it does: the stock controller drops its finalizer as soon as it does not.
func (b balancers) GetLoadBalancer(ctx context.Context, _ string, s *v1.Service) (*v1.LoadBalancerStatus, bool, error) {
	engine, err := b.open(ctx)
	if err != nil {
		return nil, false, err
	}
	status, exists, err := engine.Exists(ctx, refOf(s))
	if err != nil {
		return nil, false, retry(err)
	}
	return b.status(status, s), exists, nil
}

// GetLoadBalancerName returns the name the framework logs.
func (b balancers) GetLoadBalancerName(_ context.Context, _ string, s *v1.Service) string {
	return refOf(s).String()
}

// EnsureLoadBalancer implements the framework's contract.
func (b balancers) EnsureLoadBalancer(ctx context.Context, _ string, s *v1.Service, nodes []*v1.Node) (*v1.LoadBalancerStatus, error) {
	spec, err := b.config.Service(s, nodes)
	if err != nil {
		return nil, err
	}
	result, err := b.Reconcile(ctx, spec)
	if err != nil {
		return nil, retry(err)
	}
	return b.status(result.Status, s), nil
}

// UpdateLoadBalancer is the same path: only the targets differ.
func (b balancers) UpdateLoadBalancer(ctx context.Context, cluster string, s *v1.Service, nodes []*v1.Node) error {
	_, err := b.EnsureLoadBalancer(ctx, cluster, s, nodes)
	return err
}

// EnsureLoadBalancerDeleted returns nil only when nothing is left.
func (b balancers) EnsureLoadBalancerDeleted(ctx context.Context, _ string, s *v1.Service) error {
	_, err := b.Delete(ctx, refOf(s))
	return retry(err)
}

// retry hands the hint when to try again on in the framework's form.
func retry(err error) error {
	if after := lb.RetryAfterOf(err); after > 0 {
		return api.NewRetryError(err.Error(), max(after, time.Second))
	}
	return err
}

func (b balancers) status(status lb.Status, s *v1.Service) *v1.LoadBalancerStatus {
	result := b.config.Status(status, s.Spec.Ports)
	return &result
}

func refOf(s *v1.Service) lb.ServiceRef {
	return lb.ServiceRef{Namespace: s.Namespace, Name: s.Name, UID: string(s.UID)}
}
