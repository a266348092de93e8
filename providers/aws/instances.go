package aws

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/fairway-lb/fairway/providers/lb"
)

var _ lb.Instances = (*Provider)(nil)

// InstanceID implements lb.Instances. An instance of another region is none of
// ours: asked for here, EC2 would say that it does not exist.
func (p *Provider) InstanceID(providerID string) (string, bool) {
	zone, id, ok := parseProviderID(providerID)
	return id, ok && (zone == "" || strings.HasPrefix(zone, p.region))
}

// ListInstances implements lb.Instances: the instances in the cluster's VPC that
// are not terminated, which takes one call per thousand.
func (p *Provider) ListInstances(ctx context.Context, maxAge time.Duration) (*lb.Inventory, error) {
	return p.facts.machines.list(ctx, maxAge)
}

// GetInstance implements lb.Instances.
func (p *Provider) GetInstance(ctx context.Context, id string) (lb.Instance, error) {
	m, err := p.facts.machines.get(ctx, id)
	return m.Instance, err
}

// machine is an instance as nodes and load balancers need it.
type machine struct {
	lb.Instance
	vpc    string
	groups []ec2types.GroupIdentifier
	read   time.Time
}

// machines is the one source of facts on instances: what is read for nodes needs
// not be read again for load balancers. It is safe for concurrent use.
type machines struct {
	*clients
	configured string // Config.VPC

	// turn holds a token for whoever may list; the others wait for the result.
	turn chan struct{}

	mu        sync.Mutex // guards what follows
	known     map[string]machine
	vpc       string // of the first instance seen, or of this machine
	inventory *lb.Inventory
	listed    time.Time
	failure   error // of the last listing, nil when it succeeded
	again     time.Time
}

const (
	// failureTTL is how long a listing that failed answers for the next ones: many
	// nodes ask at a time. What somebody must mend first is asked for at leisure.
	failureTTL, refusalTTL = 5 * time.Second, time.Minute
	// pageSize is the most that EC2 puts into one answer.
	// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html
	pageSize = 1000
)

func newMachines(c *clients, vpc string) *machines {
	m := &machines{clients: c, configured: vpc, turn: make(chan struct{}, 1), known: map[string]machine{}}
	m.turn <- struct{}{}
	return m
}

// list is ListInstances.
func (c *machines) list(ctx context.Context, maxAge time.Duration) (*lb.Inventory, error) {
	asked := time.Now()
	if v, err := c.lately(asked.Add(-maxAge)); v != nil || err != nil {
		return v, err
	}
	select {
	case <-c.turn:
	case <-ctx.Done():
		return nil, &lb.Error{Kind: lb.Unavailable, Op: "list instances", Err: ctx.Err()}
	}
	defer func() { c.turn <- struct{}{} }()
	// Another may have listed while this one waited, however long that took.
	if v, err := c.lately(asked.Add(-maxAge)); v != nil || err != nil {
		return v, err
	}
	begun := time.Now()
	found, err := c.listNetwork(ctx)
	if err != nil {
		if ctx.Err() == nil { // else the failure is the caller's own
			c.fail(err)
		}
		return nil, err
	}
	all := c.remember(found, begun)
	instances := make([]lb.Instance, len(all))
	for n, m := range all {
		instances[n] = m.Instance
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inventory, c.listed, c.failure = lb.NewInventory(instances), begun, nil
	return c.inventory, nil
}

// lately returns the last listing, if it was begun after that time, or its failure,
// if that is recent; neither when it is time for another.
func (c *machines) lately(after time.Time) (*lb.Inventory, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.failure != nil && time.Now().Before(c.again):
		return nil, c.failure
	case c.inventory != nil && c.listed.After(after):
		return c.inventory, nil
	default:
		return nil, nil
	}
}

func (c *machines) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ttl := failureTTL
	if kind := lb.KindOf(err); kind == lb.Denied || kind == lb.Invalid {
		ttl = refusalTTL
	}
	c.failure, c.again = err, time.Now().Add(ttl)
}

func (c *machines) listNetwork(ctx context.Context) ([]ec2types.Instance, error) {
	vpc, err := c.network(ctx)
	if err != nil {
		return nil, err
	}
	return c.describeInstances(ctx, &ec2.DescribeInstancesInput{MaxResults: aws.Int32(pageSize), Filters: []ec2types.Filter{
		{Name: aws.String("vpc-id"), Values: []string{vpc}},
		{Name: aws.String("instance-state-name"), Values: []string{"pending", "running", "shutting-down", "stopping", "stopped"}},
	}})
}

