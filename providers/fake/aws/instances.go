package aws

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// InstanceState is where an instance is in its life.
type InstanceState string

// The states of an instance. An account does not go from one to the next by
// itself: whoever starts and stops machines says so.
const (
	Starting     InstanceState = "pending"
	Running      InstanceState = "running"
	ShuttingDown InstanceState = "shutting-down"
	Terminated   InstanceState = "terminated"
	Stopping     InstanceState = "stopping"
	Stopped      InstanceState = "stopped"
)

// stateCodes are the numbers EC2 gives the states.
//
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceState.html
var stateCodes = map[InstanceState]int{Starting: 0, Running: 16, ShuttingDown: 32, Terminated: 48, Stopping: 64, Stopped: 80}

func (s InstanceState) check() error {
	if _, ok := stateCodes[s]; !ok {
		return fmt.Errorf("state %q is none of pending, running, shutting-down, terminated, stopping, stopped", s)
	}
	return nil
}

type instance struct {
	id, kind string
	subnet   *subnet
	nic      string
	private  netip.Addr
	v6       []netip.Addr
	// hasPublic: it has a public address of the pool whenever it runs.
	hasPublic bool
	prefixes  []netip.Prefix
	device    string
	groups    []string
	state     InstanceState
	launched  time.Time
}

// AddInstance starts a machine, as someone else than the API's client would. It is
// part of the seed from then on: never a leftover.
func (a *Account) AddInstance(i Instance) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.addInstance(i); err != nil {
		return err
	}
	nic := a.instances[i.ID].nic
	a.seed.resources[nic] = true
	a.seed.tags[i.ID] = i.Tags
	a.publish()
	return nil
}

// SetInstanceState starts, stops or terminates an instance, or takes it one step
// on that way. A terminated one is still described for Timing.InstanceLinger.
func (a *Account) SetInstanceState(id string, state InstanceState) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, ok := a.instances[id]
	if !ok {
		return fmt.Errorf("no instance %q", id)
	}
	if err := state.check(); err != nil {
		return fmt.Errorf("instance %s: %w", id, err)
	}
	if i.state == Terminated && state != Terminated || i.state == ShuttingDown && state != ShuttingDown && state != Terminated {
		return fmt.Errorf("instance %s is %s, it cannot be %s", id, i.state, state)
	}
	a.readdress(i, state)
	if state == Terminated && i.state != Terminated && a.timing.instanceLinger > 0 {
		a.agenda.After(a.timing.instanceLinger, func() { a.forgetInstance(i) })
	}
	i.state = state
	a.instanceChanged(i)
	a.publish()
	return nil
}

// readdress gives and takes the addresses that come and go with the state: the
// public one is another after a stop.
//
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-instance-addressing.html
func (a *Account) readdress(i *instance, state InstanceState) {
	nic, ok := a.interfaces[i.nic]
	switch {
	case !ok:
	case state == Terminated:
		delete(a.interfaces, i.nic)
	case state == Stopped:
		nic.public = netip.Addr{}
	case state == Running && i.hasPublic && !nic.public.IsValid():
		nic.public, _ = a.freePublic()
	}
}

// forgetInstance is RemoveInstance for one that is terminated.
func (a *Account) forgetInstance(i *instance) {
	if a.instances[i.id] != i {
		return // another of the same id, made after this one was removed
	}
	for _, tg := range a.targetGroups {
		for key := range tg.targets {
			if key.instance == i.id {
				delete(tg.targets, key)
			}
		}
	}
	delete(a.instances, i.id)
	delete(a.tags, i.id)
	delete(a.seed.tags, i.id)
	a.publish()
}

// RemoveInstance makes an instance disappear as if it had been terminated long
// ago: the API does not know it any more.
func (a *Account) RemoveInstance(id string) error {
	if err := a.SetInstanceState(id, Terminated); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if i, ok := a.instances[id]; ok {
		a.forgetInstance(i)
	}
	return nil
}

