package aws

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

type loadBalancer struct {
	arn, name, suffix, dnsName, scheme string
	created, activeAt, visibleAt       time.Time
	// zones are sorted by zone.
	zones  []lbZone
	groups []string
	// privateLink is whether inbound rules hold for PrivateLink traffic, on or off;
	// empty without groups.
	privateLink string
	attributes  map[string]string
	// failure is why it will not be active when it is provisioned, "" when it will.
	failure string
}

// lbZone is a load balancer's node in one subnet.
type lbZone struct {
	subnet *subnet
	nic    string
}

const (
	schemeInternal = "internal"
	schemeInternet = "internet-facing"
)

func (lb *loadBalancer) internal() bool { return lb.scheme == schemeInternal }

func (lb *loadBalancer) provisioned() bool { return !time.Now().Before(lb.activeAt) }

func (lb *loadBalancer) active() bool { return lb.provisioned() && lb.failure == "" }

// state is the load balancer's state and why it is in that.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_LoadBalancerState.html
func (lb *loadBalancer) state() (code, reason string) {
	switch {
	case !lb.provisioned():
		return "provisioning", ""
	case lb.failure != "":
		return "failed", lb.failure
	default:
		return "active", ""
	}
}

func (lb *loadBalancer) crossZone() bool { return lb.attributes[lbCrossZone] == "true" }

// inZone says whether the load balancer has a node in a zone.
func (lb *loadBalancer) inZone(zone string) bool {
	return slices.ContainsFunc(lb.zones, func(z lbZone) bool { return z.subnet.zone == zone })
}

// loadBalancer looks one up by its ARN.
func (a *Account) loadBalancer(arn string) (*loadBalancer, error) {
	if !strings.HasPrefix(arn, a.arn("elasticloadbalancing", "loadbalancer/")) {
		return nil, fail(codeValidation, "'%s' is not a valid load balancer ARN", arn)
	}
	lb, ok := a.loadBalancers[arn]
	if !ok {
		return nil, fail(codeLoadBalancerNotFound, "Load balancer '%s' not found", arn)
	}
	return lb, nil
}

type createLoadBalancerInput struct {
	Name           string          `query:"Name,required"`
	Type           string          `query:"Type"`
	Scheme         string          `query:"Scheme"`
	IPAddressType  string          `query:"IpAddressType"`
	Subnets        []string        `query:"Subnets.member"`
	SubnetMappings []subnetMapping `query:"SubnetMappings.member"`
	SecurityGroups []string        `query:"SecurityGroups.member"`
	Tags           []tagInput      `query:"Tags.member"`
}

type subnetMapping struct {
	SubnetID     string `query:"SubnetId"`
	AllocationID string `query:"AllocationId"`
	PrivateIPv4  string `query:"PrivateIPv4Address"`
	IPv6         string `query:"IPv6Address"`
}

type loadBalancersResult struct {
	LoadBalancers members[loadBalancerXML] `xml:"LoadBalancers"`
	NextMarker    string                   `xml:"NextMarker,omitempty"`
}

func (a *Account) createLoadBalancer(in *createLoadBalancerInput) (*loadBalancersResult, error) {
	if in.Scheme == "" {
		in.Scheme = schemeInternet
	}
	if err := checkNewLoadBalancer(in); err != nil {
		return nil, err
	}
	tags, err := elbTags(in.Tags)
	if err != nil {
		return nil, err
	}
	placements, err := a.placements(in.Subnets, in.SubnetMappings, in.Scheme, nil)
	if err != nil {
		return nil, err
	}
	if err := a.checkLoadBalancerGroups(in.SecurityGroups); err != nil {
		return nil, err
	}
	for _, lb := range a.loadBalancers {
		if lb.name != in.Name {
			continue
		}
		if !a.sameLoadBalancer(lb, in, placements, tags) {
			return nil, fail("DuplicateLoadBalancerName", "A load balancer with the same name '%s' exists, but with different settings", in.Name)
		}
		return a.loadBalancersXML(lb), nil
	}
	if len(a.loadBalancers) >= a.quotas.LoadBalancers {
		return nil, fail("TooManyLoadBalancers", "The maximum number of load balancers has been reached")
	}
	lb := a.newLoadBalancer(in)
	a.place(lb, placements)
	a.setTags(lb.arn, tags)
	a.loadBalancers[lb.arn] = lb
	a.hasLoadBalancerRole = true
	return a.loadBalancersXML(lb), nil
}

