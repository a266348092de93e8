package aws

import (
	"net/netip"
	"slices"
)

// networkInterface is an instance's or a load balancer's presence in a subnet.
type networkInterface struct {
	id, subnet, description, kind string
	private, public               netip.Addr
	// chosen: the private address was asked for.
	chosen               bool
	groups               []string
	instance, attachment string
	// loadBalancer is the ARN of the load balancer it belongs to, also while it
	// lingers after that is gone.
	loadBalancer string
	// allocation is the Elastic IP in use, empty for an address of the pool.
	allocation string
}

// address is an Elastic IP.
type address struct {
	id     string
	public netip.Addr
}

type describeNetworkInterfacesInput struct {
	ec2List
	IDs []string `query:"NetworkInterfaceId"`
}

type privateAddressXML struct {
	Address string `xml:"privateIpAddress"`
	Primary bool   `xml:"primary"`
}

type associationXML struct {
	AllocationID string `xml:"allocationId,omitempty"`
	IPOwnerID    string `xml:"ipOwnerId"`
	PublicIP     string `xml:"publicIp"`
}

type attachmentXML struct {
	ID              string `xml:"attachmentId"`
	InstanceID      string `xml:"instanceId,omitempty"`
	InstanceOwnerID string `xml:"instanceOwnerId"`
	DeviceIndex     int    `xml:"deviceIndex"`
	Status          string `xml:"status"`
}

type networkInterfaceXML struct {
	ID                 string                    `xml:"networkInterfaceId"`
	SubnetID           string                    `xml:"subnetId"`
	VPCID              string                    `xml:"vpcId"`
	Zone               string                    `xml:"availabilityZone"`
	Description        string                    `xml:"description"`
	OwnerID            string                    `xml:"ownerId"`
	RequesterID        string                    `xml:"requesterId,omitempty"`
	RequesterManaged   bool                      `xml:"requesterManaged"`
	Status             string                    `xml:"status"`
	InterfaceType      string                    `xml:"interfaceType"`
	PrivateIPAddress   string                    `xml:"privateIpAddress"`
	GroupSet           items[groupIdentifierXML] `xml:"groupSet"`
	Attachment         *attachmentXML            `xml:"attachment"`
	Association        *associationXML           `xml:"association"`
	PrivateIPAddresses items[privateAddressXML]  `xml:"privateIpAddressesSet"`
	TagSet             items[tagXML]             `xml:"tagSet"`
}

type describeNetworkInterfacesResult struct {
	ec2Reply
	Set       items[networkInterfaceXML] `xml:"networkInterfaceSet"`
	NextToken string                     `xml:"nextToken,omitempty"`
}

func (a *Account) describeNetworkInterfaces(in *describeNetworkInterfacesInput) (*describeNetworkInterfacesResult, error) {
	objects, err := byIDs(a.interfaces, in.IDs, func(id string) error {
		return fail("InvalidNetworkInterfaceID.NotFound", "The networkInterface ID '%s' does not exist", id)
	})
	if err != nil {
		return nil, err
	}
	page, next, err := listed(a, in.ec2List, in.IDs, objects, fields[*networkInterface]{
		"network-interface-id":   func(n *networkInterface) []string { return []string{n.id} },
		"subnet-id":              func(n *networkInterface) []string { return []string{n.subnet} },
		"vpc-id":                 func(*networkInterface) []string { return []string{a.vpc.id} },
		"group-id":               func(n *networkInterface) []string { return n.groups },
		"description":            func(n *networkInterface) []string { return []string{n.description} },
		"interface-type":         func(n *networkInterface) []string { return []string{n.kind} },
		"private-ip-address":     func(n *networkInterface) []string { return []string{n.private.String()} },
		"attachment.instance-id": func(n *networkInterface) []string { return []string{n.instance} },
	}, func(n *networkInterface) string { return n.id })
	if err != nil {
		return nil, err
	}
	out := &describeNetworkInterfacesResult{NextToken: next}
	for _, n := range page {
		x := networkInterfaceXML{
			ID: n.id, SubnetID: n.subnet, VPCID: a.vpc.id, Zone: a.subnets[n.subnet].zone, Description: n.description, OwnerID: a.id,
			Status: "in-use", InterfaceType: n.kind, PrivateIPAddress: n.private.String(), GroupSet: a.groupSet(n.groups), TagSet: a.tagSet(n.id),
			PrivateIPAddresses: items[privateAddressXML]{Item: []privateAddressXML{{Address: n.private.String(), Primary: true}}},
			Attachment:         &attachmentXML{ID: n.attachment, InstanceID: n.instance, InstanceOwnerID: a.id, Status: "attached"},
		}
		if n.loadBalancer != "" {
			x.RequesterID, x.RequesterManaged, x.Attachment.InstanceOwnerID = "amazon-elb", true, "amazon-elb"
		}
		if n.public.IsValid() {
			x.Association = &associationXML{AllocationID: n.allocation, IPOwnerID: a.id, PublicIP: n.public.String()}
			if n.allocation == "" {
				x.Association.IPOwnerID = "amazon-elb"
			}
		}
		out.Set.Item = append(out.Set.Item, x)
	}
	return out, nil
}

