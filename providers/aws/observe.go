package aws

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairway-lb/fairway/providers/lb"
)

// Observe implements lb.Provider.
func (p *Provider) Observe(ctx context.Context, o lb.Owner) ([]lb.Resource, error) {
	see := p.observeCluster
	if o.Kind == lb.OwnedByService {
		see = func(ctx context.Context) ([]lb.Resource, error) { return p.observeService(ctx, o.Service) }
	}
	seen, err := see(ctx)
	if err == nil {
		err = p.newborns.unseen(o, seen)
	}
	if err != nil {
		return nil, err
	}
	return seen, nil
}

// observation collects what is seen and translates the cloud's identifiers back
// to references.
type observation struct {
	*Provider
	service   lb.ServiceRef // zero when the cluster is observed
	resources []lb.Resource
	refs      map[string]lb.Ref // by identifier
}

func (v *observation) add(r lb.Resource) {
	v.resources = append(v.resources, r)
	if r.ID != "" {
		v.refs[r.ID] = r.Ref
	}
}

// name returns the reference of what id identifies, id itself when that is
// nothing of ours.
func (v *observation) name(id string) string {
	if ref, ok := v.ours(id); ok {
		return ref.String()
	}
	return id
}

// ours returns the reference of what id identifies; false for what we did not
// make, such as a group of the nodes, whose key is its id.
func (v *observation) ours(id string) (lb.Ref, bool) {
	ref, ok := v.refs[id]
	return ref, ok && ref.Key != id
}

// key is the reference of something seen: our own mark tells it; of what carries
// none, those of our references whose name it has taken.
func (v *observation) key(kind lb.Kind, tags map[string]string, name string, candidates map[string]lb.Ref) lb.Ref {
	if v.marks.owners(tags) != nil {
		return lb.Ref{Kind: kind, Key: tags[markResource]}
	}
	if ref, ok := candidates[name]; ok {
		return ref
	}
	return lb.Ref{Kind: kind, Key: name}
}

// observeService looks for a Service's resources where they would be by their
// names, and so finds leftovers, and foreign things in their place, as well.
func (p *Provider) observeService(ctx context.Context, s lb.ServiceRef) ([]lb.Resource, error) {
	v := &observation{Provider: p, service: s, refs: map[string]lb.Ref{}}
	var balancers []elbtypes.LoadBalancer
	var groups []elbtypes.TargetGroup
	var found []ec2types.SecurityGroup
	// The nodes' groups come in the same answer as ours.
	known, err := p.facts.known(ctx)
	if err != nil {
		return nil, err
	}
	ours := []string{p.names.frontend(s), p.names.backend()}
	names := slices.AppendSeq(slices.Clone(ours), maps.Values(known))
	err = together(ctx,
		func(ctx context.Context) (err error) { balancers, err = p.balancers.of(ctx, s); return err },
		func(ctx context.Context) (err error) { groups, err = p.groups.of(ctx, s); return err },
		func(ctx context.Context) (err error) {
			found, err = p.listSecurityGroups(ctx, ec2types.Filter{Name: aws.String("group-name"), Values: lb.Set(names...)})
			return err
		})
	if err != nil {
		return nil, err
	}
	v.securityGroups(slices.DeleteFunc(slices.Clone(found), func(g ec2types.SecurityGroup) bool {
		return !slices.Contains(ours, aws.ToString(g.GroupName))
	}), balancers, false)
	v.nodeGroups(known, slices.DeleteFunc(found, func(g ec2types.SecurityGroup) bool {
		_, ok := known[aws.ToString(g.GroupId)]
		return !ok
	}))
	err = v.loadBalancing(ctx,
		named(balancers, func(b elbtypes.LoadBalancer) *string { return b.LoadBalancerName }, p.names.loadBalancerPrefix(s)),
		named(groups, func(g elbtypes.TargetGroup) *string { return g.TargetGroupName }, p.names.targetGroupPrefix(s)))
	return v.resources, err
}

// named returns those whose name begins with prefix.
func named[T any](all []T, name func(T) *string, prefix string) []T {
	var found []T
	for _, item := range all {
		if strings.HasPrefix(aws.ToString(name(item)), prefix) {
			found = append(found, item)
		}
	}
	return found
}

