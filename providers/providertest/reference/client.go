package reference

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
	pt "github.com/fairway-lb/fairway/providers/providertest"
)

// client is the way from one controller to the cloud. Calls take time, and may
// fail on the way there or back.
type client struct {
	*Account
	dead atomic.Bool
	// asleep is until when the controller is paused, in Unix nanoseconds.
	asleep atomic.Int64
}

// callTimeout is how long a call waits for its answer.
const callTimeout = 30 * time.Second

var (
	errReset = errors.New("connection reset by peer")
	errDead  = errors.New("the controller is gone")
)

// call makes one call of the operation of that name on a subject.
func call[R any](ctx context.Context, c *client, name, subject string, write bool, operation func() (R, error)) (R, error) {
	var none R
	if err := pt.Arrive(ctx, name+" "+subject); err != nil {
		return none, err
	}
	if c.dead.Load() {
		return none, errDead
	}
	if err := sleep(ctx, c.conditions.Latency); err != nil {
		return none, err
	}
	fault := c.Count(name, write)
	if fault.Kind == pt.Pause {
		c.asleep.Store(time.Now().Add(fault.For).UnixNano())
	}
	time.Sleep(time.Until(time.Unix(0, c.asleep.Load())))
	if c.dead.Load() {
		return none, errDead
	}
	switch fault.Kind {
	case pt.ErrorBefore:
		return none, internalError()
	case pt.Throttle:
		return none, &failure{status: http.StatusTooManyRequests, code: "TooManyRequests", text: "slow down", retryAfter: fault.Hint}
	case pt.Denied:
		return none, fail(http.StatusForbidden, "Forbidden", "you may not do this")
	case pt.Timeout:
		if err := sleep(ctx, callTimeout); err != nil {
			return none, err
		}
		return none, context.DeadlineExceeded
	}
	if fault.Kind == pt.Meanwhile {
		fault.Do()
	}
	result, err := operation()
	switch fault.Kind {
	case pt.ErrorAfter:
		return none, internalError()
	case pt.Lost:
		return none, io.ErrUnexpectedEOF
	case pt.Gone:
		c.dead.Store(true)
		return none, errReset
	}
	return result, err
}

func internalError() error {
	return fail(http.StatusInternalServerError, "InternalError", "something went wrong")
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// The operations, as calls.

func (c *client) listPools(ctx context.Context) ([]pool, error) {
	type page struct {
		pools []pool
		next  string
	}
	var all []pool
	for after := ""; ; {
		p, err := call(ctx, c, "listPools", after, false, func() (page, error) {
			pools, next, err := c.cloud.listPools(after)
			return page{pools, next}, err
		})
		if err != nil {
			return nil, err
		}
		all = append(all, p.pools...)
		if after = p.next; after == "" {
			return all, nil
		}
	}
}

func (c *client) getPool(ctx context.Context, name string) (pool, error) {
	return call(ctx, c, "getPool", name, false, func() (pool, error) { return c.cloud.getPool(name) })
}

func (c *client) createPool(ctx context.Context, p pool) (pool, error) {
	return call(ctx, c, "createPool", p.Name, true, func() (pool, error) { return c.cloud.createPool(p) })
}

func (c *client) updatePool(ctx context.Context, p pool) (pool, error) {
	return call(ctx, c, "updatePool", p.Name, true, func() (pool, error) { return c.cloud.updatePool(p) })
}

func (c *client) deletePool(ctx context.Context, name, id string) error {
	_, err := call(ctx, c, "deletePool", name, true, func() (struct{}, error) { return struct{}{}, c.cloud.deletePool(name, id) })
	return err
}

func (c *client) getDocument(ctx context.Context, name string) (*document, error) {
	return call(ctx, c, "getDocument", name, false, func() (*document, error) { return c.cloud.getDocument(name) })
}

func (c *client) putDocument(ctx context.Context, version string, d *document) (*document, error) {
	return call(ctx, c, "putDocument", d.Name, true, func() (*document, error) { return c.cloud.putDocument(version, d) })
}

func (c *client) deleteDocument(ctx context.Context, name, version string) error {
	_, err := call(ctx, c, "deleteDocument", name, true, func() (struct{}, error) { return struct{}{}, c.cloud.deleteDocument(name, version) })
	return err
}

// kinds gives the cloud's codes their meaning.
var kinds = map[string]lb.ErrorKind{
	"PoolNotFound": lb.NotFound, "DocumentNotFound": lb.NotFound,
	"PoolExists": lb.Conflict, "VersionMismatch": lb.Conflict,
	"PoolInUse": lb.Pending, "DocumentInUse": lb.Pending, "OperationInProgress": lb.Pending,
	"DuplicateEntry": lb.Invalid, "BadReference": lb.Invalid,
	"TooManyRequests": lb.Throttled, "Forbidden": lb.Denied,
}

// failed turns a client's error into an lb.Error.
func failed(op string, ref lb.Ref, err error) error {
	if err == nil {
		return nil
	}
	if _, already := errors.AsType[*lb.Error](err); already {
		return err
	}
	e := &lb.Error{Kind: lb.Unavailable, Op: op, Resource: ref, Err: err}
	if f, answered := errors.AsType[*failure](err); answered {
		e.Code, e.Message, e.RetryAfter = f.code, f.text, f.retryAfter
		if kind, known := kinds[f.code]; known {
			e.Kind = kind
		}
	}
	return e
}

func isKind(err error, kind lb.ErrorKind) bool { return lb.KindOf(failed("", lb.Ref{}, err)) == kind }
