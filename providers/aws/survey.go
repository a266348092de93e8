package aws

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairway-lb/fairway/providers/lb"
)

var _ lb.Surveyor = (*Provider)(nil)

// Survey implements lb.Surveyor for security groups, load balancers and target
// groups: three lists. Those of Elastic Load Balancing come without tags, which
// take a call for 20 resources that were never looked at before; what belongs to
// whom does not change.
func (p *Provider) Survey(ctx context.Context) (lb.Survey, error) {
	var balancers []elbtypes.LoadBalancer
	var groups []elbtypes.TargetGroup
	var security []ec2types.SecurityGroup
	err := together(ctx,
		func(ctx context.Context) (err error) { balancers, err = p.listLoadBalancers(ctx); return err },
		func(ctx context.Context) (err error) { groups, err = p.listTargetGroups(ctx); return err },
		func(ctx context.Context) (err error) { security, err = p.listOurSecurityGroups(ctx); return err })
	if err != nil {
		return lb.Survey{}, err
	}
	owned, err := p.ownMarks(ctx, balancers, groups)
	if err != nil {
		return lb.Survey{}, err
	}
	v := &observation{Provider: p, refs: map[string]lb.Ref{}}
	v.securityGroups(security, balancers, slices.ContainsFunc(security, func(g ec2types.SecurityGroup) bool { return !p.isBackend(g) }))
	for _, g := range groups {
		if tags, ours := owned[aws.ToString(g.TargetGroupArn)]; ours {
			r := targetGroupResource(g)
			r.Ref, r.Owners = lb.Ref{Kind: kindTargetGroup, Key: tags[markResource]}, p.marks.owners(tags)
			v.add(r)
		}
	}
	for _, b := range balancers {
		if tags, ours := owned[aws.ToString(b.LoadBalancerArn)]; ours {
			r := v.loadBalancer(b, tags)
			delete(r.Fields, "tags") // they may have changed
			v.add(r)
		}
	}
	return surveyOf(v.resources), nil
}

// surveyOf sorts resources by who owns them.
func surveyOf(resources []lb.Resource) lb.Survey {
	found := lb.Survey{Kinds: []lb.Kind{kindSecurityGroup, kindLoadBalancer, kindTargetGroup}, Services: map[lb.ServiceRef][]lb.Resource{}}
	for _, r := range resources {
		for _, o := range r.Owners {
			if o.Kind == lb.OwnedByCluster {
				found.Cluster = append(found.Cluster, r)
			} else {
				found.Services[o.Service] = append(found.Services[o.Service], r)
			}
		}
	}
	return found
}

// listOurSecurityGroups returns the groups that bear this cluster's marks.
func (p *Provider) listOurSecurityGroups(ctx context.Context) ([]ec2types.SecurityGroup, error) {
	return p.listSecurityGroups(ctx,
		ec2types.Filter{Name: aws.String("tag:" + markCluster), Values: []string{p.names.cluster.Name}},
		ec2types.Filter{Name: aws.String("tag:" + markClusterUID), Values: []string{p.names.cluster.UID}})
}

// ownMarks returns the marks of those load balancers and target groups that are
// ours, by ARN. Only what is named as ours are comes into question.
func (p *Provider) ownMarks(ctx context.Context, balancers []elbtypes.LoadBalancer, groups []elbtypes.TargetGroup) (map[string]map[string]string, error) {
	var arns []string
	for _, b := range balancers {
		if strings.HasPrefix(aws.ToString(b.LoadBalancerName), namePrefix) {
			arns = append(arns, aws.ToString(b.LoadBalancerArn))
		}
	}
	for _, g := range groups {
		if strings.HasPrefix(aws.ToString(g.TargetGroupName), namePrefix) {
			arns = append(arns, aws.ToString(g.TargetGroupArn))
		}
	}
	owned, unknown := p.owned.among(arns)
	if len(unknown) == 0 {
		return owned, nil
	}
	tags, err := p.tagsOf(ctx, unknown)
	if err != nil {
		return nil, err
	}
	maps.Copy(owned, p.owned.learn(p.marks, tags))
	return owned, nil
}

// ownership remembers the marks of what is ours. An ARN is never given to another
// thing, and marks are put on when a thing is made. It is safe for concurrent use.
type ownership struct {
	mu    sync.Mutex
	marks map[string]map[string]string // by ARN
}

// among returns the marks of those that are known to be ours, and those of which
// nothing is known. What is not among the ARNs is forgotten.
func (o *ownership) among(arns []string) (owned map[string]map[string]string, unknown []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	owned = map[string]map[string]string{}
	for _, arn := range arns {
		if tags, ok := o.marks[arn]; ok {
			owned[arn] = tags
		} else {
			unknown = append(unknown, arn)
		}
	}
	o.marks = maps.Clone(owned)
	return owned, unknown
}

// learn remembers those that m says are ours, and returns them.
func (o *ownership) learn(m marks, tags map[string]map[string]string) map[string]map[string]string {
	ours := maps.Clone(tags)
	maps.DeleteFunc(ours, func(_ string, tags map[string]string) bool { return m.owners(tags) == nil })
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.marks == nil {
		o.marks = map[string]map[string]string{}
	}
	maps.Copy(o.marks, ours)
	return ours
}
