package aws

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func netPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func netAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

// smallInstances are instances at prefix+from to prefix+to.
func smallInstances(subnet, prefix string, from, to int) []Instance {
	var list []Instance
	for n := from; n <= to; n++ {
		list = append(list, Instance{ID: fmt.Sprintf("i-0c%015d", n), Subnet: subnet, PrivateIP: netAddr(fmt.Sprint(prefix, n))})
	}
	return list
}

func TestSecurityGroupsAreStrict(t *testing.T) {
	c := newClient(t, atOnce)
	g := c.groupNamed("front")
	defaultGroup := c.must("DescribeSecurityGroups", "Filter.1.Name=group-name", "Filter.1.Value.1=default").text("groupId")
	c.must("AuthorizeSecurityGroupIngress", join([]string{"GroupId=" + g}, permission("tcp", "80", "80", "IpRanges.1.CidrIp=0.0.0.0/0"))...)
	create := func(name, description, vpc string) []string {
		return []string{"GroupName=" + name, "GroupDescription=" + description, "VpcId=" + vpc}
	}
	allow := func(p ...string) []string { return join([]string{"GroupId=" + g}, p) }
	refusals{
		{"name taken", "InvalidGroup.Duplicate", "CreateSecurityGroup", create("front", "x", vpcID)},
		{"name like an id", "InvalidParameterValue", "CreateSecurityGroup", create("sg-front", "x", vpcID)},
		{"name of forbidden text", "InvalidParameterValue", "CreateSecurityGroup", create("fr%nt", "x", vpcID)},
		{"description of forbidden text", "InvalidParameterValue", "CreateSecurityGroup", create("a", "it's", vpcID)},
		{"description too long", "InvalidParameterValue", "CreateSecurityGroup", create("a", strings.Repeat("x", 256), vpcID)},
		{"no VPC", "VPCIdNotSpecified", "CreateSecurityGroup", create("a", "x", "")},
		{"another VPC", "InvalidVpcID.NotFound", "CreateSecurityGroup", create("a", "x", "vpc-0bbbbbbbbbbbbbbbb")},
		{"tags of another kind", "InvalidParameterValue", "CreateSecurityGroup", append(create("a", "x", vpcID), "TagSpecification.1.ResourceType=instance")},
		{"absent group", "InvalidGroup.NotFound", "DeleteSecurityGroup", []string{"GroupId=sg-0bbbbbbbbbbbbbbbb"}},
		{"default group", "CannotDelete", "DeleteSecurityGroup", []string{"GroupId=" + defaultGroup}},
		{"group of instances", "DependencyViolation", "DeleteSecurityGroup", []string{"GroupId=" + nodeGroup}},
		{"same rule again", "InvalidPermission.Duplicate", "AuthorizeSecurityGroupIngress", allow(permission("6", "80", "80", "IpRanges.1.CidrIp=0.0.0.0/0", "IpRanges.1.Description=other words", "IpRanges.2.CidrIp=192.0.2.0/24")...)},
		{"rule twice", "InvalidParameterValue", "AuthorizeSecurityGroupIngress", allow(permission("tcp", "81", "81", "IpRanges.1.CidrIp=192.0.2.1/24", "IpRanges.2.CidrIp=192.0.2.2/24")...)},
		{"no source", "InvalidParameterValue", "AuthorizeSecurityGroupIngress", allow(permission("tcp", "81", "81")...)},
		{"no ports", "InvalidParameterValue", "AuthorizeSecurityGroupIngress", allow(permission("tcp", "", "", "IpRanges.1.CidrIp=0.0.0.0/0")...)},
		{"ports the wrong way round", "InvalidParameterValue", "AuthorizeSecurityGroupIngress", allow(permission("tcp", "90", "80", "IpRanges.1.CidrIp=0.0.0.0/0")...)},
		{"port 65536", "InvalidParameterValue", "AuthorizeSecurityGroupIngress", allow(permission("tcp", "80", "65536", "IpRanges.1.CidrIp=0.0.0.0/0")...)},
		{"unknown protocol", "InvalidParameterValue", "AuthorizeSecurityGroupIngress", allow(permission("tls", "80", "80", "IpRanges.1.CidrIp=0.0.0.0/0")...)},
		{"malformed network", "InvalidParameterValue", "AuthorizeSecurityGroupIngress", allow(permission("tcp", "81", "81", "IpRanges.1.CidrIp=0.0.0.0")...)},
		{"IPv6 among IPv4", "InvalidParameterValue", "AuthorizeSecurityGroupIngress", allow(permission("tcp", "81", "81", "IpRanges.1.CidrIp=::/0")...)},
		{"absent source group", "InvalidGroup.NotFound", "AuthorizeSecurityGroupIngress", allow(permission("tcp", "81", "81", "Groups.1.GroupId=sg-0bbbbbbbbbbbbbbbb")...)},
		{"description of forbidden text", "InvalidParameterValue", "AuthorizeSecurityGroupIngress", allow(permission("tcp", "81", "81", "IpRanges.1.CidrIp=0.0.0.0/0", "IpRanges.1.Description=a|b")...)},
		{"revoke of an absent rule", "InvalidPermission.NotFound", "RevokeSecurityGroupIngress", allow(permission("tcp", "80", "80", "IpRanges.1.CidrIp=0.0.0.0/0", "IpRanges.2.CidrIp=192.0.2.0/24")...)},
		{"revoke by an absent id", "InvalidSecurityGroupRuleId.NotFound", "RevokeSecurityGroupIngress", allow("SecurityGroupRuleId.1=sgr-0bbbbbbbbbbbbbbbb")},
		{"revoke of nothing", "InvalidParameterCombination", "RevokeSecurityGroupIngress", allow()},
		{"tags of an absent group", "InvalidGroup.NotFound", "CreateTags", []string{"ResourceId.1=" + g, "ResourceId.2=sg-0bbbbbbbbbbbbbbbb", "Tag.1.Key=a"}},
		{"51 tags", "TagLimitExceeded", "CreateTags", join([]string{"ResourceId.1=" + g}, ec2Tags(51))},
	}.check(t, c)
	c.must("RevokeSecurityGroupIngress", allow(permission("tcp", "80", "80", "IpRanges.1.CidrIp=0.0.0.0/0")...)...)
	c.must("DeleteSecurityGroup", "GroupId="+g)
	if left := c.Leftovers(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func ec2Tags(n int) []string {
	var tags []string
	for i := range n {
		tags = append(tags, fmt.Sprintf("Tag.%d.Key=k%d", i+1, i))
	}
	return tags
}

func TestTagsGoOnlyWithTheirValue(t *testing.T) {
	c := newClient(t, atOnce)
	g := c.groupNamed("front")
	c.must("CreateTags", "ResourceId.1="+g, "Tag.1.Key=a", "Tag.1.Value=1", "Tag.2.Key=b", "Tag.2.Value=", "Tag.3.Key=c", "Tag.3.Value=3")
	left := func(parameters ...string) string {
		c.must("DeleteTags", append(parameters, "ResourceId.1="+g)...)
		return strings.Join(c.must("DescribeSecurityGroups", "GroupId.1="+g).texts("key"), "")
	}
	for _, tt := range []struct{ got, want string }{
		{left("Tag.1.Key=a", "Tag.1.Value=2", "Tag.2.Key=absent"), "abc"},
		{left("Tag.1.Key=a", "Tag.1.Value=1", "Tag.2.Key=b", "Tag.2.Value="), "c"},
		{left("Tag.1.Key=c"), ""},
	} {
		if tt.got != tt.want {
			t.Errorf("left %q, want %q", tt.got, tt.want)
		}
	}
}

// TestSixtyRules: the classic failure. Rules are counted for each address family,
// a rule with a group in both, and a call that would exceed adds none.
func TestSixtyRules(t *testing.T) {
	c := newClient(t, atOnce)
	g := c.groupNamed("front")
	add := func(n int, source func(i int) string) string {
		p := []string{"GroupId=" + g}
		for i := range n {
			p = append(p, fmt.Sprintf("IpPermissions.%d.IpProtocol=tcp", i+1), fmt.Sprintf("IpPermissions.%d.FromPort=%d", i+1, 1000+i),
				fmt.Sprintf("IpPermissions.%d.ToPort=%d", i+1, 1000+i), fmt.Sprintf("IpPermissions.%d.%s", i+1, source(i)))
		}
		return c.ask("AuthorizeSecurityGroupIngress", p...).code
	}
	count := func() int {
		return len(c.must("DescribeSecurityGroupRules", "Filter.1.Name=group-id", "Filter.1.Value.1="+g).texts("securityGroupRuleId")) - 1 // one is egress
	}
	if code := add(61, func(int) string { return "IpRanges.1.CidrIp=0.0.0.0/0" }); code != "RulesPerSecurityGroupLimitExceeded" || count() != 0 {
		t.Errorf("61 rules: %q, %d stored", code, count())
	}
	if code := add(60, func(int) string { return "IpRanges.1.CidrIp=0.0.0.0/0" }); code != "" || count() != 60 {
		t.Errorf("60 rules: %q, %d stored", code, count())
	}
	if code := add(60, func(int) string { return "Ipv6Ranges.1.CidrIpv6=::/0" }); code != "" || count() != 120 {
		t.Errorf("60 rules of IPv6 beside: %q, %d stored", code, count())
	}
	if code := add(1, func(int) string { return "Groups.1.GroupId=" + nodeGroup }); code != "RulesPerSecurityGroupLimitExceeded" {
		t.Errorf("a rule with a group in a full group: %q", code)
	}
}

func TestGroupsInUseCannotBeDeleted(t *testing.T) {
	c := newClient(t, atOnce)
	front, back := c.groupNamed("front"), c.groupNamed("back")
	c.must("AuthorizeSecurityGroupIngress", join([]string{"GroupId=" + back}, permission("-1", "", "", "Groups.1.GroupId="+back))...)
	c.must("AuthorizeSecurityGroupIngress", join([]string{"GroupId=" + nodeGroup}, permission("tcp", "30000", "32767", "Groups.1.GroupId="+back))...)
	lb := c.loadBalancerNamed("web", "SecurityGroups.member.1="+front)
	c.wants("DependencyViolation", "DeleteSecurityGroup", "GroupId="+front)
	c.wants("DependencyViolation", "DeleteSecurityGroup", "GroupId="+back)
	c.must("DeleteLoadBalancer", "LoadBalancerArn="+lb)
	c.must("DeleteSecurityGroup", "GroupId="+front)
	c.must("RevokeSecurityGroupIngress", join([]string{"GroupId=" + nodeGroup}, permission("tcp", "30000", "32767", "Groups.1.GroupId="+back))...)
	c.must("DeleteSecurityGroup", "GroupId="+back) // a rule of its own does not hold it
}

func TestFiltersAreStrict(t *testing.T) {
	c := newClient(t, atOnce)
	var many []string
	for i := range 201 {
		many = append(many, fmt.Sprintf("Filter.1.Value.%d=v%d", i+1, i))
	}
	refusals{
		{"unknown filter", "InvalidParameterValue", "DescribeInstances", []string{"Filter.1.Name=colour", "Filter.1.Value.1=red"}},
		{"filter without values", "InvalidParameterValue", "DescribeSubnets", []string{"Filter.1.Name=vpc-id"}},
		{"201 values", "FilterLimitExceeded", "DescribeInstances", append(many, "Filter.1.Name=instance-id")},
		{"one absent id of two", "InvalidInstanceID.NotFound", "DescribeInstances", numbered("InstanceId", node1, "i-0bbbbbbbbbbbbbbbb")},
		{"malformed id", "InvalidInstanceID.Malformed", "DescribeInstances", numbered("InstanceId", "node-1")},
		{"ids and pages", "InvalidParameterCombination", "DescribeInstances", append(numbered("InstanceId", node1), "MaxResults=5")},
		{"page of 4", "InvalidParameterValue", "DescribeSubnets", []string{"MaxResults=4"}},
		{"page of 101 route tables", "InvalidParameterValue", "DescribeRouteTables", []string{"MaxResults=101"}},
		{"made-up token", "InvalidParameterValue", "DescribeSubnets", []string{"NextToken=2"}},
		{"absent subnet", "InvalidSubnetID.NotFound", "DescribeSubnets", numbered("SubnetId", "subnet-0bbbbbbbbbbbbbbbb")},
		{"absent group", "InvalidGroup.NotFound", "DescribeSecurityGroups", numbered("GroupId", nodeGroup, "sg-0bbbbbbbbbbbbbbbb")},
		{"absent zone", "InvalidParameterValue", "DescribeAvailabilityZones", numbered("ZoneName", "eu-west-1z")},
	}.check(t, c)

	find := func(operation, field string, filters ...string) string {
		return strings.Join(c.must(operation, filters...).texts(field), " ")
	}
	for _, tt := range []struct{ name, got, want string }{
		{"two filters", find("DescribeInstances", "instanceId", "Filter.1.Name=availability-zone", "Filter.1.Value.1=eu-west-1b", "Filter.1.Value.2=eu-west-1c", "Filter.2.Name=private-ip-address", "Filter.2.Value.1=10.0.16.*"), node2},
		{"absent ids are just absent", find("DescribeInstances", "instanceId", "Filter.1.Name=instance-id", "Filter.1.Value.1="+node1, "Filter.1.Value.2=i-0bbbbbbbbbbbbbbbb"), node1},
		{"tag with a value", find("DescribeSubnets", "subnetId", "Filter.1.Name=tag:kubernetes.io/role/elb", "Filter.1.Value.1=1"), subnetA + " " + subnetB},
		{"tag key", find("DescribeSecurityGroups", "groupName", "Filter.1.Name=tag-key", "Filter.1.Value.1=kubernetes.io/cluster/?emo"), "nodes"},
		{"main route table", find("DescribeRouteTables", "main", "Filter.1.Name=association.main", "Filter.1.Value.1=true"), "true"},
		{"route tables of a subnet", find("DescribeRouteTables", "destinationCidrBlock", "Filter.1.Name=association.subnet-id", "Filter.1.Value.1="+subnetC), "10.0.0.0/16 0.0.0.0/0"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: found %q, want %q", tt.name, tt.got, tt.want)
		}
	}
}

func TestPagesJoinToTheWhole(t *testing.T) {
	c := newClient(t, atOnce)
	for i := range 7 {
		c.loadBalancerNamed(fmt.Sprintf("lb-%d", i))
		c.targetGroupNamed(fmt.Sprintf("tg-%d", i), "TCP")
	}
	pages := func(operation, size, field, token, next string) (sizes []int, all []string) {
		marker := []string{size}
		for {
			r := c.must(operation, marker...)
			sizes, all = append(sizes, len(r.texts(field))), append(all, r.texts(field)...)
			if r.text(next) == "" {
				return sizes, all
			}
			marker = []string{size, token + "=" + r.text(next)}
		}
	}
	for _, tt := range []struct {
		operation, size, field, token, next string
		sizes                               []int
	}{
		{"DescribeLoadBalancers", "PageSize=3", "LoadBalancerName", "Marker", "NextMarker", []int{3, 3, 1}},
		{"DescribeTargetGroups", "PageSize=4", "TargetGroupName", "Marker", "NextMarker", []int{4, 3}},
		{"DescribeSubnets", "MaxResults=5", "subnetId", "NextToken", "nextToken", []int{5, 1}},
	} {
		sizes, all := pages(tt.operation, tt.size, tt.field, tt.token, tt.next)
		whole := c.must(tt.operation).texts(tt.field)
		if !slices.Equal(sizes, tt.sizes) || !slices.Equal(all, whole) {
			t.Errorf("%s: pages %v of %v, want %v of %v", tt.operation, sizes, all, tt.sizes, whole)
		}
	}
}
