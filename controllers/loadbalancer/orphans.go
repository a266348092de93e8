package loadbalancer

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/providers/lb"
)

const (
	// orphanAge is how long after one sweep another must still see what belongs to
	// no Service: a Service may just be coming, or going.
	orphanAge = 5 * time.Minute
	// orphansAtATime is how many Services' leftovers one sweep deletes. Should the
	// API server ever tell of too few Services, someone can still step in.
	orphansAtATime = 3
)

// orphan is what a Service that is no more has left.
type orphan struct {
	resources []lb.Resource
	since     time.Time
	reported  bool
}

// gather updates what is known of orphans with a survey, and returns those that
// are old enough, by the name of their Service. The zero ServiceRef stands for
// the cluster, whose things are orphans when nobody is left to need them.
func (s sweeper) gather(found lb.Survey) []lb.ServiceRef {
	seen := map[lb.ServiceRef][]lb.Resource{}
	for ref, resources := range found.Services {
		if !s.belongs(ref) {
			seen[ref] = resources
		}
	}
	if len(found.Services) == 0 && len(found.Cluster) > 0 && !slices.ContainsFunc(found.Cluster, func(r lb.Resource) bool { return r.InUse }) && !s.anyService() {
		seen[lb.ServiceRef{}] = found.Cluster
	}
	maps.DeleteFunc(s.orphans, func(ref lb.ServiceRef, _ *orphan) bool { return seen[ref] == nil })
	var old []lb.ServiceRef
	for ref, resources := range seen {
		o := s.orphans[ref]
		if o == nil {
			o = &orphan{since: time.Now()}
			s.orphans[ref] = o
		}
		o.resources = resources
		if time.Since(o.since) >= orphanAge {
			old = append(old, ref)
		}
	}
	slices.SortFunc(old, func(a, b lb.ServiceRef) int {
		return cmp.Or(cmp.Compare(a.String(), b.String()), cmp.Compare(a.UID, b.UID))
	})
	return old
}

// belongs reports whether a Service that may have a load balancer is there.
func (c *Controller) belongs(ref lb.ServiceRef) bool {
	svc, err := c.lister.Services(ref.Namespace).Get(ref.Name)
	return err == nil && RefOf(svc) == ref && mayHaveOne(svc) || err != nil && !apierrors.IsNotFound(err)
}

// mayHaveOne reports whether svc may have a load balancer, ours or one of another
// controller of this cluster that makes the same marks.
func mayHaveOne(svc *v1.Service) bool {
	return svc.Spec.Type == v1.ServiceTypeLoadBalancer ||
		slices.Contains(svc.Finalizers, StockFinalizer) || slices.Contains(svc.Finalizers, ClassFinalizer)
}

func (c *Controller) anyService() bool {
	services, err := c.lister.List(labels.Everything())
	return err != nil || slices.ContainsFunc(services, mayHaveOne)
}

// report tells of orphans, each once, and deletes those that an earlier sweep has
// told of if that is wanted.
func (s sweeper) report(ctx context.Context, old []lb.ServiceRef) {
	countOrphans(s.orphans, old)
	log := klog.FromContext(ctx)
	var news []string
	deleted := 0
	for _, ref := range old {
		switch o := s.orphans[ref]; {
		case !o.reported:
			o.reported = true
			news = append(news, o.describe(ref))
			log.Info("Orphaned load balancer: its Service is no more", "service", ref.String(), "uid", ref.UID, "resources", identify(o.resources))
		case s.DeleteOrphans && !s.DryRun && deleted < orphansAtATime:
			deleted++
			s.deleteOrphan(ctx, ref)
		}
	}
	if len(news) == 0 {
		return
	}
	cure := "Delete them in the cloud, or run the controller with --delete-orphans."
	if s.DeleteOrphans {
		cure = "They are deleted, a few at each sweep, from the next one on."
	}
	s.eventAbout(v1.EventTypeWarning, eventOrphans, "Left in the cloud by Services that are no more: %s. %s", enumerate(news), cure)
}

// deleteOrphan deletes what ref has left, once the API server itself says that it
// is gone. What does not bear its mark at a fresh look stays.
func (s sweeper) deleteOrphan(ctx context.Context, ref lb.ServiceRef) {
	log := klog.FromContext(ctx).WithValues("service", ref.String(), "uid", ref.UID)
	if ref != (lb.ServiceRef{}) {
		svc, err := s.Client.Services(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err == nil && RefOf(svc) == ref || err != nil && !apierrors.IsNotFound(err) {
			log.Info("Orphan is left alone: the API server does not say that its Service is gone", "err", err)
			return
		}
	}
	if _, err := s.Engine.Delete(ctx, ref); err != nil {
		log.Info("Orphan is not deleted yet", "kind", lb.KindOf(err), "err", err)
		return
	}
	log.Info("Orphan is deleted")
	s.eventAbout(v1.EventTypeNormal, eventOrphanDeleted, "Deleted what was left in the cloud by %s", s.orphans[ref].describe(ref))
	delete(s.orphans, ref)
}

// describe names the Service and counts what it left.
func (o *orphan) describe(ref lb.ServiceRef) string {
	kinds := map[lb.Kind]int{}
	for _, r := range o.resources {
		kinds[r.Kind]++
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		parts = append(parts, fmt.Sprintf("%d %s", kinds[k], k))
	}
	name := "Service " + ref.String()
	if ref == (lb.ServiceRef{}) {
		name = "the cluster's last Service"
	}
	return name + " (" + strings.Join(parts, ", ") + ")"
}

func identify(resources []lb.Resource) []string {
	all := make([]string, len(resources))
	for i, r := range resources {
		all[i] = string(r.Kind) + " " + r.ID
	}
	slices.Sort(all)
	return all
}

// enumerate joins the first few, as many as an event has room for.
func enumerate(items []string) string {
	const room = 700
	text := items[0]
	for i, item := range items[1:] {
		if len(text)+len(item) > room {
			return fmt.Sprintf("%s; and %d more, see the log", text, len(items)-i-1)
		}
		text += "; " + item
	}
	return text
}

// eventAbout tells those who run the cluster.
func (c *Controller) eventAbout(kind, reason, format string, args ...any) {
	if c.About != nil && !c.DryRun {
		c.Recorder.Eventf(c.About, kind, reason, format, args...)
	}
}
