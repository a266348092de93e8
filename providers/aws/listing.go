package aws

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// How long a list is believed by who has written nothing since it was begun, and
// how soon after it another may begin for who has: multiples of the time it took, so
// that lists are under way for a tenth of the time at most, however long they are
// and however many Services are looked at. Each by itself would otherwise read all
// pages of all others.
const (
	believed = 30
	apart    = 10
	// longestBelief and longestApart bound them where AWS is slow.
	longestBelief = 30 * time.Second
	longestApart  = 10 * time.Second
)

// listing shares a list of all that an account has of a kind among those who look
// at about the same time. None is served a list that was begun before its own
// last write. It is safe for concurrent use.
type listing[T any] struct {
	list  func(context.Context) ([]T, error)
	diary *diary

	mu   sync.Mutex // never held while waiting
	last *look[T]
}

// look is one call of list.
type look[T any] struct {
	began   time.Time
	entry   uint64 // of the diary, when it began
	cancel  context.CancelFunc
	waiting int           // who needs it; guarded by the listing's mu
	done    chan struct{} // closed when the fields below are set
	items   []T
	err     error
	until   time.Time // when it is no longer believed
	next    time.Time // when another may begin
}

// serves reports whether what the look shows, or will, is new enough for who wrote
// last in the given entry.
func (k *look[T]) serves(since uint64) bool {
	return k.entry >= since && (!k.over() || time.Now().Before(k.until))
}

// replaced reports whether another look may begin.
func (k *look[T]) replaced() bool { return k.over() && !time.Now().Before(k.next) }

// over reports whether the look has ended.
func (k *look[T]) over() bool {
	select {
	case <-k.done:
		return true
	default:
		return false
	}
}

// of returns what is listed, as new as s must have it; it must not be changed.
func (l *listing[T]) of(ctx context.Context, s lb.ServiceRef) ([]T, error) {
	for since := l.diary.last(s); ; {
		found := l.join(ctx, since)
		err := waitFor(ctx, found.done)
		l.leave(found)
		if err != nil {
			return nil, err
		}
		if found.entry >= since {
			return found.items, found.err
		}
		if err := pause(ctx, time.Until(found.next)); err != nil {
			return nil, err
		}
	}
}

// join returns the last look, or a new one where that does not serve and is old
// enough; leave must follow.
func (l *listing[T]) join(ctx context.Context, since uint64) *look[T] {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == nil || !l.last.serves(since) && l.last.replaced() {
		// It is for all who join, and so does not end with the first of them.
		shared, cancel := context.WithCancel(context.WithoutCancel(ctx))
		l.last = &look[T]{began: time.Now(), entry: l.diary.now(), cancel: cancel, done: make(chan struct{})}
		go l.last.take(shared, l.list)
	}
	l.last.waiting++
	return l.last
}

// leave ends a look that nobody waits for any more.
func (l *listing[T]) leave(k *look[T]) {
	l.mu.Lock()
	k.waiting--
	abandoned := k.waiting == 0 && !k.over()
	if abandoned && l.last == k {
		l.last = nil
	}
	l.mu.Unlock()
	if abandoned {
		k.cancel()
		<-k.done // no call goes on behind the back of who made it
	}
}

func (k *look[T]) take(ctx context.Context, list func(context.Context) ([]T, error)) {
	defer k.cancel()
	defer close(k.done)
	k.items, k.err = list(ctx)
	k.until, k.next = k.began, k.began // an error is not believed
	if k.err == nil {
		took := time.Since(k.began)
		k.until = k.began.Add(min(believed*took, longestBelief))
		k.next = k.began.Add(min(apart*took, longestApart))
	}
}

// pause waits for d.
func pause(ctx context.Context, d time.Duration) error {
	over := make(chan struct{})
	timer := time.AfterFunc(d, func() { close(over) })
	defer timer.Stop()
	return waitFor(ctx, over)
}

func waitFor(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return &lb.Error{Kind: lb.Unavailable, Op: "wait for a list", Err: ctx.Err()}
	}
}

// diary knows when what is listed was last changed for each Service, counted in
// changes, since two may happen in one tick of the clock. It is safe for
// concurrent use; the zero value is empty.
type diary struct {
	mu      sync.Mutex
	entries uint64
	lasts   map[lb.ServiceRef]entry
}

type entry struct {
	number uint64
	at     time.Time
}

// wrote notes that c was tried, whatever came of it.
func (d *diary) wrote(c lb.Change) {
	if k := c.Ref().Kind; k != kindLoadBalancer && k != kindTargetGroup {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.entries++
	if d.lasts == nil {
		d.lasts = map[lb.ServiceRef]entry{}
	}
	for _, owners := range [][]lb.Owner{c.Before.Owners, c.After.Owners} {
		for _, o := range owners {
			d.lasts[o.Service] = entry{d.entries, time.Now()}
		}
	}
}

// now returns the number of the last entry. Entries older than any list that is
// still believed are dropped.
func (d *diary) now() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.lasts, func(_ lb.ServiceRef, e entry) bool { return time.Since(e.at) > longestBelief })
	return d.entries
}

// last returns the number of s's last entry, 0 without one.
func (d *diary) last(s lb.ServiceRef) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lasts[s].number
}
