package aws

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/aws/aws-sdk-go-v2/config"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairway-lb/fairway/providers/lb"
)

// Provider is the lb.Provider for AWS. Make one with New; it is safe for
// concurrent use.
type Provider struct {
	*clients
	cfg     Config
	names   names
	marks   marks
	facts   *factCache
	drivers map[lb.Kind]driver
	// newborns are what AWS may not list yet.
	newborns  *newborns
	sightings sightings
	owned     ownership
	// balancers and groups are lists that Services looked at together share;
	// diary keeps them newer than our own writes.
	balancers listing[elbtypes.LoadBalancer]
	groups    listing[elbtypes.TargetGroup]
	diary     *diary
}

var _ lb.Provider = (*Provider)(nil)

// New returns a provider for the cluster. Its Name may be empty and must
// otherwise be the one in cfg; its UID is required. The SDK's clients are made
// from the environment, as any SDK program's are; opts, such as
// config.WithHTTPClient, are for those who need them made otherwise. Errors are
// *lb.Error.
func New(ctx context.Context, cfg Config, cluster lb.Cluster, opts ...func(*config.LoadOptions) error) (*Provider, error) {
	refuse := func(format string, args ...any) error {
		return &lb.Error{Kind: lb.Invalid, Op: "set up AWS", Message: fmt.Sprintf(format, args...)}
	}
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, refuse("%v", err)
	}
	if cluster.UID == "" {
		return nil, refuse("the cluster's UID (of namespace kube-system) is not known")
	}
	if cluster.Name != "" && cluster.Name != cfg.Cluster.Name {
		return nil, refuse("the cluster is called %q, but cluster.name in the configuration is %q", cluster.Name, cfg.Cluster.Name)
	}
	cluster.Name = cfg.Cluster.Name
	c, err := newClients(ctx, cfg.Region, append(slices.Clip(opts), paced(cfg.RequestRate)))
	if err != nil {
		return nil, err
	}
	p := &Provider{clients: c, cfg: cfg, names: names{cluster}, marks: marks{cluster}, facts: newFactCache(c, cfg), newborns: new(newborns), diary: new(diary)}
	p.balancers = listing[elbtypes.LoadBalancer]{list: c.listLoadBalancers, diary: p.diary}
	p.groups = listing[elbtypes.TargetGroup]{list: c.listTargetGroups, diary: p.diary}
	p.drivers = map[lb.Kind]driver{
		kindSecurityGroup: securityGroups{p},
		kindNodeRules:     nodeRules{p},
		kindLoadBalancer:  loadBalancers{p},
		kindTargetGroup:   targetGroups{p},
		kindTargets:       targets{p},
		kindListener:      listeners{p},
	}
	return p, nil
}

// Name returns "aws".
func (p *Provider) Name() string { return "aws" }

// Desired implements lb.Provider.
func (p *Provider) Desired(ctx context.Context, s lb.Service) (lb.Desired, error) {
	o, err := parseAnnotations(s, p.cfg)
	if err != nil {
		return lb.Desired{}, err
	}
	var instances, zones []string
	for _, t := range s.Targets {
		if id, ok := instanceID(t.ProviderID); ok && t.State != lb.TargetGone {
			instances, zones = append(instances, id), append(zones, t.Zone)
		}
	}
	f, notices, err := p.facts.get(ctx, instances, zones)
	if err != nil {
		return lb.Desired{}, err
	}
	resources, more, err := desired(o, f, p.names)
	notices = append(notices, more...)
	if err != nil {
		return lb.Desired{Notices: notices}, err
	}
	return lb.Desired{Resources: resources, Notices: notices}, nil
}

// Status implements lb.Provider: the names of the load balancers, published at
// once, as clients may resolve them before the load balancer is in service.
func (p *Provider) Status(resources []lb.Resource) lb.Status {
	var names []string
	for _, r := range resources {
		if r.Kind == kindLoadBalancer && !r.Foreign() && len(r.Fields["failure"]) == 0 && r.Fields.Text("dns-name") != "" {
			names = append(names, r.Fields.Text("dns-name"))
		}
	}
	var status lb.Status
	slices.Sort(names)
	for _, name := range names {
		status.Addresses = append(status.Addresses, lb.Address{Hostname: name})
	}
	return status
}

// together runs reads at the same time and returns all their errors in the order
// of the reads: the same trouble is then the same error each time, and whoever has
// to grant permissions sees which.
func together(ctx context.Context, reads ...func(context.Context) error) error {
	errs := make([]error, len(reads))
	var all sync.WaitGroup
	for i, read := range reads {
		all.Go(func() { errs[i] = read(ctx) })
	}
	all.Wait()
	return errors.Join(errs...)
}
