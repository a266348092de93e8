package aws

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// rule is one rule of a security group: one protocol and port range, one peer.
type rule struct {
	id     string
	egress bool
	// protocol is tcp, udp, icmp, icmpv6, another protocol's number, or -1 for all.
	protocol string
	// from and to are ports; type and code for icmp; -1 means any.
	from, to int32
	// One of cidr, group (an id) and prefixList is set.
	cidr        netip.Prefix
	group       string
	prefixList  string
	description string
}

const protocolAll = "-1"

var anyIPv4 = netip.MustParsePrefix("0.0.0.0/0")

func (r *rule) samePorts(o *rule) bool {
	return r.protocol == o.protocol && r.from == o.from && r.to == o.to
}

// same says whether two rules admit the same; a description does not count.
func (r *rule) same(o *rule) bool {
	return r.samePorts(o) && r.egress == o.egress && r.cidr == o.cidr && r.group == o.group && r.prefixList == o.prefixList
}

func (r *rule) ipv4() string {
	if r.cidr.IsValid() && r.cidr.Addr().Is4() {
		return r.cidr.String()
	}
	return ""
}

func (r *rule) peer() string {
	switch {
	case r.group != "":
		return r.group
	case r.prefixList != "":
		return r.prefixList
	}
	return r.cidr.String()
}

func (r *rule) String() string {
	if r.protocol == protocolAll {
		return "all from " + r.peer()
	}
	return fmt.Sprintf("%s %d-%d from %s", r.protocol, r.from, r.to, r.peer())
}

// rules are the rules a seed's IngressRule stands for.
func (in IngressRule) rules() ([]*rule, error) {
	permission := permissionInput{Protocol: in.Protocol, FromPort: &in.FromPort, ToPort: &in.ToPort}
	switch in.Protocol {
	case "all":
		permission.Protocol = protocolAll
	case "icmp":
		anything := int32(-1)
		permission.FromPort, permission.ToPort = &anything, &anything
	case "tcp", "udp":
	default:
		return nil, fmt.Errorf("rule: protocol %q is none of tcp, udp, icmp, all", in.Protocol)
	}
	for _, c := range in.CIDRs {
		if c.Addr().Is4() {
			permission.Ranges = append(permission.Ranges, rangeInput{CIDR: c.String()})
		} else {
			permission.IPv6Ranges = append(permission.IPv6Ranges, range6Input{CIDR: c.String()})
		}
	}
	for _, g := range in.Groups {
		permission.Groups = append(permission.Groups, pairInput{GroupID: g})
	}
	return permission.rules(false)
}

// permissionInput is IpPermission as it is written in requests.
type permissionInput struct {
	Protocol    string        `query:"IpProtocol,required"`
	FromPort    *int32        `query:"FromPort"`
	ToPort      *int32        `query:"ToPort"`
	Groups      []pairInput   `query:"Groups"`
	Ranges      []rangeInput  `query:"IpRanges"`
	IPv6Ranges  []range6Input `query:"Ipv6Ranges"`
	PrefixLists []prefixList  `query:"PrefixListIds"`
}

type pairInput struct {
	UserID      string `query:"UserId"`
	VPCID       string `query:"VpcId"`
	GroupID     string `query:"GroupId,required"`
	Description string `query:"Description"`
}

type rangeInput struct {
	CIDR        string `query:"CidrIp,required"`
	Description string `query:"Description"`
}

type range6Input struct {
	CIDR        string `query:"CidrIpv6,required"`
	Description string `query:"Description"`
}

// rules spells a permission out, one rule for each peer.
func (p permissionInput) rules(egress bool) ([]*rule, error) {
	base := rule{egress: egress}
	var err error
	if base.protocol, base.from, base.to, err = p.ports(); err != nil {
		return nil, err
	}
	var rules []*rule
	add := func(description string, set func(*rule)) {
		r := base
		r.description = description
		set(&r)
		rules = append(rules, &r)
	}
	for _, s := range p.Groups {
		add(s.Description, func(r *rule) { r.group = s.GroupID })
	}
	for _, s := range p.PrefixLists {
		add(s.Description, func(r *rule) { r.prefixList = s.ID })
	}
	for _, s := range p.Ranges {
		cidr, err := parseCIDR(s.CIDR, netip.Addr.Is4)
		if err != nil {
			return nil, err
		}
		add(s.Description, func(r *rule) { r.cidr = cidr })
	}
	for _, s := range p.IPv6Ranges {
		cidr, err := parseCIDR(s.CIDR, netip.Addr.Is6)
		if err != nil {
			return nil, err
		}
		add(s.Description, func(r *rule) { r.cidr = cidr })
	}
	if len(rules) == 0 {
		return nil, fail(codeInvalidParameter, "Either 'cidrIp', 'cidrIpv6', 'prefixListId' or 'groupId' should be provided")
	}
	for _, r := range rules {
		if !groupTextPattern.MatchString(r.description) {
			return nil, fail(codeInvalidParameter, "Invalid rule description '%s'. Valid descriptions are strings less than 256 characters from the following set: a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*", r.description)
		}
	}
	return rules, nil
}

