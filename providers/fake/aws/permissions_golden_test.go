package aws

import (
	"bytes"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// TestWhatOperationsNeed: for each operation that can change something, every
// permission it takes, with what conditions can ask about it.
func TestWhatOperationsNeed(t *testing.T) {
	c := newClient(t, atOnce)
	lb, tg := c.loadBalancerNamed("web", elbMark("demo")...), c.targetGroupNamed("web", "TCP", elbMark("demo")...)
	listener := c.must("CreateListener", join(forward(lb, tg, "TCP", "80"), elbMark("demo"))...).text("ListenerArn")
	group := c.must("CreateSecurityGroup", join([]string{"GroupName=front", "GroupDescription=test", "VpcId=" + vpcID}, ec2Mark("demo"))...).text("groupId")
	rule := permission("tcp", "80", "80", "IpRanges.1.CidrIp=10.0.0.0/8")
	ruleTag := []string{"TagSpecification.1.ResourceType=security-group-rule", "TagSpecification.1.Tag.1.Key=team", "TagSpecification.1.Tag.1.Value=edge"}
	attribute := []string{"Attributes.member.1.Key=a", "Attributes.member.1.Value=b"}
	target := []string{"TargetGroupArn=" + tg, "Targets.member.1.Id=" + node1}
	tags := []string{"ResourceArns.member.1=" + lb, "ResourceArns.member.2=" + tg}

	var story bytes.Buffer
	told := map[string]bool{}
	for _, r := range []struct {
		operation  string
		parameters []string
	}{
		{"CreateLoadBalancer", newLB("new", elbMark("demo")...)},
		{"CreateTargetGroup", newTG("new", elbMark("demo")...)},
		{"CreateTargetGroup", newTG("bare")},
		{"CreateListener", join(forward(lb, tg, "TCP", "81"), elbMark("demo"))},
		{"ModifyListener", []string{"ListenerArn=" + listener}},
		{"ModifyListenerAttributes", join([]string{"ListenerArn=" + listener}, attribute)},
		{"DeleteListener", []string{"ListenerArn=" + listener}},
		{"ModifyLoadBalancerAttributes", join([]string{"LoadBalancerArn=" + lb}, attribute)},
		{"SetSecurityGroups", []string{"LoadBalancerArn=" + lb, "SecurityGroups.member.1=" + group}},
		{"SetSubnets", []string{"LoadBalancerArn=" + lb, "Subnets.member.1=" + subnetA}},
		{"SetIpAddressType", []string{"LoadBalancerArn=" + lb, "IpAddressType=ipv4"}},
		{"DeleteLoadBalancer", []string{"LoadBalancerArn=" + lb}},
		{"ModifyTargetGroup", []string{"TargetGroupArn=" + tg}},
		{"ModifyTargetGroupAttributes", join([]string{"TargetGroupArn=" + tg}, attribute)},
		{"RegisterTargets", target},
		{"DeregisterTargets", target},
		{"DeleteTargetGroup", []string{"TargetGroupArn=" + tg}},
		{"AddTags", join(tags, elbMark("demo"))},
		{"RemoveTags", join(tags, []string{"TagKeys.member.1=team"})},
		{"CreateSecurityGroup", join([]string{"GroupName=new", "GroupDescription=test", "VpcId=" + vpcID}, ec2Mark("demo"))},
		{"AuthorizeSecurityGroupIngress", join([]string{"GroupId=" + group}, rule, ruleTag)},
		{"AuthorizeSecurityGroupEgress", join([]string{"GroupId=" + nodeGroup}, rule)},
		{"RevokeSecurityGroupIngress", join([]string{"GroupId=" + group}, rule)},
		{"RevokeSecurityGroupEgress", join([]string{"GroupId=" + group}, rule)},
		{"CreateTags", []string{"ResourceId.1=" + group, "ResourceId.2=" + node1, "Tag.1.Key=team", "Tag.1.Value=edge"}},
		{"DeleteTags", []string{"ResourceId.1=" + group, "Tag.1.Key=team"}},
		{"DeleteSecurityGroup", []string{"GroupId=" + group}},
	} {
		told[r.operation] = true
		fmt.Fprintf(&story, "%s\n", r.operation)
		for _, need := range c.needs(r.operation, r.parameters...) {
			fmt.Fprintf(&story, "  %s on %s\n", need.action, need.resource)
			for _, key := range slices.Sorted(maps.Keys(need.context)) {
				fmt.Fprintf(&story, "    %s = %s\n", key, strings.Join(need.context[key], ", "))
			}
		}
	}
	golden(t, "testdata/permissions.golden", story.Bytes())

	for _, s := range []*service{elbService, ec2Service} {
		for name, op := range s.operations {
			if op.write && !told[name] {
				t.Errorf("what %s needs is not told", name)
			}
		}
	}
	if needs := c.needs("DescribeVpcs"); len(needs) != 1 || needs[0].action != "ec2:DescribeVpcs" || needs[0].resource != anyResource {
		t.Errorf("DescribeVpcs needs %v", needs)
	}
	if needs := c.needs("GetCallerIdentity"); len(needs) != 0 {
		t.Errorf("GetCallerIdentity needs %v", needs)
	}
}

// needs returns what a request needs, as if the account had no load balancer yet.
func (c client) needs(operation string, parameters ...string) []access {
	c.t.Helper()
	c.hasLoadBalancerRole = false
	form := url.Values{}
	for _, p := range parameters {
		name, value, _ := strings.Cut(p, "=")
		form.Add(name, value)
	}
	for _, s := range []*service{elbService, ec2Service, stsService} {
		op := s.operations[operation]
		if op == nil {
			continue
		}
		in := op.input()
		if _, err := decodeForm(form, in); err != nil {
			c.t.Fatalf("%s %q: %v", operation, parameters, err)
		}
		return c.permissionsOf(call{service: s, operation: op}, in)
	}
	c.t.Fatalf("no operation %s", operation)
	return nil
}