type describeAddressesInput struct {
	ec2Request
	Filters       []filter `query:"Filter"`
	AllocationIDs []string `query:"AllocationId"`
	PublicIPs     []string `query:"PublicIp"`
}

type addressXML struct {
	PublicIP           string        `xml:"publicIp"`
	AllocationID       string        `xml:"allocationId"`
	Domain             string        `xml:"domain"`
	AssociationID      string        `xml:"associationId,omitempty"`
	NetworkInterfaceID string        `xml:"networkInterfaceId,omitempty"`
	PrivateIPAddress   string        `xml:"privateIpAddress,omitempty"`
	NetworkBorderGroup string        `xml:"networkBorderGroup"`
	TagSet             items[tagXML] `xml:"tagSet"`
}

type describeAddressesResult struct {
	ec2Reply
	Set items[addressXML] `xml:"addressesSet"`
}

func (a *Account) describeAddresses(in *describeAddressesInput) (*describeAddressesResult, error) {
	ids := slices.Clone(in.AllocationIDs)
	for _, ip := range in.PublicIPs {
		id := a.allocationOf(ip)
		if id == "" {
			return nil, fail("InvalidAddress.NotFound", "Address '%s' not found.", ip)
		}
		ids = append(ids, id)
	}
	objects, err := byIDs(a.addresses, ids, func(id string) error {
		return fail("InvalidAllocationID.NotFound", "The allocation ID '%s' does not exist", id)
	})
	if err != nil {
		return nil, err
	}
	objects, err = filtered(a, objects, in.Filters, fields[*address]{
		"allocation-id": func(e *address) []string { return []string{e.id} },
		"public-ip":     func(e *address) []string { return []string{e.public.String()} },
		"domain":        func(*address) []string { return []string{"vpc"} },
	}, func(e *address) string { return e.id })
	if err != nil {
		return nil, err
	}
	out := &describeAddressesResult{}
	for _, e := range objects {
		x := addressXML{PublicIP: e.public.String(), AllocationID: e.id, Domain: "vpc", NetworkBorderGroup: a.region, TagSet: a.tagSet(e.id)}
		if nic := a.addressUser(e.id); nic != nil {
			_, digits, _ := cutID(nic.id)
			x.AssociationID, x.NetworkInterfaceID, x.PrivateIPAddress = "eipassoc-"+digits, nic.id, nic.private.String()
		}
		out.Set.Item = append(out.Set.Item, x)
	}
	return out, nil
}

func (a *Account) allocationOf(publicIP string) string {
	for _, e := range a.addresses {
		if e.public.String() == publicIP {
			return e.id
		}
	}
	return ""
}

// addressUser returns the interface that uses an Elastic IP, or nil.
func (a *Account) addressUser(allocation string) *networkInterface {
	for _, nic := range a.interfaces {
		if nic.allocation == allocation {
			return nic
		}
	}
	return nil
}
