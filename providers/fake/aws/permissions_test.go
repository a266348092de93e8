package aws

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/fairway-lb/fairway/providers/fake/aws/iam"
)

// shippedPolicy is the policy file of the documentation, for a cluster.
func shippedPolicy(t testing.TB, cluster string) json.RawMessage {
	t.Helper()
	document, err := os.ReadFile("../../../docs/aws/iam-policy.json")
	if err != nil {
		t.Fatal(err)
	}
	return json.RawMessage(strings.ReplaceAll(string(document), "${CLUSTER_NAME}", cluster))
}

// under binds everybody but the harness's own access key to policies.
func under(documents ...json.RawMessage) func(*World) {
	return func(w *World) { w.Policies, w.Administrators = documents, []string{ownKey} }
}

// bound is the client of someone whom the policies bind.
func (c client) bound() client {
	c.accessKey = "AKIDBOUND"
	return c
}

// elbMark and ec2Mark are the owner mark as it is given on creation.
func elbMark(cluster string) []string {
	return []string{"Tags.member.1.Key=fairway.io/cluster", "Tags.member.1.Value=" + cluster}
}

func ec2Mark(cluster string) []string {
	return []string{"TagSpecification.1.ResourceType=security-group", "TagSpecification.1.Tag.1.Key=fairway.io/cluster", "TagSpecification.1.Tag.1.Value=" + cluster}
}

