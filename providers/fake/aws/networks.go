package aws

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

type vpc struct {
	id   string
	cidr netip.Prefix
}

type subnet struct {
	id, zone string
	cidr     netip.Prefix
	public   bool
}

// routeTable is the main one, with only the local route, or the one of the public
// subnets, with the internet gateway.
type routeTable struct {
	id      string
	main    bool
	gateway string
	subnets []string
}

func (a *Account) seedNetwork(w World) {
	a.vpc = &vpc{id: w.VPC.ID, cidr: w.VPC.CIDR}
	a.setTags(a.vpc.id, w.VPC.Tags)
	mainTable := &routeTable{id: a.newID("rtb"), main: true}
	publicTable := &routeTable{id: a.newID("rtb"), gateway: a.newID("igw")}
	for _, s := range w.Subnets {
		a.subnets[s.ID] = &subnet{id: s.ID, zone: s.Zone, cidr: s.CIDR, public: s.Public}
		a.setTags(s.ID, s.Tags)
		if s.Public {
			publicTable.subnets = append(publicTable.subnets, s.ID)
		}
	}
	a.routeTables = []*routeTable{mainTable, publicTable}
	slices.SortFunc(a.routeTables, func(x, y *routeTable) int { return strings.Compare(x.id, y.id) })
	for _, e := range w.Addresses {
		a.addresses[e.AllocationID] = &address{id: e.AllocationID, public: e.PublicIP}
		a.setTags(e.AllocationID, e.Tags)
	}
}