// ports checks and normalises the protocol and its ports.
func (p permissionInput) ports() (protocol string, from, to int32, err error) {
	protocol = strings.ToLower(p.Protocol)
	if name, ok := map[string]string{"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6"}[protocol]; ok {
		protocol = name
	}
	if protocol == protocolAll {
		return protocol, -1, -1, nil
	}
	low, high := int32(0), int32(65535)
	switch protocol {
	case "tcp", "udp":
	case "icmp", "icmpv6":
		low, high = -1, 255
	default:
		return "", 0, 0, fail(codeInvalidParameter, "Invalid value '%s' for IP protocol. Unknown protocol.", p.Protocol)
	}
	if p.FromPort == nil || p.ToPort == nil {
		return "", 0, 0, fail(codeInvalidParameter, "Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange.")
	}
	from, to = *p.FromPort, *p.ToPort
	if from < low || from > high || to < low || to > high || low == 0 && from > to {
		return "", 0, 0, fail("InvalidParameterValue", "Invalid %s port range (%d-%d)", protocol, from, to)
	}
	return protocol, from, to, nil
}

// parseCIDR reads a network of one family and masks it, as EC2 does.
func parseCIDR(text string, family func(netip.Addr) bool) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil || !family(p.Addr()) {
		return netip.Prefix{}, fail(codeInvalidParameter, "CIDR block %s is malformed", text)
	}
	return p.Masked(), nil
}

type authorizeInput struct {
	ec2Request
	GroupID     string             `query:"GroupId,required"`
	Permissions []permissionInput  `query:"IpPermissions,required"`
	Tags        []tagSpecification `query:"TagSpecification"`
}

type authorizeResult struct {
	ec2Reply
	Return bool           `xml:"return"`
	Rules  items[ruleXML] `xml:"securityGroupRuleSet"`
}

func (a *Account) authorizeIngress(in *authorizeInput) (*authorizeResult, error) {
	return a.authorize(in, false)
}

func (a *Account) authorizeEgress(in *authorizeInput) (*authorizeResult, error) {
	return a.authorize(in, true)
}

// authorize adds all the rules or, on any error, none.
func (a *Account) authorize(in *authorizeInput, egress bool) (*authorizeResult, error) {
	g, err := a.group(in.GroupID)
	if err != nil {
		return nil, err
	}
	tags, err := specifiedTags(in.Tags, "security-group-rule")
	if err != nil {
		return nil, err
	}
	added, err := a.requestedRules(in.Permissions, egress)
	if err != nil {
		return nil, err
	}
	for _, r := range added {
		if slices.ContainsFunc(g.rules, r.same) {
			return nil, fail("InvalidPermission.Duplicate", "the specified rule %q already exists", r)
		}
	}
	if err := a.checkRuleLimit(append(slices.Clone(g.rules), added...), egress); err != nil {
		return nil, err
	}
	out := &authorizeResult{Return: true}
	for _, r := range added {
		r.id = a.newID("sgr")
		a.setTags(r.id, tags)
		out.Rules.Item = append(out.Rules.Item, a.ruleXML(g, r))
	}
	g.rules = append(g.rules, added...)
	return out, nil
}

// requestedRules spells the permissions of a request out and checks them against
// one another and the groups they name.
func (a *Account) requestedRules(permissions []permissionInput, egress bool) ([]*rule, error) {
	var rules []*rule
	for _, p := range permissions {
		some, err := p.rules(egress)
		if err != nil {
			return nil, err
		}
		for _, r := range some {
			if slices.ContainsFunc(rules, r.same) {
				return nil, fail(codeInvalidParameter, "The same permission must not appear multiple times")
			}
			if r.group != "" {
				if _, err := a.group(r.group); err != nil {
					return nil, err
				}
			}
			if r.prefixList != "" {
				return nil, fail("InvalidPrefixListID.NotFound", "The prefix list ID '%s' does not exist", r.prefixList)
			}
			rules = append(rules, r)
		}
	}
	return rules, nil
}

// checkRuleLimit counts the rules of one direction for each address family; a rule
// with a group counts in both.
func (a *Account) checkRuleLimit(rules []*rule, egress bool) error {
	var v4, v6 int
	for _, r := range rules {
		if r.egress != egress {
			continue
		}
		if r.group != "" || r.cidr.Addr().Is4() {
			v4++
		}
		if r.group != "" || r.cidr.Addr().Is6() {
			v6++
		}
	}
	if max(v4, v6) > a.quotas.RulesPerSecurityGroup {
		return fail("RulesPerSecurityGroupLimitExceeded", "The maximum number of rules per security group has been reached.")
	}
	return nil
}

type revokeInput struct {
	ec2Request
	GroupID     string            `query:"GroupId,required"`
	Permissions []permissionInput `query:"IpPermissions"`
	RuleIDs     []string          `query:"SecurityGroupRuleId"`
}

