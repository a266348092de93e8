package virtual

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
)

// Snapshot returns all that load balancing has in the account, as AWS's own
// description calls tell it, one sorted line for each field of each thing: "load-balancer
// NAME Scheme=internal". Things are called by their names, not by identifiers, and
// what AWS makes up for each (times, addresses, host names) is left out, so that the
// snapshots of two accounts are equal when the same was made in both.
func (a *Account) Snapshot(ctx context.Context) ([]string, error) {
	options := a.operator()
	s := &snapshot{ec2: ec2.NewFromConfig(options), elb: elb.NewFromConfig(options), names: map[string]string{}}
	for _, see := range []func(context.Context) error{s.securityGroups, s.targetGroups, s.loadBalancers} {
		if err := see(ctx); err != nil {
			return nil, fmt.Errorf("look into the account: %w", err)
		}
	}
	return s.named(), nil
}

// operator is how somebody else than the provider reaches the account.
func (a *Account) operator() aws.Config {
	return aws.Config{
		Region: region, BaseEndpoint: aws.String("http://aws.test"), HTTPClient: a.client(),
		Credentials: credentials.NewStaticCredentialsProvider("AKIDOPERATOR", "secret", ""),
	}
}

type snapshot struct {
	ec2   *ec2.Client
	elb   *elb.Client
	names map[string]string // by identifier
	lines []string
}

// madeUp are the fields that AWS makes up.
var madeUp = []string{"CreatedTime", "DNSName", "CanonicalHostedZoneId", "SecurityGroupArn", "IpAddress", "PrivateIPv4Address", "ResultMetadata", "NoSmithyDocumentSerde"}

// add flattens what an API call described.
func (s *snapshot) add(kind, name string, described any) error {
	text, err := json.Marshal(described)
	if err != nil {
		return err
	}
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		return err
	}
	s.flatten(kind+" "+name, tree)
	return nil
}

func (s *snapshot) flatten(path string, tree any) {
	switch t := tree.(type) {
	case nil:
	case map[string]any:
		// A key and its value are one thing.
		if key, ok := t["Key"].(string); ok && len(t) == 2 {
			s.flatten(path+"."+key, t["Value"])
			return
		}
		for _, field := range slices.Sorted(maps.Keys(t)) {
			if !slices.Contains(madeUp, field) {
				s.flatten(path+"."+field, t[field])
			}
		}
	case []any:
		for _, item := range t {
			if _, plain := item.(map[string]any); plain {
				text, _ := json.Marshal(stripped(item)) // it comes from JSON
				s.lines = append(s.lines, path+"[]="+string(text))
				continue
			}
			s.flatten(path+"[]", item)
		}
	default:
		s.lines = append(s.lines, fmt.Sprintf("%s=%v", path, t))
	}
}

// stripped returns tree without nulls and what AWS makes up.
func stripped(tree any) any {
	switch t := tree.(type) {
	case map[string]any:
		clean := map[string]any{}
		for field, value := range t {
			if value != nil && !slices.Contains(madeUp, field) {
				clean[field] = stripped(value)
			}
		}
		return clean
	case []any:
		clean := make([]any, 0, len(t))
		for _, item := range t {
			clean = append(clean, stripped(item))
		}
		return clean
	default:
		return t
	}
}

// named returns the lines, sorted, with names in the place of identifiers.
func (s *snapshot) named() []string {
	var pairs []string
	for id, name := range s.names {
		pairs = append(pairs, id, name)
	}
	replacer := strings.NewReplacer(pairs...)
	lines := make([]string, 0, len(s.lines))
	for _, line := range s.lines {
		lines = append(lines, replacer.Replace(line))
	}
	slices.Sort(lines)
	return lines
}

func (s *snapshot) securityGroups(ctx context.Context) error {
	for pages := ec2.NewDescribeSecurityGroupsPaginator(s.ec2, &ec2.DescribeSecurityGroupsInput{}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, g := range page.SecurityGroups {
			name := aws.ToString(g.GroupName)
			s.names[aws.ToString(g.GroupId)] = name
			if err := s.add("security-group", name, g); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *snapshot) targetGroups(ctx context.Context) error {
	for pages := elb.NewDescribeTargetGroupsPaginator(s.elb, &elb.DescribeTargetGroupsInput{}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, g := range page.TargetGroups {
			name, arn := aws.ToString(g.TargetGroupName), g.TargetGroupArn
			s.names[aws.ToString(arn)] = name
			attributes, err := s.elb.DescribeTargetGroupAttributes(ctx, &elb.DescribeTargetGroupAttributesInput{TargetGroupArn: arn})
			if err != nil {
				return err
			}
			health, err := s.elb.DescribeTargetHealth(ctx, &elb.DescribeTargetHealthInput{TargetGroupArn: arn})
			if err != nil {
				return err
			}
			if err := s.described(ctx, "target-group", name, aws.ToString(arn), g, attributes.Attributes, health.TargetHealthDescriptions); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *snapshot) loadBalancers(ctx context.Context) error {
	for pages := elb.NewDescribeLoadBalancersPaginator(s.elb, &elb.DescribeLoadBalancersInput{}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, b := range page.LoadBalancers {
			name, arn := aws.ToString(b.LoadBalancerName), b.LoadBalancerArn
			s.names[aws.ToString(arn)] = name
			attributes, err := s.elb.DescribeLoadBalancerAttributes(ctx, &elb.DescribeLoadBalancerAttributesInput{LoadBalancerArn: arn})
			if err != nil {
				return err
			}
			if err := s.described(ctx, "load-balancer", name, aws.ToString(arn), b, attributes.Attributes); err != nil {
				return err
			}
			listeners, err := s.elb.DescribeListeners(ctx, &elb.DescribeListenersInput{LoadBalancerArn: arn})
			if err != nil {
				return err
			}
			for _, l := range listeners.Listeners {
				called := fmt.Sprintf("%s:%d", name, aws.ToInt32(l.Port))
				s.names[aws.ToString(l.ListenerArn)] = called
				if err := s.described(ctx, "listener", called, aws.ToString(l.ListenerArn), l); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// described adds what calls have told of one thing, and its tags.
func (s *snapshot) described(ctx context.Context, kind, name, arn string, told ...any) error {
	tags, err := s.elb.DescribeTags(ctx, &elb.DescribeTagsInput{ResourceArns: []string{arn}})
	if err != nil {
		return err
	}
	for _, t := range append(told, tags.TagDescriptions) {
		if err := s.add(kind, name, t); err != nil {
			return err
		}
	}
	return nil
}

// DeleteLoadBalancer deletes a load balancer whose name begins as given, as somebody
// with access to the account might.
func (a *Account) DeleteLoadBalancer(ctx context.Context, prefix string) error {
	client := elb.NewFromConfig(a.operator())
	balancers, err := client.DescribeLoadBalancers(ctx, &elb.DescribeLoadBalancersInput{})
	if err != nil {
		return err
	}
	for _, b := range balancers.LoadBalancers {
		if strings.HasPrefix(aws.ToString(b.LoadBalancerName), prefix) {
			_, err := client.DeleteLoadBalancer(ctx, &elb.DeleteLoadBalancerInput{LoadBalancerArn: b.LoadBalancerArn})
			return err
		}
	}
	return fmt.Errorf("no load balancer %s…", prefix)
}
