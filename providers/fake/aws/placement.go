package aws

import (
	"net/netip"
	"slices"
	"strings"
)

// placement is a subnet a load balancer asks to be in, with the addresses it wants
// there.
type placement struct {
	subnet     *subnet
	allocation *address
	private    netip.Addr
}

// minFreeAddresses is what a subnet must have left for a load balancer.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/network/network-load-balancers.html
const minFreeAddresses = 8

// placements checks the subnets of a request: one for each zone, existing, with
// room, with addresses that fit the scheme. Subnets the load balancer is in
// already, in keep, need no room.
func (a *Account) placements(ids []string, mappings []subnetMapping, scheme string, keep []lbZone) ([]placement, error) {
	if (len(ids) == 0) == (len(mappings) == 0) {
		return nil, fail(codeValidation, "You must specify either subnets or subnet mappings, and not both")
	}
	for _, id := range ids {
		mappings = append(mappings, subnetMapping{SubnetID: id})
	}
	var list []placement
	added := 0
	for _, m := range mappings {
		kept := slices.ContainsFunc(keep, func(z lbZone) bool { return z.subnet.id == m.SubnetID })
		if !kept {
			added++
		}
		p, err := a.placement(m, scheme, kept)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(list, func(o placement) bool { return o.subnet.zone == p.subnet.zone }) {
			return nil, fail(codeInvalidConfiguration, "A load balancer cannot be attached to multiple subnets in the same Availability Zone (%s)", p.subnet.zone)
		}
		list = append(list, p)
	}
	allocated := slices.IndexFunc(list, func(p placement) bool { return p.allocation == nil }) < 0
	if !allocated && slices.ContainsFunc(list, func(p placement) bool { return p.allocation != nil }) {
		return nil, fail(codeInvalidConfiguration, "You must specify an Elastic IP for each subnet or for none")
	}
	if scheme == schemeInternet && !allocated && added > a.publicLeft() {
		return nil, fail("InsufficientAddressCapacity", "the public pool %s has no %d free addresses", a.publicPool, added)
	}
	slices.SortFunc(list, func(x, y placement) int { return strings.Compare(x.subnet.zone, y.subnet.zone) })
	return list, nil
}

func (a *Account) placement(m subnetMapping, scheme string, kept bool) (placement, error) {
	s, ok := a.subnets[m.SubnetID]
	if !ok {
		return placement{}, fail("SubnetNotFound", "The subnet ID '%s' does not exist", m.SubnetID)
	}
	private, err := privateOrNone(m.PrivateIPv4)
	if err != nil {
		return placement{}, err
	}
	p := placement{subnet: s, private: private}
	switch {
	case m.IPv6 != "":
		return placement{}, fail(codeInvalidConfiguration, "Subnet '%s' has no IPv6 CIDR block", s.id)
	case !kept && a.availableAddresses(s) < minFreeAddresses:
		return placement{}, fail("InvalidSubnet", "Not enough IP space available in %s. ELB requires at least %d free IP addresses in each subnet.", s.id, minFreeAddresses)
	case private.IsValid() && scheme != schemeInternal:
		return placement{}, fail(codeInvalidConfiguration, "Private IP addresses can be specified only for internal load balancers")
	case private.IsValid() && !kept && (!s.cidr.Contains(private) || a.privateInUse(private)):
		return placement{}, fail(codeInvalidConfiguration, "The address %s is not a free one of subnet '%s'", private, s.id)
	case m.AllocationID == "":
		return p, nil
	case scheme == schemeInternal:
		return placement{}, fail(codeInvalidConfiguration, "Elastic IPs can be specified only for internet-facing load balancers")
	}
	p.allocation, ok = a.addresses[m.AllocationID]
	if !ok {
		return placement{}, fail("AllocationIdNotFound", "The allocation ID '%s' does not exist", m.AllocationID)
	}
	if !kept && a.addressUser(m.AllocationID) != nil {
		return placement{}, fail(codeResourceInUse, "The allocation ID '%s' is in use", m.AllocationID)
	}
	return p, nil
}