type revokeResult struct {
	ec2Reply
	Return bool `xml:"return"`
}

func (a *Account) revokeIngress(in *revokeInput) (*revokeResult, error) { return a.revoke(in, false) }

func (a *Account) revokeEgress(in *revokeInput) (*revokeResult, error) { return a.revoke(in, true) }

// revoke removes all the rules or, when one is not there, none.
func (a *Account) revoke(in *revokeInput, egress bool) (*revokeResult, error) {
	g, err := a.group(in.GroupID)
	if err != nil {
		return nil, err
	}
	if (len(in.Permissions) == 0) == (len(in.RuleIDs) == 0) {
		return nil, fail(codeParameterCombination, "Exactly one of ipPermissions and securityGroupRuleIds must be given")
	}
	gone := map[*rule]bool{}
	for _, id := range in.RuleIDs {
		at := slices.IndexFunc(g.rules, func(r *rule) bool { return r.id == id && r.egress == egress })
		if at < 0 {
			return nil, fail("InvalidSecurityGroupRuleId.NotFound", "The security group rule ID '%s' does not exist", id)
		}
		gone[g.rules[at]] = true
	}
	for _, p := range in.Permissions {
		rules, err := p.rules(egress)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			at := slices.IndexFunc(g.rules, r.same)
			if at < 0 {
				return nil, fail("InvalidPermission.NotFound", "The specified rule does not exist in this security group: %s", r)
			}
			gone[g.rules[at]] = true
		}
	}
	for r := range gone {
		delete(a.tags, r.id)
	}
	g.rules = slices.DeleteFunc(g.rules, func(r *rule) bool { return gone[r] })
	return &revokeResult{Return: true}, nil
}

type describeSecurityGroupRulesInput struct {
	ec2List
	RuleIDs []string `query:"SecurityGroupRuleId"`
}

type ruleXML struct {
	ID           string          `xml:"securityGroupRuleId"`
	GroupID      string          `xml:"groupId"`
	GroupOwnerID string          `xml:"groupOwnerId"`
	IsEgress     bool            `xml:"isEgress"`
	Protocol     string          `xml:"ipProtocol"`
	FromPort     int32           `xml:"fromPort"`
	ToPort       int32           `xml:"toPort"`
	CIDRIPv4     string          `xml:"cidrIpv4,omitempty"`
	CIDRIPv6     string          `xml:"cidrIpv6,omitempty"`
	Referenced   *referencedInfo `xml:"referencedGroupInfo"`
	Description  string          `xml:"description,omitempty"`
	TagSet       items[tagXML]   `xml:"tagSet"`
}

type referencedInfo struct {
	GroupID string `xml:"groupId"`
	UserID  string `xml:"userId"`
}

func (a *Account) ruleXML(g *securityGroup, r *rule) ruleXML {
	x := ruleXML{
		ID: r.id, GroupID: g.id, GroupOwnerID: a.id, IsEgress: r.egress, Protocol: r.protocol, FromPort: r.from, ToPort: r.to,
		CIDRIPv4: r.ipv4(), Description: r.description, TagSet: a.tagSet(r.id),
	}
	if r.group != "" {
		x.Referenced = &referencedInfo{GroupID: r.group, UserID: a.id}
	} else if x.CIDRIPv4 == "" {
		x.CIDRIPv6 = r.cidr.String()
	}
	return x
}

type describeSecurityGroupRulesResult struct {
	ec2Reply
	Rules     items[ruleXML] `xml:"securityGroupRuleSet"`
	NextToken string         `xml:"nextToken,omitempty"`
}

type ruleOfGroup struct {
	*rule
	of *securityGroup
}

func (a *Account) describeSecurityGroupRules(in *describeSecurityGroupRulesInput) (*describeSecurityGroupRulesResult, error) {
	all := map[string]ruleOfGroup{}
	for _, g := range a.visibleGroups() {
		for _, r := range g.rules {
			all[r.id] = ruleOfGroup{rule: r, of: g}
		}
	}
	objects, err := byIDs(all, in.RuleIDs, func(id string) error {
		return fail("InvalidSecurityGroupRuleId.NotFound", "The security group rule ID '%s' does not exist", id)
	})
	if err != nil {
		return nil, err
	}
	page, next, err := listed(a, in.ec2List, in.RuleIDs, objects, fields[ruleOfGroup]{
		"group-id":               func(r ruleOfGroup) []string { return []string{r.of.id} },
		"security-group-rule-id": func(r ruleOfGroup) []string { return []string{r.id} },
	}, func(r ruleOfGroup) string { return r.id })
	if err != nil {
		return nil, err
	}
	out := &describeSecurityGroupRulesResult{NextToken: next}
	for _, r := range page {
		out.Rules.Item = append(out.Rules.Item, a.ruleXML(r.of, r.rule))
	}
	return out, nil
}
