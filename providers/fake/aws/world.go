package aws

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/fairway-lb/fairway/providers/fake"
	"github.com/fairway-lb/fairway/providers/fake/aws/iam"
)

// World is what an account holds before anyone asks it for something: its seed.
type World struct {
	// Region, such as "eu-west-1", and the account's twelve-digit id.
	Region    string `json:"region"`
	AccountID string `json:"accountID"`
	VPC       VPC    `json:"vpc"`
	// Zones of the region; empty: those the subnets name.
	Zones          []string        `json:"zones,omitempty"`
	Subnets        []Subnet        `json:"subnets"`
	SecurityGroups []SecurityGroup `json:"securityGroups,omitempty"`
	Instances      []Instance      `json:"instances,omitempty"`
	// Addresses are the Elastic IPs the account holds.
	Addresses []Address `json:"addresses,omitempty"`
	// PublicPool is where public addresses of load balancers come from.
	PublicPool netip.Prefix `json:"publicPool"`
	Timing     Timing       `json:"timing,omitzero"`
	// Throttle replaces PublishedLimits.
	Throttle *Throttle `json:"throttle,omitempty"`
	Quotas   Quotas    `json:"quotas,omitzero"`
	// Policies are IAM policy documents that decide, together, what is allowed;
	// without any, everything is. What package iam does not understand in them is an
	// error.
	Policies []json.RawMessage `json:"policies,omitempty"`
	// Administrators are access keys that the policies do not bind, for what happens
	// in the account besides the work of the client that is looked at.
	Administrators []string `json:"administrators,omitempty"`
}

// VPC is the account's only network.
type VPC struct {
	// ID is made up when empty.
	ID   string            `json:"id,omitempty"`
	CIDR netip.Prefix      `json:"cidr"`
	Tags map[string]string `json:"tags,omitempty"`
}

// Subnet of the VPC.
type Subnet struct {
	ID   string       `json:"id"`
	CIDR netip.Prefix `json:"cidr"`
	Zone string       `json:"zone"`
	// Public subnets have a route to the internet gateway.
	Public bool              `json:"public,omitempty"`
	Tags   map[string]string `json:"tags,omitempty"`
}

// SecurityGroup of the VPC. It may send anything, as a new group may.
type SecurityGroup struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Description string            `json:"description,omitempty"`
	Ingress     []IngressRule     `json:"ingress,omitempty"`
	Tags        map[string]string `json:"tags,omitempty"`
}

// IngressRule admits a protocol and port range from networks and groups.
type IngressRule struct {
	// Protocol is tcp, udp, icmp or all.
	Protocol string `json:"protocol"`
	// FromPort and ToPort are the port range, for tcp and udp.
	FromPort int32 `json:"fromPort,omitempty"`
	ToPort   int32 `json:"toPort,omitempty"`
	// CIDRs and Groups (ids) that may send.
	CIDRs  []netip.Prefix `json:"cidrs,omitempty"`
	Groups []string       `json:"groups,omitempty"`
}

// Instance is a virtual machine with one network interface.
type Instance struct {
	ID string `json:"id"`
	// Type defaults to m7i.large.
	Type      string     `json:"type,omitempty"`
	Subnet    string     `json:"subnet"`
	PrivateIP netip.Addr `json:"privateIP"`
	// PublicIP is one of publicPool, none when zero; it becomes another when the
	// instance was stopped.
	PublicIP netip.Addr `json:"publicIP,omitzero"`
	// IPv6 addresses are described, and nothing more.
	IPv6 []netip.Addr `json:"ipv6,omitempty"`
	// Prefixes are further networks reached through the instance (Pod ranges).
	Prefixes []netip.Prefix `json:"prefixes,omitempty"`
	// Device is the network device through which the data path reaches the
	// instance; may be empty where there is no data path.
	Device string `json:"device,omitempty"`
	// SecurityGroups are ids; empty: the VPC's default group.
	SecurityGroups []string          `json:"securityGroups,omitempty"`
	Tags           map[string]string `json:"tags,omitempty"`
	// State is running by default.
	State InstanceState `json:"state,omitempty"`
}

// Address is an Elastic IP.
type Address struct {
	AllocationID string            `json:"allocationID"`
	PublicIP     netip.Addr        `json:"publicIP"`
	Tags         map[string]string `json:"tags,omitempty"`
}

