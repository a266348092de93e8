package aws

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/fairway-lb/fairway/providers/lb"
)

var _ lb.Verifier = (*Provider)(nil)

// Gone implements lb.Verifier for targets: an instance is gone when EC2 does not
// list it or lists it on its way to termination. One that is stopped may come back.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-lifecycle.html
func (p *Provider) Gone(ctx context.Context, r lb.Resource, items []string) ([]string, error) {
	if r.Kind != kindTargets {
		return nil, &lb.Error{Kind: lb.Invalid, Op: "look for items of", Resource: r.Ref, Message: "only targets can be looked for"}
	}
	instance := func(item string) string { id, _, _ := strings.Cut(item, ":"); return id }
	var ids []string
	for _, item := range items {
		ids = append(ids, instance(item))
	}
	alive, unknown := p.sightings.recent(lb.Set(ids...))
	for chunk := range slices.Chunk(unknown, filterValues) {
		instances, err := p.listInstances(ctx, chunk)
		if err != nil {
			return nil, err
		}
		for _, i := range instances {
			alive[aws.ToString(i.InstanceId)] = i.State == nil ||
				i.State.Name != ec2types.InstanceStateNameShuttingDown && i.State.Name != ec2types.InstanceStateNameTerminated
		}
		p.sightings.remember(chunk, alive)
	}
	return slices.DeleteFunc(slices.Clone(items), func(item string) bool { return alive[instance(item)] }), nil
}

// sightings remembers for a moment which instances are alive and which are gone:
// when many nodes go, every Service asks for the same ones.
type sightings struct {
	mu sync.Mutex
	of map[string]sighting
}

type sighting struct {
	alive bool
	at    time.Time
}

const sightingTTL = 15 * time.Second

// recent returns what is known of the instances, and those of which nothing is.
func (s *sightings) recent(ids []string) (alive map[string]bool, unknown []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.of, func(_ string, seen sighting) bool { return time.Since(seen.at) >= sightingTTL })
	alive = map[string]bool{}
	for _, id := range ids {
		if seen, ok := s.of[id]; ok {
			alive[id] = seen.alive
		} else {
			unknown = append(unknown, id)
		}
	}
	return alive, unknown
}

// remember keeps what an answer about these instances has shown.
func (s *sightings) remember(ids []string, alive map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[string]sighting{}
	}
	for _, id := range ids {
		s.of[id] = sighting{alive[id], time.Now()}
	}
}

// filterValues is the most values EC2 takes in one filter.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html
const filterValues = 200

// listInstances returns those of at most filterValues instances that EC2 lists.
// They are asked for by filter: unlike with explicit ids, one that is gone does
// not fail the rest.
func (c *clients) listInstances(ctx context.Context, ids []string) ([]ec2types.Instance, error) {
	return c.describeInstances(ctx, &ec2.DescribeInstancesInput{
		Filters: []ec2types.Filter{{Name: aws.String("instance-id"), Values: ids}}})
}

// describeInstances returns all pages of an answer, or none of them.
func (c *clients) describeInstances(ctx context.Context, in *ec2.DescribeInstancesInput) ([]ec2types.Instance, error) {
	var found []ec2types.Instance
	for pages := ec2.NewDescribeInstancesPaginator(c.ec2, in); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, failed("read instances", lb.Ref{}, err)
		}
		for _, r := range page.Reservations {
			found = append(found, r.Instances...)
		}
	}
	return found, nil
}
