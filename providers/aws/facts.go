package aws

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/fairway-lb/fairway/providers/lb"
)

// facts is what the model must know about the account besides the Service.
type facts struct {
	region, vpc string
	subnets     []subnet
	// placed lists, by name, the subnets each load balancer is in.
	placed map[string][]string
	// nodeGroups are the security groups that protect the nodes, sorted.
	nodeGroups []string
}

// How long facts are believed. What changes them is rare, slow and seldom
// urgent; a failed change to the account makes them be read again at once.
const (
	factsTTL = 10 * time.Minute
	// absentTTL is how long an instance that EC2 does not list, or a zone without
	// subnets, is not asked for again: a new one may be listed a little late.
	absentTTL = time.Minute
)

// factCache reads facts and remembers them. It is safe for concurrent use.
type factCache struct {
	*clients
	cfg Config

	// turn holds a token for whoever may use the fields below. A channel, unlike
	// a mutex, lets those who wait give up with their context.
	turn chan struct{}
	// stale asks for everything to be read again; forgotten is when that was last
	// done.
	stale     atomic.Bool
	forgotten time.Time
	vpc       string
	network   facts // without nodeGroups
	read      time.Time
	machines  *machines
	instances map[string]instanceFacts // of the nodes
	// tagged tells of a security group whether it bears the cluster's tag.
	tagged map[string]groupTag
	// groupNames are the names of the nodes' security groups by id; they never
	// change.
	groupNames map[string]string
}

// instanceFacts is what matters of a node's instance.
type instanceFacts struct {
	vpc string
	// group is the security group that admits load balancers; problem says why
	// there is none.
	group, problem string
	read           time.Time
}

// groupTag is whether a group bore the cluster's tag when it was looked at.
type groupTag struct {
	tagged bool
	read   time.Time
}

// present is false for an instance that EC2 does not list as running.
func (i instanceFacts) present() bool { return i.vpc != "" }

func newFactCache(c *clients, cfg Config) *factCache {
	f := &factCache{clients: c, cfg: cfg, turn: make(chan struct{}, 1), machines: newMachines(c, cfg.VPC),
		instances: map[string]instanceFacts{}, tagged: map[string]groupTag{}, groupNames: map[string]string{}}
	f.turn <- struct{}{}
	return f
}

// get returns the facts for a Service with nodes that are these instances in these
// zones, and remarks about nodes whose security group could not be told.
func (f *factCache) get(ctx context.Context, instances, zones []string) (facts, []lb.Notice, error) {
	select {
	case <-f.turn:
	case <-ctx.Done():
		return facts{}, nil, &lb.Error{Kind: lb.Unavailable, Op: "read facts", Err: ctx.Err()}
	}
	defer func() { f.turn <- struct{}{} }()
	f.expire()
	if f.cfg.NodeSecurityGroup == "" || f.cfg.VPC == "" && f.vpc == "" {
		if err := f.learnInstances(ctx, instances); err != nil {
			return facts{}, nil, err
		}
	}
	if err := f.learnNetwork(ctx, instances, zones); err != nil {
		return facts{}, nil, err
	}
	found := f.network
	groups, notices, err := f.nodeGroups(instances)
	found.nodeGroups = groups
	return found, notices, err
}

// known returns the names of the security groups of all nodes seen so far, by id.
// A group of the configuration that does not exist is not among them.
func (f *factCache) known(ctx context.Context) (map[string]string, error) {
	select {
	case <-f.turn:
	case <-ctx.Done():
		return nil, &lb.Error{Kind: lb.Unavailable, Op: "read facts", Err: ctx.Err()}
	}
	defer func() { f.turn <- struct{}{} }()
	if id := f.cfg.NodeSecurityGroup; id != "" {
		if err := f.learnGroupName(ctx, id); err != nil || f.groupNames[id] == "" {
			return nil, err
		}
		return map[string]string{id: f.groupNames[id]}, nil
	}
	groups := map[string]string{}
	for _, i := range f.instances {
		if i.group != "" {
			groups[i.group] = f.groupNames[i.group]
		}
	}
	return groups, nil
}

// learnGroupName reads the name of a group that only its id is known of.
func (f *factCache) learnGroupName(ctx context.Context, id string) error {
	if f.groupNames[id] != "" {
		return nil
	}
	groups, err := f.listSecurityGroups(ctx, ec2types.Filter{Name: aws.String("group-id"), Values: []string{id}})
	if err == nil && len(groups) == 1 {
		f.groupNames[id] = aws.ToString(groups[0].GroupName)
	}
	return err
}

