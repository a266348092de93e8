package loadbalancer

import (
	"context"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

// Reasons of the events on a Service; those of the stock controller keep their
// names.
const (
	eventEnsuring        = "EnsuringLoadBalancer"
	eventEnsured         = "EnsuredLoadBalancer"
	eventUpdated         = "UpdatedLoadBalancer"
	eventFailed          = "SyncLoadBalancerFailed"
	eventNoTargets       = "UnAvailableLoadBalancer"
	eventDeleting        = "DeletingLoadBalancer"
	eventDeleted         = "DeletedLoadBalancer"
	eventDeleteFailed    = "DeleteLoadBalancerFailed"
	eventPaused          = "LoadBalancerPaused"
	eventServedElsewhere = "LoadBalancerServedElsewhere"
	eventAdopted         = "LoadBalancerAdopted"
	eventRepaired        = "LoadBalancerRepaired"
	eventOrphans         = "LoadBalancersOrphaned"
	eventOrphanDeleted   = "OrphanedLoadBalancerDeleted"
	eventAllPaused       = "LoadBalancersPaused"
	eventAllResumed      = "LoadBalancersResumed"
)

// sync does what is due for one Service and returns when to look again, 0 for
// not before something happens.
func (c *Controller) sync(ctx context.Context, key string) time.Duration {
	ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithValues("service", key))
	svc, err := c.read(key)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot read Service")
		return firstRetry
	}
	m := c.memoryOf(key)
	svc = m.newest(svc)
	start := time.Now()
	again, result := c.serve(ctx, key, svc, m)
	observe(result, time.Since(start))
	return again
}

// read returns the Service from the informer's cache, nil when there is none.
func (c *Controller) read(key string) (*v1.Service, error) {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil, err
	}
	svc, err := c.lister.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return svc, err
}

// serve returns when to look again and, for the metrics, what came of it.
func (c *Controller) serve(ctx context.Context, key string, svc *v1.Service, m *memory) (time.Duration, string) {
	if c.paused.Load() {
		m.inputs = "" // what happens meanwhile is not known
		return 0, resultSkipped
	}
	if m.ref != (lb.ServiceRef{}) && (svc == nil || m.ref != RefOf(svc)) {
		return c.removeOrphan(ctx, key, m)
	}
	if svc == nil {
		c.forget(key)
		return 0, resultSkipped
	}
	switch c.dutyTo(svc, m.ref != lb.ServiceRef{}) {
	case ensure:
		return c.ensure(ctx, key, svc, m)
	case remove:
		return c.remove(ctx, svc, m)
	case pause:
		c.notePause(svc, m)
	case yield:
		return c.yield(ctx, svc, m)
	case leave:
		c.forget(key)
	}
	return 0, resultSkipped
}

// ensure gives the Service its load balancer.
func (c *Controller) ensure(ctx context.Context, key string, svc *v1.Service, m *memory) (time.Duration, string) {
	m.pauseSeen = false
	targets := c.targetsFor(key, m)
	s, err := ServiceFrom(svc, targets.Targets)
	if err != nil {
		m.inputs = "" // whatever comes next is another attempt
		return c.failed(ctx, svc, m, plan.Result{}, err)
	}
	m.noticeWanted(svc)
	if c.suspected(keyOf(svc)) {
		m.due = time.Now()
	}
	inputs := fingerprint(s)
	if m.inputs == inputs && c.retargeted(ctx, s, m, targets) {
		m.again()
		m.retargeted = true
	}
	m.targets = targets
	if needed, wait := m.attempt(inputs); !needed {
		if again := c.show(ctx, svc, m, m.outcome...); again > 0 {
			return again, resultFailed
		}
		return m.sooner(wait), resultUnchanged
	}
	if c.DryRun {
		return c.rehearse(ctx, s, m)
	}
	if again := c.show(ctx, svc, m, withFinalizer(c.finalizer())); again > 0 {
		m.inputs = ""
		return again, resultFailed
	}
	c.noteAdoption(svc, m)
	svc = m.newest(svc)
	bounded, cancel := context.WithTimeout(ctx, c.SyncTimeout)
	defer cancel()
	if m.ref == (lb.ServiceRef{}) && c.confirmed(bounded, svc, s) {
		c.setTargeted(key, true)
		return c.believe(svc, m, s)
	}
	m.ref = s.ServiceRef
	result, err := c.Engine.Reconcile(bounded, s)
	m.hash = result.Hash
	c.setTargeted(key, result.Hash != "" && !result.NoTargets)
	c.note(svc, m, result.Notices)
	m.noteDrift(svc, result)
	if err != nil {
		return c.failed(ctx, svc, m, result, err)
	}
	return c.succeeded(ctx, svc, m, result)
}

// confirmed reports whether a Service that another life of this controller left
// ready is so still, as far as one survey of the whole cluster can tell.
func (c *Controller) confirmed(ctx context.Context, svc *v1.Service, s lb.Service) bool {
	hash := svc.Annotations[CheckpointAnnotation]
	if hash == "" || !isReady(svc) || len(svc.Status.LoadBalancer.Ingress) == 0 {
		return false
	}
	ok, err := c.Engine.Confirm(ctx, s, hash)
	if err != nil {
		klog.FromContext(ctx).Info("No survey, so the Service is looked at by itself", "err", err)
	}
	return ok
}

