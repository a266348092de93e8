package aws

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// refusals are requests that AWS refuses; each is checked to change nothing.
type refusals []struct {
	name, code, operation string
	parameters            []string
}

func (rs refusals) check(t *testing.T, c client) {
	t.Helper()
	before := fmt.Sprint(c.Leftovers(), c.Dataplane())
	for _, r := range rs {
		t.Run(r.name, func(t *testing.T) {
			c := client{Account: c.Account, t: t, accessKey: c.accessKey}
			c.wants(r.code, r.operation, r.parameters...)
			if after := fmt.Sprint(c.Leftovers(), c.Dataplane()); after != before {
				t.Errorf("the refused request changed the account from\n%s\nto\n%s", before, after)
			}
		})
	}
}

func newLB(name string, more ...string) []string {
	return join([]string{"Name=" + name, "Type=network", "Subnets.member.1=" + subnetA}, more)
}

func TestLoadBalancersAreCreatedStrictly(t *testing.T) {
	c := newClient(t, atOnce, func(w *World) {
		w.Subnets = append(w.Subnets, Subnet{ID: "subnet-0a0000000000000a9", Zone: "eu-west-1a", CIDR: netPrefix("10.0.255.240/28"), Public: true})
		w.Instances = append(w.Instances, smallInstances("subnet-0a0000000000000a9", "10.0.255.", 244, 248)...)
	})
	c.loadBalancerNamed("taken")
	no := func(parameters ...string) []string {
		return join([]string{"Name=web", "Type=network"}, parameters)
	}
	refusals{
		{"name too long", "ValidationError", "CreateLoadBalancer", newLB(strings.Repeat("a", 33))},
		{"name with a dot", "ValidationError", "CreateLoadBalancer", newLB("a.b")},
		{"name with a hyphen in front", "ValidationError", "CreateLoadBalancer", newLB("-a")},
		{"name with a hyphen behind", "ValidationError", "CreateLoadBalancer", newLB("a-")},
		{"name that begins with internal-", "ValidationError", "CreateLoadBalancer", newLB("internal-a")},
		{"application load balancer by default", "ValidationError", "CreateLoadBalancer", []string{"Name=web", "Subnets.member.1=" + subnetA}},
		{"scheme", "ValidationError", "CreateLoadBalancer", newLB("web", "Scheme=public")},
		{"dualstack in IPv4 subnets", "InvalidConfigurationRequest", "CreateLoadBalancer", newLB("web", "IpAddressType=dualstack")},
		{"no subnets", "ValidationError", "CreateLoadBalancer", no()},
		{"subnets and mappings", "ValidationError", "CreateLoadBalancer", newLB("web", "SubnetMappings.member.1.SubnetId="+subnetB)},
		{"absent subnet", "SubnetNotFound", "CreateLoadBalancer", no("Subnets.member.1=subnet-0bbbbbbbbbbbbbbbb")},
		{"two subnets of a zone", "InvalidConfigurationRequest", "CreateLoadBalancer", newLB("web", "Subnets.member.2="+privateA)},
		{"subnet with 7 free addresses", "InvalidSubnet", "CreateLoadBalancer", no("Subnets.member.1=subnet-0a0000000000000a9")},
		{"absent group", "InvalidSecurityGroup", "CreateLoadBalancer", newLB("web", "SecurityGroups.member.1=sg-0bbbbbbbbbbbbbbbb")},
		{"group twice", "InvalidSecurityGroup", "CreateLoadBalancer", newLB("web", "SecurityGroups.member.1="+nodeGroup, "SecurityGroups.member.2="+nodeGroup)},
		{"Elastic IP of an internal one", "InvalidConfigurationRequest", "CreateLoadBalancer", no("Scheme=internal", "SubnetMappings.member.1.SubnetId="+subnetA, "SubnetMappings.member.1.AllocationId="+eip)},
		{"absent Elastic IP", "AllocationIdNotFound", "CreateLoadBalancer", no("SubnetMappings.member.1.SubnetId="+subnetA, "SubnetMappings.member.1.AllocationId=eipalloc-0bbbbbbbbbbbbbbbb")},
		{"Elastic IP for one of two", "InvalidConfigurationRequest", "CreateLoadBalancer", no("SubnetMappings.member.1.SubnetId="+subnetA, "SubnetMappings.member.1.AllocationId="+eip, "SubnetMappings.member.2.SubnetId="+subnetB)},
		{"private address of a public one", "InvalidConfigurationRequest", "CreateLoadBalancer", no("SubnetMappings.member.1.SubnetId="+subnetA, "SubnetMappings.member.1.PrivateIPv4Address=10.0.0.99")},
		{"private address of another subnet", "InvalidConfigurationRequest", "CreateLoadBalancer", no("Scheme=internal", "SubnetMappings.member.1.SubnetId="+subnetA, "SubnetMappings.member.1.PrivateIPv4Address=10.0.16.99")},
		{"private address in use", "InvalidConfigurationRequest", "CreateLoadBalancer", no("Scheme=internal", "SubnetMappings.member.1.SubnetId="+subnetA, "SubnetMappings.member.1.PrivateIPv4Address=10.0.0.11")},
		{"tag twice", "DuplicateTagKeys", "CreateLoadBalancer", newLB("web", "Tags.member.1.Key=a", "Tags.member.2.Key=a")},
		{"reserved tag", "ValidationError", "CreateLoadBalancer", newLB("web", "Tags.member.1.Key=aws:a", "Tags.member.1.Value=b")},
		{"tag of forbidden text", "ValidationError", "CreateLoadBalancer", newLB("web", "Tags.member.1.Key=a", "Tags.member.1.Value=x*y")},
		{"51 tags", "TooManyTags", "CreateLoadBalancer", newLB("web", tagList(51)...)},
		{"name taken by another scheme", "DuplicateLoadBalancerName", "CreateLoadBalancer", join([]string{"Name=taken", "Type=network", "Scheme=internal"}, numbered("Subnets.member", subnetA, subnetB))},
		{"name taken by other groups", "DuplicateLoadBalancerName", "CreateLoadBalancer", join([]string{"Name=taken", "Type=network", "SecurityGroups.member.1=" + nodeGroup}, numbered("Subnets.member", subnetA, subnetB))},
		{"name taken by other tags", "DuplicateLoadBalancerName", "CreateLoadBalancer", join([]string{"Name=taken", "Type=network", "Tags.member.1.Key=a"}, numbered("Subnets.member", subnetA, subnetB))},
		{"name taken by other subnets", "DuplicateLoadBalancerName", "CreateLoadBalancer", newLB("taken")},
	}.check(t, c)
}