// TestShippedPolicy: what carries our mark, and nothing else.
func TestShippedPolicy(t *testing.T) {
	c := newClient(t, atOnce, under(shippedPolicy(t, "demo")), func(w *World) {
		w.SecurityGroups = append(w.SecurityGroups, SecurityGroup{ID: "sg-0a00000000000000f", Name: "foreign"})
	})
	const foreignGroup = "sg-0a00000000000000f"
	newGroup := func(name string, more ...string) []string {
		return join([]string{"GroupName=" + name, "GroupDescription=test", "VpcId=" + vpcID}, more)
	}
	ssh := permission("tcp", "22", "22", "IpRanges.1.CidrIp=10.0.0.0/8")
	ourGroup := c.must("CreateSecurityGroup", newGroup("ours", ec2Mark("demo")...)...).text("groupId")
	ourLB, ourTG := c.loadBalancerNamed("ours", elbMark("demo")...), c.targetGroupNamed("ours", "TCP", elbMark("demo")...)
	ourListener := c.must("CreateListener", join(forward(ourLB, ourTG, "TCP", "80"), elbMark("demo"))...).text("ListenerArn")
	otherLB, otherTG := c.loadBalancerNamed("other", elbMark("demo2")...), c.targetGroupNamed("other", "TCP", elbMark("demo2")...)
	target := []string{"Targets.member.1.Id=" + node1}
	tag := []string{"Tags.member.1.Key=a", "Tags.member.1.Value=b"}

	for _, tt := range []struct {
		name, code, operation string
		parameters            []string
	}{
		{"who am I", "", "GetCallerIdentity", nil},
		{"look", "", "DescribeSubnets", nil},
		{"look at what is not needed", "UnauthorizedOperation", "DescribeSecurityGroupRules", nil},
		{"look at attributes", "", "DescribeLoadBalancerAttributes", []string{"LoadBalancerArn=" + ourLB}},
		{"make a load balancer", "", "CreateLoadBalancer", newLB("new", elbMark("demo")...)},
		{"make one without the mark", "AccessDenied", "CreateLoadBalancer", newLB("bare")},
		{"make one of another cluster", "AccessDenied", "CreateLoadBalancer", newLB("theirs", elbMark("demo2")...)},
		{"make a target group", "", "CreateTargetGroup", newTG("new", elbMark("demo")...)},
		{"make one without the mark", "AccessDenied", "CreateTargetGroup", newTG("bare")},
		{"listen", "", "CreateListener", join(forward(ourLB, ourTG, "TCP", "81"), elbMark("demo"))},
		{"listen without the mark", "AccessDenied", "CreateListener", forward(ourLB, ourTG, "TCP", "82")},
		{"listen on another's", "AccessDenied", "CreateListener", join(forward(otherLB, otherTG, "TCP", "82"), elbMark("demo"))},
		{"register", "", "RegisterTargets", join([]string{"TargetGroupArn=" + ourTG}, target)},
		{"register with another's", "AccessDenied", "RegisterTargets", join([]string{"TargetGroupArn=" + otherTG}, target)},
		{"deregister", "", "DeregisterTargets", join([]string{"TargetGroupArn=" + ourTG}, target)},
		{"deregister another's", "AccessDenied", "DeregisterTargets", join([]string{"TargetGroupArn=" + otherTG}, target)},
		{"change a check", "", "ModifyTargetGroup", []string{"TargetGroupArn=" + ourTG, "HealthCheckIntervalSeconds=20"}},
		{"change another's check", "AccessDenied", "ModifyTargetGroup", []string{"TargetGroupArn=" + otherTG, "HealthCheckIntervalSeconds=20"}},
		{"set subnets", "", "SetSubnets", join([]string{"LoadBalancerArn=" + ourLB}, numbered("Subnets.member", subnetA, subnetC))},
		{"set another's subnets", "AccessDenied", "SetSubnets", join([]string{"LoadBalancerArn=" + otherLB}, numbered("Subnets.member", subnetA, subnetC))},
		{"put our mark on another's", "AccessDenied", "AddTags", join([]string{"ResourceArns.member.1=" + otherLB}, elbMark("demo"))},
		{"tag later", "", "AddTags", join([]string{"ResourceArns.member.1=" + ourLB}, tag)},
		{"tag another's later", "AccessDenied", "AddTags", join([]string{"ResourceArns.member.1=" + otherLB}, tag)},
		{"change our mark", "AccessDenied", "AddTags", join([]string{"ResourceArns.member.1=" + ourLB}, elbMark("demo2"))},
		{"remove a tag", "", "RemoveTags", []string{"ResourceArns.member.1=" + ourLB, "TagKeys.member.1=team"}},
		{"remove another's tag", "AccessDenied", "RemoveTags", []string{"ResourceArns.member.1=" + otherLB, "TagKeys.member.1=team"}},
		{"remove our mark", "AccessDenied", "RemoveTags", []string{"ResourceArns.member.1=" + ourLB, "TagKeys.member.1=team", "TagKeys.member.2=fairway.io/cluster"}},
		{"make a group", "", "CreateSecurityGroup", newGroup("new", ec2Mark("demo")...)},
		{"make a group without the mark", "UnauthorizedOperation", "CreateSecurityGroup", newGroup("bare")},
		{"make a group of another cluster", "UnauthorizedOperation", "CreateSecurityGroup", newGroup("theirs", ec2Mark("demo2")...)},
		{"open our group", "", "AuthorizeSecurityGroupIngress", join([]string{"GroupId=" + ourGroup}, ssh)},
		{"open the nodes' group", "", "AuthorizeSecurityGroupIngress", join([]string{"GroupId=" + nodeGroup}, ssh)},
		{"open a foreign group", "UnauthorizedOperation", "AuthorizeSecurityGroupIngress", join([]string{"GroupId=" + foreignGroup}, ssh)},
		{"open a group that is not there", "UnauthorizedOperation", "AuthorizeSecurityGroupIngress", join([]string{"GroupId=sg-0bbbbbbbbbbbbbbbb"}, ssh)},
		{"let our group send less", "UnauthorizedOperation", "RevokeSecurityGroupEgress", join([]string{"GroupId=" + ourGroup}, ssh)},
		{"close our group", "", "RevokeSecurityGroupIngress", join([]string{"GroupId=" + ourGroup}, ssh)},
		{"delete the nodes' group", "UnauthorizedOperation", "DeleteSecurityGroup", []string{"GroupId=" + nodeGroup}},
		{"tag our group", "", "CreateTags", []string{"ResourceId.1=" + ourGroup, "Tag.1.Key=team", "Tag.1.Value=edge"}},
		{"change our group's mark", "UnauthorizedOperation", "CreateTags", []string{"ResourceId.1=" + ourGroup, "Tag.1.Key=fairway.io/cluster", "Tag.1.Value=demo2"}},
		{"remove our group's tag", "", "DeleteTags", []string{"ResourceId.1=" + ourGroup, "Tag.1.Key=team"}},
		{"remove our group's mark", "UnauthorizedOperation", "DeleteTags", []string{"ResourceId.1=" + ourGroup, "Tag.1.Key=fairway.io/cluster"}},
		{"remove all our group's tags", "UnauthorizedOperation", "DeleteTags", []string{"ResourceId.1=" + ourGroup}},
		{"put our mark on a foreign group", "UnauthorizedOperation", "CreateTags", []string{"ResourceId.1=" + foreignGroup, "Tag.1.Key=fairway.io/cluster", "Tag.1.Value=demo"}},
		{"tag the nodes", "UnauthorizedOperation", "CreateTags", []string{"ResourceId.1=" + node1, "Tag.1.Key=fairway.io/cluster", "Tag.1.Value=demo"}},
		{"whether we could delete our group", "DryRunOperation", "DeleteSecurityGroup", []string{"GroupId=" + ourGroup, "DryRun=true"}},
		{"whether we could delete another's", "UnauthorizedOperation", "DeleteSecurityGroup", []string{"GroupId=" + foreignGroup, "DryRun=true"}},
		{"delete our group", "", "DeleteSecurityGroup", []string{"GroupId=" + ourGroup}},
		{"delete another's load balancer", "AccessDenied", "DeleteLoadBalancer", []string{"LoadBalancerArn=" + otherLB}},
		{"stop listening", "", "DeleteListener", []string{"ListenerArn=" + ourListener}},
		{"delete a load balancer", "", "DeleteLoadBalancer", []string{"LoadBalancerArn=" + ourLB}},
		{"delete one that is gone", "AccessDenied", "DeleteLoadBalancer", []string{"LoadBalancerArn=" + ourLB}},
		{"delete a target group", "", "DeleteTargetGroup", []string{"TargetGroupArn=" + ourTG}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bound := c.bound()
			bound.t = t
			bound.wants(tt.code, tt.operation, tt.parameters...)
		})
	}
	if v := c.Violations(); len(v) > 0 {
		t.Errorf("a denied request counts as malformed: %q", v)
	}
}

