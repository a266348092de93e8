package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	cloudconfig "k8s.io/cloud-provider/app/config"
	"k8s.io/cloud-provider/names"
	"k8s.io/cloud-provider/options"
	cliflag "k8s.io/component-base/cli/flag"
	genericmanager "k8s.io/controller-manager/app"
	"k8s.io/controller-manager/controller"
	"k8s.io/controller-manager/pkg/healthz"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/controllers/loadbalancer"
	fairway "github.com/fairway-lb/fairway/providers/cloudprovider"
	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

// manager wires the framework, the cloud and the controllers together.
type manager struct {
	ctx     context.Context // ends when the program shall
	options loadbalancer.Options
	// services is which controller sees to Services: ownServices or stockServices.
	services string
	running  sync.WaitGroup
	held     atomic.Pointer[lease] // nil while we do not lead
}

func newManager(ctx context.Context) *manager { return &manager{ctx: ctx} }

// run lets work go on in the background until the lease is lost or the program
// shall end, whichever is first; wait waits for it.
func (m *manager) run(leading context.Context, work func(context.Context)) {
	ctx, cancel := context.WithCancel(leading)
	context.AfterFunc(m.ctx, cancel)
	m.running.Go(func() {
		defer cancel()
		work(ctx)
	})
}

// wait returns when the controllers have finished what was under way and a
// standby may lead.
func (m *manager) wait() {
	m.running.Wait()
	held := m.held.Load()
	if held == nil {
		return
	}
	const limit = 5 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := held.release(ctx); err != nil {
		klog.ErrorS(err, "The lease was not given back; a standby waits until it runs out")
	}
}

// command returns the framework's command with our controller and flags.
func (m *manager) command(stop <-chan struct{}) *cobra.Command {
	opts, err := options.NewCloudControllerManagerOptions()
	if err != nil {
		klog.Fatalf("make the default options: %v", err) // cannot be: they are constants
	}
	// Without these two there is no webhook server, which we have no use for.
	opts.Webhook, opts.WebhookServing = nil, nil
	// A worker mostly waits for the cloud or the API server, and no Service or node
	// shall wait for another. The framework queues each node once, and those of one
	// sweep share one list of the cloud's.
	opts.ServiceController.ConcurrentServiceSyncs = 10
	opts.NodeController.ConcurrentNodeSyncs = 10
	opts.NodeLifecycleController.ConcurrentNodeLifecycleSyncs = 10

	// Routes are the network plugin's.
	constructors := m.nodeControllers()
	constructors[names.ServiceLBController] = app.ControllerInitFuncConstructor{
		InitContext: app.ControllerInitContext{ClientName: "service-controller"},
		Constructor: m.construct,
	}
	aliases := names.CCMControllerAliases()
	maps.DeleteFunc(aliases, func(_, name string) bool { return constructors[name].Constructor == nil })

	cmd := app.NewCloudControllerManagerCommand(opts, m.openCloud, constructors, aliases, m.flags(), stop)
	cmd.Long = "Gives the cluster's Services of type LoadBalancer their load balancers, and its Nodes what the cloud knows of their machines.\n" +
		"It must reach the API server by an address that is not a ClusterIP (--kubeconfig or --master)."
	m.inClassMode(cmd)
	m.checkServices(cmd)
	return cmd
}

func (m *manager) flags() cliflag.NamedFlagSets {
	var sets cliflag.NamedFlagSets
	f := sets.FlagSet("fairway")
	f.StringVar(&m.options.Class, "load-balancer-class", "",
		"Serve only Services of this loadBalancerClass, beside another cloud controller. Default: those without a class, as the cluster's only one.")
	f.DurationVar(&m.options.SyncTimeout, "service-sync-deadline", 0, "Longest time one run for one Service may take. 0 means 2m.")
	f.DurationVar(&m.options.Grace, "shutdown-grace-period", 0, "How long work that has begun may go on after SIGTERM. 0 means 20s; keep it below the Pod's terminationGracePeriodSeconds.")
	f.DurationVar(&m.options.VerifyEvery, "verify-interval", time.Hour, "About how often each Service is compared with the cloud when nothing calls for it, to find and repair what others have changed.")
	f.DurationVar(&m.options.SweepEvery, "sweep-interval", 10*time.Minute, "About how often all Services together are compared with the cloud by a few list calls, to find what others have changed and what belongs to no Service any more. Less than 0 for never.")
	f.BoolVar(&m.options.DeleteOrphans, "delete-orphans", false, "Delete what Services that are no more have left in the cloud, from the sweep after the one that reported it on. Default: only report it.")
	f.StringVar(&m.services, "service-controller", ownServices,
		"Which controller sees to Services: "+ownServices+", or "+stockServices+" for the framework's own, which works on the same cloud but repairs no drift, calls the cloud for each node by itself and serves no loadBalancerClass.")
	f.BoolVar(&m.options.DryRun, "dry-run", false, "Log the plan for each Service and change nothing, neither in the cloud nor in Kubernetes.")
	return sets
}