func TestSubnetsChangeStrictly(t *testing.T) {
	c := newClient(t, atOnce, func(w *World) {
		w.PublicPool = netPrefix("203.0.113.200/30")
		w.Addresses[0].PublicIP = netAddr("203.0.113.201")
	})
	lb := c.must("CreateLoadBalancer", newLB("web")...).text("LoadBalancerArn") // takes the last address of the pool
	inner := c.must("CreateLoadBalancer", newLB("inner", "Scheme=internal")...).text("LoadBalancerArn")
	refusals{
		{"pool run dry", "InsufficientAddressCapacity", "SetSubnets", join([]string{"LoadBalancerArn=" + lb}, numbered("Subnets.member", subnetA, subnetB))},
		{"pool run dry for a new one", "InsufficientAddressCapacity", "CreateLoadBalancer", newLB("other")},
		{"other address in a zone it has", "InvalidConfigurationRequest", "SetSubnets", []string{"LoadBalancerArn=" + inner, "SubnetMappings.member.1.SubnetId=" + subnetA, "SubnetMappings.member.1.PrivateIPv4Address=10.0.0.99"}},
		{"Elastic IP in a zone it has", "InvalidConfigurationRequest", "SetSubnets", []string{"LoadBalancerArn=" + lb, "SubnetMappings.member.1.SubnetId=" + subnetA, "SubnetMappings.member.1.AllocationId=" + eip}},
		{"no subnets", "ValidationError", "SetSubnets", []string{"LoadBalancerArn=" + lb}},
		{"two subnets of a zone", "InvalidConfigurationRequest", "SetSubnets", join([]string{"LoadBalancerArn=" + inner}, numbered("Subnets.member", subnetA, privateA))},
	}.check(t, c)
	c.must("SetSubnets", join([]string{"LoadBalancerArn=" + inner}, numbered("Subnets.member", subnetB, subnetC))...)
	if nodes := c.Dataplane().LoadBalancers[0].Nodes; len(nodes) != 2 || nodes[0].Zone != "eu-west-1b" || nodes[1].Zone != "eu-west-1c" {
		t.Errorf("after the move: %+v", nodes)
	}
}

