package aws

import (
	"bytes"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/synctest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestWire holds one whole life of a load balancer as bytes: each request and the
// answer to it. Virtual time and seeded identifiers make it the same every time.
func TestWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t)
		var story bytes.Buffer
		tell := func(operation string, parameters ...string) reply {
			r := c.ask(operation, parameters...)
			fmt.Fprintf(&story, "### %s %s\n%d\n%s\n\n", operation, strings.Join(parameters, " "), r.status, r.body)
			return r
		}
		tell("GetCallerIdentity")
		tell("DescribeVpcs")
		tell("DescribeAvailabilityZones", "ZoneName.1=eu-west-1a")
		tell("DescribeSubnets", "SubnetId.1="+subnetA)
		tell("DescribeRouteTables")
		tell("DescribeInstances", "Filter.1.Name=instance-id", "Filter.1.Value.1="+node1)
		tell("DescribeAddresses")

		group := tell("CreateSecurityGroup", "GroupName=front", "GroupDescription=of the test", "VpcId="+vpcID,
			"TagSpecification.1.ResourceType=security-group", "TagSpecification.1.Tag.1.Key=owner", "TagSpecification.1.Tag.1.Value=test").text("groupId")
		tell("AuthorizeSecurityGroupIngress", join([]string{"GroupId=" + group},
			permission("tcp", "80", "80", "IpRanges.1.CidrIp=198.51.100.9/24", "IpRanges.1.Description=web", "Ipv6Ranges.1.CidrIpv6=2001:db8::/32"))...)
		rule := tell("AuthorizeSecurityGroupIngress", join([]string{"GroupId=" + nodeGroup}, permission("-1", "", "", "Groups.1.GroupId="+group))...).text("securityGroupRuleId")
		tell("DescribeSecurityGroups", "GroupId.1="+group)
		tell("DescribeSecurityGroupRules", "Filter.1.Name=group-id", "Filter.1.Value.1="+nodeGroup)
		tell("CreateTags", "ResourceId.1="+group, "Tag.1.Key=extra", "Tag.1.Value=1")
		tell("DeleteTags", "ResourceId.1="+group, "Tag.1.Key=extra")

		lb := tell("CreateLoadBalancer", "Name=web", "Type=network", "Scheme=internet-facing", "IpAddressType=ipv4",
			"Subnets.member.1="+subnetA, "Subnets.member.2="+subnetB, "SecurityGroups.member.1="+group,
			"Tags.member.1.Key=owner", "Tags.member.1.Value=test").text("LoadBalancerArn")
		tg := tell("CreateTargetGroup", "Name=web-80", "Protocol=TCP", "Port=30080", "VpcId="+vpcID, "TargetType=instance",
			"HealthCheckProtocol=HTTP", "HealthCheckPort=10256", "HealthCheckPath=/healthz", "HealthCheckIntervalSeconds=10",
			"Matcher.HttpCode=200-399").text("TargetGroupArn")
		tell("RegisterTargets", "TargetGroupArn="+tg, "Targets.member.1.Id="+node1, "Targets.member.2.Id="+node3)
		tell("DescribeTargetHealth", "TargetGroupArn="+tg)
		listener := tell("CreateListener", forward(lb, tg, "TCP", "80")...).text("ListenerArn")
		tell("DescribeTargetHealth", "TargetGroupArn="+tg)
		tell("DescribeLoadBalancers", "Names.member.1=web")
		tell("DescribeTargetGroups", "LoadBalancerArn="+lb)
		tell("DescribeListeners", "LoadBalancerArn="+lb)
		tell("ModifyLoadBalancerAttributes", "LoadBalancerArn="+lb, "Attributes.member.1.Key=load_balancing.cross_zone.enabled", "Attributes.member.1.Value=true")
		tell("DescribeLoadBalancerAttributes", "LoadBalancerArn="+lb)
		tell("ModifyTargetGroupAttributes", "TargetGroupArn="+tg, "Attributes.member.1.Key=stickiness.enabled", "Attributes.member.1.Value=true")
		tell("DescribeTargetGroupAttributes", "TargetGroupArn="+tg)
		tell("ModifyListenerAttributes", "ListenerArn="+listener, "Attributes.member.1.Key=tcp.idle_timeout.seconds", "Attributes.member.1.Value=600")
		tell("DescribeListenerAttributes", "ListenerArn="+listener)
		tell("ModifyTargetGroup", "TargetGroupArn="+tg, "HealthyThresholdCount=3")
		tell("ModifyListener", "ListenerArn="+listener, "Port=8080")
		tell("SetSubnets", "LoadBalancerArn="+lb, "Subnets.member.1="+subnetA)
		tell("SetSecurityGroups", "LoadBalancerArn="+lb, "SecurityGroups.member.1="+group, "SecurityGroups.member.2="+nodeGroup)
		tell("SetIpAddressType", "LoadBalancerArn="+lb, "IpAddressType=ipv4")
		tell("AddTags", "ResourceArns.member.1="+lb, "Tags.member.1.Key=more", "Tags.member.1.Value=")
		tell("RemoveTags", "ResourceArns.member.1="+lb, "TagKeys.member.1=owner")
		tell("DescribeTags", "ResourceArns.member.1="+lb, "ResourceArns.member.2="+tg)
		tell("DescribeNetworkInterfaces", "Filter.1.Name=description", "Filter.1.Value.1=ELB net/web/*")
		tell("DeregisterTargets", "TargetGroupArn="+tg, "Targets.member.1.Id="+node1)

		tell("DeleteTargetGroup", "TargetGroupArn="+tg)
		tell("DeleteSecurityGroup", "GroupId="+group)
		tell("DeleteListener", "ListenerArn="+listener)
		tell("DeleteLoadBalancer", "LoadBalancerArn="+lb)
		tell("DescribeLoadBalancers", "LoadBalancerArns.member.1="+lb)
		tell("RevokeSecurityGroupIngress", "GroupId="+nodeGroup, "SecurityGroupRuleId.1="+rule)
		golden(t, "testdata/wire.golden", story.Bytes())
	})
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	gotLines, wantLines := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(gotLines), len(wantLines)) {
		if i >= len(gotLines) || i >= len(wantLines) || gotLines[i] != wantLines[i] {
			t.Fatalf("%s differs from line %d on (run with -update to rewrite it):\n got %q\nwant %q", path, i+1,
				lineAt(gotLines, i), lineAt(wantLines, i))
		}
	}
}