func TestDeniedSaysWhat(t *testing.T) {
	policy := json.RawMessage(`{"Version": "2012-10-17", "Statement": [
		{"Effect": "Allow", "Action": "elasticloadbalancing:*", "Resource": "*"},
		{"Effect": "Allow", "Action": "ec2:*", "Resource": "*"},
		{"Effect": "Deny", "Action": ["ec2:DescribeSubnets", "elasticloadbalancing:AddTags"], "Resource": "*"},
		{"Effect": "Deny", "Action": "ec2:CreateSecurityGroup", "Resource": "arn:aws:ec2:*:*:vpc/*"}]}`)
	const by = "User: arn:aws:sts::111122223333:assumed-role/cloud-controller-manager/fairway is not authorized to perform: "
	const denied = " with an explicit deny in an identity-based policy"
	for _, tt := range []struct {
		operation  string
		parameters []string
		want       string
	}{
		{"DescribeSubnets", nil, "You are not authorized to perform this operation. " + by + "ec2:DescribeSubnets" + denied},
		{"CreateSecurityGroup", []string{"GroupName=a", "GroupDescription=a", "VpcId=" + vpcID}, "You are not authorized to perform this operation. " + by + "ec2:CreateSecurityGroup on resource: arn:aws:ec2:eu-west-1:111122223333:vpc/" + vpcID + denied},
		{"CreateTargetGroup", newTG("web", elbMark("demo")...), by + "elasticloadbalancing:AddTags on resource: arn:aws:elasticloadbalancing:eu-west-1:111122223333:targetgroup/web/*" + denied},
		{"CreateLoadBalancer", newLB("web"), by + "ec2:DescribeSubnets" + denied},
	} {
		c := newClient(t, atOnce, under(policy)).bound()
		if r := c.ask(tt.operation, tt.parameters...); r.status != 403 || r.text("Message") != tt.want {
			t.Errorf("%s: %d %q, want 403 %q", tt.operation, r.status, r.text("Message"), tt.want)
		}
	}
}

