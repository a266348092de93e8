package virtual

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/cloud-provider/controllers/service"
	controllersmetrics "k8s.io/component-base/metrics/prometheus/controllers"
	"k8s.io/controller-manager/pkg/clientbuilder"

	"github.com/fairway-lb/fairway/controllers/loadbalancer"
	"github.com/fairway-lb/fairway/controllers/nodes"
	"github.com/fairway-lb/fairway/providers/cloudprovider"
	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

// Cluster is an API server and an account with machines for its nodes.
type Cluster struct {
	*APIServer
	*Account
}

// NewCluster returns a cluster of the given number of nodes in an account as
// NewAccount makes it of World. It must be closed.
func NewCluster(nodes int) (*Cluster, error) {
	account, err := NewAccount(World())
	if err != nil {
		return nil, err
	}
	c := &Cluster{NewAPIServer(), account}
	for n := range nodes {
		if err := c.Join(n); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// Join starts node n: its machine and its Node.
func (c *Cluster) Join(n int) error {
	if err := c.AddInstance(Instance(n)); err != nil {
		return fmt.Errorf("start the machine of node %d: %w", n, err)
	}
	c.Put(Node(n))
	return nil
}

// Close ends the API server and the account. What runs on them has ended before.
func (c *Cluster) Close() {
	c.APIServer.Close()
	c.Account.Close()
}

// machines tells the account's machines from other Nodes, as in the program.
var machines = nodes.Filter{ProviderIDPrefix: "aws://"}

// The framework's defaults of --kube-api-qps and --kube-api-burst.
const (
	qps   = 20
	burst = 30
)

// Run is what a process of the cloud-controller-manager has of clients, caches and
// event recorders, and the cloud.
type Run struct {
	Client   kubernetes.Interface
	Builder  clientbuilder.ControllerClientBuilder
	Informer informers.SharedInformerFactory
	Recorder record.EventRecorder
	Cloud    *cloudprovider.Cloud

	configs []*rest.Config
	events  record.EventBroadcaster
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// Start returns a new process that knows nothing yet. It must be stopped.
func (c *Cluster) Start() (*Run, error) {
	r := &Run{events: record.NewBroadcaster()}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	// Each client has its own limit and connections, as in the program.
	client := func() kubernetes.Interface {
		config := c.Config(qps, burst)
		r.configs = append(r.configs, config)
		return kubernetes.NewForConfigOrDie(config)
	}
	r.Client = client()
	// The framework asks for a resync after 12 to 24 hours.
	r.Informer = informers.NewSharedInformerFactory(client(), 12*time.Hour)
	r.events.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: client().CoreV1().Events("")})
	r.Recorder = r.events.NewRecorder(scheme.Scheme, v1.EventSource{Component: "cloud-controller-manager"})
	config := c.Config(qps, burst)
	r.configs = append(r.configs, config)
	r.Cloud = cloudprovider.New(cloudprovider.Config{
		Provider: "aws", ClusterName: ClusterName, Open: c.Open,
		Service: func(s *v1.Service, all []*v1.Node) (lb.Service, error) {
			return loadbalancer.ServiceFrom(s, machines.Targets(all))
		},
		Status:  loadbalancer.StatusFrom,
		Options: plan.Options{Trust: 30 * time.Minute},
	})
	r.Builder = clientbuilder.SimpleControllerClientBuilder{ClientConfig: config}
	r.Cloud.Initialize(r.Builder, nil)
	return r, nil
}

// OurController starts our own Service controller.
func (r *Run) OurController(o loadbalancer.Options) error {
	o.Client, o.Recorder, o.Engine = r.Client.CoreV1(), r.Recorder, r.Cloud
	o.NodeFilter = machines
	o.Services, o.Nodes = r.Informer.Core().V1().Services(), r.Informer.Core().V1().Nodes()
	controller, err := loadbalancer.New(o)
	if err != nil {
		return err
	}
	r.Go(controller.Run)
	return nil
}

// StockController starts the framework's own Service controller.
func (r *Run) StockController() error {
	core := r.Informer.Core().V1()
	controller, err := service.New(r.Cloud, r.Client, core.Services(), core.Nodes(), ClusterName, utilfeature.DefaultFeatureGate)
	if err != nil {
		return err
	}
	const workers = 10
	r.Go(func(ctx context.Context) {
		controller.Run(ctx, workers, controllersmetrics.NewControllerManagerMetrics("test"))
	})
	return nil
}

// Go runs a controller until Stop, and the informers it has registered with.
func (r *Run) Go(run func(context.Context)) {
	r.running.Go(func() { run(r.ctx) })
	r.Informer.Start(r.ctx.Done())
}

// Stop ends the process, after what it has begun.
func (r *Run) Stop() {
	r.cancel()
	r.running.Wait()
	r.Informer.Shutdown()
	r.events.Shutdown()
	for _, config := range r.configs {
		config.Transport.(interface{ CloseIdleConnections() }).CloseIdleConnections()
	}
}
