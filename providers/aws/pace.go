package aws

import (
	"context"
	"strings"
	"sync"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	"golang.org/x/time/rate"

	"github.com/fairway-lb/fairway/providers/lb"
)

// requestLimit is how many requests AWS grants to operations that begin with one
// of the prefixes, or end with one of the suffixes: all of them together, or each
// by itself.
type requestLimit struct {
	service            string
	prefixes, suffixes []string
	each               bool
	perSecond          rate.Limit
	burst              int
}

// requestLimits are those of an account and region as AWS gives them to everybody;
// of several that match, the first counts. EC2 publishes its buckets. Of Elastic
// Load Balancing's the one for Describe is known; the others are what AWS's own
// load balancer controller allows itself.
// https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
// https://docs.aws.amazon.com/elasticloadbalancing/latest/userguide/elb-api-throttling.html
var requestLimits = []requestLimit{
	{service: elb.ServiceID, prefixes: []string{"Describe"}, perSecond: 10, burst: 40},
	{service: elb.ServiceID, prefixes: []string{"RegisterTargets", "DeregisterTargets"}, perSecond: 4, burst: 20},
	{service: elb.ServiceID, prefixes: []string{""}, perSecond: 3, burst: 20},
	{service: ec2.ServiceID, prefixes: []string{"Describe"}, each: true, perSecond: 20, burst: 100},
	{service: ec2.ServiceID, suffixes: []string{"Tags"}, each: true, perSecond: 10, burst: 100},
	{service: ec2.ServiceID, prefixes: []string{""}, each: true, perSecond: 5, burst: 50},
}

// burstShare is how much of a burst is made use of. The rest is for requests that
// arrive closer together than they were sent.
const burstShare = 0.9

func (l requestLimit) covers(service, operation string) bool {
	for _, p := range l.prefixes {
		if strings.HasPrefix(operation, p) {
			return service == l.service
		}
	}
	for _, s := range l.suffixes {
		if strings.HasSuffix(operation, s) {
			return service == l.service
		}
	}
	return false
}

// pace holds requests back that AWS would refuse for their number. A refused
// request costs a round trip and a pause that grows with each try; waiting in
// line costs neither, and whoever waits longest is next.
type pace struct {
	factor float64

	mu      sync.Mutex
	buckets map[string]*rate.Limiter
}

// paced returns an option for newClients that keeps requests within factor times
// the limits that AWS gives to everybody.
func paced(factor float64) func(*config.LoadOptions) error {
	p := &pace{factor: factor, buckets: map[string]*rate.Limiter{}}
	return config.WithAPIOptions([]func(*middleware.Stack) error{eachAttempt("FairwayPace", p.hold)})
}

// bucket returns what the operation takes a token from, nil where no limit is
// known.
func (p *pace) bucket(service, operation string) *rate.Limiter {
	for _, l := range requestLimits {
		if !l.covers(service, operation) {
			continue
		}
		key := service + " " + strings.Join(l.prefixes, " ")
		if l.each {
			key = service + " " + operation
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.buckets[key] == nil {
			p.buckets[key] = rate.NewLimiter(l.perSecond*rate.Limit(p.factor), max(1, int(burstShare*float64(l.burst)*p.factor)))
		}
		return p.buckets[key]
	}
	return nil
}

// waited is the key in a request's context of how long it was held back.
type waited struct{}

// hold is the middleware. A refusal says that others use the limit as well, or
// that somebody did just before: what was saved up for a burst is not there.
func (p *pace) hold(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
	bucket := p.bucket(awsmiddleware.GetServiceID(ctx), awsmiddleware.GetOperationName(ctx))
	if bucket == nil {
		return next.HandleFinalize(ctx, in)
	}
	start := time.Now()
	if err := bucket.Wait(ctx); err != nil {
		if ctx.Err() == nil {
			err = tooManyWaiting{}
		}
		return middleware.FinalizeOutput{}, middleware.Metadata{}, err
	}
	ctx = context.WithValue(ctx, waited{}, time.Since(start))
	out, metadata, err := next.HandleFinalize(ctx, in)
	if kindOfCode[code(err)] == lb.Throttled {
		now := time.Now()
		bucket.AllowN(now, int(bucket.TokensAt(now)))
	}
	return out, metadata, err
}

// tooManyWaiting is the error of a request whose turn would come after its
// deadline. It is not sent, and not tried again before the Service's next turn.
type tooManyWaiting struct{}

var _ smithy.APIError = tooManyWaiting{}

func (e tooManyWaiting) Error() string { return e.ErrorCode() + ": " + e.ErrorMessage() }

// ErrorCode implements smithy.APIError, as AWS's refusal would.
func (tooManyWaiting) ErrorCode() string { return "RequestThrottled" }

// ErrorMessage implements smithy.APIError.
func (tooManyWaiting) ErrorMessage() string {
	return "not sent, for too many requests are waiting for their turn within AWS's request limits"
}

// ErrorFault implements smithy.APIError.
func (tooManyWaiting) ErrorFault() smithy.ErrorFault { return smithy.FaultClient }

// RetryableError tells the SDK's retryer not to try again.
func (tooManyWaiting) RetryableError() bool { return false }