// believe takes what the Service shows to be true.
func (c *Controller) believe(svc *v1.Service, m *memory, s lb.Service) (time.Duration, string) {
	m.ref, m.hash = s.ServiceRef, svc.Annotations[CheckpointAnnotation]
	m.succeed(c.VerifyEvery)
	m.serve(*readyCondition(svc), withFinalizer(c.finalizer()), withIngress(svc.Status.LoadBalancer.Ingress))
	return time.Until(m.due), resultUnchanged
}

// wakeAfter puts the Service into the queue when what is pending for it ends.
func (c *Controller) wakeAfter(ctx context.Context, ended <-chan struct{}, key string) {
	if ended == nil {
		return
	}
	go func() {
		select {
		case <-ended:
			c.queue.add(key, byNode)
		case <-ctx.Done():
		}
	}()
}

// rehearse logs what would be done.
func (c *Controller) rehearse(ctx context.Context, s lb.Service, m *memory) (time.Duration, string) {
	bounded, cancel := context.WithTimeout(ctx, c.SyncTimeout)
	defer cancel()
	result, err := c.Engine.Preview(bounded, s)
	m.hash = result.Hash
	if err != nil {
		v := judge(err, result.Plan.Empty(), m.failures)
		m.fail(v)
		klog.FromContext(ctx).Error(err, "Dry run failed")
		return max(v.after, 0), resultFailed
	}
	m.succeed(c.VerifyEvery)
	klog.FromContext(ctx).Info("Dry run: nothing of this is applied")
	LogPlan(result.Plan)
	return 0, resultDone
}

// succeeded shows a load balancer that is as the Service wants it.
func (c *Controller) succeeded(ctx context.Context, svc *v1.Service, m *memory, result plan.Result) (time.Duration, string) {
	status := StatusFrom(result.Status, svc.Spec.Ports)
	if len(status.Ingress) == 0 {
		return c.failed(ctx, svc, m, result, &lb.Error{Kind: lb.Pending, Op: "read the load balancer's address", Message: "the cloud has not assigned one yet", RetryAfter: firstRetry})
	}
	m.succeed(c.VerifyEvery)
	m.observeReady()
	where := addresses(status)
	now := condition(svc, metav1.ConditionTrue, reasonReady, "The load balancer is configured at "+where+".")
	if result.NoTargets {
		now = condition(svc, metav1.ConditionFalse, reasonNoTargets, "No node can receive traffic: none is initialised, not excluded and not about to go. Add nodes or look at their taints and labels.")
		if old := readyCondition(svc); old == nil || old.Reason != reasonNoTargets {
			c.eventf(svc, v1.EventTypeWarning, eventNoTargets, "%s", now.Message)
		}
	}
	becameReady := now.Status == metav1.ConditionTrue && !isReady(svc)
	switch {
	case len(m.drift) > 0:
		c.eventf(svc, v1.EventTypeWarning, eventRepaired, "%s", repaired(m.drift))
	case !result.Plan.Empty() && !m.retargeted || m.announced || becameReady:
		reason := eventEnsured
		if isReady(svc) && !m.announced {
			reason = eventUpdated
		}
		c.eventf(svc, v1.EventTypeNormal, reason, "Load balancer is ready at %s (%s)", where, done(result.Plan))
	}
	note := m.checkpoint(svc, result.Hash)
	m.announced, m.retargeted, m.drift = false, false, nil
	m.serve(now, withFinalizer(c.finalizer()), withIngress(status.Ingress), note)
	if again := c.show(ctx, svc, m, m.outcome...); again > 0 {
		return again, resultFailed
	}
	return m.sooner(time.Until(m.due)), resultDone
}

// failed shows what is wrong. Addresses that clients use already stay.
func (c *Controller) failed(ctx context.Context, svc *v1.Service, m *memory, result plan.Result, err error) (time.Duration, string) {
	if ctx.Err() != nil { // we were told to stop; the next start goes on from here
		return 0, resultFailed
	}
	v := judge(err, result.Plan.Empty(), m.failures)
	serving := m.served != nil || isServing(svc)
	v.hushed = v.passing() && m.outage() < patience && (serving || v.kind == lb.Throttled)
	report, news := m.fail(v)
	c.wakeAfter(ctx, v.ended, keyOf(svc))
	klog.FromContext(ctx).Info("Load balancer is not ready", "kind", v.kind, "err", err, "retryAfter", v.after)
	if v.kind == lb.Pending && !result.Plan.Empty() && !m.announced {
		c.eventf(svc, v1.EventTypeNormal, eventEnsuring, "Load balancer is being configured: %s", result.Plan.Summary())
		m.announced = true
	}
	if news && !report.describes(readyCondition(svc)) {
		c.eventf(svc, v1.EventTypeWarning, eventFailed, "%s", report.message)
	}
	m.outcome = outcomeOf(svc, m, v, report, serving)
	if status := StatusFrom(result.Status, svc.Spec.Ports); len(status.Ingress) > 0 && v.kind != lb.Pending {
		m.outcome = append(m.outcome, withIngress(status.Ingress))
	}
	if m.partial = m.partial || !result.Plan.Empty(); m.partial {
		m.outcome = append(m.outcome, withoutCheckpoint)
	}
	if !c.DryRun {
		if again := c.show(ctx, svc, m, m.outcome...); again > 0 {
			return again, resultFailed
		}
	}
	return max(v.after, 0), resultFailed
}