func tagList(n int) []string {
	var tags []string
	for i := range n {
		tags = append(tags, fmt.Sprintf("Tags.member.%d.Key=k%d", i+1, i))
	}
	return tags
}

func TestCreationIsIdempotent(t *testing.T) {
	c := newClient(t, atOnce)
	lb, again := c.loadBalancerNamed("web", "Tags.member.1.Key=a", "Tags.member.1.Value=b"), c.loadBalancerNamed("web", "Tags.member.1.Key=a", "Tags.member.1.Value=b")
	if lb != again {
		t.Errorf("the same load balancer was created twice: %s, %s", lb, again)
	}
	tg, again := c.targetGroupNamed("web", "TCP"), c.targetGroupNamed("web", "TCP")
	if tg != again {
		t.Errorf("the same target group was created twice: %s, %s", tg, again)
	}
	l, again := c.listen(lb, tg, "TCP", "80"), c.listen(lb, tg, "TCP", "80")
	if l != again {
		t.Errorf("the same listener was created twice: %s, %s", l, again)
	}
	if left := c.Leftovers(); len(left) != 3 {
		t.Errorf("the account holds %v", left)
	}
}

func TestLoadBalancersWithoutGroupsStaySo(t *testing.T) {
	c := newClient(t, atOnce)
	bare, grouped := c.loadBalancerNamed("bare"), c.loadBalancerNamed("grouped", "SecurityGroups.member.1="+nodeGroup)
	refusals{
		{"made without groups", "InvalidConfigurationRequest", "SetSecurityGroups", []string{"LoadBalancerArn=" + bare, "SecurityGroups.member.1=" + nodeGroup}},
		{"all groups removed", "InvalidConfigurationRequest", "SetSecurityGroups", []string{"LoadBalancerArn=" + grouped, "SecurityGroups="}},
		{"absent group", "InvalidSecurityGroup", "SetSecurityGroups", []string{"LoadBalancerArn=" + grouped, "SecurityGroups.member.1=sg-0bbbbbbbbbbbbbbbb"}},
		{"six groups", "InvalidConfigurationRequest", "SetSecurityGroups", join([]string{"LoadBalancerArn=" + grouped}, numbered("SecurityGroups.member", "a", "b", "c", "d", "e", "f"))},
	}.check(t, c)
	other := c.groupNamed("other")
	c.must("SetSecurityGroups", "LoadBalancerArn="+grouped, "SecurityGroups.member.1="+other)
	if groups := c.Dataplane().LoadBalancers[1].Groups; !slices.Equal(groups, []string{other}) {
		t.Errorf("the load balancer is in %v, want %v", groups, other)
	}
}

func TestDeletionProtectionHolds(t *testing.T) {
	c := newClient(t, atOnce)
	lb := c.loadBalancerNamed("web")
	protect := func(v string) {
		c.must("ModifyLoadBalancerAttributes", "LoadBalancerArn="+lb, "Attributes.member.1.Key=deletion_protection.enabled", "Attributes.member.1.Value="+v)
	}
	protect("true")
	c.wants("OperationNotPermitted", "DeleteLoadBalancer", "LoadBalancerArn="+lb)
	protect("false")
	c.must("DeleteLoadBalancer", "LoadBalancerArn="+lb)
	c.must("DeleteLoadBalancer", "LoadBalancerArn="+lb) // absent: still a success
}

