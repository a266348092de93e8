package loadbalancer

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/providers/lb"
)

// remove takes the Service's load balancer away, and the finalizer when nothing
// is left.
func (c *Controller) remove(ctx context.Context, svc *v1.Service, m *memory) (time.Duration, string) {
	const inputs = "none"
	if m.inputs != inputs {
		m.announced = false
	}
	if needed, wait := m.attempt(inputs); !needed {
		return wait, resultUnchanged
	}
	if c.DryRun {
		m.succeed(c.VerifyEvery)
		klog.FromContext(ctx).Info("Dry run: the load balancer would be deleted")
		return 0, resultDone
	}
	m.ref = RefOf(svc)
	if !m.announced {
		c.eventf(svc, v1.EventTypeNormal, eventDeleting, "Load balancer is being deleted")
		m.announced = true
	}
	bounded, cancel := context.WithTimeout(ctx, c.SyncTimeout)
	defer cancel()
	if _, err := c.Engine.Delete(bounded, m.ref); err != nil {
		return c.removeFailed(ctx, svc, m, err)
	}
	if again := c.show(ctx, svc, m, withoutFinalizer(c.finalizer()), withoutIngress, withoutCondition, withoutCheckpoint); again > 0 {
		return again, resultFailed
	}
	c.eventf(svc, v1.EventTypeNormal, eventDeleted, "Load balancer is deleted; nothing of it is left in the cloud")
	// The informer may go on showing the Service as it was for a moment, so
	// what we wrote is remembered until its event comes.
	*m = memory{patched: m.patched, noted: map[lb.Notice]bool{}}
	return 0, resultDone
}

func (c *Controller) removeFailed(ctx context.Context, svc *v1.Service, m *memory, err error) (time.Duration, string) {
	if ctx.Err() != nil {
		return 0, resultFailed
	}
	v := judge(err, false, m.failures)
	report, news := m.fail(v)
	c.wakeAfter(ctx, v.ended, keyOf(svc))
	klog.FromContext(ctx).Info("Load balancer is not deleted yet", "kind", v.kind, "err", err, "retryAfter", v.after)
	if news && !report.describes(readyCondition(svc)) {
		c.eventf(svc, v1.EventTypeWarning, eventDeleteFailed, "%s", report.message)
	}
	if again := c.show(ctx, svc, m, withCondition(condition(svc, metav1.ConditionFalse, string(report.kind), report.message))); again > 0 {
		return again, resultFailed
	}
	return v.after, resultFailed
}

// removeOrphan takes away the load balancer of a Service that vanished with our
// finalizer taken off by someone, or was made again under the same name.
func (c *Controller) removeOrphan(ctx context.Context, key string, m *memory) (time.Duration, string) {
	if wait := time.Until(m.notBefore); m.inputs == orphaned && wait > 0 {
		return wait, resultUnchanged
	}
	if m.inputs != orphaned {
		m.inputs, m.failures = orphaned, 0
		klog.FromContext(ctx).Info("Service is gone without its finalizer having been ours to remove; deleting its load balancer", "uid", m.ref.UID)
	}
	bounded, cancel := context.WithTimeout(ctx, c.SyncTimeout)
	defer cancel()
	if _, err := c.Engine.Delete(bounded, m.ref); err != nil {
		v := judge(err, false, m.failures)
		m.fail(v)
		c.wakeAfter(ctx, v.ended, key)
		klog.FromContext(ctx).Info("Load balancer is not deleted yet", "kind", v.kind, "err", err, "retryAfter", v.after)
		return v.after, resultFailed
	}
	c.forget(key)
	return time.Nanosecond, resultDone // the name may be in use again
}

// orphaned stands for the inputs of removeOrphan.
const orphaned = "orphaned"
