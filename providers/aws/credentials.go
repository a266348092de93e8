package aws

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go/middleware"
)

// rejected are the codes by which AWS says that it does not know, or not any
// more, the credentials themselves.
var rejected = []string{"InvalidClientTokenId", "UnrecognizedClient", "AuthFailure", "SignatureDoesNotMatch", "ExpiredToken"}

// keychain gives the SDK the credentials of its chain. The chain reads files
// only once; when AWS rejects what they held, they are read again, so that keys
// can be rotated under a running program.
type keychain struct {
	load func(context.Context) (aws.CredentialsProvider, error)

	rereading sync.Mutex // held while the chain is read again
	tried     time.Time  // when that was last done; guarded by rereading

	mu      sync.Mutex // never held while waiting
	current aws.CredentialsProvider
}

// Retrieve implements aws.CredentialsProvider.
func (c *keychain) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c.mu.Lock()
	now := c.current
	c.mu.Unlock()
	return now.Retrieve(ctx)
}

// replace reports whether there are other credentials now than those used, after
// a look at the chain if need be.
func (c *keychain) replace(ctx context.Context, used aws.Credentials) bool {
	const pause = 10 * time.Second // between looks that many failing calls ask for
	c.rereading.Lock()
	defer c.rereading.Unlock()
	if now, err := c.Retrieve(ctx); err == nil && !sameKeys(now, used) {
		return true // while we waited for our turn
	}
	if time.Since(c.tried) < pause {
		return false
	}
	c.tried = time.Now()
	fresh, err := c.load(ctx)
	if err != nil {
		return false
	}
	now, err := fresh.Retrieve(ctx)
	if err != nil || sameKeys(now, used) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current = fresh
	return true
}

func sameKeys(a, b aws.Credentials) bool {
	return a.AccessKeyID == b.AccessKeyID && a.SecretAccessKey == b.SecretAccessKey && a.SessionToken == b.SessionToken
}

// rotate makes an attempt again that was rejected for its credentials, when there
// are others by now.
func (c *keychain) rotate(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (
	middleware.FinalizeOutput, middleware.Metadata, error) {
	used, unusable := c.Retrieve(ctx)
	out, metadata, err := next.HandleFinalize(ctx, in)
	if unusable == nil && slices.Contains(rejected, code(err)) && c.replace(ctx, used) {
		err = againWithOthers{err}
	}
	return out, metadata, err
}

// againWithOthers tells the SDK's retryer that a rejected attempt is worth
// another.
type againWithOthers struct{ error }

func (e againWithOthers) Unwrap() error        { return e.error }
func (e againWithOthers) RetryableError() bool { return true }