// observeCluster looks for what the cluster owns. It is in use while a load
// balancer is in the backend group, or while a Service has a group of its own
// and so may be about to make one.
func (p *Provider) observeCluster(ctx context.Context) ([]lb.Resource, error) {
	v := &observation{Provider: p, refs: map[string]lb.Ref{}}
	var balancers []elbtypes.LoadBalancer
	var security, nodes []ec2types.SecurityGroup
	err := together(ctx,
		func(ctx context.Context) (err error) { balancers, err = p.listLoadBalancers(ctx); return err },
		func(ctx context.Context) (err error) {
			security, err = p.listOurSecurityGroups(ctx)
			if err == nil {
				nodes, err = p.groupsAdmitting(ctx, security)
			}
			return err
		})
	if err != nil {
		return nil, err
	}
	frontends := slices.ContainsFunc(security, func(g ec2types.SecurityGroup) bool { return !p.isBackend(g) })
	v.securityGroups(slices.DeleteFunc(security, func(g ec2types.SecurityGroup) bool { return !p.isBackend(g) }), balancers, frontends)
	known, err := p.facts.known(ctx)
	if err != nil {
		return nil, err
	}
	v.nodeGroups(known, nodes)
	return v.resources, nil
}

// isBackend reports whether g is, by its marks, the cluster's.
func (p *Provider) isBackend(g ec2types.SecurityGroup) bool {
	return slices.Contains(p.marks.owners(ec2Tags(g.Tags)), lb.ByCluster())
}

// groupsAdmitting returns the groups with a rule that admits one of our backend
// groups, which ones of nodes are.
func (p *Provider) groupsAdmitting(ctx context.Context, security []ec2types.SecurityGroup) ([]ec2types.SecurityGroup, error) {
	var backends []string
	for _, g := range security {
		if p.isBackend(g) {
			backends = append(backends, aws.ToString(g.GroupId))
		}
	}
	if len(backends) == 0 {
		return nil, nil
	}
	return p.listSecurityGroups(ctx, ec2types.Filter{Name: aws.String("ip-permission.group-id"), Values: backends})
}

// securityGroups adds groups named as ours are.
func (v *observation) securityGroups(groups []ec2types.SecurityGroup, balancers []elbtypes.LoadBalancer, used bool) {
	for _, g := range groups {
		tags, vpc := ec2Tags(g.Tags), aws.ToString(g.VpcId)
		ref := v.key(kindSecurityGroup, tags, aws.ToString(g.GroupName), map[string]lb.Ref{
			v.names.frontend(v.service): frontendRef(v.service, vpc),
			v.names.backend():           backendRef(vpc),
		})
		v.add(lb.Resource{Ref: ref, ID: aws.ToString(g.GroupId), Owners: v.marks.owners(tags),
			InUse: v.isBackend(g) && (used || inUse(aws.ToString(g.GroupId), balancers)),
			Fields: lb.Fields{
				"name": lb.Text(aws.ToString(g.GroupName)), "vpc": lb.Text(vpc),
				"ingress": lb.Set(rulesIn(g, anyRule, v.name)...), "tags": ourTags(tags),
			}})
	}
}

func anyRule(string) bool { return true }

func inUse(group string, balancers []elbtypes.LoadBalancer) bool {
	return slices.ContainsFunc(balancers, func(b elbtypes.LoadBalancer) bool { return slices.Contains(b.SecurityGroups, group) })
}

// nodeGroups adds the nodes' groups, which are never ours, and our rules in
// those that may admit our load balancers. Groups that nodes are known to be in
// exist even if they have no rule of ours yet.
func (v *observation) nodeGroups(known map[string]string, admitting []ec2types.SecurityGroup) {
	attached := []lb.Owner{{Kind: lb.Attached}}
	ids := slices.Collect(maps.Keys(known))
	for _, g := range admitting {
		id := aws.ToString(g.GroupId)
		rules := rulesIn(g, func(description string) bool { return description == v.marks.rule() }, v.name)
		if len(rules) == 0 {
			continue
		}
		ids = append(ids, id)
		var depends []lb.Ref
		used := false
		for _, p := range g.IpPermissions {
			for _, pair := range p.UserIdGroupPairs {
				backend, ours := v.ours(aws.ToString(pair.GroupId))
				if ours && !slices.Contains(depends, backend) {
					depends = append(depends, backend)
					used = used || v.usedBackend(backend)
				}
			}
		}
		v.resources = append(v.resources, lb.Resource{Ref: nodeRulesRef(id), ID: id, Owners: []lb.Owner{lb.ByCluster()},
			Parent: nodeGroupRef(id), DependsOn: depends, InUse: used, Fields: lb.Fields{"ingress": lb.Set(rules...)}})
	}
	for _, id := range lb.Set(ids...) {
		v.add(lb.Resource{Ref: nodeGroupRef(id), ID: id, Owners: attached})
	}
}

func (v *observation) usedBackend(ref lb.Ref) bool {
	return slices.ContainsFunc(v.resources, func(r lb.Resource) bool { return r.Ref == ref && r.InUse })
}

