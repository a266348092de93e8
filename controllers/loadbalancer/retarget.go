package loadbalancer

import (
	"context"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/controllers/nodes"
	"github.com/fairway-lb/fairway/providers/lb"
)

// onNodes has a look at the Services after a node change: all of them, or while
// the change waits for others, those without any target.
func (c *Controller) onNodes(change nodes.Change) {
	services, err := c.lister.List(labels.Everything())
	if err != nil {
		klog.ErrorS(err, "Cannot list Services after a node change")
		return
	}
	for _, svc := range services {
		if key := keyOf(svc); c.wanted(svc) && (!change.Waits || !c.hasTargets(key)) {
			c.queue.add(key, byNode)
		}
	}
}

// targetsFor returns the nodes for a Service: nodes that join wait for others,
// unless they may be its first.
func (c *Controller) targetsFor(key string, m *memory) *nodes.Snapshot {
	newest := c.tracker.Snapshot()
	if !c.hasTargets(key) {
		newest = c.tracker.Latest()
	}
	if m.targets != nil && m.targets.Generation > newest.Generation {
		return m.targets // what it got without waiting is not taken away again
	}
	return newest
}

// retargeted reports whether other nodes make a difference to a Service that is
// otherwise as it was at its last attempt. Nothing is done for one that they
// make none to, be it ready or not.
func (c *Controller) retargeted(ctx context.Context, s lb.Service, m *memory, targets *nodes.Snapshot) bool {
	if m.targets == targets {
		return false
	}
	bounded, cancel := context.WithTimeout(ctx, c.SyncTimeout)
	defer cancel()
	hash, err := c.Engine.Want(bounded, s)
	if err != nil {
		return m.done || judge(err, true, m.failures).key != m.trouble.key
	}
	return hash != m.hash
}

func (c *Controller) hasTargets(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.targeted[key]
}

func (c *Controller) setTargeted(key string, has bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if has {
		c.targeted[key] = true
	} else {
		delete(c.targeted, key)
	}
}

// whyAgain returns the urgency of the next look at a Service: what is done must
// only be verified.
func (c *Controller) whyAgain(key string) urgency {
	if m := c.memoryOf(key); m.done {
		return bySweep
	}
	return byNode
}