// network returns the cluster's VPC: the configured one, else that of the first
// instance seen, else that of the machine this runs on.
func (c *machines) network(ctx context.Context) (string, error) {
	c.mu.Lock()
	vpc := cmp.Or(c.configured, c.vpc)
	c.mu.Unlock()
	if vpc != "" {
		return vpc, nil
	}
	vpc, err := c.ownVPC(ctx)
	if err != nil {
		return "", &lb.Error{Kind: lb.Pending, Op: "find the cluster's network", RetryAfter: 30 * time.Second, Err: err,
			Message: "no node with an instance is known yet and this machine's own network cannot be told: " + err.Error() + "; set vpc in the configuration to do without"}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.vpc = vpc
	return vpc, nil
}

// ownVPC asks the instance metadata service.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html
func (c *machines) ownVPC(ctx context.Context) (string, error) {
	mac, err := c.metadata(ctx, "mac")
	if err != nil {
		return "", err
	}
	return c.metadata(ctx, "network/interfaces/macs/"+mac+"/vpc-id")
}

// get is GetInstance. By its explicit ID, EC2 says of what it does not have that
// it is not found; an answer without it proves nothing.
func (c *machines) get(ctx context.Context, id string) (machine, error) {
	begun := time.Now()
	found, err := c.describeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
	if err != nil {
		return machine{}, err
	}
	for _, m := range c.remember(found, begun) {
		if m.ID == id {
			return m, nil
		}
	}
	return machine{}, &lb.Error{Kind: lb.Unavailable, Op: "read instance " + id, Message: "the answer says neither that it exists nor that it does not"}
}

// look returns those of ids that EC2 lists, by ID and as they were at since or
// later. It asks for what it does not know.
func (c *machines) look(ctx context.Context, ids []string, since time.Time) (map[string]machine, error) {
	found := map[string]machine{}
	var unknown []string
	c.mu.Lock()
	for _, id := range ids {
		if m, ok := c.known[id]; ok && !m.read.Before(since) {
			found[id] = m
		} else {
			unknown = append(unknown, id)
		}
	}
	c.mu.Unlock()
	for chunk := range slices.Chunk(unknown, filterValues) {
		begun := time.Now()
		listed, err := c.listInstances(ctx, chunk)
		if err != nil {
			return nil, err
		}
		for _, m := range c.remember(listed, begun) {
			found[m.ID] = m
		}
	}
	return found, nil
}

// remember keeps what EC2 said at that time and forgets what nobody has asked for
// in a long while.
func (c *machines) remember(found []ec2types.Instance, at time.Time) []machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	result := make([]machine, len(found))
	for n, i := range found {
		m := machine{Instance: instanceOfEC2(i, c.region), vpc: aws.ToString(i.VpcId), groups: i.SecurityGroups, read: at}
		result[n], c.known[m.ID] = m, m
		if c.vpc == "" && c.configured == "" && m.vpc != "" {
			// That the network was not known is no reason any more.
			c.vpc, c.failure = m.vpc, nil
		}
	}
	maps.DeleteFunc(c.known, func(_ string, m machine) bool { return at.Sub(m.read) > 6*factsTTL })
	return result
}

// instanceOfEC2 says what EC2 says in neutral words.
func instanceOfEC2(i ec2types.Instance, region string) lb.Instance {
	id, zone := aws.ToString(i.InstanceId), ""
	if i.Placement != nil {
		zone = aws.ToString(i.Placement.AvailabilityZone)
	}
	state := lb.InstanceRunning
	if i.State != nil {
		switch i.State.Name {
		case ec2types.InstanceStateNameStopped:
			state = lb.InstanceStopped
		case ec2types.InstanceStateNameTerminated:
			state = lb.InstanceTerminated
		}
	}
	return lb.Instance{ID: id, ProviderID: "aws:///" + zone + "/" + id, State: state, Type: string(i.InstanceType), Zone: zone, Region: region,
		Addresses: addressesOf(i)}
}

// addressesOf lists an instance's addresses as the cloud controller manager of
// kubernetes/cloud-provider-aws does, so that nodes look the same under both:
// IPv4 of all interfaces in the order of their devices, the first IPv6 of each,
// and the private name as the host's.
func addressesOf(i ec2types.Instance) []lb.InstanceAddress {
	var all []lb.InstanceAddress
	add := func(t lb.AddressType, address *string) {
		ip, err := netip.ParseAddr(aws.ToString(address))
		isIP := t == lb.InternalIP || t == lb.ExternalIP
		switch {
		case isIP && err == nil:
			all = append(all, lb.InstanceAddress{Type: t, Address: ip.String()})
		case !isIP && aws.ToString(address) != "":
			all = append(all, lb.InstanceAddress{Type: t, Address: *address})
		}
	}
	nics := slices.DeleteFunc(slices.Clone(i.NetworkInterfaces), func(n ec2types.InstanceNetworkInterface) bool {
		return n.Status != ec2types.NetworkInterfaceStatusInUse
	})
	slices.SortStableFunc(nics, func(a, b ec2types.InstanceNetworkInterface) int { return cmp.Compare(deviceOf(a), deviceOf(b)) })
	for _, n := range nics {
		for _, a := range n.PrivateIpAddresses {
			add(lb.InternalIP, a.PrivateIpAddress)
		}
	}
	for _, n := range nics {
		if len(n.Ipv6Addresses) > 0 {
			add(lb.InternalIP, n.Ipv6Addresses[0].Ipv6Address)
		}
	}
	add(lb.ExternalIP, i.PublicIpAddress)
	add(lb.InternalDNS, i.PrivateDnsName)
	add(lb.Hostname, i.PrivateDnsName)
	add(lb.ExternalDNS, i.PublicDnsName)
	return all
}

// deviceOf returns an interface's place among those of its instance; the one
// without any comes last.
func deviceOf(n ec2types.InstanceNetworkInterface) int32 {
	if n.Attachment == nil || n.Attachment.DeviceIndex == nil {
		return 1 << 30
	}
	return *n.Attachment.DeviceIndex
}
