package loadbalancer

import (
	"fmt"
	"net/http"
	"time"
)

// Check reports as an error that the queue is stuck: a Service has been worked
// on for clearly longer than any work may take. That the cloud is unreachable is
// no reason, for a restart would not mend it.
func (c *Controller) Check(*http.Request) error {
	const slack = time.Minute
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, since := range c.busy {
		if took := time.Since(since); took > c.SyncTimeout+slack {
			return fmt.Errorf("service %s has been worked on for %s, longer than the limit of %s", key, took.Round(time.Second), c.SyncTimeout)
		}
	}
	return nil
}
