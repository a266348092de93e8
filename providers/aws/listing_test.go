package aws

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairway-lb/fairway/providers/fake"
	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

// counted is a list that takes a second and whose answer is how often it was asked
// for, or an error.
type counted struct {
	listing[int]
	calls int
	err   error
}

func newCounted() *counted {
	c := &counted{}
	c.listing = listing[int]{diary: &diary{}, list: func(ctx context.Context) ([]int, error) {
		c.calls++
		n := c.calls
		select {
		case <-time.After(time.Second):
			return []int{n}, c.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
	return c
}

// get returns the number of the list that serves the Service of the given UID.
func (c *counted) get(ctx context.Context, t *testing.T, uid string) string {
	t.Helper()
	items, err := c.of(ctx, lb.ServiceRef{UID: uid})
	if err != nil {
		return string(lb.KindOf(err))
	}
	return fmt.Sprint(items)
}

func writeOf(uid string) lb.Change {
	return lb.Change{Op: lb.Create, After: lb.Resource{Ref: lb.Ref{Kind: kindTargetGroup}, Owners: []lb.Owner{lb.ByService(lb.ServiceRef{UID: uid})}}}
}

func TestListIsSharedWhileItIsBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounted()
		var all sync.WaitGroup
		for n := range 10 {
			all.Go(func() {
				if got := c.get(t.Context(), t, fmt.Sprint(n)); got != "[1]" {
					t.Errorf("among ten at the same time: got list %s", got)
				}
			})
		}
		all.Wait()
		time.Sleep(28900 * time.Millisecond) // a list that took one second is believed for thirty
		if got := c.get(t.Context(), t, "late"); got != "[1]" {
			t.Errorf("before it is too old: got list %s", got)
		}
		time.Sleep(200 * time.Millisecond)
		if got := c.get(t.Context(), t, "later"); got != "[2]" {
			t.Errorf("when it is too old: got list %s", got)
		}
	})
}

func TestListIsNewerThanTheServicesOwnWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounted()
		c.get(t.Context(), t, "a")
		c.diary.wrote(writeOf("a"))
		if got := c.get(t.Context(), t, "b"); got != "[1]" {
			t.Errorf("who has written nothing: got list %s", got)
		}
		started := time.Now()
		if got := c.get(t.Context(), t, "a"); got != "[2]" {
			t.Errorf("who has written: got list %s", got)
		}
		if waited := time.Since(started); waited != 10*time.Second {
			t.Errorf("lists shall be under way for a tenth of the time; the second came after %s", waited)
		}

		// A write in the middle of a list.
		time.Sleep(time.Minute)
		var other sync.WaitGroup
		other.Go(func() { c.get(t.Context(), t, "b") })
		synctest.Wait()
		c.diary.wrote(writeOf("a"))
		if got := c.get(t.Context(), t, "a"); got != "[4]" {
			t.Errorf("who has written while a list was under way: got list %s", got)
		}
		other.Wait()

		// In zero time nothing is believed and nothing is waited for.
		quick := listing[int]{diary: c.diary, list: func(context.Context) ([]int, error) { c.calls++; return []int{c.calls}, nil }}
		for want := 5; want < 7; want++ {
			if items, _ := quick.of(t.Context(), lb.ServiceRef{}); items[0] != want {
				t.Errorf("got list %v, want %d", items, want)
			}
		}
	})
}

func TestListIsNotLostWithWhoAskedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounted()
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if got := c.get(ctx, t, "first"); got != string(lb.Unavailable) {
				t.Errorf("who gave up: got %s", got)
			}
		})
		synctest.Wait()
		all.Go(func() {
			if got := c.get(t.Context(), t, "second"); got != "[1]" {
				t.Errorf("who waits on: got list %s", got)
			}
		})
		synctest.Wait()
		cancel()
		all.Wait()

		// With nobody left to wait, the call ends too, and the next look makes its own.
		time.Sleep(time.Minute)
		ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		c.get(ctx, t, "first")
		if got := c.get(t.Context(), t, "second"); got != "[3]" {
			t.Errorf("after a look that was given up: got list %s", got)
		}

		time.Sleep(time.Minute)
		c.err = errors.New("no")
		c.get(t.Context(), t, "first")
		c.err = nil
		if got := c.get(t.Context(), t, "first"); got != "[5]" {
			t.Errorf("after an error: got list %s", got)
		}
	})
}

// TestLooksShareLists: forty Services looked at by ten workers read the account's
// lists a few times, not forty times, and each sees what it has.
func TestLooksShareLists(t *testing.T) {
	simulate(t, func(b *bench) {
		var services []lb.Service
		for n := range 40 {
			services = append(services, service(func(s *lb.Service) {
				s.ServiceRef = lb.ServiceRef{Namespace: "default", Name: fmt.Sprint("web-", n), UID: fmt.Sprint("uid-", n)}
				s.Ports[0].NodePort = uint16(30100 + n)
			}))
		}
		each := func(do func(lb.Service)) {
			queue := make(chan lb.Service)
			var workers sync.WaitGroup
			for range 10 {
				workers.Go(func() {
					for s := range queue {
						do(s)
					}
				})
			}
			for _, s := range services {
				queue <- s
			}
			close(queue)
			workers.Wait()
		}
		each(func(s lb.Service) {
			b.settle(func() (plan.Result, error) { return b.engine.Reconcile(b.Context(), s) })
		})
		time.Sleep(time.Minute)
		b.account.Calls().Reset()
		each(func(s lb.Service) {
			if r, err := b.engine.Reconcile(b.Context(), s); err != nil || !r.Plan.Empty() {
				t.Errorf("%s: error %v, plan\n%s", s.ServiceRef, err, r.Plan)
			}
		})
		counts := b.account.Calls().Counts()
		for operation, most := range map[string]int{"DescribeLoadBalancers": 4, "DescribeTargetGroups": 4, "DescribeTargetHealth": 40, "DescribeListeners": 40} {
			if got := counts.Of(operation); got > most {
				t.Errorf("%d calls of %s for 40 Services, want %d at most", got, operation, most)
			}
		}
		each(func(s lb.Service) {
			b.settle(func() (plan.Result, error) { return b.engine.Delete(b.Context(), s.ServiceRef) })
		})
		b.expectLeft()
	}, func(w *fakeaws.World) {
		w.Throttle = &fakeaws.Throttle{Off: true}
		w.Timing.Latency = fake.Duration(100 * time.Millisecond)
	})
}