func TestLookupsAreStrict(t *testing.T) {
	c := newClient(t, atOnce)
	lb, tg := c.loadBalancerNamed("web"), c.targetGroupNamed("web", "TCP")
	gone := strings.Replace(lb, "net/web/", "net/gone/", 1)
	goneTG := strings.Replace(tg, "targetgroup/web/", "targetgroup/gone/", 1)
	goneListener := strings.Replace(lb, "loadbalancer/", "listener/", 1) + "/0123456789abcdef"
	names := make([]string, 21)
	arns := make([]string, 21)
	for i := range names {
		names[i], arns[i] = fmt.Sprintf("n%d", i), fmt.Sprintf("%s%d", lb, i)
	}
	refusals{
		{"one name of two is absent", "LoadBalancerNotFound", "DescribeLoadBalancers", numbered("Names.member", "web", "gone")},
		{"absent ARN", "LoadBalancerNotFound", "DescribeLoadBalancers", numbered("LoadBalancerArns.member", gone)},
		{"malformed ARN", "ValidationError", "DescribeLoadBalancers", numbered("LoadBalancerArns.member", "web")},
		{"21 names", "ValidationError", "DescribeLoadBalancers", numbered("Names.member", names...)},
		{"names and ARNs", "ValidationError", "DescribeLoadBalancers", join(numbered("Names.member", "web"), numbered("LoadBalancerArns.member", lb))},
		{"page of 401", "ValidationError", "DescribeLoadBalancers", []string{"PageSize=401"}},
		{"made-up marker", "ValidationError", "DescribeLoadBalancers", []string{"Marker=2"}},
		{"absent target group name", "TargetGroupNotFound", "DescribeTargetGroups", numbered("Names.member", "web", "gone")},
		{"21 target group names", "ValidationError", "DescribeTargetGroups", numbered("Names.member", names...)},
		{"target groups of an absent load balancer", "LoadBalancerNotFound", "DescribeTargetGroups", []string{"LoadBalancerArn=" + gone}},
		{"target groups asked for in two ways", "ValidationError", "DescribeTargetGroups", []string{"LoadBalancerArn=" + lb, "Names.member.1=web"}},
		{"health of an absent target group", "TargetGroupNotFound", "DescribeTargetHealth", []string{"TargetGroupArn=" + goneTG}},
		{"listeners of nothing", "ValidationError", "DescribeListeners", nil},
		{"absent listener", "ListenerNotFound", "DescribeListeners", numbered("ListenerArns.member", goneListener)},
		{"absent listener deleted", "ListenerNotFound", "DeleteListener", []string{"ListenerArn=" + goneListener}},
		{"tags of 21 resources", "ValidationError", "DescribeTags", numbered("ResourceArns.member", arns...)},
		{"tags of an absent resource", "LoadBalancerNotFound", "DescribeTags", numbered("ResourceArns.member", lb, gone)},
		{"tags of nonsense", "ValidationError", "DescribeTags", numbered("ResourceArns.member", "web")},
	}.check(t, c)
	c.must("DeleteTargetGroup", "TargetGroupArn="+goneTG) // absent: a success
	if arns := c.must("DescribeTargetGroups", "LoadBalancerArn="+lb).texts("TargetGroupArn"); len(arns) != 0 {
		t.Errorf("a load balancer without listeners has target groups %v", arns)
	}
}

func newTG(name string, more ...string) []string {
	return join([]string{"Name=" + name, "Protocol=TCP", "Port=30080", "VpcId=" + vpcID}, more)
}

