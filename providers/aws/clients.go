package aws

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairway-lb/fairway/providers/lb"
)

// clients are the SDK's clients of the two services, with the reads that more
// than one part of this package makes.
type clients struct {
	ec2    *ec2.Client
	elb    *elb.Client
	imds   *imds.Client
	region string
}

// Retrying a single call is the SDK's business alone: it knows which answers
// mean that nothing happened, and one call made again is far cheaper than a whole
// Service observed again. What still fails after that is left to the queue, which
// comes back to the Service by the error's kind. The SDK's retry quota is off: it
// would give up at once, for good, after some hundred throttled calls. The mode is
// standard, not adaptive: that one makes a whole client, all its Services, wait
// for the throttling of one operation, and AWS calls it experimental.
const (
	maxAttempts = 6
	maxBackoff  = 10 * time.Second
)

func newRetryer() aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = maxAttempts
		o.MaxBackoff = maxBackoff
		o.RateLimiter = ratelimit.None
		o.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(unheard)}, o.Retryables...)
	})
}

// unheard says of a call that got no answer in time that it is not made again at
// once: where there was none in half a minute there is none in the next, and the
// queue has other Services to look after meanwhile. A connection that could not be
// made in time may well be the next time, to another address.
func unheard(err error) aws.Ternary {
	if at, ok := errors.AsType[*net.OpError](err); ok && at.Op == "dial" {
		return aws.UnknownTernary
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return aws.FalseTernary
	}
	return aws.UnknownTernary
}

// newHTTPClient has a limit for each step of a request, as the SDK's own has
// none for the answer.
func newHTTPClient() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTimeout(30 * time.Second).
		WithDialerOptions(func(d *net.Dialer) { d.Timeout = 5 * time.Second }).
		WithTransportOptions(func(t *http.Transport) {
			t.TLSHandshakeTimeout = 5 * time.Second
			t.ResponseHeaderTimeout = 20 * time.Second
			t.MaxIdleConnsPerHost = 16
		})
}

// wholeRequests sends each request from memory. From the SDK's own bodies
// net/http sends the headers first, and goes on asking the body for more when all
// of it is sent; the SDK, which closes the body as soon as an answer arrives,
// then makes it drop the connection under an answer that came very fast.
type wholeRequests struct{ aws.HTTPClient }

func (c wholeRequests) Do(r *http.Request) (*http.Response, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return c.HTTPClient.Do(r)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if err := r.Body.Close(); err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return c.HTTPClient.Do(r)
}

// newClients makes the clients from the SDK's environment, shared files and
// credential chain; opts come last and so win.
func newClients(ctx context.Context, region string, opts []func(*config.LoadOptions) error) (*clients, error) {
	base := []func(*config.LoadOptions) error{
		config.WithHTTPClient(newHTTPClient()),
		config.WithRetryer(newRetryer),
		config.WithAppID("fairway"),
	}
	if region != "" {
		base = append(base, config.WithRegion(region))
	}
	load := func(ctx context.Context) (aws.Config, error) {
		return config.LoadDefaultConfig(ctx, slices.Concat(base, opts)...)
	}
	cfg, err := load(ctx)
	if err != nil {
		return nil, &lb.Error{Kind: lb.Invalid, Op: "load the AWS SDK's configuration", Err: err}
	}
	metadata := imds.NewFromConfig(cfg)
	if cfg.Region == "" {
		out, err := metadata.GetRegion(ctx, &imds.GetRegionInput{})
		if err != nil {
			return nil, &lb.Error{Kind: lb.Invalid, Op: "find the region", Err: err,
				Message: "set region in the configuration or AWS_REGION; the instance metadata service does not tell it: " + err.Error()}
		}
		cfg.Region = out.Region
	}
	cfg.HTTPClient = wholeRequests{cfg.HTTPClient}
	chain := &keychain{current: cfg.Credentials, load: func(ctx context.Context) (aws.CredentialsProvider, error) {
		again, err := load(ctx)
		return again.Credentials, err
	}}
	cfg.Credentials = chain
	cfg.APIOptions = append(slices.Clone(cfg.APIOptions), eachAttempt("FairwayRotate", chain.rotate))
	return &clients{ec2: ec2.NewFromConfig(cfg), elb: elb.NewFromConfig(cfg), imds: metadata, region: cfg.Region}, nil
}

// metadata reads one item of the instance metadata service.
func (c *clients) metadata(ctx context.Context, path string) (string, error) {
	out, err := c.imds.GetMetadata(ctx, &imds.GetMetadataInput{Path: path})
	if err != nil {
		return "", err
	}
	defer out.Content.Close()
	text, err := io.ReadAll(io.LimitReader(out.Content, 1<<10))
	return string(text), err
}

