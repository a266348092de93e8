package loadbalancer

import (
	"fmt"
	"net/http"
	"time"
)

// Check reports as an error that the queue is stuck: a Service or a sweep has
// been worked on for clearly longer than any work may take, or Services wait and
// none is taken up. A restart mends that. That the cloud is unreachable or denies
// everything is no reason, for a restart would not mend it: how old the last good
// answer is can be read from a metric.
func (c *Controller) Check(*http.Request) error {
	const slack = time.Minute
	limit := c.SyncTimeout + slack
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, since := range c.busy {
		if took := time.Since(since); took > limit {
			return fmt.Errorf("service %s has been worked on for %s, longer than the limit of %s", key, took.Round(time.Second), c.SyncTimeout)
		}
	}
	waiting := c.queue.Len()
	if waited := c.idle.since(waiting > 0, c.begun); waited > limit {
		return fmt.Errorf("%d Services wait and none has been taken up for %s", waiting, waited.Round(time.Second))
	}
	return nil
}

// stall tells for how long nothing has moved, from one check to the next.
type stall struct {
	moved int
	from  time.Time // zero while nothing waits
}

// since returns for how long something has waited while the counter moved stood
// still, as far as the calls so far can tell.
func (s *stall) since(waiting bool, moved int) time.Duration {
	if !waiting {
		*s = stall{moved: moved}
		return 0
	}
	if s.from.IsZero() || s.moved != moved {
		*s = stall{moved: moved, from: time.Now()}
	}
	return time.Since(s.from)
}