// TestFirstLoadBalancerNeedsTheRole: and later ones do not.
func TestFirstLoadBalancerNeedsTheRole(t *testing.T) {
	policy := json.RawMessage(`{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": ["elasticloadbalancing:*", "ec2:*"], "Resource": "*"}}`)
	c := newClient(t, atOnce, under(policy))
	r := c.bound().ask("CreateLoadBalancer", newLB("web")...)
	const want = "iam:CreateServiceLinkedRole on resource: arn:aws:iam::111122223333:role/aws-service-role/elasticloadbalancing.amazonaws.com/AWSServiceRoleForElasticLoadBalancing because no identity-based policy allows the iam:CreateServiceLinkedRole action"
	if r.code != "AccessDenied" || !strings.HasSuffix(r.text("Message"), want) {
		t.Errorf("the first: %s %q", r.code, r.text("Message"))
	}
	c.must("CreateLoadBalancer", newLB("first")...)
	c.bound().must("CreateLoadBalancer", newLB("web")...)
}

// TestPoliciesAddUp: two documents together allow what needs both.
func TestPoliciesAddUp(t *testing.T) {
	document := func(action string) json.RawMessage {
		return fmt.Appendf(nil, `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": %q, "Resource": "*"}}`, action)
	}
	group := join([]string{"GroupName=a", "GroupDescription=a", "VpcId=" + vpcID}, ec2Mark("demo"))
	newClient(t, atOnce, under(document("ec2:CreateSecurityGroup"))).bound().wants("UnauthorizedOperation", "CreateSecurityGroup", group...)
	both := newClient(t, atOnce, under(document("ec2:CreateSecurityGroup"), document("ec2:CreateTags")))
	both.bound().must("CreateSecurityGroup", group...)
	if used := both.UsedActions(); !slices.Equal(used, []string{"ec2:CreateSecurityGroup", "ec2:CreateTags"}) {
		t.Errorf("used %v", used)
	}
}

// TestTaggedRulesAreResources: a rule with tags takes more permissions than one
// without.
func TestTaggedRulesAreResources(t *testing.T) {
	policy := json.RawMessage(`{"Version": "2012-10-17", "Statement": [
		{"Effect": "Allow", "Action": "ec2:AuthorizeSecurityGroupIngress", "Resource": "arn:aws:ec2:*:*:security-group/*"},
		{"Effect": "Allow", "Action": ["ec2:AuthorizeSecurityGroupIngress", "ec2:CreateTags"], "Resource": "arn:aws:ec2:*:*:security-group-rule/*",
		 "Condition": {"ForAllValues:StringEquals": {"aws:TagKeys": ["team"]}}}]}`)
	c := newClient(t, atOnce, under(policy)).bound()
	rule := func(port, tag string) []string {
		p := join([]string{"GroupId=" + nodeGroup}, permission("tcp", port, port, "IpRanges.1.CidrIp=10.0.0.0/8"))
		if tag != "" {
			p = append(p, "TagSpecification.1.ResourceType=security-group-rule", "TagSpecification.1.Tag.1.Key="+tag, "TagSpecification.1.Tag.1.Value=x")
		}
		return p
	}
	c.must("AuthorizeSecurityGroupIngress", rule("80", "")...)
	c.must("AuthorizeSecurityGroupIngress", rule("81", "team")...)
	c.wants("UnauthorizedOperation", "AuthorizeSecurityGroupIngress", rule("82", "cost")...)
}