// outcomeOf returns what is to be seen on a Service after a failure. One that is
// served goes on being so while the cloud does not answer: at first nothing is
// said about that, and then that nobody knows.
func outcomeOf(svc *v1.Service, m *memory, v, report verdict, serving bool) []edit {
	switch {
	case !serving || !v.passing():
		m.served, m.good = nil, nil
		return []edit{withCondition(condition(svc, metav1.ConditionFalse, string(report.kind), report.message))}
	case v.hushed:
		return slices.Concat(m.served, m.good)
	default:
		return append(slices.Clone(m.served), withCondition(condition(svc, metav1.ConditionUnknown, string(report.kind),
			report.message+" Until then the load balancer is left as it was.")))
	}
}

// yield leaves a Service to the controller whose addresses it shows.
func (c *Controller) yield(ctx context.Context, svc *v1.Service, m *memory) (time.Duration, string) {
	if !c.wanted(svc) || c.DryRun {
		return 0, resultSkipped
	}
	const message = "Another controller has given this Service its addresses, so it is left alone. To give it to this controller, set the annotation " +
		AdoptAnnotation + "=true: the addresses change once a new load balancer is ready, and removing the old one is up to you. Otherwise set another loadBalancerClass."
	if readyCondition(svc) == nil {
		c.eventf(svc, v1.EventTypeWarning, eventServedElsewhere, "%s", message)
	}
	if again := c.show(ctx, svc, m, withCondition(condition(svc, metav1.ConditionFalse, reasonServedElsewhere, message))); again > 0 {
		return again, resultFailed
	}
	return 0, resultSkipped
}

// noteAdoption says whose work ends here, before the addresses are replaced.
func (c *Controller) noteAdoption(svc *v1.Service, m *memory) {
	if old := othersAddresses(svc); m.ref == (lb.ServiceRef{}) && len(old) > 0 {
		c.eventf(svc, v1.EventTypeNormal, eventAdopted, "This Service is ours from now on. The load balancer at %s was another controller's: it stays, and is yours to remove when no client uses it any more.",
			addresses(v1.LoadBalancerStatus{Ingress: old}))
	}
}

func (c *Controller) notePause(svc *v1.Service, m *memory) {
	if !m.pauseSeen {
		c.eventf(svc, v1.EventTypeNormal, eventPaused, "Nothing is done for this Service and its load balancer until the annotation %s is removed", PauseAnnotation)
	}
	m.pauseSeen = true
	m.inputs = "" // what happened meanwhile is not known
}

// eventf tells the Service's owner; a dry run tells nobody.
func (c *Controller) eventf(svc *v1.Service, kind, reason, format string, args ...any) {
	if !c.DryRun {
		c.Recorder.Eventf(svc, kind, reason, format, args...)
	}
}

// note makes one event of each notice, once while it lasts.
func (c *Controller) note(svc *v1.Service, m *memory, notices []lb.Notice) {
	now := make(map[lb.Notice]bool, len(notices))
	for _, n := range notices {
		if !m.noted[n] && !now[n] {
			c.eventf(svc, v1.EventTypeWarning, n.Reason, "%s", n.Message)
		}
		now[n] = true
	}
	m.noted = now
}

// show makes the edits visible on the Service. It returns when to try again
// after a failure, 0 after success. A Service that is gone needs no showing.
func (c *Controller) show(ctx context.Context, svc *v1.Service, m *memory, edits ...edit) (again time.Duration) {
	patched, err := c.patch(ctx, svc, edits...)
	if err != nil && !apierrors.IsNotFound(err) {
		klog.FromContext(ctx).Error(err, "Cannot write the Service's status")
		m.unwritten++
		return backoff(m.unwritten - 1)
	}
	m.patched, m.unwritten = patched, 0
	return 0
}

func addresses(status v1.LoadBalancerStatus) string {
	text := ""
	for i, ingress := range status.Ingress {
		if i > 0 {
			text += ", "
		}
		text += ingress.Hostname + ingress.IP
	}
	return text
}

func done(p plan.Plan) string {
	created, updated, deleted := 0, 0, 0
	for _, change := range p.Changes {
		switch change.Op {
		case lb.Create:
			created++
		case lb.Update:
			updated++
		case lb.Delete:
			deleted++
		}
	}
	return fmt.Sprintf("%d created, %d updated, %d deleted", created, updated, deleted)
}

// LogPlan logs a plan in its text form, as plan.Options.OnPlan.
func LogPlan(p plan.Plan) {
	klog.InfoS("Plan", "for", p.Scope.String(), "summary", p.Summary(), "plan", p.String())
}