// freeAddress returns the lowest unused address of a subnet after the four that
// AWS keeps for itself, and false when there is none.
//
// https://docs.aws.amazon.com/vpc/latest/userguide/subnet-sizing.html
func (a *Account) freeAddress(s *subnet) (netip.Addr, bool) {
	addr := s.cidr.Addr()
	for range 4 {
		addr = addr.Next()
	}
	used := map[netip.Addr]bool{} // a look at all interfaces for each address takes minutes in a large account
	for _, nic := range a.interfaces {
		used[nic.private] = true
	}
	for ; s.cidr.Contains(addr.Next()); addr = addr.Next() {
		if !used[addr] {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

func (a *Account) privateInUse(addr netip.Addr) bool {
	for _, nic := range a.interfaces {
		if nic.private == addr {
			return true
		}
	}
	return false
}

// freePublic returns the next public address of the pool that nothing uses, going
// round so that an address is not reused at once, and false when there is none.
func (a *Account) freePublic() (netip.Addr, bool) {
	used := a.publicInUse()
	first := a.publicPool.Masked().Addr().Next()
	for range a.publicSize() {
		addr := a.nextPublic
		a.nextPublic = addr.Next()
		if !a.publicPool.Contains(a.nextPublic.Next()) {
			a.nextPublic = first
		}
		if !used[addr] {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// publicSize is how many addresses of the pool can be given away: all but the
// first and the last.
func (a *Account) publicSize() int { return max(0, 1<<(32-a.publicPool.Bits())-2) }

func (a *Account) publicLeft() int { return a.publicSize() - len(a.publicInUse()) }

func (a *Account) publicInUse() map[netip.Addr]bool {
	used := map[netip.Addr]bool{}
	for _, nic := range a.interfaces {
		if nic.public.IsValid() {
			used[nic.public] = true
		}
	}
	for _, e := range a.addresses {
		used[e.public] = true
	}
	return used
}

// availableAddresses is how many addresses of the subnet are unused.
func (a *Account) availableAddresses(s *subnet) int {
	n := 1<<(32-s.cidr.Bits()) - 5
	for _, nic := range a.interfaces {
		if nic.subnet == s.id {
			n--
		}
	}
	return n
}

type describeSubnetsInput struct {
	ec2List
	SubnetIDs []string `query:"SubnetId"`
}

type subnetXML struct {
	SubnetID                string        `xml:"subnetId"`
	SubnetARN               string        `xml:"subnetArn"`
	State                   string        `xml:"state"`
	OwnerID                 string        `xml:"ownerId"`
	VPCID                   string        `xml:"vpcId"`
	CIDRBlock               string        `xml:"cidrBlock"`
	AvailableIPAddressCount int           `xml:"availableIpAddressCount"`
	AvailabilityZone        string        `xml:"availabilityZone"`
	AvailabilityZoneID      string        `xml:"availabilityZoneId"`
	DefaultForAZ            bool          `xml:"defaultForAz"`
	MapPublicIPOnLaunch     bool          `xml:"mapPublicIpOnLaunch"`
	TagSet                  items[tagXML] `xml:"tagSet"`
}

type describeSubnetsResult struct {
	ec2Reply
	SubnetSet items[subnetXML] `xml:"subnetSet"`
	NextToken string           `xml:"nextToken,omitempty"`
}

func (a *Account) describeSubnets(in *describeSubnetsInput) (*describeSubnetsResult, error) {
	objects, err := byIDs(a.subnets, in.SubnetIDs, func(id string) error {
		return fail("InvalidSubnetID.NotFound", "The subnet ID '%s' does not exist", id)
	})
	if err != nil {
		return nil, err
	}
	page, next, err := listed(a, in.ec2List, in.SubnetIDs, objects, fields[*subnet]{
		"subnet-id":            func(s *subnet) []string { return []string{s.id} },
		"vpc-id":               func(*subnet) []string { return []string{a.vpc.id} },
		"availability-zone":    func(s *subnet) []string { return []string{s.zone} },
		"availability-zone-id": func(s *subnet) []string { return []string{a.zoneID(s.zone)} },
		"cidr-block":           func(s *subnet) []string { return []string{s.cidr.String()} },
		"state":                func(*subnet) []string { return []string{"available"} },
	}, func(s *subnet) string { return s.id })
	if err != nil {
		return nil, err
	}
	out := &describeSubnetsResult{NextToken: next}
	for _, s := range page {
		out.SubnetSet.Item = append(out.SubnetSet.Item, subnetXML{
			SubnetID: s.id, SubnetARN: a.arn("ec2", "subnet/"+s.id), State: "available", OwnerID: a.id, VPCID: a.vpc.id,
			CIDRBlock: s.cidr.String(), AvailableIPAddressCount: a.availableAddresses(s),
			AvailabilityZone: s.zone, AvailabilityZoneID: a.zoneID(s.zone), MapPublicIPOnLaunch: s.public, TagSet: a.tagSet(s.id),
		})
	}
	return out, nil
}

type describeVPCsInput struct {
	ec2List
	VPCIDs []string `query:"VpcId"`
}

type vpcXML struct {
	VPCID           string        `xml:"vpcId"`
	OwnerID         string        `xml:"ownerId"`
	State           string        `xml:"state"`
	CIDRBlock       string        `xml:"cidrBlock"`
	AssociationSet  items[cidrAs] `xml:"cidrBlockAssociationSet"`
	InstanceTenancy string        `xml:"instanceTenancy"`
	IsDefault       bool          `xml:"isDefault"`
	TagSet          items[tagXML] `xml:"tagSet"`
}

// cidrAs is a network associated with a VPC.
type cidrAs struct {
	AssociationID string `xml:"associationId"`
	CIDRBlock     string `xml:"cidrBlock"`
	State         string `xml:"cidrBlockState>state"`
}

type describeVPCsResult struct {
	ec2Reply
	VPCSet    items[vpcXML] `xml:"vpcSet"`
	NextToken string        `xml:"nextToken,omitempty"`
}

func (a *Account) describeVPCs(in *describeVPCsInput) (*describeVPCsResult, error) {
	objects, err := byIDs(map[string]*vpc{a.vpc.id: a.vpc}, in.VPCIDs, func(id string) error {
		return fail("InvalidVpcID.NotFound", "The vpc ID '%s' does not exist", id)
	})
	if err != nil {
		return nil, err
	}
	page, next, err := listed(a, in.ec2List, in.VPCIDs, objects, fields[*vpc]{
		"vpc-id": func(v *vpc) []string { return []string{v.id} },
		"cidr":   func(v *vpc) []string { return []string{v.cidr.String()} },
		"state":  func(*vpc) []string { return []string{"available"} },
	}, func(v *vpc) string { return v.id })
	if err != nil {
		return nil, err
	}
	out := &describeVPCsResult{NextToken: next}
	for _, v := range page {
		association := cidrAs{AssociationID: "vpc-cidr-assoc" + v.id[len("vpc"):], CIDRBlock: v.cidr.String(), State: "associated"}
		out.VPCSet.Item = append(out.VPCSet.Item, vpcXML{
			VPCID: v.id, OwnerID: a.id, State: "available", CIDRBlock: v.cidr.String(),
			AssociationSet: items[cidrAs]{Item: []cidrAs{association}}, InstanceTenancy: "default", TagSet: a.tagSet(v.id),
		})
	}
	return out, nil
}

type describeRouteTablesInput struct {
	ec2List
	RouteTableIDs []string `query:"RouteTableId"`
}

type routeXML struct {
	Destination string `xml:"destinationCidrBlock"`
	GatewayID   string `xml:"gatewayId"`
	State       string `xml:"state"`
	Origin      string `xml:"origin"`
}

type routeAssociationXML struct {
	ID           string `xml:"routeTableAssociationId"`
	RouteTableID string `xml:"routeTableId"`
	SubnetID     string `xml:"subnetId,omitempty"`
	Main         bool   `xml:"main"`
	State        string `xml:"associationState>state"`
}

type routeTableXML struct {
	RouteTableID   string                     `xml:"routeTableId"`
	VPCID          string                     `xml:"vpcId"`
	OwnerID        string                     `xml:"ownerId"`
	RouteSet       items[routeXML]            `xml:"routeSet"`
	AssociationSet items[routeAssociationXML] `xml:"associationSet"`
	TagSet         items[tagXML]              `xml:"tagSet"`
}

type describeRouteTablesResult struct {
	ec2Reply
	RouteTableSet items[routeTableXML] `xml:"routeTableSet"`
	NextToken     string               `xml:"nextToken,omitempty"`
}

func (a *Account) describeRouteTables(in *describeRouteTablesInput) (*describeRouteTablesResult, error) {
	if in.MaxResults != nil && *in.MaxResults > 100 {
		return nil, fail(codeInvalidParameter, "Value ( %d ) for parameter maxResults is invalid. Expecting a value from 5 to 100.", *in.MaxResults)
	}
	all := map[string]*routeTable{}
	for _, t := range a.routeTables {
		all[t.id] = t
	}
	objects, err := byIDs(all, in.RouteTableIDs, func(id string) error {
		return fail("InvalidRouteTableID.NotFound", "The routeTable ID '%s' does not exist", id)
	})
	if err != nil {
		return nil, err
	}
	page, next, err := listed(a, in.ec2List, in.RouteTableIDs, objects, fields[*routeTable]{
		"route-table-id":        func(t *routeTable) []string { return []string{t.id} },
		"vpc-id":                func(*routeTable) []string { return []string{a.vpc.id} },
		"association.main":      func(t *routeTable) []string { return []string{strconv.FormatBool(t.main)} },
		"association.subnet-id": func(t *routeTable) []string { return t.subnets },
		"route.gateway-id":      func(t *routeTable) []string { return []string{"local", t.gateway} },
	}, func(t *routeTable) string { return t.id })
	if err != nil {
		return nil, err
	}
	out := &describeRouteTablesResult{NextToken: next}
	for _, t := range page {
		out.RouteTableSet.Item = append(out.RouteTableSet.Item, a.routeTableXML(t))
	}
	return out, nil
}

func (a *Account) routeTableXML(t *routeTable) routeTableXML {
	x := routeTableXML{RouteTableID: t.id, VPCID: a.vpc.id, OwnerID: a.id, TagSet: a.tagSet(t.id)}
	x.RouteSet.Item = []routeXML{{Destination: a.vpc.cidr.String(), GatewayID: "local", State: "active", Origin: "CreateRouteTable"}}
	if t.gateway != "" {
		x.RouteSet.Item = append(x.RouteSet.Item, routeXML{Destination: "0.0.0.0/0", GatewayID: t.gateway, State: "active", Origin: "CreateRoute"})
	}
	associate := func(subnet string) {
		suffix := t.id
		if subnet != "" {
			suffix = subnet
		}
		_, hex, _ := cutID(suffix)
		x.AssociationSet.Item = append(x.AssociationSet.Item, routeAssociationXML{
			ID: "rtbassoc-" + hex, RouteTableID: t.id, SubnetID: subnet, Main: subnet == "", State: "associated",
		})
	}
	if t.main {
		associate("")
	}
	for _, s := range t.subnets {
		associate(s)
	}
	return x
}

type describeAvailabilityZonesInput struct {
	ec2Request
	Filters   []filter `query:"Filter"`
	ZoneNames []string `query:"ZoneName"`
	ZoneIDs   []string `query:"ZoneId"`
	All       *bool    `query:"AllAvailabilityZones"`
}

type zoneXML struct {
	OptInStatus        string        `xml:"optInStatus"`
	RegionName         string        `xml:"regionName"`
	State              string        `xml:"zoneState"`
	ZoneName           string        `xml:"zoneName"`
	ZoneID             string        `xml:"zoneId"`
	ZoneType           string        `xml:"zoneType"`
	GroupName          string        `xml:"groupName"`
	NetworkBorderGroup string        `xml:"networkBorderGroup"`
	MessageSet         items[string] `xml:"messageSet"`
}

type describeAvailabilityZonesResult struct {
	ec2Reply
	Info items[zoneXML] `xml:"availabilityZoneInfo"`
}

func (a *Account) describeAvailabilityZones(in *describeAvailabilityZonesInput) (*describeAvailabilityZonesResult, error) {
	names := slices.Clone(in.ZoneNames)
	for _, id := range in.ZoneIDs {
		at := slices.IndexFunc(a.zones, func(z string) bool { return a.zoneID(z) == id })
		if at < 0 {
			return nil, fail(codeInvalidParameter, "Invalid availability zone-id: [%s]", id)
		}
		names = append(names, a.zones[at])
	}
	all := map[string]string{}
	for _, z := range a.zones {
		all[z] = z
	}
	zones, err := byIDs(all, names, func(z string) error {
		return fail(codeInvalidParameter, "Invalid availability zone: [%s]", z)
	})
	if err != nil {
		return nil, err
	}
	zones, err = filtered(a, zones, in.Filters, fields[string]{
		"zone-name":   func(z string) []string { return []string{z} },
		"zone-id":     func(z string) []string { return []string{a.zoneID(z)} },
		"zone-type":   func(string) []string { return []string{"availability-zone"} },
		"region-name": func(string) []string { return []string{a.region} },
		"state":       func(string) []string { return []string{"available"} },
	}, func(z string) string { return z })
	if err != nil {
		return nil, err
	}
	out := &describeAvailabilityZonesResult{}
	for _, z := range zones {
		out.Info.Item = append(out.Info.Item, zoneXML{
			OptInStatus: "opt-in-not-required", RegionName: a.region, State: "available", ZoneName: z, ZoneID: a.zoneID(z),
			ZoneType: "availability-zone", GroupName: a.region, NetworkBorderGroup: a.region,
		})
	}
	return out, nil
}

// zoneID is the zone's id in all accounts, which here follows the order of names.
func (a *Account) zoneID(zone string) string {
	return regionCode(a.region) + "-az" + strconv.Itoa(slices.Index(a.zones, zone)+1)
}