// TestPermissionsUseKnownKeys: all that requests tell is what policies can ask for.
func TestPermissionsUseKnownKeys(t *testing.T) {
	c := newClient(t, atOnce)
	lb, tg := c.loadBalancerNamed("web", elbMark("demo")...), c.targetGroupNamed("web", "TCP", elbMark("demo")...)
	value := "x"
	inputs := map[string]any{
		"elasticloadbalancing:CreateLoadBalancer": &createLoadBalancerInput{Tags: []tagInput{{Key: "a"}}},
		"elasticloadbalancing:CreateTargetGroup":  &createTargetGroupInput{Tags: []tagInput{{Key: "a"}}},
		"elasticloadbalancing:CreateListener":     &createListenerInput{LoadBalancerARN: lb, Tags: []tagInput{{Key: "a"}}},
		"elasticloadbalancing:AddTags":            &addTagsInput{ARNs: []string{lb, tg}, Tags: []tagInput{{Key: "a"}}},
		"elasticloadbalancing:RemoveTags":         &removeTagsInput{ARNs: []string{tg}, Keys: []string{"a"}},
		"ec2:CreateSecurityGroup":                 &createSecurityGroupInput{Tags: []tagSpecification{{Tags: []tagInput{{Key: "a"}}}}},
		"ec2:AuthorizeSecurityGroupIngress":       &authorizeInput{GroupID: nodeGroup, Tags: []tagSpecification{{Tags: []tagInput{{Key: "a"}}}}},
		"ec2:DeleteTags":                          &deleteEC2TagsInput{Resources: []string{nodeGroup}, Tags: []tagSelector{{Key: "a", Value: &value}}},
	}
	var asked []string
	for action, in := range inputs {
		for _, need := range in.(authorizer).needs(c.Account, action) {
			for key := range need.context {
				asked = append(asked, key)
				operator := "StringEquals"
				if key == iam.TagKeys {
					operator = "ForAllValues:StringEquals"
				}
				document := fmt.Appendf(nil, `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {%q: {%q: "x"}}}}`, operator, key)
				if _, err := iam.Parse(document); err != nil {
					t.Errorf("%s: %v", action, err)
				}
			}
		}
	}
	for _, key := range []string{iam.RequestTag + "a", iam.TagKeys, iam.ResourceTag + "fairway.io/cluster", iam.ELBResourceTag + "fairway.io/cluster", iam.EC2ResourceTag + "kubernetes.io/cluster/demo", iam.ELBCreateAction, iam.EC2CreateAction} {
		if !slices.Contains(asked, key) {
			t.Errorf("no request tells %s", key)
		}
	}
}

func TestPoliciesAreCheckedWithTheWorld(t *testing.T) {
	data, err := os.ReadFile("testdata/world.yaml")
	if err != nil {
		t.Fatal(err)
	}
	shipped, err := os.ReadFile("../../../docs/aws/iam-policy.json")
	if err != nil {
		t.Fatal(err)
	}
	var compact strings.Builder
	for line := range strings.Lines(string(shipped)) {
		compact.WriteString(strings.TrimSpace(line))
	}
	world := string(data) + "\npolicies:\n- " + compact.String() + "\n"
	if _, err := ParseWorld([]byte(world)); err == nil || !strings.Contains(err.Error(), "policies: document 1") || !strings.Contains(err.Error(), "placeholder") {
		t.Errorf("with the placeholder left in: %v", err)
	}
	w, err := ParseWorld([]byte(strings.ReplaceAll(world, "${CLUSTER_NAME}", "demo")))
	if err != nil || len(w.Policies) != 1 {
		t.Errorf("with it replaced: %d policies, %v", len(w.Policies), err)
	}
}