// checkKept refuses other addresses in subnets that a load balancer is in already.
func (a *Account) checkKept(lb *loadBalancer, placements []placement) error {
	for _, p := range placements {
		at := slices.IndexFunc(lb.zones, func(z lbZone) bool { return z.subnet == p.subnet })
		if at < 0 {
			continue
		}
		nic := a.interfaces[lb.zones[at].nic]
		if p.allocation != nil && p.allocation.id != nic.allocation || p.private.IsValid() && p.private != nic.private {
			return fail(codeInvalidConfiguration, "The addresses of subnet '%s', which is already enabled, cannot be changed", p.subnet.id)
		}
	}
	return nil
}

// place moves a load balancer to the given subnets. Nodes in subnets it keeps stay
// as they are.
func (a *Account) place(lb *loadBalancer, placements []placement) {
	var zones []lbZone
	for _, p := range placements {
		at := slices.IndexFunc(lb.zones, func(z lbZone) bool { return z.subnet == p.subnet })
		if at >= 0 {
			zones = append(zones, lb.zones[at])
			continue
		}
		zones = append(zones, lbZone{subnet: p.subnet, nic: a.newNode(lb, p)})
	}
	for _, old := range lb.zones {
		if !slices.ContainsFunc(zones, func(z lbZone) bool { return z.nic == old.nic }) {
			a.release(old.nic)
		}
	}
	lb.zones = zones
}

// newNode makes the interface of a load balancer in a subnet. That there is room
// for it was checked.
func (a *Account) newNode(lb *loadBalancer, p placement) string {
	nic := &networkInterface{
		id: a.newID("eni"), subnet: p.subnet.id, kind: "network_load_balancer", loadBalancer: lb.arn, attachment: a.newID("ela-attach"),
		description: "ELB net/" + lb.name + "/" + lb.suffix, groups: lb.groups, private: p.private, chosen: p.private.IsValid(),
	}
	if !nic.chosen {
		nic.private, _ = a.freeAddress(p.subnet)
	}
	switch {
	case p.allocation != nil:
		nic.allocation, nic.public = p.allocation.id, p.allocation.public
	case !lb.internal():
		nic.public, _ = a.freePublic()
	}
	a.interfaces[nic.id] = nic
	return nic.id
}

// release lets go of a load balancer's interface, which goes on using its security
// groups for a while.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/network/load-balancer-delete.html
func (a *Account) release(id string) {
	nic := a.interfaces[id]
	nic.public, nic.allocation = netip.Addr{}, ""
	if a.timing.interfaceLinger <= 0 {
		delete(a.interfaces, id)
		return
	}
	linger := a.timing.interfaceLinger
	if a.doomed {
		linger *= 3 // AWS tries again, and this lasts
	}
	a.agenda.After(linger, func() { delete(a.interfaces, id) })
}

type setSubnetsInput struct {
	ARN            string          `query:"LoadBalancerArn,required"`
	Subnets        []string        `query:"Subnets.member"`
	SubnetMappings []subnetMapping `query:"SubnetMappings.member"`
	IPAddressType  string          `query:"IpAddressType"`
}

type setSubnetsResult struct {
	Zones         members[lbZoneXML] `xml:"AvailabilityZones"`
	IPAddressType string             `xml:"IpAddressType"`
}

// setSubnets replaces the subnets of a load balancer; zones can be added and, since
// February 2025, removed.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_SetSubnets.html
func (a *Account) setSubnets(in *setSubnetsInput) (*setSubnetsResult, error) {
	lb, err := a.loadBalancer(in.ARN)
	if err != nil {
		return nil, err
	}
	if err := checkIPAddressType(in.IPAddressType); err != nil {
		return nil, err
	}
	placements, err := a.placements(in.Subnets, in.SubnetMappings, lb.scheme, lb.zones)
	if err != nil {
		return nil, err
	}
	if err := a.checkKept(lb, placements); err != nil {
		return nil, err
	}
	a.place(lb, placements)
	return &setSubnetsResult{Zones: a.zonesXML(lb), IPAddressType: "ipv4"}, nil
}
