package nodes

import (
	"context"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/providers/lb"
)

// Joining nodes are published when none has joined for idle, and never later
// than longest after the first of them.
const (
	idle    = time.Second
	longest = 10 * time.Second
)

// Snapshot is the targets at one moment. Neither it nor anything it refers to
// changes once it was handed out.
type Snapshot struct {
	// Generation is 1 for the first snapshot and grows with each.
	Generation uint64
	// Targets are in order of the nodes' names; gone nodes are left out.
	Targets []lb.Target
}

// Tracker follows the Nodes of a cluster. Its methods may be called from
// several goroutines at once.
type Tracker struct {
	store   cache.Store
	synced  cache.InformerSynced
	dirty   chan struct{}
	current atomic.Pointer[Snapshot]
	notify  func(Change)
}

// NewTracker registers with the informer, which the caller starts. After each
// new snapshot but the first, notify is called with what changed, from the
// goroutine of Run; it must not block.
func NewTracker(informer coreinformers.NodeInformer, notify func(Change)) (*Tracker, error) {
	t := &Tracker{
		store:  informer.Informer().GetStore(),
		dirty:  make(chan struct{}, 1),
		notify: notify,
	}
	registration, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { t.mark() },
		DeleteFunc: func(any) { t.mark() },
		UpdateFunc: func(before, after any) {
			old, ok1 := before.(*v1.Node)
			now, ok2 := after.(*v1.Node)
			// Most updates are a kubelet's heartbeat.
			if !ok1 || !ok2 || !sameTarget(TargetOf(old), TargetOf(now)) {
				t.mark()
			}
		},
	})
	if err != nil {
		return nil, err
	}
	t.synced = registration.HasSynced
	return t, nil
}

func (t *Tracker) mark() {
	select {
	case t.dirty <- struct{}{}:
	default: // a look is due already
	}
}

// Snapshot returns the current targets, nil before the first list of Nodes is
// known: nothing may be concluded from that.
func (t *Tracker) Snapshot() *Snapshot { return t.current.Load() }

// Run publishes snapshots until ctx ends.
func (t *Tracker) Run(ctx context.Context) {
	if !cache.WaitForCacheSync(ctx.Done(), t.synced) {
		return
	}
	t.publish(ctx)
	// A nil channel is never ready: no joining node waits to be published.
	var quiet, late <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.dirty:
			change := between(t.Snapshot().Targets, t.list())
			switch {
			case change.Empty():
				quiet, late = nil, nil
				continue
			case !change.Urgent && active(t.Snapshot().Targets):
				quiet = time.After(idle)
				if late == nil {
					late = time.After(longest)
				}
				continue
			}
		case <-quiet:
		case <-late:
		}
		quiet, late = nil, nil
		t.publish(ctx)
	}
}

// publish makes what the lister shows the current snapshot.
func (t *Tracker) publish(ctx context.Context) {
	before := t.Snapshot()
	next := &Snapshot{Generation: 1, Targets: t.list()}
	if before == nil {
		t.current.Store(next)
		return
	}
	change := between(before.Targets, next.Targets)
	if change.Empty() {
		return
	}
	next.Generation = before.Generation + 1
	t.current.Store(next)
	klog.FromContext(ctx).Info("Load balancer targets changed", "change", change.String(), "targets", len(next.Targets), "generation", next.Generation)
	t.notify(change)
}

func (t *Tracker) list() []lb.Target {
	var nodes []*v1.Node
	for _, o := range t.store.List() {
		if n, ok := o.(*v1.Node); ok {
			nodes = append(nodes, n)
		}
	}
	return Targets(nodes)
}

// active reports whether any target takes new connections.
func active(targets []lb.Target) bool {
	for _, t := range targets {
		if t.State == lb.TargetActive {
			return true
		}
	}
	return false
}