func (a *Account) addInstance(i Instance) error {
	if err := checkID("i", i.ID); err != nil {
		return fmt.Errorf("instance: %w", err)
	}
	if _, ok := a.instances[i.ID]; ok {
		return fmt.Errorf("instance %s is there already", i.ID)
	}
	sub, ok := a.subnets[i.Subnet]
	if !ok {
		return fmt.Errorf("instance %s: no subnet %q", i.ID, i.Subnet)
	}
	if !sub.cidr.Contains(i.PrivateIP) || a.privateInUse(i.PrivateIP) {
		return fmt.Errorf("instance %s: address %q is not a free one of subnet %s (%s)", i.ID, i.PrivateIP, sub.id, sub.cidr)
	}
	if i.State == "" {
		i.State = Running
	}
	if err := i.State.check(); err != nil {
		return fmt.Errorf("instance %s: %w", i.ID, err)
	}
	if i.PublicIP.IsValid() && (!a.publicPool.Contains(i.PublicIP) || a.publicInUse()[i.PublicIP]) {
		return fmt.Errorf("instance %s: public address %s is not a free one of publicPool %s", i.ID, i.PublicIP, a.publicPool)
	}
	for _, addr := range i.IPv6 {
		if !addr.Is6() {
			return fmt.Errorf("instance %s: %q is not an IPv6 address", i.ID, addr)
		}
	}
	if i.Type == "" {
		i.Type = "m7i.large"
	}
	groups := i.SecurityGroups
	for _, id := range groups {
		if _, ok := a.groups[id]; !ok {
			return fmt.Errorf("instance %s: no security group %q", i.ID, id)
		}
	}
	if len(groups) == 0 {
		groups = []string{a.defaultGroup().id}
	}
	nic := &networkInterface{
		id: a.newID("eni"), subnet: sub.id, private: i.PrivateIP, public: i.PublicIP, groups: groups, description: "Primary network interface",
		kind: "interface", instance: i.ID, attachment: a.newID("eni-attach"),
	}
	a.instances[i.ID] = &instance{
		id: i.ID, kind: i.Type, subnet: sub, nic: nic.id, private: i.PrivateIP, v6: i.IPv6, hasPublic: i.PublicIP.IsValid(), prefixes: i.Prefixes, device: i.Device,
		groups: groups, state: i.State, launched: time.Now(),
	}
	a.interfaces[nic.id] = nic
	a.readdress(a.instances[i.ID], i.State)
	a.setTags(i.ID, i.Tags)
	return nil
}

func (a *Account) defaultGroup() *securityGroup {
	for _, g := range a.groups {
		if g.name == defaultGroupName {
			return g
		}
	}
	panic("the VPC has lost its default security group")
}

type describeInstancesInput struct {
	ec2List
	InstanceIDs []string `query:"InstanceId"`
}

type reservationXML struct {
	ReservationID string             `xml:"reservationId"`
	OwnerID       string             `xml:"ownerId"`
	Instances     items[instanceXML] `xml:"instancesSet"`
}

type instanceXML struct {
	InstanceID       string                    `xml:"instanceId"`
	ImageID          string                    `xml:"imageId"`
	StateCode        int                       `xml:"instanceState>code"`
	StateName        InstanceState             `xml:"instanceState>name"`
	PrivateDNSName   string                    `xml:"privateDnsName"`
	DNSName          string                    `xml:"dnsName"`
	InstanceType     string                    `xml:"instanceType"`
	LaunchTime       string                    `xml:"launchTime"`
	Zone             string                    `xml:"placement>availabilityZone"`
	Tenancy          string                    `xml:"placement>tenancy"`
	SubnetID         string                    `xml:"subnetId,omitempty"`
	VPCID            string                    `xml:"vpcId,omitempty"`
	PrivateIPAddress string                    `xml:"privateIpAddress,omitempty"`
	PublicIPAddress  string                    `xml:"ipAddress,omitempty"`
	IPv6Address      string                    `xml:"ipv6Address,omitempty"`
	SourceDestCheck  bool                      `xml:"sourceDestCheck"`
	GroupSet         items[groupIdentifierXML] `xml:"groupSet"`
	Architecture     string                    `xml:"architecture"`
	TagSet           items[tagXML]             `xml:"tagSet"`
	Interfaces       items[instanceNICXML]     `xml:"networkInterfaceSet"`
}

type instanceNICXML struct {
	ID                 string                    `xml:"networkInterfaceId"`
	SubnetID           string                    `xml:"subnetId"`
	VPCID              string                    `xml:"vpcId"`
	Status             string                    `xml:"status"`
	PrivateIPAddress   string                    `xml:"privateIpAddress"`
	SourceDestCheck    bool                      `xml:"sourceDestCheck"`
	GroupSet           items[groupIdentifierXML] `xml:"groupSet"`
	AttachmentID       string                    `xml:"attachment>attachmentId"`
	DeviceIndex        int                       `xml:"attachment>deviceIndex"`
	AttachmentState    string                    `xml:"attachment>status"`
	PrivateIPAddresses items[privateAddressXML]  `xml:"privateIpAddressesSet"`
	IPv6Addresses      items[ipv6AddressXML]     `xml:"ipv6AddressesSet"`
}

type ipv6AddressXML struct {
	Address string `xml:"ipv6Address"`
	Primary bool   `xml:"isPrimaryIpv6"`
}

type groupIdentifierXML struct {
	GroupID   string `xml:"groupId"`
	GroupName string `xml:"groupName"`
}

type describeInstancesResult struct {
	ec2Reply
	ReservationSet items[reservationXML] `xml:"reservationSet"`
	NextToken      string                `xml:"nextToken,omitempty"`
}

