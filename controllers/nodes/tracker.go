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
// than longest after the first of them. What is urgent waits for nobody; but a
// list that has come out short tells of its nodes one by one, and who judges
// whether too many go at once must see them together.
const (
	idle     = time.Second
	longest  = 10 * time.Second
	together = 100 * time.Millisecond
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
	filter  Filter
	store   cache.Store
	synced  cache.InformerSynced
	dirty   chan struct{}
	settled atomic.Pointer[Snapshot]
	latest  atomic.Pointer[Snapshot]
	notify  func(Change)

	skipped map[string]Reason // nodes that are no targets; of Run's goroutine
}

// NewTracker registers with the informer, which the caller starts. When
// Snapshot has changed, and with Waits set when only Latest has, notify is
// called with what changed, from the goroutine of Run; it must not block. A
// change that was undone while it waited ends with an empty one.
func NewTracker(informer coreinformers.NodeInformer, filter Filter, notify func(Change)) (*Tracker, error) {
	t := &Tracker{
		filter: filter,
		store:  informer.Informer().GetStore(),
		dirty:  make(chan struct{}, 1),
		notify: notify,
	}
	registration, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { t.mark() },
		DeleteFunc: func(any) { t.mark() },
		UpdateFunc: t.onUpdate,
	})
	if err != nil {
		return nil, err
	}
	t.synced = registration.HasSynced
	return t, nil
}

func (t *Tracker) onUpdate(before, after any) {
	old, ok1 := before.(*v1.Node)
	now, ok2 := after.(*v1.Node)
	if !ok1 || !ok2 || !t.filter.unchanged(old, now) {
		t.mark()
	}
}

func (t *Tracker) mark() {
	select {
	case t.dirty <- struct{}{}:
	default: // a look is due already
	}
}

// Snapshot returns the targets without those changes that wait for others to
// follow. It is nil before the first list of Nodes is known: nothing may be
// concluded from that.
func (t *Tracker) Snapshot() *Snapshot { return t.settled.Load() }

// Latest returns the targets as they are now, for who cannot wait. It is nil
// when Snapshot is, and never older than that.
func (t *Tracker) Latest() *Snapshot { return t.latest.Load() }

// Run publishes snapshots until ctx ends.
func (t *Tracker) Run(ctx context.Context) {
	registerMetrics()
	if !cache.WaitForCacheSync(ctx.Done(), t.synced) {
		return
	}
	t.look(ctx)
	t.settled.Store(t.latest.Load())
	// A nil channel is never ready: no change waits.
	var soon, quiet, late <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.dirty:
			step := t.look(ctx)
			if step.Empty() {
				continue
			}
			switch urgent := step.Urgent || !anyActive(t.Snapshot().Targets); {
			case urgent && soon == nil:
				soon = time.After(together)
			case !urgent && late == nil:
				quiet, late = time.After(idle), time.After(longest)
			case !urgent:
				quiet = time.After(idle)
			}
			step.Waits = true
			t.notify(step)
			continue
		case <-soon:
		case <-quiet:
		case <-late:
		}
		soon, quiet, late = nil, nil, nil
		t.settle(ctx)
	}
}

// settle makes the latest snapshot the one for all.
func (t *Tracker) settle(ctx context.Context) {
	before, now := t.Snapshot(), t.Latest()
	change := between(before.Targets, now.Targets)
	t.settled.Store(now)
	if !change.Empty() {
		klog.FromContext(ctx).Info("Load balancer targets changed", "change", change.String(), "targets", len(now.Targets), "generation", now.Generation)
	}
	t.notify(change)
}

// look makes what the informer shows the latest snapshot, if that is another
// one, and returns what changed since the one before.
func (t *Tracker) look(ctx context.Context) Change {
	targets := t.filter.Targets(t.list(ctx))
	before := t.Latest()
	if before == nil {
		t.latest.Store(&Snapshot{Generation: 1, Targets: targets})
		return Change{}
	}
	change := between(before.Targets, targets)
	if !change.Empty() {
		t.latest.Store(&Snapshot{Generation: before.Generation + 1, Targets: targets})
	}
	return change
}

// list returns all Nodes, and tells about those that are no targets.
func (t *Tracker) list(ctx context.Context) []*v1.Node {
	var all []*v1.Node
	for _, o := range t.store.List() {
		if n, ok := o.(*v1.Node); ok {
			all = append(all, n)
		}
	}
	t.explain(ctx, all)
	return all
}