func TestTargetGroupsAreCreatedStrictly(t *testing.T) {
	c := newClient(t, atOnce, func(w *World) { w.Quotas.TargetGroups = 1 })
	tg := c.targetGroupNamed("taken", "TCP")
	with := func(more ...string) []string { return newTG("web", more...) }
	modify := func(more ...string) []string { return append([]string{"TargetGroupArn=" + tg}, more...) }
	refusals{
		{"name", "ValidationError", "CreateTargetGroup", newTG("a_b")},
		{"no protocol", "ValidationError", "CreateTargetGroup", []string{"Name=web", "Port=80", "VpcId=" + vpcID}},
		{"HTTP", "ValidationError", "CreateTargetGroup", []string{"Name=web", "Protocol=HTTP", "Port=80", "VpcId=" + vpcID}},
		{"no port", "ValidationError", "CreateTargetGroup", []string{"Name=web", "Protocol=TCP", "VpcId=" + vpcID}},
		{"port 0", "ValidationError", "CreateTargetGroup", []string{"Name=web", "Protocol=TCP", "Port=0", "VpcId=" + vpcID}},
		{"no VPC", "ValidationError", "CreateTargetGroup", []string{"Name=web", "Protocol=TCP", "Port=80"}},
		{"another VPC", "ValidationError", "CreateTargetGroup", []string{"Name=web", "Protocol=TCP", "Port=80", "VpcId=vpc-0bbbbbbbbbbbbbbbb"}},
		{"IPv6", "InvalidConfigurationRequest", "CreateTargetGroup", with("IpAddressType=ipv6")},
		{"check protocol", "ValidationError", "CreateTargetGroup", with("HealthCheckProtocol=UDP")},
		{"check port", "ValidationError", "CreateTargetGroup", with("HealthCheckPort=http")},
		{"path of a TCP check", "InvalidConfigurationRequest", "CreateTargetGroup", with("HealthCheckPath=/")},
		{"path without slash", "ValidationError", "CreateTargetGroup", with("HealthCheckProtocol=HTTP", "HealthCheckPath=healthz")},
		{"codes out of range", "ValidationError", "CreateTargetGroup", with("HealthCheckProtocol=HTTP", "Matcher.HttpCode=100-700")},
		{"interval 4", "ValidationError", "CreateTargetGroup", with("HealthCheckIntervalSeconds=4")},
		{"interval 301", "ValidationError", "CreateTargetGroup", with("HealthCheckIntervalSeconds=301")},
		{"timeout 1", "ValidationError", "CreateTargetGroup", with("HealthCheckTimeoutSeconds=1")},
		{"timeout above interval", "ValidationError", "CreateTargetGroup", with("HealthCheckTimeoutSeconds=11", "HealthCheckIntervalSeconds=10")},
		{"threshold 1", "ValidationError", "CreateTargetGroup", with("HealthyThresholdCount=1")},
		{"threshold 11", "ValidationError", "CreateTargetGroup", with("UnhealthyThresholdCount=11")},
		{"check disabled", "InvalidConfigurationRequest", "CreateTargetGroup", with("HealthCheckEnabled=false")},
		{"too many", "TooManyTargetGroups", "CreateTargetGroup", with()},
		{"name taken, other port", "DuplicateTargetGroupName", "CreateTargetGroup", []string{"Name=taken", "Protocol=TCP", "Port=1", "VpcId=" + vpcID}},
		{"name taken, other check", "DuplicateTargetGroupName", "CreateTargetGroup", newTG("taken", "HealthCheckIntervalSeconds=10")},
		{"changed to a wrong interval", "ValidationError", "ModifyTargetGroup", modify("HealthCheckIntervalSeconds=4")},
		{"changed to a path without HTTP", "InvalidConfigurationRequest", "ModifyTargetGroup", modify("HealthCheckPath=/")},
		{"change of an unchangeable port", "ValidationError", "ModifyTargetGroup", modify("Port=1")},
	}.check(t, c)

	c.must("ModifyTargetGroup", modify("HealthCheckProtocol=HTTP", "HealthCheckPath=/healthz", "HealthCheckPort=10256")...)
	if r := c.must("DescribeTargetGroups"); r.text("HealthCheckPath") != "/healthz" || r.text("HttpCode") != "200-399" {
		t.Errorf("after the change to HTTP:\n%s", r.body)
	}
	c.must("ModifyTargetGroup", modify("HealthCheckProtocol=TCP")...)
	if r := c.must("DescribeTargetGroups"); r.text("HealthCheckPath") != "" || r.text("HttpCode") != "" {
		t.Errorf("after the change to TCP:\n%s", r.body)
	}
}

