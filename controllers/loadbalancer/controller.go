package loadbalancer

import (
	"cmp"
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	coreinformers "k8s.io/client-go/informers/core/v1"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/controllers/nodes"
	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

// Engine is what the controller needs of *plan.Engine.
type Engine interface {
	// Reconcile makes the cloud what s wants; see plan.Engine.
	Reconcile(ctx context.Context, s lb.Service) (plan.Result, error)
	// Preview returns what Reconcile would do, and does nothing.
	Preview(ctx context.Context, s lb.Service) (plan.Result, error)
	// Delete removes what s owns; nil means that nothing is left.
	Delete(ctx context.Context, s lb.ServiceRef) (plan.Result, error)
	// Want returns the hash of what s shall have, without a call for s alone.
	Want(ctx context.Context, s lb.Service) (hash string, err error)
	// Confirm reports whether s, verified before with the given hash, can be
	// believed to be so still, at the price of one survey for all Services.
	Confirm(ctx context.Context, s lb.Service, hash string) (bool, error)
	// Sweep compares all that was brought about with one survey of the cloud.
	Sweep(ctx context.Context) (plan.Sweep, error)
}

// Options are what a Controller works with. Client, Services, Nodes, Recorder
// and Engine are required.
type Options struct {
	// Client writes the status of Services; no other right is needed.
	Client typedcore.ServicesGetter
	// Services and Nodes are started by the caller, after New.
	Services coreinformers.ServiceInformer
	Nodes    coreinformers.NodeInformer
	Recorder record.EventRecorder
	Engine   Engine

	// NodeFilter says which Nodes can be targets.
	NodeFilter nodes.Filter
	// Class is the spec.loadBalancerClass served, beside other controllers.
	// Empty: Services without a class, as the cluster's only controller.
	Class string
	// Workers is how many Services are worked on at a time; 0 means 10.
	Workers int
	// SyncTimeout bounds the work on one Service; 0 means 2 minutes.
	SyncTimeout time.Duration
	// Grace is how long work that has begun may go on after the end of Run's
	// context; 0 means 20 seconds.
	Grace time.Duration
	// VerifyEvery is about how often a Service is compared with the cloud when
	// nothing calls for it, to find what others have changed; 0 means hourly.
	VerifyEvery time.Duration
	// SweepEvery is about how often all Services are compared with the cloud by a
	// few list calls; 0 means every 10 minutes, less than 0 never.
	SweepEvery time.Duration
	// DeleteOrphans deletes what Services that are no more have left in the cloud,
	// some time after it was reported.
	DeleteOrphans bool
	// About is the object that events about the cluster as a whole are put on;
	// nil means that there are none.
	About *v1.ObjectReference
	// DryRun logs plans and changes nothing, neither the cloud nor Services.
	DryRun bool
}

// Controller serves Services of type LoadBalancer.
type Controller struct {
	Options
	lister  corelisters.ServiceLister
	synced  []cache.InformerSynced
	tracker *nodes.Tracker
	queue   workQueue
	slow    slowLane

	mu       sync.Mutex // guards the maps, not the memories in them
	memories map[string]*memory
	busy     map[string]time.Time // Services in work, since when
	targeted map[string]bool      // Services with a node to send traffic to
	suspects map[string]bool      // Services that a sweep has found to differ
	begun    int                  // how often work has begun
	idle     stall                // whether it still does

	paused atomic.Bool
}

// New registers with the informers. Run does the work.
func New(o Options) (*Controller, error) {
	o.Workers = cmp.Or(o.Workers, 10)
	o.SyncTimeout = cmp.Or(o.SyncTimeout, 2*time.Minute)
	o.VerifyEvery = cmp.Or(o.VerifyEvery, time.Hour)
	o.SweepEvery = cmp.Or(o.SweepEvery, 10*time.Minute)
	o.Grace = cmp.Or(o.Grace, 20*time.Second)
	c := &Controller{
		Options:  o,
		lister:   o.Services.Lister(),
		memories: map[string]*memory{},
		busy:     map[string]time.Time{},
		targeted: map[string]bool{},
		suspects: map[string]bool{},
		slow:     slowLane{known: map[string]bool{}, free: max(1, o.Workers/2)},
	}
	var err error
	if c.tracker, err = nodes.NewTracker(o.Nodes, o.NodeFilter, c.onNodes); err != nil {
		return nil, err
	}
	registration, err := o.Services.Informer().AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc:    c.onAdd,
		UpdateFunc: c.onUpdate,
		DeleteFunc: c.onDelete,
	})
	if err != nil {
		return nil, err
	}
	c.synced = []cache.InformerSynced{registration.HasSynced, func() bool { return c.tracker.Snapshot() != nil }}
	c.queue = newWorkQueue()
	return c, nil
}