// inClassMode gives a controller beside another its own lease and port, and leaves
// the nodes to the other, unless the user chose otherwise.
func (m *manager) inClassMode(cmd *cobra.Command) {
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if m.options.Class == "" {
			return nil
		}
		for flag, value := range map[string]string{"leader-elect-resource-name": "fairway-cloud-controller-manager", "secure-port": "10268",
			"controllers": withoutNodeControllers} {
			if f := cmd.Flags().Lookup(flag); f != nil && !f.Changed {
				if err := f.Value.Set(value); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// openCloud reads the cloud's configuration. What is wrong with it ends the
// program with a message and no stack.
func (m *manager) openCloud(config *cloudconfig.CompletedConfig) cloudprovider.Interface {
	shared := config.ComponentConfig.KubeCloudShared.CloudProvider
	c, err := newCloud(shared.Name, shared.CloudConfigFile, m.options.VerifyEvery/2, config.EventRecorder)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		klog.FlushAndExit(klog.ExitFlushTimeout, 1)
	}
	return c
}

func newCloud(name, path string, trust time.Duration, recorder record.EventRecorder) (*fairway.Cloud, error) {
	found, err := find(name)
	if err != nil {
		return nil, err
	}
	var file io.Reader
	if path != "" {
		opened, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("--cloud-config: %w", err)
		}
		defer opened.Close()
		file = opened
	}
	clusterName, open, err := found.load(file)
	if err != nil {
		return nil, fmt.Errorf("--cloud-config %s: %w", path, err)
	}
	return assemble(name, clusterName, open, trust, recorder), nil
}

// assemble returns the framework's view of one of our clouds.
func assemble(name, clusterName string, open openProvider, trust time.Duration, recorder record.EventRecorder) *fairway.Cloud {
	targets := clouds[name].nodes.Targets
	return fairway.New(fairway.Config{
		Provider: name, ClusterName: clusterName, Open: open, Recorder: recorder,
		Service: func(s *v1.Service, all []*v1.Node) (lb.Service, error) {
			return loadbalancer.ServiceFrom(s, targets(all))
		},
		Status: loadbalancer.StatusFrom,
		// A look at the cloud is due once per verification; in between the engine
		// knows what it has made.
		Options: plan.Options{OnPlan: loadbalancer.LogPlan, OnApplied: loadbalancer.ObserveChange, Trust: trust},
	})
}

// construct implements the framework's ControllerInitFuncConstructor: it
// registers with the informers and starts the controller, which waits for them.
func (m *manager) construct(init app.ControllerInitContext, config *cloudconfig.CompletedConfig, c cloudprovider.Interface) app.InitFunc {
	if m.services == stockServices {
		return m.starts(m.startStockServices)(init, config, c)
	}
	return func(ctx context.Context, _ genericmanager.ControllerContext) (controller.Interface, bool, error) {
		core := config.SharedInformers.Core().V1()
		for _, informer := range []cache.SharedIndexInformer{core.Services().Informer(), core.Nodes().Informer()} {
			if err := informer.SetTransform(withoutManagedFields); err != nil {
				return nil, false, err
			}
		}
		o := m.options
		o.Workers = int(config.ComponentConfig.ServiceController.ConcurrentServiceSyncs)
		o.Client = config.ClientBuilder.ClientOrDie("service-controller").CoreV1()
		o.Services, o.Nodes, o.Recorder = core.Services(), core.Nodes(), config.EventRecorder
		cloud := c.(*fairway.Cloud)
		o.Engine, o.NodeFilter = cloud, clouds[c.ProviderName()].nodes
		election := config.ComponentConfig.Generic.LeaderElection
		o.About = leaseReference(election.ResourceNamespace, election.ResourceName)
		ours, err := loadbalancer.New(o)
		if err != nil {
			return nil, false, err
		}
		if election.LeaderElect {
			held, err := heldLease(ctx, config.VersionedClient.CoordinationV1().Leases(election.ResourceNamespace), election.ResourceName)
			if err != nil {
				klog.ErrorS(err, "The lease will run out instead of being given back at the end, and cannot pause the controller")
			} else {
				m.held.Store(held)
				pause := func(yes bool) {
					ours.Pause(yes)
					cloud.PauseNodes(yes)
				}
				pause(held.paused)
				m.run(ctx, func(ctx context.Context) { held.watchPause(ctx, pause) })
			}
		}
		m.run(ctx, ours.Run)
		return checked{ours}, true, nil
	}
}

// checked gives the framework our controller's health.
type checked struct{ *loadbalancer.Controller }

// HealthChecker implements the framework's HealthCheckable.
func (c checked) HealthChecker() healthz.UnnamedHealthChecker { return c.Controller }

// withoutManagedFields drops what nobody here reads and is often half of an
// object, before it is cached.
func withoutManagedFields(o any) (any, error) {
	if object, err := meta.Accessor(o); err == nil {
		object.SetManagedFields(nil)
	}
	return o, nil
}