func checkNewLoadBalancer(in *createLoadBalancerInput) error {
	if err := checkELBName("Load balancer", in.Name); err != nil {
		return err
	}
	switch {
	case strings.HasPrefix(in.Name, "internal-"):
		return fail(codeValidation, "Load balancer name '%s' cannot begin with 'internal-'", in.Name)
	case in.Type != "network":
		return fail(codeValidation, "Load balancer type '%s' is not served here, only 'network' (the default is 'application')", in.Type)
	case in.Scheme != schemeInternal && in.Scheme != schemeInternet:
		return fail(codeValidation, "Load balancer scheme '%s' must be one of 'internal', 'internet-facing'", in.Scheme)
	case len(in.SecurityGroups) > maxGroups:
		return fail(codeInvalidConfiguration, "A load balancer can have at most %d security groups", maxGroups)
	}
	return checkIPAddressType(in.IPAddressType)
}

// checkIPAddressType takes what the account's subnets, which are all IPv4, allow.
func checkIPAddressType(t string) error {
	switch t {
	case "", "ipv4":
		return nil
	case "dualstack":
		return fail(codeInvalidConfiguration, "You must specify subnets with an associated IPv6 CIDR block.")
	}
	return fail(codeValidation, "IP address type '%s' must be one of 'ipv4', 'dualstack'", t)
}

// newLoadBalancer makes one that is not placed in any subnet yet and turns active
// after the provisioning time.
func (a *Account) newLoadBalancer(in *createLoadBalancerInput) *loadBalancer {
	now := time.Now()
	suffix := a.ids.Hex("loadbalancer", 16)
	lb := &loadBalancer{
		arn:  a.arn("elasticloadbalancing", "loadbalancer/net/"+in.Name+"/"+suffix),
		name: in.Name, suffix: suffix, dnsName: in.Name + "-" + suffix + ".elb." + a.region + ".amazonaws.com",
		scheme: in.Scheme, created: now, activeAt: now.Add(a.timing.provisioning), visibleAt: now.Add(a.timing.visibilityLag),
		groups: slices.Clone(in.SecurityGroups), attributes: loadBalancerAttributes.defaults(nil),
	}
	if len(lb.groups) > 0 {
		lb.privateLink = "on"
	}
	if a.doomed {
		lb.failure = "The load balancer could not be set up"
	}
	if a.timing.provisioning > 0 {
		a.agenda.After(a.timing.provisioning, a.publish)
	}
	return lb
}

// sameLoadBalancer says whether a request would create what is already there.
func (a *Account) sameLoadBalancer(lb *loadBalancer, in *createLoadBalancerInput, placements []placement, tags map[string]string) bool {
	same := lb.scheme == in.Scheme && len(lb.zones) == len(placements) && sameSet(lb.groups, in.SecurityGroups) && maps.Equal(a.tags[lb.arn], tags)
	for _, p := range placements {
		same = same && slices.ContainsFunc(lb.zones, func(z lbZone) bool { return z.subnet == p.subnet })
	}
	return same
}

type deleteLoadBalancerInput struct {
	ARN string `query:"LoadBalancerArn,required"`
}

// deleteLoadBalancer succeeds when the load balancer is not there, as documented.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_DeleteLoadBalancer.html
func (a *Account) deleteLoadBalancer(in *deleteLoadBalancerInput) (*emptyResult, error) {
	lb, err := a.loadBalancer(in.ARN)
	if err != nil {
		if isCode(err, codeLoadBalancerNotFound) {
			return &emptyResult{}, nil
		}
		return nil, err
	}
	if lb.attributes[lbDeletionProtection] == "true" {
		return nil, fail("OperationNotPermitted", "Load balancer '%s' cannot be deleted because deletion protection is enabled", lb.arn)
	}
	for _, l := range a.listenersOf(lb.arn) {
		a.removeListener(l)
	}
	for _, z := range lb.zones {
		a.release(z.nic)
	}
	delete(a.loadBalancers, lb.arn)
	delete(a.tags, lb.arn)
	return &emptyResult{}, nil
}