// forget makes the next get read everything again. It does not wait for one that
// is under way.
func (f *factCache) forget() { f.stale.Store(true) }

// expire does what forget asked for.
func (f *factCache) expire() {
	if !f.stale.Swap(false) {
		return
	}
	f.read, f.forgotten = time.Time{}, time.Now()
	for id, i := range f.instances {
		i.read = time.Time{}
		f.instances[id] = i
	}
}

// learnNetwork reads subnets, route tables and where load balancers are. A node in
// a zone without any subnet says that there is a new one.
func (f *factCache) learnNetwork(ctx context.Context, instances, zones []string) error {
	ttl := factsTTL
	if slices.ContainsFunc(zones, f.unknownZone) {
		ttl = absentTTL
	}
	if time.Since(f.read) < ttl {
		return nil
	}
	vpc, err := f.findVPC(ctx, instances)
	if err != nil {
		return err
	}
	filter := []ec2types.Filter{{Name: aws.String("vpc-id"), Values: []string{vpc}}}
	var tables []ec2types.RouteTable
	for pages := ec2.NewDescribeRouteTablesPaginator(f.ec2, &ec2.DescribeRouteTablesInput{Filters: filter}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return failed("read route tables", lb.Ref{}, err)
		}
		tables = append(tables, page.RouteTables...)
	}
	network := facts{region: f.region, vpc: vpc, placed: map[string][]string{}}
	for pages := ec2.NewDescribeSubnetsPaginator(f.ec2, &ec2.DescribeSubnetsInput{Filters: filter}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return failed("read subnets", lb.Ref{}, err)
		}
		for _, s := range page.Subnets {
			network.subnets = append(network.subnets, subnet{
				id: aws.ToString(s.SubnetId), zone: aws.ToString(s.AvailabilityZone), tags: ec2Tags(s.Tags),
				public: isPublic(aws.ToString(s.SubnetId), tables), outpost: aws.ToString(s.OutpostArn) != "",
				free: int(aws.ToInt32(s.AvailableIpAddressCount)),
			})
		}
	}
	balancers, err := f.listLoadBalancers(ctx)
	if err != nil {
		return err
	}
	for _, b := range balancers {
		network.placed[aws.ToString(b.LoadBalancerName)] = subnetsOf(b)
	}
	f.vpc, f.network, f.read = vpc, network, time.Now()
	return nil
}

func (f *factCache) unknownZone(zone string) bool {
	return zone != "" && !slices.ContainsFunc(f.network.subnets, func(s subnet) bool { return s.zone == zone })
}

// isPublic reports whether the route table of a subnet, its own or else the
// network's main one, leads to an internet gateway.
// https://docs.aws.amazon.com/vpc/latest/userguide/configure-subnets.html
func isPublic(subnetID string, tables []ec2types.RouteTable) bool {
	var main, own *ec2types.RouteTable
	for i, t := range tables {
		for _, a := range t.Associations {
			if aws.ToBool(a.Main) {
				main = &tables[i]
			}
			if aws.ToString(a.SubnetId) == subnetID {
				own = &tables[i]
			}
		}
	}
	if own == nil {
		own = main
	}
	return own != nil && slices.ContainsFunc(own.Routes, func(r ec2types.Route) bool {
		return strings.HasPrefix(aws.ToString(r.GatewayId), "igw-") && r.State != ec2types.RouteStateBlackhole
	})
}

// findVPC returns the configured network, else that of the Service's nodes, else
// what the cluster's is known to be.
func (f *factCache) findVPC(ctx context.Context, instances []string) (string, error) {
	if f.cfg.VPC != "" {
		return f.cfg.VPC, nil
	}
	for _, id := range instances {
		if i := f.instances[id]; i.present() {
			return i.vpc, nil
		}
	}
	if f.vpc != "" {
		return f.vpc, nil
	}
	return f.machines.network(ctx)
}

// learnInstances reads those instances that are not known or no longer fresh.
func (f *factCache) learnInstances(ctx context.Context, ids []string) error {
	now := time.Now()
	stale := slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
		i, ok := f.instances[id]
		ttl := factsTTL
		if !i.present() {
			ttl = absentTTL
		}
		return ok && now.Sub(i.read) < ttl
	})
	if len(stale) == 0 {
		return nil
	}
	found, err := f.machines.look(ctx, stale, f.notBefore(now))
	if err != nil {
		return err
	}
	if err := f.rememberInstances(ctx, stale, found, now); err != nil {
		return err
	}
	// What has not been asked for in a long time is no node any more.
	maps.DeleteFunc(f.instances, func(_ string, i instanceFacts) bool { return now.Sub(i.read) > 6*factsTTL })
	return nil
}

