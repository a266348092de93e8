package aws

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"time"
)

const defaultGroupName = "default"

type securityGroup struct {
	id, name, description string
	rules                 []*rule
	// visibleAt is when lookups start to find a new group.
	visibleAt time.Time
}

// seedSecurityGroups adds the VPC's default group and the given ones. Their rules
// were checked with the World.
func (a *Account) seedSecurityGroups(groups []SecurityGroup) {
	all := append([]SecurityGroup{{Name: defaultGroupName, Description: "default VPC security group"}}, groups...)
	for _, g := range all {
		if g.ID == "" {
			g.ID = a.newID("sg")
			g.Ingress = []IngressRule{{Protocol: "all", Groups: []string{g.ID}}}
		}
		group := a.newGroup(g.ID, g.Name, g.Description)
		for _, in := range g.Ingress {
			rules, _ := in.rules()
			for _, r := range rules {
				r.id = a.newID("sgr")
				group.rules = append(group.rules, r)
			}
		}
		a.setTags(g.ID, g.Tags)
	}
}

// newGroup stores a group that may send anything.
func (a *Account) newGroup(id, name, description string) *securityGroup {
	egress := &rule{id: a.newID("sgr"), egress: true, protocol: protocolAll, from: -1, to: -1, cidr: anyIPv4}
	g := &securityGroup{id: id, name: name, description: description, rules: []*rule{egress}}
	a.groups[id] = g
	return g
}

// group looks a group up as the API does: a new one may not be found yet.
func (a *Account) group(id string) (*securityGroup, error) {
	g, ok := a.groups[id]
	if !ok || time.Now().Before(g.visibleAt) {
		return nil, fail(codeGroupNotFound, "The security group '%s' does not exist", id)
	}
	return g, nil
}

// visibleGroups are the groups that lookups find.
func (a *Account) visibleGroups() map[string]*securityGroup {
	visible := map[string]*securityGroup{}
	for id, g := range a.groups {
		if !time.Now().Before(g.visibleAt) {
			visible[id] = g
		}
	}
	return visible
}

type createSecurityGroupInput struct {
	ec2Request
	Name        string             `query:"GroupName,required"`
	Description string             `query:"GroupDescription,required"`
	VPCID       string             `query:"VpcId"`
	Tags        []tagSpecification `query:"TagSpecification"`
}

type createSecurityGroupResult struct {
	ec2Reply
	GroupID string        `xml:"groupId"`
	TagSet  items[tagXML] `xml:"tagSet"`
	ARN     string        `xml:"securityGroupArn"`
}

// groupTextPattern is what names and descriptions of groups and rules may hold.
//
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSecurityGroup.html
var groupTextPattern = regexp.MustCompile(`^[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{0,255}$`)

func (a *Account) createSecurityGroup(in *createSecurityGroupInput) (*createSecurityGroupResult, error) {
	tags, err := specifiedTags(in.Tags, "security-group")
	switch {
	case err != nil:
		return nil, err
	case in.Name == "" || !groupTextPattern.MatchString(in.Name) || strings.HasPrefix(in.Name, "sg-"):
		return nil, fail(codeInvalidParameter, "Value (%s) for parameter GroupName is invalid. Character sets beyond ASCII are not supported, at most 255 characters, and not starting with sg-.", in.Name)
	case in.Description == "" || !groupTextPattern.MatchString(in.Description):
		return nil, fail(codeInvalidParameter, "Value (%s) for parameter GroupDescription is invalid. Character sets beyond ASCII are not supported.", in.Description)
	case in.VPCID == "":
		return nil, fail("VPCIdNotSpecified", "No default VPC for this user")
	case in.VPCID != a.vpc.id:
		return nil, fail("InvalidVpcID.NotFound", "The vpc ID '%s' does not exist", in.VPCID)
	case len(a.groups) >= a.quotas.SecurityGroups:
		return nil, fail("SecurityGroupLimitExceeded", "The maximum number of security groups has been reached.")
	}
	for _, g := range a.groups {
		if g.name == in.Name {
			return nil, fail("InvalidGroup.Duplicate", "The security group '%s' already exists for VPC '%s'", in.Name, in.VPCID)
		}
	}
	g := a.newGroup(a.newID("sg"), in.Name, in.Description)
	g.visibleAt = time.Now().Add(a.timing.visibilityLag)
	a.setTags(g.id, tags)
	return &createSecurityGroupResult{GroupID: g.id, TagSet: a.tagSet(g.id), ARN: a.arn("ec2", "security-group/"+g.id)}, nil
}