// Timing is how long the cloud takes. Zero means at once.
type Timing struct {
	// Latency of every request.
	Latency fake.Duration `json:"latency,omitzero"`
	// Provisioning is from creation of a load balancer to state active.
	Provisioning fake.Duration `json:"provisioning,omitzero"`
	// Registration is from registration of a target to its first health check;
	// without a data path it turns healthy then.
	Registration fake.Duration `json:"registration,omitzero"`
	// InterfaceLinger is how long the interfaces of a deleted load balancer go on
	// using its security groups.
	InterfaceLinger fake.Duration `json:"interfaceLinger,omitzero"`
	// ReleaseLag is how long a target group stays in use after its listener or load
	// balancer is gone.
	ReleaseLag fake.Duration `json:"releaseLag,omitzero"`
	// VisibilityLag is how long a new security group or load balancer is not found
	// by calls that look it up.
	VisibilityLag fake.Duration `json:"visibilityLag,omitzero"`
	// InstanceLinger is how long a terminated instance is described still; zero:
	// until RemoveInstance.
	InstanceLinger fake.Duration `json:"instanceLinger,omitzero"`
	// MaxDraining cuts deregistration delays short, so that a demonstration need
	// not wait minutes; zero: they are kept in full.
	MaxDraining fake.Duration `json:"maxDraining,omitzero"`
}

// Throttle is the account's request rate limits.
type Throttle struct {
	// Off: nothing is throttled.
	Off bool `json:"off,omitempty"`
	// Limits in force; empty: PublishedLimits.
	Limits []fake.Limit `json:"limits,omitempty"`
}

// Quotas that a test may want lower than AWS's; zero means AWS's default.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/network/load-balancer-limits.html
// https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html
type Quotas struct {
	LoadBalancers            int `json:"loadBalancers,omitempty"`
	TargetGroups             int `json:"targetGroups,omitempty"`
	ListenersPerLoadBalancer int `json:"listenersPerLoadBalancer,omitempty"`
	TargetsPerGroup          int `json:"targetsPerGroup,omitempty"`
	// TargetsPerLoadBalancer, and of these TargetsPerZone; with cross-zone load
	// balancing TargetsAcrossZones in all. A target counts once for each group it is
	// in.
	TargetsPerLoadBalancer int `json:"targetsPerLoadBalancer,omitempty"`
	TargetsPerZone         int `json:"targetsPerZone,omitempty"`
	TargetsAcrossZones     int `json:"targetsAcrossZones,omitempty"`
	SecurityGroups         int `json:"securityGroups,omitempty"`
	RulesPerSecurityGroup  int `json:"rulesPerSecurityGroup,omitempty"`
}

// ParseWorld reads a World from YAML. An unknown key is an error, and so are parts
// that do not fit together; instances are checked by New.
func ParseWorld(data []byte) (World, error) {
	var w World
	if err := yaml.UnmarshalStrict(data, &w); err != nil {
		return World{}, fmt.Errorf("parsing world: %w", err)
	}
	if err := w.complete(); err != nil {
		return World{}, fmt.Errorf("world: %w", err)
	}
	return w, nil
}

