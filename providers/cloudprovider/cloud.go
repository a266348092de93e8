// Package cloudprovider is the one place where k8s.io/cloud-provider and
// providers/lb meet. Cloud is what the framework calls a cloud; its
// LoadBalancer runs on the same engine as our own Service controller, so that
// the stock controller, where somebody prefers it, reaches the same result.
package cloudprovider

import (
	"cmp"
	"context"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	cloudprovider "k8s.io/cloud-provider"

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
	// Options are the engine's.
	Options plan.Options
	// Recorder takes events about Nodes; nil for none.
	Recorder record.EventRecorder
}

// Cloud implements the framework's Interface. Use New.
type Cloud struct {
	config Config

	client  kubernetes.Interface // set by Initialize, before anything is asked
	turns   turns                // one call per Service at a time
	opening turns                // one opening at a time
	opened  atomic.Pointer[session]
	paused  atomic.Bool
}

// session is an open cloud.
type session struct {
	provider lb.Provider
	engine   *plan.Engine
}

// New returns a cloud that is not open yet; it opens at the first use after
// Initialize.
func New(c Config) *Cloud { return &Cloud{config: c} }

// The framework's view of what we are.
var (
	_ cloudprovider.Interface    = (*Cloud)(nil)
	_ cloudprovider.LoadBalancer = balancers{}
	_ cloudprovider.InstancesV2  = instances{}
)

// Initialize implements cloudprovider.Interface.
func (c *Cloud) Initialize(clients cloudprovider.ControllerClientBuilder, _ <-chan struct{}) {
	c.client = clients.ClientOrDie("cloud-provider")
}

// PauseNodes makes all machines seem to be there and to run, or ends that: no Node
// is deleted or tainted meanwhile. New ones are still initialised. It may be called
// at any time.
func (c *Cloud) PauseNodes(yes bool) { c.paused.Store(yes) }

// open returns the engine of the session.
func (c *Cloud) open(ctx context.Context) (*plan.Engine, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	return s.engine, nil
}

// session returns the one of this process; the first call that succeeds
// makes it. It needs the cluster's identity, and for that the API server. Its
// errors ask to be tried again: what is wrong lies outside any Service.
func (c *Cloud) session(ctx context.Context) (*session, error) {
	if s := c.opened.Load(); s != nil {
		return s, nil
	}
	done, err := c.opening.take(ctx, lb.ServiceRef{})
	if err != nil {
		return nil, err
	}
	defer done()
	if s := c.opened.Load(); s != nil {
		return s, nil
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
		const again = 30 * time.Second
		return nil, &lb.Error{Kind: lb.KindOf(err), Op: "open the cloud", Err: err, RetryAfter: cmp.Or(lb.RetryAfterOf(err), again)}
	}
	s := &session{provider, plan.NewEngine(provider, c.config.Options)}
	c.opened.Store(s)
	return s, nil
}

// Reconcile is plan.Engine's, on an engine that is opened when first needed.
// Calls for one Service wait for each other.
func (c *Cloud) Reconcile(ctx context.Context, s lb.Service) (plan.Result, error) {
	engine, done, err := c.turn(ctx, s.ServiceRef)
	if err != nil {
		return plan.Result{}, err
	}
	defer done()
	return engine.Reconcile(ctx, s)
}

// Confirm is plan.Engine's.
func (c *Cloud) Confirm(ctx context.Context, s lb.Service, hash string) (bool, error) {
	engine, err := c.open(ctx)
	if err != nil {
		return false, err
	}
	return engine.Confirm(ctx, s, hash)
}

// Want is plan.Engine's.
func (c *Cloud) Want(ctx context.Context, s lb.Service) (string, error) {
	engine, err := c.open(ctx)
	if err != nil {
		return "", err
	}
	return engine.Want(ctx, s)
}

// Sweep is plan.Engine's.
func (c *Cloud) Sweep(ctx context.Context) (plan.Sweep, error) {
	engine, err := c.open(ctx)
	if err != nil {
		return plan.Sweep{}, err
	}
	return engine.Sweep(ctx)
}

// Preview is plan.Engine's; see Reconcile.
func (c *Cloud) Preview(ctx context.Context, s lb.Service) (plan.Result, error) {
	engine, err := c.open(ctx)
	if err != nil {
		return plan.Result{}, err
	}
	return engine.Preview(ctx, s)
}

// Delete is plan.Engine's; see Reconcile.
func (c *Cloud) Delete(ctx context.Context, s lb.ServiceRef) (plan.Result, error) {
	engine, done, err := c.turn(ctx, s)
	if err != nil {
		return plan.Result{}, err
	}
	defer done()
	return engine.Delete(ctx, s)
}

// turn waits until no other call for the Service is under way.
func (c *Cloud) turn(ctx context.Context, s lb.ServiceRef) (*plan.Engine, func(), error) {
	engine, err := c.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	done, err := c.turns.take(ctx, s)
	return engine, done, err
}

// LoadBalancer implements cloudprovider.Interface.
func (c *Cloud) LoadBalancer() (cloudprovider.LoadBalancer, bool) { return balancers{c}, true }

// Instances implements cloudprovider.Interface: superseded by InstancesV2.
func (c *Cloud) Instances() (cloudprovider.Instances, bool) { return nil, false }

// InstancesV2 implements cloudprovider.Interface. Where the provider is no
// lb.Instances, its methods say so when they are called: what the provider can is
// not known before it is open.
func (c *Cloud) InstancesV2() (cloudprovider.InstancesV2, bool) { return instances{c}, true }

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