func lineAt(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(end)"
}

// TestRequestsNobodySends: what no correct client sends is refused in the
// protocol the client can read, has no effect, and is remembered.
func TestRequestsNobodySends(t *testing.T) {
	elb, ec2 := authorization(ownKey, "elasticloadbalancing", "eu-west-1"), authorization(ownKey, "ec2", "eu-west-1")
	form := func(pairs ...string) string {
		v := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			v.Add(pairs[i], pairs[i+1])
		}
		return v.Encode()
	}
	group := []string{"Version", ec2Service.version, "Action", "CreateSecurityGroup", "GroupName", "g", "GroupDescription", "d", "VpcId", vpcID}
	tests := []struct {
		name, form, authorization, code string
		status                          int
		envelope                        string
	}{
		{"no authorization, ELBv2", form("Action", "DescribeTags", "Version", "2015-12-01"), "", "MissingAuthenticationToken", 403, "<ErrorResponse"},
		{"no authorization, EC2", form("Action", "DescribeVpcs", "Version", "2016-11-15"), "", "AuthFailure", 401, "<Response>"},
		{"no scope", form(group...), "AWS4-HMAC-SHA256 Credential=AKID, SignedHeaders=host, Signature=0", "AuthFailure", 401, "<Response>"},
		{"another region", form(group...), authorization(ownKey, "ec2", "us-east-1"), "SignatureDoesNotMatch", 403, "<Response>"},
		{"another version", form("Action", "DescribeVpcs", "Version", "2014-01-01"), ec2, "InvalidAction", 400, "<Response>"},
		{"the other service's operation", form("Action", "DescribeVpcs", "Version", "2015-12-01"), elb, "InvalidAction", 400, "<ErrorResponse"},
		{"unknown operation", form("Action", "Explode", "Version", "2016-11-15"), ec2, "InvalidAction", 400, "<Response>"},
		{"unknown parameter, EC2", form(append(group, "Colour", "red")...), ec2, "UnknownParameter", 400, "<Response>"},
		{"unknown parameter inside a list, EC2", form(append(group, "TagSpecification.1.ResourceType", "security-group", "TagSpecification.1.Tag.1.Key", "k", "TagSpecification.1.Tag.1.Nalue", "v")...), ec2, "UnknownParameter", 400, "<Response>"},
		{"unknown parameter, ELBv2", form("Action", "DescribeLoadBalancers", "Version", "2015-12-01", "Name.1", "web"), elb, "ValidationError", 400, "<ErrorResponse"},
		{"awsQuery list in ec2Query", form("Action", "DescribeVpcs", "Version", "2016-11-15", "VpcId.member.1", vpcID), ec2, "UnknownParameter", 400, "<Response>"},
		{"missing parameter, EC2", form(group[:6]...), ec2, "MissingParameter", 400, "<Response>"},
		{"missing parameter, ELBv2", form("Action", "DeleteLoadBalancer", "Version", "2015-12-01"), elb, "ValidationError", 400, "<ErrorResponse"},
		{"number that is none", form("Action", "DescribeLoadBalancers", "Version", "2015-12-01", "PageSize", "many"), elb, "ValidationError", 400, "<ErrorResponse"},
		{"parameter given twice", form(append(group, "GroupName", "h")...), ec2, "InvalidParameterValue", 400, "<Response>"},
		{"no form", "%zz", ec2, "MalformedQueryString", 400, "<Response>"},
		{"too large", strings.Repeat("x", maxBody+1), ec2, "RequestEntityTooLarge", 413, "<Response>"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newClient(t, atOnce)
			r := c.send(tt.form, tt.authorization)
			if r.status != tt.status || r.code != tt.code || !strings.Contains(r.body, tt.envelope) {
				t.Errorf("answered %d %s, want %d %s in %s\n%s", r.status, r.code, tt.status, tt.code, tt.envelope, r.body)
			}
			if left := c.Leftovers(); len(left) != 0 {
				t.Errorf("a refused request left %v", left)
			}
			malformed := r.code == "MalformedQueryString" || r.code == "RequestEntityTooLarge"
			if n := len(c.Violations()); !malformed && n != 1 {
				t.Errorf("%d violations remembered: %q", n, c.Violations())
			}
		})
	}
}

func TestDryRunDoesNothing(t *testing.T) {
	c := newClient(t, atOnce)
	r := c.ask("CreateSecurityGroup", "GroupName=g", "GroupDescription=d", "VpcId="+vpcID, "DryRun=true")
	if r.status != http.StatusPreconditionFailed || r.code != "DryRunOperation" {
		t.Errorf("answered %d %s", r.status, r.code)
	}
	if left := c.Leftovers(); len(left) != 0 {
		t.Errorf("a dry run left %v", left)
	}
}

func TestGetIsRefused(t *testing.T) {
	c := newClient(t, atOnce)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if status := c.serve(r); status != http.StatusMethodNotAllowed {
		t.Errorf("a GET was answered %d", status)
	}
}