var (
	regionPattern   = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-\d$`)
	accountPattern  = regexp.MustCompile(`^\d{12}$`)
	resourcePattern = regexp.MustCompile(`^[a-z]+-[0-9a-f]{8,17}$`)
)

// complete fills in the defaults and checks that the parts fit together.
func (w *World) complete() error {
	if !regionPattern.MatchString(w.Region) {
		return fmt.Errorf("region %q is not a region name", w.Region)
	}
	if !accountPattern.MatchString(w.AccountID) {
		return fmt.Errorf("accountID %q is not twelve digits", w.AccountID)
	}
	if w.VPC.ID == "" {
		w.VPC.ID = "vpc-" + fake.NewIDs(w.AccountID+w.Region).Hex("vpc", 17)
	}
	if err := checkID("vpc", w.VPC.ID); err != nil {
		return err
	}
	if !w.VPC.CIDR.IsValid() || !w.VPC.CIDR.Addr().Is4() || w.VPC.CIDR != w.VPC.CIDR.Masked() {
		return fmt.Errorf("vpc: cidr %q is not an IPv4 network", w.VPC.CIDR)
	}
	if !w.PublicPool.IsValid() || !w.PublicPool.Addr().Is4() || w.PublicPool.Overlaps(w.VPC.CIDR) {
		return fmt.Errorf("publicPool %q is not an IPv4 network outside of the VPC", w.PublicPool)
	}
	if err := w.completeSubnets(); err != nil {
		return err
	}
	if err := w.checkSecurityGroups(); err != nil {
		return err
	}
	for i := range w.Addresses {
		if err := checkID("eipalloc", w.Addresses[i].AllocationID); err != nil {
			return err
		}
		if !w.PublicPool.Contains(w.Addresses[i].PublicIP) {
			return fmt.Errorf("address %s: %s is not in publicPool", w.Addresses[i].AllocationID, w.Addresses[i].PublicIP)
		}
	}
	if _, err := w.policies(); err != nil {
		return err
	}
	w.Quotas.complete()
	return nil
}

func (w *World) policies() ([]iam.Policy, error) {
	var policies []iam.Policy
	for i, document := range w.Policies {
		p, err := iam.Parse(document)
		if err != nil {
			return nil, fmt.Errorf("policies: document %d: %w", i+1, err)
		}
		policies = append(policies, p)
	}
	return policies, nil
}

func (w *World) completeSubnets() error {
	given := len(w.Zones) > 0
	for i, s := range w.Subnets {
		if err := checkID("subnet", s.ID); err != nil {
			return err
		}
		if !s.CIDR.IsValid() || s.CIDR != s.CIDR.Masked() || s.CIDR.Bits() < w.VPC.CIDR.Bits() || !w.VPC.CIDR.Contains(s.CIDR.Addr()) {
			return fmt.Errorf("subnet %s: cidr %q is not a network inside the VPC's %s", s.ID, s.CIDR, w.VPC.CIDR)
		}
		for _, other := range w.Subnets[:i] {
			if other.ID == s.ID || other.CIDR.Overlaps(s.CIDR) {
				return fmt.Errorf("subnet %s (%s) clashes with %s (%s)", s.ID, s.CIDR, other.ID, other.CIDR)
			}
		}
		if !strings.HasPrefix(s.Zone, w.Region) {
			return fmt.Errorf("subnet %s: zone %q is not in region %s", s.ID, s.Zone, w.Region)
		}
		if !slices.Contains(w.Zones, s.Zone) {
			if given {
				return fmt.Errorf("subnet %s: zone %q is not among the zones %v", s.ID, s.Zone, w.Zones)
			}
			w.Zones = append(w.Zones, s.Zone)
		}
	}
	if !given {
		slices.Sort(w.Zones)
		w.Zones = slices.Compact(w.Zones)
	}
	return nil
}

func (w *World) checkSecurityGroups() error {
	known := map[string]bool{}
	names := map[string]bool{}
	for _, g := range w.SecurityGroups {
		if err := checkID("sg", g.ID); err != nil {
			return err
		}
		if g.Name == "" || g.Name == defaultGroupName || names[g.Name] || known[g.ID] {
			return fmt.Errorf("security group %s: name %q is empty, reserved or, like the id, taken", g.ID, g.Name)
		}
		known[g.ID], names[g.Name] = true, true
	}
	for _, g := range w.SecurityGroups {
		for _, r := range g.Ingress {
			if _, err := r.rules(); err != nil {
				return fmt.Errorf("security group %s: %w", g.ID, err)
			}
			for _, source := range r.Groups {
				if !known[source] {
					return fmt.Errorf("security group %s: rule names unknown group %q", g.ID, source)
				}
			}
		}
	}
	return nil
}

func (q *Quotas) complete() {
	setDefault(&q.LoadBalancers, 50)
	setDefault(&q.TargetGroups, 3000)
	setDefault(&q.ListenersPerLoadBalancer, 50)
	setDefault(&q.TargetsPerGroup, 1000)
	setDefault(&q.TargetsPerLoadBalancer, 3000)
	setDefault(&q.TargetsPerZone, 500)
	setDefault(&q.TargetsAcrossZones, 500)
	setDefault(&q.SecurityGroups, 2500)
	setDefault(&q.RulesPerSecurityGroup, 60)
}

func setDefault(n *int, value int) {
	if *n == 0 {
		*n = value
	}
}

func checkID(prefix, id string) error {
	if !strings.HasPrefix(id, prefix+"-") || !resourcePattern.MatchString(id) {
		return fmt.Errorf("id %q is not %s- and 8 to 17 hexadecimal digits", id, prefix)
	}
	return nil
}