// Name returns the controller's name in logs and health checks.
func (c *Controller) Name() string { return "service-lb-controller" }

// Run works until ctx ends, then finishes what it has begun, for at most Grace,
// and returns. Nothing is done before Services and Nodes are known. It must be
// called once.
func (c *Controller) Run(ctx context.Context) {
	log := klog.FromContext(ctx).WithName(c.Name())
	ctx = klog.NewContext(ctx, log)
	c.registerMetrics()
	defer c.queue.ShutDown()
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { c.tracker.Run(ctx) })
	if !cache.WaitForCacheSync(ctx.Done(), c.synced...) {
		return
	}
	log.Info("Serving load balancers", "class", c.Class, "workers", c.Workers, "dryRun", c.DryRun)
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var workers sync.WaitGroup
	for range c.Workers {
		workers.Go(func() { c.work(ctx, work) })
	}
	workers.Go(func() { c.sweeps(ctx, work) })
	<-ctx.Done()
	c.queue.ShutDown()
	overdue := time.AfterFunc(c.Grace, cancel)
	defer overdue.Stop()
	workers.Wait()
	c.slow.running.Wait()
	log.Info("Stopped")
}

// work takes Services from the queue until ctx ends; what was begun by then
// goes on under the context work.
func (c *Controller) work(ctx, work context.Context) {
	for {
		key, over := c.queue.Get()
		if over {
			return
		}
		if ctx.Err() == nil {
			c.dispatch(work, key)
		} else {
			c.queue.Done(key)
		}
	}
}

func (c *Controller) onAdd(obj any, initial bool) {
	svc, ok := obj.(*v1.Service)
	if !ok || !c.concerns(svc) {
		return
	}
	if r := readyCondition(svc); initial && r != nil && r.Reason == string(lb.Unavailable) {
		c.slow.put(keyOf(svc))
	}
	// After a restart, what is broken or new goes before what only must be
	// verified.
	if initial && isReady(svc) {
		c.queue.add(keyOf(svc), bySweep)
		return
	}
	c.queue.add(keyOf(svc), byUser)
}

func (c *Controller) onUpdate(before, after any) {
	old, ok1 := before.(*v1.Service)
	now, ok2 := after.(*v1.Service)
	if !ok1 || !ok2 || !c.concerns(old) && !c.concerns(now) {
		return
	}
	switch {
	case old.ResourceVersion == now.ResourceVersion && now.ResourceVersion != "":
		c.queue.add(keyOf(now), bySweep)
	case wishes(old, now):
		c.queue.add(keyOf(now), byUser)
	default: // most often our own write of the status
		c.queue.add(keyOf(now), byNode)
	}
}

// wishes reports whether an update may be what a user wants of the controller:
// another spec, deletion or annotation.
func wishes(old, now *v1.Service) bool {
	return old.UID != now.UID || !equality.Semantic.DeepEqual(old.Spec, now.Spec) ||
		(old.DeletionTimestamp == nil) != (now.DeletionTimestamp == nil) ||
		!maps.Equal(withoutNotes(old.Annotations), withoutNotes(now.Annotations))
}

func (c *Controller) onDelete(obj any) {
	if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
		c.queue.add(key, byUser)
	}
}

func keyOf(svc *v1.Service) string { return svc.Namespace + "/" + svc.Name }

func (c *Controller) begin(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy[key] = time.Now()
	c.begun++
}

func (c *Controller) end(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.busy, key)
}