func (a *Account) describeInstances(in *describeInstancesInput) (*describeInstancesResult, error) {
	objects, err := byIDs(a.instances, in.InstanceIDs, func(id string) error {
		if checkID("i", id) != nil {
			return fail("InvalidInstanceID.Malformed", "Invalid id: %q", id)
		}
		return fail("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", id)
	})
	if err != nil {
		return nil, err
	}
	page, next, err := listed(a, in.ec2List, in.InstanceIDs, objects, fields[*instance]{
		"instance-id":         func(i *instance) []string { return []string{i.id} },
		"instance-type":       func(i *instance) []string { return []string{i.kind} },
		"instance-state-name": func(i *instance) []string { return []string{string(i.state)} },
		"private-ip-address":  a.ofAttached(func(i *instance) []string { return []string{i.private.String()} }),
		"private-dns-name":    a.ofAttached(func(i *instance) []string { return []string{a.privateDNSName(i.private)} }),
		"availability-zone":   func(i *instance) []string { return []string{i.subnet.zone} },
		"subnet-id":           a.ofAttached(func(i *instance) []string { return []string{i.subnet.id} }),
		"vpc-id":              a.ofAttached(func(*instance) []string { return []string{a.vpc.id} }),
		"instance.group-id":   a.ofAttached(func(i *instance) []string { return i.groups }),
	}, func(i *instance) string { return i.id })
	if err != nil {
		return nil, err
	}
	out := &describeInstancesResult{NextToken: next}
	for _, i := range page {
		_, digits, _ := cutID(i.id)
		out.ReservationSet.Item = append(out.ReservationSet.Item, reservationXML{
			ReservationID: "r-" + digits, OwnerID: a.id, Instances: items[instanceXML]{Item: []instanceXML{a.instanceXML(i)}},
		})
	}
	return out, nil
}

// ofAttached is a filter's field that a terminated instance has no more.
func (a *Account) ofAttached(field func(*instance) []string) func(*instance) []string {
	return func(i *instance) []string {
		if a.interfaces[i.nic] == nil {
			return nil
		}
		return field(i)
	}
}

func (a *Account) instanceXML(i *instance) instanceXML {
	x := instanceXML{
		InstanceID: i.id, ImageID: "ami-0fa1fa1fa1fa1fa1f", StateCode: stateCodes[i.state], StateName: i.state, InstanceType: i.kind,
		LaunchTime: wireTime(i.launched), Zone: i.subnet.zone, Tenancy: "default", Architecture: "x86_64", TagSet: a.tagSet(i.id),
	}
	nic, ok := a.interfaces[i.nic]
	if !ok {
		return x
	}
	x.PrivateDNSName, x.SubnetID, x.VPCID = a.privateDNSName(i.private), i.subnet.id, a.vpc.id
	x.PrivateIPAddress, x.GroupSet = i.private.String(), a.groupSet(nic.groups)
	x.Interfaces.Item = []instanceNICXML{{
		ID: nic.id, SubnetID: nic.subnet, VPCID: a.vpc.id, Status: "in-use", PrivateIPAddress: nic.private.String(),
		GroupSet: a.groupSet(nic.groups), AttachmentID: nic.attachment, AttachmentState: "attached",
		PrivateIPAddresses: items[privateAddressXML]{Item: []privateAddressXML{{Address: nic.private.String(), Primary: true}}},
	}}
	for n, addr := range i.v6 {
		x.Interfaces.Item[0].IPv6Addresses.Item = append(x.Interfaces.Item[0].IPv6Addresses.Item, ipv6AddressXML{Address: addr.String(), Primary: n == 0})
	}
	if len(i.v6) > 0 {
		x.IPv6Address = i.v6[0].String()
	}
	if nic.public.IsValid() {
		x.PublicIPAddress, x.DNSName = nic.public.String(), a.publicDNSName(nic.public)
	}
	return x
}

func (a *Account) groupSet(ids []string) items[groupIdentifierXML] {
	var set items[groupIdentifierXML]
	for _, id := range ids {
		set.Item = append(set.Item, groupIdentifierXML{GroupID: id, GroupName: a.groups[id].name})
	}
	return set
}

// privateDNSName is the name an address has inside the VPC.
func (a *Account) privateDNSName(addr netip.Addr) string {
	return "ip-" + strings.ReplaceAll(addr.String(), ".", "-") + "." + a.region + ".compute.internal"
}

// publicDNSName is the name a public address has.
//
// https://docs.aws.amazon.com/vpc/latest/userguide/vpc-dns.html
func (a *Account) publicDNSName(addr netip.Addr) string {
	domain := a.region + ".compute"
	if a.region == "us-east-1" {
		domain = "compute-1"
	}
	return "ec2-" + strings.ReplaceAll(addr.String(), ".", "-") + "." + domain + ".amazonaws.com"
}

// wireTime is a timestamp as both protocols write it.
func wireTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