// loadBalancing adds load balancers, listeners, target groups and targets.
func (v *observation) loadBalancing(ctx context.Context, balancers []elbtypes.LoadBalancer, groups []elbtypes.TargetGroup) error {
	var arns []string
	listening := make([][]elbtypes.Listener, len(balancers))
	for i, b := range balancers {
		found, err := v.listListeners(ctx, aws.ToString(b.LoadBalancerArn))
		if err != nil {
			return err
		}
		listening[i] = found
		arns = append(arns, aws.ToString(b.LoadBalancerArn))
		for _, l := range found {
			arns = append(arns, aws.ToString(l.ListenerArn))
		}
	}
	for _, g := range groups {
		arns = append(arns, aws.ToString(g.TargetGroupArn))
	}
	tags, err := v.tagsOf(ctx, arns)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if err := v.targetGroup(ctx, g, tags[aws.ToString(g.TargetGroupArn)]); err != nil {
			return err
		}
	}
	for i, b := range balancers {
		r := v.loadBalancer(b, tags[aws.ToString(b.LoadBalancerArn)])
		if !r.Foreign() {
			if err := v.balancerSettings().observe(ctx, r, tags[r.ID]); err != nil {
				return err
			}
		}
		v.add(r)
		for _, l := range listening[i] {
			v.add(v.listener(l, r.Ref, tags[aws.ToString(l.ListenerArn)]))
		}
	}
	return nil
}

func (v *observation) targetGroup(ctx context.Context, g elbtypes.TargetGroup, tags map[string]string) error {
	vpc, port := aws.ToString(g.VpcId), uint16(aws.ToInt32(g.Port))
	taken := map[string]lb.Ref{}
	for _, scheme := range []string{schemeInternet, schemeInternal} {
		taken[v.names.targetGroup(v.service, scheme, vpc, string(g.Protocol), port)] = targetGroupRef(v.service, scheme, vpc, string(g.Protocol), port)
	}
	r := targetGroupResource(g)
	r.Fields["tags"] = ourTags(tags)
	r.Ref, r.Owners = v.key(kindTargetGroup, tags, aws.ToString(g.TargetGroupName), taken), v.marks.owners(tags)
	if !r.Foreign() {
		if err := v.groupSettings().observe(ctx, r, tags); err != nil {
			return err
		}
	}
	v.add(r)
	if r.Foreign() {
		return nil
	}
	instances, err := v.registered(ctx, g)
	if err != nil {
		return err
	}
	v.resources = append(v.resources, lb.Resource{Ref: targetsRef(r.Ref), ID: r.ID, Owners: r.Owners, Parent: r.Ref,
		Fields: lb.Fields{"instances": lb.Set(instances...)}})
	return nil
}

// loadBalancer returns b as a resource.
func (v *observation) loadBalancer(b elbtypes.LoadBalancer, tags map[string]string) lb.Resource {
	vpc := aws.ToString(b.VpcId)
	taken := map[string]lb.Ref{}
	for _, scheme := range []string{schemeInternet, schemeInternal} {
		taken[v.names.loadBalancer(v.service, scheme, vpc)] = loadBalancerRef(v.service, scheme, vpc)
	}
	r := loadBalancerResource(b)
	r.Fields["tags"] = ourTags(tags)
	r.Ref, r.Owners = v.key(kindLoadBalancer, tags, aws.ToString(b.LoadBalancerName), taken), v.marks.owners(tags)
	var in []string
	for _, id := range b.SecurityGroups {
		in = append(in, v.name(id))
		if ref, ours := v.ours(id); ours {
			r.DependsOn = append(r.DependsOn, ref)
		}
	}
	r.Fields["security-groups"] = lb.Set(in...)
	return r
}

func (v *observation) listener(l elbtypes.Listener, balancer lb.Ref, tags map[string]string) lb.Resource {
	r := lb.Resource{Ref: listenerRef(balancer, int(aws.ToInt32(l.Port))), ID: aws.ToString(l.ListenerArn),
		Owners: v.marks.owners(tags), Parent: balancer,
		Fields: lb.Fields{"protocol": lb.Text(string(l.Protocol)), "port": lb.Number(aws.ToInt32(l.Port)), "tags": ourTags(tags)}}
	arn := forwardsTo(l)
	r.Fields["target-group"] = lb.Text(v.name(arn))
	if group, ours := v.ours(arn); ours {
		r.DependsOn = []lb.Ref{group, targetsRef(group)}
	}
	return r
}

// forwardsTo returns the ARN of the target group of a listener with one.
func forwardsTo(l elbtypes.Listener) string {
	for _, a := range l.DefaultActions {
		if a.TargetGroupArn != nil {
			return *a.TargetGroupArn
		}
		if a.ForwardConfig != nil && len(a.ForwardConfig.TargetGroups) == 1 {
			return aws.ToString(a.ForwardConfig.TargetGroups[0].TargetGroupArn)
		}
	}
	return ""
}