func TestListenersAreStrict(t *testing.T) {
	c := newClient(t, atOnce, func(w *World) { w.Quotas.ListenersPerLoadBalancer = 2 })
	lb, other := c.loadBalancerNamed("web"), c.loadBalancerNamed("other")
	tcp, udp, both := c.targetGroupNamed("tcp", "TCP"), c.targetGroupNamed("udp", "UDP"), c.targetGroupNamed("both", "TCP_UDP")
	l, l2 := c.listen(lb, tcp, "TCP", "80"), c.listen(lb, both, "UDP", "53")
	redirect := []string{"LoadBalancerArn=" + lb, "Protocol=TCP", "Port=81", "DefaultActions.member.1.Type=redirect"}
	refusals{
		{"port taken by another protocol", "DuplicateListener", "CreateListener", forward(lb, udp, "UDP", "80")},
		{"port taken by another target group", "DuplicateListener", "CreateListener", forward(lb, both, "TCP", "80")},
		{"incompatible protocols", "IncompatibleProtocols", "CreateListener", forward(other, udp, "TCP", "80")},
		{"TCP_UDP to TCP", "IncompatibleProtocols", "CreateListener", forward(lb, tcp, "TCP_UDP", "90")},
		{"target group of another load balancer", "TargetGroupAssociationLimit", "CreateListener", forward(other, tcp, "TCP", "80")},
		{"too many", "TooManyListeners", "CreateListener", forward(lb, tcp, "TCP", "90")},
		{"HTTP", "UnsupportedProtocol", "CreateListener", forward(other, tcp, "HTTP", "80")},
		{"port 0", "ValidationError", "CreateListener", forward(lb, tcp, "TCP", "0")},
		{"redirect", "InvalidLoadBalancerAction", "CreateListener", redirect},
		{"moved to a taken port", "DuplicateListener", "ModifyListener", []string{"ListenerArn=" + l, "Port=53"}},
		{"changed to another protocol", "IncompatibleProtocols", "ModifyListener", []string{"ListenerArn=" + l, "Protocol=UDP"}},
		{"target group in use", "ResourceInUse", "DeleteTargetGroup", []string{"TargetGroupArn=" + both}},
		{"idle timeout of UDP", "InvalidConfigurationRequest", "ModifyListenerAttributes", []string{"ListenerArn=" + l2, "Attributes.member.1.Key=tcp.idle_timeout.seconds", "Attributes.member.1.Value=60"}},
	}.check(t, c)
	c.must("ModifyListener", "ListenerArn="+l, "DefaultActions.member.1.Type=forward", "DefaultActions.member.1.ForwardConfig.TargetGroups.member.1.TargetGroupArn="+both)
	c.must("DeleteTargetGroup", "TargetGroupArn="+tcp)
}

func TestAttributesAreStrict(t *testing.T) {
	c := newClient(t, atOnce)
	lb, tcp, udp := c.loadBalancerNamed("web"), c.targetGroupNamed("tcp", "TCP"), c.targetGroupNamed("udp", "UDP")
	l := c.listen(lb, tcp, "TCP", "80")
	set := func(of, key, value string) []string {
		return []string{of, "Attributes.member.1.Key=" + key, "Attributes.member.1.Value=" + value}
	}
	refusals{
		{"unknown key", "ValidationError", "ModifyLoadBalancerAttributes", set("LoadBalancerArn="+lb, "idle_timeout.timeout_seconds", "60")},
		{"no bool", "ValidationError", "ModifyLoadBalancerAttributes", set("LoadBalancerArn="+lb, lbCrossZone, "yes")},
		{"access logs without bucket", "InvalidConfigurationRequest", "ModifyLoadBalancerAttributes", set("LoadBalancerArn="+lb, "access_logs.s3.enabled", "true")},
		{"routing policy", "ValidationError", "ModifyLoadBalancerAttributes", set("LoadBalancerArn="+lb, "dns_record.client_routing_policy", "any")},
		{"delay of two hours", "ValidationError", "ModifyTargetGroupAttributes", set("TargetGroupArn="+tcp, tgDeregistration, "7200")},
		{"cookies", "ValidationError", "ModifyTargetGroupAttributes", set("TargetGroupArn="+tcp, "stickiness.type", "lb_cookie")},
		{"client addresses of UDP", "InvalidConfigurationRequest", "ModifyTargetGroupAttributes", set("TargetGroupArn="+udp, tgPreserveClientIP, "false")},
		{"connection termination of UDP", "InvalidConfigurationRequest", "ModifyTargetGroupAttributes", set("TargetGroupArn="+udp, tgTerminateUnhealthy, "true")},
		{"key twice", "ValidationError", "ModifyTargetGroupAttributes", append(set("TargetGroupArn="+tcp, tgDeregistration, "1"), "Attributes.member.2.Key="+tgDeregistration, "Attributes.member.2.Value=2")},
		{"one good, one bad", "ValidationError", "ModifyTargetGroupAttributes", append(set("TargetGroupArn="+tcp, tgDeregistration, "1"), "Attributes.member.2.Key=x", "Attributes.member.2.Value=2")},
		{"idle timeout", "ValidationError", "ModifyListenerAttributes", set("ListenerArn="+l, listenerIdleTimeout, "59")},
	}.check(t, c)

	c.must("ModifyLoadBalancerAttributes", set("LoadBalancerArn="+lb, lbSecondaryIPs, "2")...)
	c.wants("InvalidConfigurationRequest", "ModifyLoadBalancerAttributes", set("LoadBalancerArn="+lb, lbSecondaryIPs, "1")...)
	defaults := func(tg string) map[string]string {
		r, m := c.must("DescribeTargetGroupAttributes", "TargetGroupArn="+tg), map[string]string{}
		for i, k := range r.texts("Key") {
			m[k] = r.texts("Value")[i]
		}
		return m
	}
	if d := defaults(tcp); d[tgDeregistration] != "300" || d["deregistration_delay.connection_termination.enabled"] != "false" || d[tgPreserveClientIP] != "true" {
		t.Errorf("defaults of TCP: %v", d)
	}
	if d := defaults(udp); d["deregistration_delay.connection_termination.enabled"] != "true" {
		t.Errorf("defaults of UDP: %v", d)
	}
}

