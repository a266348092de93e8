package aws

import (
	"context"
	"testing"
	"time"

	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/lb"
)

// lists lists load balancers n times, one after the other.
func (b *bench) lists(c *clients, n int) {
	b.Helper()
	for range n {
		if _, err := c.listLoadBalancers(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// Of the forty requests that AWS lets describe something at once, 36 go at once,
// and ten a second after that, or as many times that as the account is said to
// have.
func TestRequestsKeepWithinTheLimits(t *testing.T) {
	for _, c := range []struct {
		factor float64
		want   time.Duration
	}{{1, 6400 * time.Millisecond}, {2, 1400 * time.Millisecond}, {0.5, 16400 * time.Millisecond}, {100, 0}} {
		simulate(t, func(b *bench) {
			b.restart("demo-uid", func(cfg *Config) { cfg.RequestRate = c.factor })
			start := time.Now()
			b.lists(b.provider.clients, 100)
			if took := time.Since(start).Round(100 * time.Millisecond); took != c.want {
				t.Errorf("at %v times the limits 100 requests took %s, want %s", c.factor, took, c.want)
			}
		}, func(w *fakeaws.World) { w.Throttle = &fakeaws.Throttle{Off: true} })
	}
}

// Somebody else has used the account's burst up. One refusal tells that, and the
// requests that come next are sent at the rate that is left.
func TestRefusalEndsTheBurst(t *testing.T) {
	simulate(t, func(b *bench) {
		b.lists(b.operator, 40)
		b.account.Calls().Reset()
		b.lists(b.provider.clients, 60)
		if n := b.throttled(); n != 1 {
			t.Errorf("%d requests were refused, want 1", n)
		}
	})
}

// A request whose turn would come too late is not sent at all.
func TestRequestThatWouldWaitTooLong(t *testing.T) {
	simulate(t, func(b *bench) {
		b.lists(b.provider.clients, 40)
		b.account.Calls().Reset()
		ctx, cancel := context.WithTimeout(b.Context(), 50*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := b.provider.listLoadBalancers(ctx)
		if lb.KindOf(err) != lb.Throttled || lb.RetryAfterOf(err) == 0 {
			t.Errorf("got %v of kind %s, to be tried again after %s", err, lb.KindOf(err), lb.RetryAfterOf(err))
		}
		if took := time.Since(start); took > 0 || len(b.account.Calls().Calls()) > 0 {
			t.Errorf("it took %s and %d requests to say so", took, len(b.account.Calls().Calls()))
		}
		b.lists(b.provider.clients, 1)
	})
}
