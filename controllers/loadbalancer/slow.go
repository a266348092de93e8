package loadbalancer

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// A Service whose calls the cloud leaves without an answer keeps its worker until
// they time out, again at each try; a few dozen of them would keep all workers from
// all others. Whoever has once been waited for in vain is therefore worked on in a
// lane beside the workers, until a try of it ends otherwise.
const (
	// inVain is how long a try that ends without an answer has taken at least.
	inVain = 10 * time.Second
	// laneWait is about when a Service that found the lane full asks again.
	laneWait = 5 * time.Second
)

// slowLane is where Services are worked on that were waited for in vain. It is safe
// for concurrent use.
type slowLane struct {
	mu      sync.Mutex
	known   map[string]bool // the Services to be kept here
	free    int             // how many more may be worked on
	running sync.WaitGroup
}

// put keeps a Service here.
func (l *slowLane) put(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known[key] = true
}

// release gives a Service back to the workers.
func (l *slowLane) release(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.known, key)
}

func (l *slowLane) has(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[key]
}

// enter does the work in the background, or returns false when the lane is full.
func (l *slowLane) enter(work func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free == 0 {
		return false
	}
	l.free--
	l.running.Go(func() {
		defer l.leave()
		work()
	})
	return true
}

func (l *slowLane) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free++
}

// dispatch has a Service that was taken from the queue worked on, here or in the
// slow lane, or puts it back.
func (c *Controller) dispatch(ctx context.Context, key string) {
	switch {
	case !c.slow.has(key):
		c.attend(ctx, key)
	case c.slow.enter(func() { c.attend(ctx, key) }):
	default:
		c.queue.addAfter(key, byNode, laneWait+rand.N(laneWait))
		c.queue.Done(key)
	}
}

// attend works on a Service and gives it back to the queue.
func (c *Controller) attend(ctx context.Context, key string) {
	c.begin(key)
	start := time.Now()
	if again := c.sync(ctx, key); again > 0 {
		c.queue.addAfter(key, c.whyAgain(key), again)
	}
	if !c.unheard(key) {
		c.slow.release(key)
	} else if time.Since(start) >= inVain {
		c.slow.put(key)
	}
	c.end(key)
	c.queue.Done(key)
}

// unheard reports whether the last try failed for want of an answer. It is for
// the worker that has the Service.
func (c *Controller) unheard(key string) bool {
	c.mu.Lock()
	m := c.memories[key]
	c.mu.Unlock()
	return m != nil && m.unheard
}