type describeLoadBalancersInput struct {
	ARNs     []string `query:"LoadBalancerArns.member"`
	Names    []string `query:"Names.member"`
	Marker   string   `query:"Marker"`
	PageSize *int32   `query:"PageSize"`
}

// maxLookups is how many names or ARNs one describe operation of ELBv2 takes.
const maxLookups = 20

func (a *Account) describeLoadBalancers(in *describeLoadBalancersInput) (*loadBalancersResult, error) {
	if len(in.ARNs) > 0 && len(in.Names) > 0 {
		return nil, fail(codeValidation, "Load balancer names and load balancer ARNs cannot be specified at the same time")
	}
	if n := max(len(in.ARNs), len(in.Names)); n > maxLookups {
		return nil, fail(codeValidation, "The maximum number of load balancers that can be described at once is %d, not %d", maxLookups, n)
	}
	byARN, byName := map[string]*loadBalancer{}, map[string]*loadBalancer{}
	for _, lb := range a.loadBalancers {
		if !time.Now().Before(lb.visibleAt) {
			byARN[lb.arn], byName[lb.name] = lb, lb
		}
	}
	notFound := func(string) error {
		return fail(codeLoadBalancerNotFound, "One or more load balancers not found")
	}
	for _, arn := range in.ARNs {
		if _, err := a.loadBalancer(arn); isCode(err, codeValidation) {
			return nil, err
		}
	}
	objects, err := byIDs(byARN, in.ARNs, notFound)
	if len(in.Names) > 0 {
		objects, err = byIDs(byName, in.Names, notFound)
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(objects, func(x, y *loadBalancer) int { return strings.Compare(x.arn, y.arn) })
	page, next, err := elbPage(objects, func(lb *loadBalancer) string { return lb.arn }, in.PageSize, in.Marker)
	if err != nil {
		return nil, err
	}
	out := a.loadBalancersXML(page...)
	out.NextMarker = next
	return out, nil
}

type setSecurityGroupsInput struct {
	ARN         string   `query:"LoadBalancerArn,required"`
	Groups      []string `query:"SecurityGroups.member,required"`
	PrivateLink string   `query:"EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic"`
}

type setSecurityGroupsResult struct {
	Groups      members[string] `xml:"SecurityGroupIds"`
	PrivateLink string          `xml:"EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic,omitempty"`
}

// setSecurityGroups works only on a load balancer that was created with groups.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/network/load-balancer-security-groups.html
func (a *Account) setSecurityGroups(in *setSecurityGroupsInput) (*setSecurityGroupsResult, error) {
	lb, err := a.loadBalancer(in.ARN)
	switch {
	case err != nil:
		return nil, err
	case len(lb.groups) == 0:
		return nil, fail(codeInvalidConfiguration, "SetSecurityGroups is not supported for load balancers that were created without security groups")
	case len(in.Groups) == 0:
		return nil, fail(codeInvalidConfiguration, "The security groups of a Network Load Balancer cannot all be removed")
	case len(in.Groups) > maxGroups:
		return nil, fail(codeInvalidConfiguration, "A load balancer can have at most %d security groups", maxGroups)
	case in.PrivateLink != "" && in.PrivateLink != "on" && in.PrivateLink != "off":
		return nil, fail(codeValidation, "EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic must be one of 'on', 'off'")
	}
	if err := a.checkLoadBalancerGroups(in.Groups); err != nil {
		return nil, err
	}
	lb.groups = slices.Clone(in.Groups)
	for _, z := range lb.zones {
		a.interfaces[z.nic].groups = lb.groups
	}
	if in.PrivateLink != "" {
		lb.privateLink = in.PrivateLink
	}
	return &setSecurityGroupsResult{Groups: members[string]{Member: lb.groups}, PrivateLink: lb.privateLink}, nil
}

// maxGroups is how many security groups one interface can have.
const maxGroups = 5

func (a *Account) checkLoadBalancerGroups(ids []string) error {
	for i, id := range ids {
		if slices.Contains(ids[:i], id) {
			return fail("InvalidSecurityGroup", "The security group '%s' is given more than once", id)
		}
		if _, err := a.group(id); err != nil {
			return fail("InvalidSecurityGroup", "One or more security groups are invalid: '%s' does not exist", id)
		}
	}
	return nil
}

type setIPAddressTypeInput struct {
	ARN           string `query:"LoadBalancerArn,required"`
	IPAddressType string `query:"IpAddressType,required"`
}

type setIPAddressTypeResult struct {
	IPAddressType string `xml:"IpAddressType"`
}

func (a *Account) setIPAddressType(in *setIPAddressTypeInput) (*setIPAddressTypeResult, error) {
	if _, err := a.loadBalancer(in.ARN); err != nil {
		return nil, err
	}
	if err := checkIPAddressType(in.IPAddressType); err != nil {
		return nil, err
	}
	return &setIPAddressTypeResult{IPAddressType: "ipv4"}, nil
}

type loadBalancerXML struct {
	ARN           string             `xml:"LoadBalancerArn"`
	DNSName       string             `xml:"DNSName"`
	HostedZone    string             `xml:"CanonicalHostedZoneId"`
	CreatedTime   string             `xml:"CreatedTime"`
	Name          string             `xml:"LoadBalancerName"`
	Scheme        string             `xml:"Scheme"`
	VPCID         string             `xml:"VpcId"`
	State         string             `xml:"State>Code"`
	Reason        string             `xml:"State>Reason,omitempty"`
	Type          string             `xml:"Type"`
	Zones         members[lbZoneXML] `xml:"AvailabilityZones"`
	Groups        *members[string]   `xml:"SecurityGroups"`
	IPAddressType string             `xml:"IpAddressType"`
	PrivateLink   string             `xml:"EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic,omitempty"`
}

type lbZoneXML struct {
	ZoneName  string                `xml:"ZoneName"`
	SubnetID  string                `xml:"SubnetId"`
	Addresses members[lbAddressXML] `xml:"LoadBalancerAddresses"`
}

type lbAddressXML struct {
	IPAddress    string `xml:"IpAddress,omitempty"`
	AllocationID string `xml:"AllocationId,omitempty"`
	PrivateIPv4  string `xml:"PrivateIPv4Address,omitempty"`
}

func (a *Account) loadBalancersXML(lbs ...*loadBalancer) *loadBalancersResult {
	out := &loadBalancersResult{}
	for _, lb := range lbs {
		x := loadBalancerXML{
			ARN: lb.arn, DNSName: lb.dnsName, HostedZone: "Z2IFOLAFXWLO4F", CreatedTime: wireTime(lb.created), Name: lb.name, Scheme: lb.scheme,
			VPCID: a.vpc.id, Type: "network", Zones: a.zonesXML(lb), IPAddressType: "ipv4", PrivateLink: lb.privateLink,
		}
		x.State, x.Reason = lb.state()
		if len(lb.groups) > 0 {
			x.Groups = &members[string]{Member: lb.groups}
		}
		out.LoadBalancers.Member = append(out.LoadBalancers.Member, x)
	}
	return out
}

// zonesXML shows addresses only where the client chose them, as AWS does.
func (a *Account) zonesXML(lb *loadBalancer) members[lbZoneXML] {
	var zones members[lbZoneXML]
	for _, z := range lb.zones {
		nic := a.interfaces[z.nic]
		x := lbZoneXML{ZoneName: z.subnet.zone, SubnetID: z.subnet.id}
		switch {
		case nic.allocation != "":
			x.Addresses.Member = []lbAddressXML{{IPAddress: nic.public.String(), AllocationID: nic.allocation}}
		case nic.chosen:
			x.Addresses.Member = []lbAddressXML{{PrivateIPv4: nic.private.String()}}
		}
		zones.Member = append(zones.Member, x)
	}
	return zones
}

func privateOrNone(text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || !addr.Is4() {
		return netip.Addr{}, fail(codeValidation, "'%s' is not an IPv4 address", text)
	}
	return addr, nil
}