func TestTargetsAreStrict(t *testing.T) {
	c := newClient(t, atOnce, func(w *World) {
		w.Quotas.TargetsPerGroup = 2
		w.Instances[2].Type = "m1.small"
		w.Instances = append(w.Instances, Instance{ID: "i-0a0000000000000ff", Subnet: subnetA, PrivateIP: netAddr("10.0.0.99"), State: Stopped})
	})
	tg := c.targetGroupNamed("web", "TCP")
	targets := func(ids ...string) []string {
		p := []string{"TargetGroupArn=" + tg}
		for i, id := range ids {
			p = append(p, fmt.Sprintf("Targets.member.%d.Id=%s", i+1, id))
		}
		return p
	}
	refusals{
		{"one of two is absent", "InvalidTarget", "RegisterTargets", targets(node1, "i-0bbbbbbbbbbbbbbbb")},
		{"one of two is stopped", "InvalidTarget", "RegisterTargets", targets(node1, "i-0a0000000000000ff")},
		{"instance type of old", "InvalidTarget", "RegisterTargets", targets(node3)},
		{"an address", "ValidationError", "RegisterTargets", targets("10.0.0.11")},
		{"twice", "ValidationError", "RegisterTargets", targets(node1, node1)},
		{"with a zone", "ValidationError", "RegisterTargets", append(targets(node1), "Targets.member.1.AvailabilityZone=eu-west-1a")},
		{"port 0", "ValidationError", "RegisterTargets", append(targets(node1), "Targets.member.1.Port=0")},
		{"too many", "TooManyTargets", "RegisterTargets", append(targets(node1, node2, node1), "Targets.member.3.Port=1")},
	}.check(t, c)
	if got := c.states(tg); got != "" {
		t.Errorf("refused targets were registered: %s", got)
	}
	c.must("RegisterTargets", targets(node1)...)
	c.must("RegisterTargets", append(targets(node1), "Targets.member.1.Port=30081")...)
	if got := c.states(tg); got != "unused unused" {
		t.Errorf("the same instance at two ports: %q", got)
	}
	c.must("DeregisterTargets", targets(node2)...) // not registered: a success
	c.must("DeregisterTargets", targets(node1)...)
	if r := c.must("DescribeTargetHealth", "TargetGroupArn="+tg); r.text("Port") != "30081" {
		t.Errorf("the target at the group's own port was not the one to go:\n%s", r.body)
	}
	if r := c.must("DescribeTargetHealth", targets(node2)...); r.text("Reason") != "Target.NotRegistered" {
		t.Errorf("a target that is not registered:\n%s", r.body)
	}
}
