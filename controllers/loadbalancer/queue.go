package loadbalancer

import (
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"
)

// urgency says what brought a Service into the queue. What a user did goes
// before what a node did, and that before what only shall be looked at again.
type urgency int

const (
	byUser urgency = iota
	byNode
	bySweep
	urgencies
)

// workQueue is a delaying workqueue of Service keys in order of urgency. A key
// is with one worker at a time: what is added meanwhile comes after.
type workQueue struct {
	workqueue.TypedDelayingInterface[string]
	lanes *lanes
}

// newWorkQueue returns a running queue under the stock controller's metric
// name. It must be shut down.
func newWorkQueue() workQueue {
	const name = "service"
	l := &lanes{asked: map[string]urgency{}, at: map[string]urgency{}}
	return workQueue{
		TypedDelayingInterface: workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[string]{
			Name:  name,
			Queue: workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[string]{Name: name, Queue: l}),
		}),
		lanes: l,
	}
}

// add puts key into the queue, or moves it forward there.
func (q workQueue) add(key string, u urgency) {
	q.lanes.ask(key, u)
	q.Add(key)
}

// addAfter puts key into the queue when d is over. What brings it there sooner
// makes it forget the urgency, until the next look, which asks for it again.
func (q workQueue) addAfter(key string, u urgency, d time.Duration) {
	q.lanes.ask(key, u)
	q.AddAfter(key, d)
}

// lanes is the queue's storage, one first-in-first-out list per urgency.
type lanes struct {
	mu    sync.Mutex         // guards asked, which ask writes outside the queue's own lock
	asked map[string]urgency // what the next Push or Touch of a key is for

	at   map[string]urgency // the lane each queued key is in
	keys [urgencies][]string
}

func (l *lanes) ask(key string, u urgency) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now, ok := l.asked[key]; !ok || u < now {
		l.asked[key] = u
	}
}

func (l *lanes) answer(key string) urgency {
	l.mu.Lock()
	defer l.mu.Unlock()
	u, ok := l.asked[key]
	if !ok {
		u = byNode
	}
	delete(l.asked, key)
	return u
}

// Push implements workqueue.Queue.
func (l *lanes) Push(key string) { l.put(key, l.answer(key)) }

// Touch implements workqueue.Queue: a more urgent reason moves a key forward.
// What it leaves behind in its old lane is skipped by Pop.
func (l *lanes) Touch(key string) {
	if u := l.answer(key); u < l.at[key] {
		l.put(key, u)
	}
}

func (l *lanes) put(key string, u urgency) {
	l.at[key] = u
	l.keys[u] = append(l.keys[u], key)
}

// Len implements workqueue.Queue.
func (l *lanes) Len() int { return len(l.at) }

// Pop implements workqueue.Queue; the caller knows that Len is not 0.
func (l *lanes) Pop() string {
	for u := range l.keys {
		for len(l.keys[u]) > 0 {
			key := l.keys[u][0]
			l.keys[u] = l.keys[u][1:]
			if lane, queued := l.at[key]; queued && int(lane) == u {
				delete(l.at, key)
				return key
			}
		}
	}
	return ""
}
