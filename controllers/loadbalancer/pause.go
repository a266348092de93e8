package loadbalancer

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/klog/v2"
)

// Pause keeps the controller's hands off all Services and the cloud, or lets it
// go on. What has begun is finished; what is asked for meanwhile is done
// afterwards. It may be called at any time.
func (c *Controller) Pause(yes bool) {
	if c.paused.Swap(yes) == yes {
		return
	}
	observePause(yes)
	if yes {
		klog.InfoS("Paused: no Service is touched")
		c.eventAbout(v1.EventTypeWarning, eventAllPaused, "Nothing is done for any Service and its load balancer until the annotation %s is removed here", PauseAnnotation)
		return
	}
	klog.InfoS("Goes on after a pause")
	c.eventAbout(v1.EventTypeNormal, eventAllResumed, "Services and their load balancers are looked after again")
	services, err := c.lister.List(labels.Everything())
	if err != nil {
		klog.ErrorS(err, "Cannot list Services after a pause")
		return
	}
	for _, svc := range services {
		if c.concerns(svc) {
			c.queue.add(keyOf(svc), byNode)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.memories { // Services that are gone by now
		c.queue.add(key, bySweep)
	}
}