type deleteSecurityGroupInput struct {
	ec2Request
	GroupID string `query:"GroupId,required"`
}

type deleteSecurityGroupResult struct {
	ec2Reply
	Return  bool   `xml:"return"`
	GroupID string `xml:"groupId"`
}

func (a *Account) deleteSecurityGroup(in *deleteSecurityGroupInput) (*deleteSecurityGroupResult, error) {
	g, err := a.group(in.GroupID)
	if err != nil {
		return nil, err
	}
	if g.name == defaultGroupName {
		return nil, fail("CannotDelete", "the specified group: %q name: %q cannot be deleted by a user", g.id, g.name)
	}
	if by := a.groupUser(g.id); by != "" {
		return nil, fail(codeDependencyViolation, "resource %s has a dependent object (%s)", g.id, by)
	}
	delete(a.groups, g.id)
	delete(a.tags, g.id)
	return &deleteSecurityGroupResult{Return: true, GroupID: g.id}, nil
}

// groupUser names something that keeps a group from being deleted: an interface in
// it, or a rule of another group that refers to it.
func (a *Account) groupUser(id string) string {
	for _, nic := range sorted(a.interfaces) {
		if slices.Contains(nic.groups, id) {
			return "network interface " + nic.id
		}
	}
	for _, other := range sorted(a.groups) {
		if other.id == id {
			continue
		}
		for _, r := range other.rules {
			if r.group == id {
				return "rule " + r.id + " of security group " + other.id
			}
		}
	}
	return ""
}

type describeSecurityGroupsInput struct {
	ec2List
	GroupIDs   []string `query:"GroupId"`
	GroupNames []string `query:"GroupName"`
}

type securityGroupXML struct {
	OwnerID     string               `xml:"ownerId"`
	GroupID     string               `xml:"groupId"`
	GroupName   string               `xml:"groupName"`
	Description string               `xml:"groupDescription"`
	VPCID       string               `xml:"vpcId"`
	ARN         string               `xml:"securityGroupArn"`
	Ingress     items[permissionXML] `xml:"ipPermissions"`
	Egress      items[permissionXML] `xml:"ipPermissionsEgress"`
	TagSet      items[tagXML]        `xml:"tagSet"`
}

type describeSecurityGroupsResult struct {
	ec2Reply
	Info      items[securityGroupXML] `xml:"securityGroupInfo"`
	NextToken string                  `xml:"nextToken,omitempty"`
}