// listLoadBalancers lists all there are: asked for by name, one that does not
// exist would fail the rest, and an account has 50 where a page holds 400.
func (c *clients) listLoadBalancers(ctx context.Context) ([]elbtypes.LoadBalancer, error) {
	var all []elbtypes.LoadBalancer
	for pages := elb.NewDescribeLoadBalancersPaginator(c.elb, &elb.DescribeLoadBalancersInput{}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, failed("list load balancers", lb.Ref{}, err)
		}
		all = append(all, page.LoadBalancers...)
	}
	return all, nil
}

func (c *clients) listTargetGroups(ctx context.Context) ([]elbtypes.TargetGroup, error) {
	var all []elbtypes.TargetGroup
	for pages := elb.NewDescribeTargetGroupsPaginator(c.elb, &elb.DescribeTargetGroupsInput{}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, failed("list target groups", lb.Ref{}, err)
		}
		all = append(all, page.TargetGroups...)
	}
	return all, nil
}

// listListeners returns none for a load balancer that is gone.
func (c *clients) listListeners(ctx context.Context, balancer string) ([]elbtypes.Listener, error) {
	var all []elbtypes.Listener
	for pages := elb.NewDescribeListenersPaginator(c.elb, &elb.DescribeListenersInput{LoadBalancerArn: &balancer}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if isCode(err, "LoadBalancerNotFound") {
			return nil, nil
		}
		if err != nil {
			return nil, failed("list listeners", lb.Ref{}, err)
		}
		all = append(all, page.Listeners...)
	}
	return all, nil
}

// listSecurityGroups returns the groups that pass all filters.
func (c *clients) listSecurityGroups(ctx context.Context, filters ...ec2types.Filter) ([]ec2types.SecurityGroup, error) {
	var all []ec2types.SecurityGroup
	for pages := ec2.NewDescribeSecurityGroupsPaginator(c.ec2, &ec2.DescribeSecurityGroupsInput{Filters: filters}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, failed("list security groups", lb.Ref{}, err)
		}
		all = append(all, page.SecurityGroups...)
	}
	return all, nil
}

// registered returns the group's targets that are not draining, each as its id,
// with a port where that is not the group's own. It is empty for a group that
// is gone.
func (c *clients) registered(ctx context.Context, group elbtypes.TargetGroup) ([]string, error) {
	out, err := c.elb.DescribeTargetHealth(ctx, &elb.DescribeTargetHealthInput{TargetGroupArn: group.TargetGroupArn})
	if isCode(err, "TargetGroupNotFound") {
		return nil, nil
	}
	if err != nil {
		return nil, failed("list targets", lb.Ref{}, err)
	}
	var targets []string
	for _, h := range out.TargetHealthDescriptions {
		if h.TargetHealth != nil && h.TargetHealth.State == elbtypes.TargetHealthStateEnumDraining {
			continue
		}
		port := aws.ToInt32(h.Target.Port)
		if port == aws.ToInt32(group.Port) {
			port = 0
		}
		targets = append(targets, targetItem(aws.ToString(h.Target.Id), port))
	}
	return targets, nil
}

// tagBatch is how many resources one DescribeTags call takes.
// https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_DescribeTags.html
const tagBatch = 20

// tagsOf returns the tags by ARN. When one of a batch is gone, its batch is
// asked for one by one, and what is gone has no tags.
func (c *clients) tagsOf(ctx context.Context, arns []string) (map[string]map[string]string, error) {
	tags := map[string]map[string]string{}
	batch := func(some []string) error {
		out, err := c.elb.DescribeTags(ctx, &elb.DescribeTagsInput{ResourceArns: some})
		if err != nil {
			return failed("read tags", lb.Ref{}, err)
		}
		for _, d := range out.TagDescriptions {
			tags[aws.ToString(d.ResourceArn)] = fromPairs(d.Tags)
		}
		return nil
	}
	// size is how many are asked for at once.
	var ask func(some []string, size int) error
	ask = func(some []string, size int) error {
		for start := 0; start < len(some); start += size {
			part := some[start:min(start+size, len(some))]
			err := batch(part)
			if lb.KindOf(err) == lb.NotFound {
				if len(part) == 1 {
					continue
				}
				err = ask(part, 1)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	return tags, ask(arns, tagBatch)
}

func ec2Tags(list []ec2types.Tag) map[string]string {
	tags := make(map[string]string, len(list))
	for _, t := range list {
		tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return tags
}

func subnetsOf(b elbtypes.LoadBalancer) []string {
	var ids []string
	for _, z := range b.AvailabilityZones {
		ids = append(ids, aws.ToString(z.SubnetId))
	}
	return ids
}
