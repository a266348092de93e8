package fake

import (
	"container/heap"
	"sync"
	"time"
)

// Agenda is what will happen later in a simulation: functions with their due
// times, run in order under the simulation's own lock. It holds one timer,
// however long the list is.
type Agenda struct {
	mu      sync.Locker
	items   agendaItems
	next    uint64
	timer   *time.Timer
	stopped bool
}

// NewAgenda returns an empty agenda whose functions run with mu held. All
// methods are called with mu held too.
func NewAgenda(mu sync.Locker) *Agenda { return &Agenda{mu: mu} }

// After runs f once d has passed; d of zero or less runs it at the next
// RunDue. Functions due at the same time run in the order they were given.
func (a *Agenda) After(d time.Duration, f func()) {
	if a.stopped {
		return
	}
	a.next++
	heap.Push(&a.items, agendaItem{due: time.Now().Add(d), seq: a.next, run: f})
	a.arm()
}

// RunDue runs everything that is due now and says whether it ran something. The
// owner calls it at the start of each request, so that what is due is never
// seen undone.
func (a *Agenda) RunDue() bool {
	ran := false
	for len(a.items) > 0 && !a.items[0].due.After(time.Now()) {
		heap.Pop(&a.items).(agendaItem).run()
		ran = true
	}
	a.arm()
	return ran
}

// Stop forgets everything on the agenda; nothing runs afterwards.
func (a *Agenda) Stop() {
	a.stopped, a.items = true, nil
	if a.timer != nil {
		a.timer.Stop()
	}
}

func (a *Agenda) arm() {
	if a.timer != nil {
		a.timer.Stop()
	}
	if a.stopped || len(a.items) == 0 {
		return
	}
	a.timer = time.AfterFunc(time.Until(a.items[0].due), func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.RunDue()
	})
}

type agendaItem struct {
	due time.Time
	seq uint64
	run func()
}

type agendaItems []agendaItem

func (h agendaItems) Len() int { return len(h) }
func (h agendaItems) Less(i, j int) bool {
	if c := h[i].due.Compare(h[j].due); c != 0 {
		return c < 0
	}
	return h[i].seq < h[j].seq
}
func (h agendaItems) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *agendaItems) Push(x any)   { *h = append(*h, x.(agendaItem)) }
func (h *agendaItems) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
