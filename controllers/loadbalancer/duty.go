package loadbalancer

import (
	"slices"
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// StockFinalizer keeps a Service until its load balancer is gone. It is
	// the one of the stock controller, in whose place we stand when we serve
	// Services without a class (k8s.io/cloud-provider/service/helpers).
	StockFinalizer = "service.kubernetes.io/load-balancer-cleanup"
	// ClassFinalizer is the finalizer on Services of our own class: a stock
	// controller beside us takes StockFinalizer off any Service.
	ClassFinalizer = "fairway.io/load-balancer-cleanup"
	// PauseAnnotation keeps the controller's hands off a Service and its load
	// balancer for as long as its value is anything but false.
	PauseAnnotation = "fairway.io/pause"
	// AdoptAnnotation gives, if true, a Service that shows another controller's
	// addresses to us: they stay until there are ours, and its load balancer
	// stays, for it is not marked as ours.
	AdoptAnnotation = "fairway.io/adopt"
	// CheckpointAnnotation holds the hash of the resources that were last
	// verified to be in the cloud. It is the controller's own note, for the one
	// that comes after a restart; anything else in it is only a missed shortcut.
	CheckpointAnnotation = "fairway.io/checkpoint"
)

// duty is what the controller owes a Service.
type duty int

const (
	leave  duty = iota // nothing, it is none of ours
	ensure             // a load balancer
	remove             // the removal of what it had
	pause              // nothing for now, as its owner wishes
	yield              // nothing, because another controller serves it
)

// dutyTo decides from the object and from whether we have worked on it since we
// started.
func (c *Controller) dutyTo(svc *v1.Service, worked bool) duty {
	wanted, held := c.wanted(svc), c.held(svc)
	mark := readyCondition(svc)
	mine := worked || mark != nil && mark.Reason != reasonServedElsewhere || adopted(svc)
	switch {
	case !wanted && !held && !worked:
		return leave
	case Paused(svc.Annotations):
		return pause
	case !mine && (len(svc.Status.LoadBalancer.Ingress) > 0 || !wanted && mark != nil):
		return yield
	case wanted:
		return ensure
	case c.Class == "" && svc.Spec.LoadBalancerClass != nil && !mine:
		// The stock finalizer on a Service of someone else's class.
		return leave
	default:
		return remove
	}
}

// concerns reports whether an event about svc is worth a look.
func (c *Controller) concerns(svc *v1.Service) bool {
	return svc.Spec.Type == v1.ServiceTypeLoadBalancer || c.held(svc)
}

// wanted reports whether svc shall have a load balancer of ours.
func (c *Controller) wanted(svc *v1.Service) bool {
	if svc.Spec.Type != v1.ServiceTypeLoadBalancer || svc.DeletionTimestamp != nil {
		return false
	}
	if c.Class == "" {
		return svc.Spec.LoadBalancerClass == nil
	}
	return svc.Spec.LoadBalancerClass != nil && *svc.Spec.LoadBalancerClass == c.Class
}

// held reports whether svc carries our finalizer.
func (c *Controller) held(svc *v1.Service) bool {
	return slices.Contains(svc.Finalizers, c.finalizer())
}

func (c *Controller) finalizer() string {
	if c.Class == "" {
		return StockFinalizer
	}
	return ClassFinalizer
}

// Paused reads the pause annotation among those of an object. A value that is
// neither true nor false pauses: that changes nothing.
func Paused(annotations map[string]string) bool {
	value, ok := annotations[PauseAnnotation]
	if !ok {
		return false
	}
	yes, err := strconv.ParseBool(value)
	return err != nil || yes
}

// adopted reports whether svc is to be ours whoever served it before. Anything but
// a clear yes is none.
func adopted(svc *v1.Service) bool {
	yes, err := strconv.ParseBool(svc.Annotations[AdoptAnnotation])
	return err == nil && yes
}

// othersAddresses returns the addresses svc shows that another controller gave it.
func othersAddresses(svc *v1.Service) []v1.LoadBalancerIngress {
	if mark := readyCondition(svc); mark != nil && mark.Reason != reasonServedElsewhere {
		return nil
	}
	return svc.Status.LoadBalancer.Ingress
}

// isServing reports whether svc was ready when last anything was known of it.
func isServing(svc *v1.Service) bool {
	c := readyCondition(svc)
	return c != nil && c.Status != metav1.ConditionFalse
}

func isReady(svc *v1.Service) bool {
	return meta.IsStatusConditionTrue(svc.Status.Conditions, ConditionReady)
}