func (a *Account) describeSecurityGroups(in *describeSecurityGroupsInput) (*describeSecurityGroupsResult, error) {
	if len(in.GroupNames) > 0 {
		return nil, fail(codeParameterCombination, "group names are of the default VPC, which this account has not; use the filter group-name")
	}
	objects, err := byIDs(a.visibleGroups(), in.GroupIDs, func(id string) error {
		return fail(codeGroupNotFound, "The security group '%s' does not exist", id)
	})
	if err != nil {
		return nil, err
	}
	page, next, err := listed(a, in.ec2List, in.GroupIDs, objects, fields[*securityGroup]{
		"group-id":    func(g *securityGroup) []string { return []string{g.id} },
		"group-name":  func(g *securityGroup) []string { return []string{g.name} },
		"description": func(g *securityGroup) []string { return []string{g.description} },
		"vpc-id":      func(*securityGroup) []string { return []string{a.vpc.id} },
		"owner-id":    func(*securityGroup) []string { return []string{a.id} },
		"ip-permission.group-id": func(g *securityGroup) []string {
			return g.each(false, func(r *rule) string { return r.group })
		},
		"ip-permission.cidr": func(g *securityGroup) []string {
			return g.each(false, func(r *rule) string { return r.ipv4() })
		},
		"ip-permission.protocol": func(g *securityGroup) []string {
			return g.each(false, func(r *rule) string { return r.protocol })
		},
	}, func(g *securityGroup) string { return g.id })
	if err != nil {
		return nil, err
	}
	out := &describeSecurityGroupsResult{NextToken: next}
	for _, g := range page {
		out.Info.Item = append(out.Info.Item, securityGroupXML{
			OwnerID: a.id, GroupID: g.id, GroupName: g.name, Description: g.description, VPCID: a.vpc.id,
			ARN:     a.arn("ec2", "security-group/"+g.id),
			Ingress: a.permissions(g, false), Egress: a.permissions(g, true), TagSet: a.tagSet(g.id),
		})
	}
	return out, nil
}

// each returns what value gives for the rules of one direction, without the empty
// ones.
func (g *securityGroup) each(egress bool, value func(*rule) string) []string {
	var values []string
	for _, r := range g.rules {
		if v := value(r); r.egress == egress && v != "" {
			values = append(values, v)
		}
	}
	return values
}

type permissionXML struct {
	Protocol    string            `xml:"ipProtocol"`
	FromPort    *int32            `xml:"fromPort"`
	ToPort      *int32            `xml:"toPort"`
	Groups      items[pairXML]    `xml:"groups"`
	Ranges      items[rangeXML]   `xml:"ipRanges"`
	IPv6Ranges  items[range6XML]  `xml:"ipv6Ranges"`
	PrefixLists items[prefixList] `xml:"prefixListIds"`
}

type pairXML struct {
	UserID      string `xml:"userId"`
	GroupID     string `xml:"groupId"`
	Description string `xml:"description,omitempty"`
}

type rangeXML struct {
	CIDR        string `xml:"cidrIp"`
	Description string `xml:"description,omitempty"`
}

type range6XML struct {
	CIDR        string `xml:"cidrIpv6"`
	Description string `xml:"description,omitempty"`
}

type prefixList struct {
	ID          string `xml:"prefixListId" query:"PrefixListId,required"`
	Description string `xml:"description,omitempty" query:"Description"`
}

// permissions groups the rules of one direction by protocol and ports, as the
// older form of the API shows them.
func (a *Account) permissions(g *securityGroup, egress bool) items[permissionXML] {
	rules := slices.DeleteFunc(slices.Clone(g.rules), func(r *rule) bool { return r.egress != egress })
	slices.SortStableFunc(rules, func(x, y *rule) int {
		return cmp.Or(cmp.Compare(x.protocol, y.protocol), cmp.Compare(x.from, y.from), cmp.Compare(x.to, y.to))
	})
	var list items[permissionXML]
	for i, r := range rules {
		if i == 0 || !r.samePorts(rules[i-1]) {
			p := permissionXML{Protocol: r.protocol}
			if r.protocol != protocolAll {
				p.FromPort, p.ToPort = &r.from, &r.to
			}
			list.Item = append(list.Item, p)
		}
		p := &list.Item[len(list.Item)-1]
		switch {
		case r.group != "":
			p.Groups.Item = append(p.Groups.Item, pairXML{UserID: a.id, GroupID: r.group, Description: r.description})
		case r.prefixList != "":
			p.PrefixLists.Item = append(p.PrefixLists.Item, prefixList{ID: r.prefixList, Description: r.description})
		case r.cidr.Addr().Is4():
			p.Ranges.Item = append(p.Ranges.Item, rangeXML{CIDR: r.cidr.String(), Description: r.description})
		default:
			p.IPv6Ranges.Item = append(p.IPv6Ranges.Item, range6XML{CIDR: r.cidr.String(), Description: r.description})
		}
	}
	return list
}
