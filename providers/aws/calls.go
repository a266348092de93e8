package aws

import (
	"cmp"
	"context"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/middleware"

	"github.com/fairway-lb/fairway/providers/lb"
)

// Reporting returns an option for New that has each request to AWS told, every
// attempt of a call by itself. report is called from several goroutines and must
// not block.
func Reporting(report func(lb.Call)) func(*config.LoadOptions) error {
	return config.WithAPIOptions([]func(*middleware.Stack) error{eachAttempt("FairwayReport", func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (
		middleware.FinalizeOutput, middleware.Metadata, error) {
		start := time.Now()
		out, metadata, err := next.HandleFinalize(ctx, in)
		call := lb.Call{Service: awsmiddleware.GetServiceID(ctx), Operation: awsmiddleware.GetOperationName(ctx), Code: lb.CallOK, Took: time.Since(start)}
		call.Waited, _ = ctx.Value(waited{}).(time.Duration)
		if err != nil {
			call.Code = cmp.Or(code(err), lb.CallNoAnswer)
		}
		report(call)
		return out, metadata, err
	})})
}

type attempt = func(context.Context, middleware.FinalizeInput, middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error)

// eachAttempt has every attempt of a call pass through do.
func eachAttempt(id string, do attempt) func(*middleware.Stack) error {
	return func(stack *middleware.Stack) error {
		const retries = "Retry" // the SDK's own name for what makes the attempts
		if _, ok := stack.Finalize.Get(retries); !ok {
			return nil // a presigned request, which is not sent
		}
		return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc(id, do), retries, middleware.After)
	}
}