// notBefore is when something must have been read at least to be believed now.
func (f *factCache) notBefore(now time.Time) time.Time {
	if oldest := now.Add(-factsTTL); oldest.After(f.forgotten) {
		return oldest
	}
	return f.forgotten
}

// rememberInstances keeps what matters of those that were asked for, absence too.
func (f *factCache) rememberInstances(ctx context.Context, asked []string, found map[string]machine, now time.Time) error {
	var several []string // groups of instances that have more than one
	for _, m := range found {
		if len(m.groups) > 1 {
			for _, g := range m.groups {
				several = append(several, aws.ToString(g.GroupId))
			}
		}
	}
	tagged, err := f.clusterGroups(ctx, lb.Set(several...), now)
	if err != nil {
		return err
	}
	for _, id := range asked {
		m, ok := found[id]
		if !ok {
			f.instances[id] = instanceFacts{read: now}
			continue
		}
		for _, g := range m.groups {
			f.groupNames[aws.ToString(g.GroupId)] = aws.ToString(g.GroupName)
		}
		known := instanceFacts{vpc: m.vpc, read: m.read}
		known.group, known.problem = nodeGroupOf(m, tagged, clusterTagStart+f.cfg.Cluster.Name)
		f.instances[id] = known
	}
	return nil
}

// clusterGroups returns which of the groups carry the cluster's tag. That none
// does is an error of someone who will mend it: it is not remembered.
func (f *factCache) clusterGroups(ctx context.Context, ids []string, now time.Time) (map[string]bool, error) {
	if len(ids) == 0 || f.cfg.NodeSecurityGroup != "" {
		return nil, nil
	}
	tagged := map[string]bool{}
	var unknown []string
	for _, id := range ids {
		if known, ok := f.tagged[id]; ok && !known.read.Before(f.notBefore(now)) {
			tagged[id] = known.tagged
		} else {
			unknown = append(unknown, id)
		}
	}
	if len(unknown) == 0 {
		return tagged, nil
	}
	groups, err := f.listSecurityGroups(ctx, ec2types.Filter{Name: aws.String("group-id"), Values: unknown})
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		_, ok := ec2Tags(g.Tags)[clusterTagStart+f.cfg.Cluster.Name]
		tagged[aws.ToString(g.GroupId)] = ok
	}
	if slices.Contains(slices.Collect(maps.Values(tagged)), true) {
		for _, id := range unknown {
			f.tagged[id] = groupTag{tagged[id], now}
		}
	}
	return tagged, nil
}

// nodeGroupOf returns the instance's only security group, or the only one of
// several that is tagged.
func nodeGroupOf(m machine, tagged map[string]bool, tag string) (group, problem string) {
	var all, marked []string
	for _, g := range m.groups {
		id := aws.ToString(g.GroupId)
		all = append(all, id)
		if tagged[id] {
			marked = append(marked, id)
		}
	}
	switch {
	case len(all) == 1:
		return all[0], ""
	case len(all) == 0:
		return "", fmt.Sprintf("instance %s has no security group", m.ID)
	case len(marked) == 1:
		return marked[0], ""
	default:
		return "", fmt.Sprintf("instance %s is in security groups %s, of which %d are tagged %s; tag exactly one, or set nodeSecurityGroup in the configuration",
			m.ID, strings.Join(all, ", "), len(marked), tag)
	}
}

// nodeGroups returns the security groups of these instances. An instance without
// a clear one is noted, and an error when no other has one.
func (f *factCache) nodeGroups(instances []string) ([]string, []lb.Notice, error) {
	if f.cfg.NodeSecurityGroup != "" {
		return []string{f.cfg.NodeSecurityGroup}, nil, nil
	}
	var groups []string
	problem := ""
	for _, id := range instances {
		i := f.instances[id]
		switch {
		case i.group != "" && i.vpc == f.network.vpc:
			groups = append(groups, i.group)
		case i.problem != "" && problem == "":
			problem = i.problem
		}
	}
	switch {
	case problem == "":
		return lb.Set(groups...), nil, nil
	case len(groups) == 0:
		return nil, nil, &lb.Error{Kind: lb.Invalid, Op: "find the nodes' security group", Message: problem, RetryAfter: retryDiscovery}
	default:
		return lb.Set(groups...), []lb.Notice{{Reason: "NodeSecurityGroupUnknown", Message: problem}}, nil
	}
}
