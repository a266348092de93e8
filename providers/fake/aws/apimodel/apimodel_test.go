package apimodel

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func model(t *testing.T) Model {
	t.Helper()
	m, err := Published()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestModelIsFresh: model.json is what the generator makes of the pinned module.
func TestModelIsFresh(t *testing.T) {
	fresh := filepath.Join(t.TempDir(), "model.json")
	if out, err := exec.Command("go", "run", "./generate", fresh).CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the model cannot be made again: %v\n%s", err, out)
		}
		t.Skipf("SKIPPED: the module aws-sdk-go cannot be had, so whether model.json is fresh is not known: %v\n%s", err, out)
	}
	want, err := os.ReadFile(fresh)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(published, want) {
		t.Error("model.json is stale; run go generate")
	}
}

func TestOverlaySaysWhere(t *testing.T) {
	var additions []addition
	if err := decode(overlay, &additions); err != nil {
		t.Fatal(err)
	}
	for i, a := range additions {
		if !strings.HasPrefix(a.Source, "https://docs.aws.amazon.com/") {
			t.Errorf("entry %d is from %q, not a page of AWS's", i+1, a.Source)
		}
	}
}

func TestModelsAreReadStrictly(t *testing.T) {
	const service = `{"s": {"protocol": "query", "operations": {"Do": {"input": "In"}}, "shapes": {"In": {"type": "structure", "members": {"A": {"shape": "E"}}}, "E": {"type": "string", "enum": ["x"]}}}}`
	entry := func(fields string) string { return fmt.Sprintf(`[{"source": "page", "service": "s", %s}]`, fields) }
	for _, tt := range []struct{ name, model, overlay, want string }{
		{"nothing wrong", service, entry(`"members": {"In": {"B": {"shape": "E"}}}, "values": {"E": ["y"]}, "outputs": {"Do": "In"}`), ""},
		{"unknown field of the model", strings.Replace(service, "enum", "enums", 1), "[]", "enums"},
		{"unknown field of the overlay", service, entry(`"member": {}`), "member"},
		{"absent shape", strings.Replace(service, `"input": "In"`, `"input": "Out"`, 1), "[]", `no shape "Out"`},
		{"absent shape of a member", strings.Replace(service, `{"shape": "E"}`, `{"shape": "F"}`, 1), "[]", `no shape "F"`},
		{"unknown type", strings.Replace(service, `"type": "string"`, `"type": "blob"`, 1), "[]", "blob"},
		{"bad pattern", strings.Replace(service, `"enum": ["x"]`, `"pattern": "("`, 1), "[]", "shape E"},
		{"overlay of another service", service, `[{"source": "page", "service": "t"}]`, `no service "t"`},
		{"operation that is there", service, entry(`"operations": {"Do": {}}`), "Do is there already"},
		{"shape that is there", service, entry(`"shapes": {"E": {"type": "string"}}`), "E is there already"},
		{"member that is there", service, entry(`"members": {"In": {"A": {"shape": "E"}}}`), "A is there already"},
		{"member of an absent structure", service, entry(`"members": {"E": {"A": {"shape": "E"}}}`), "no structure E"},
		{"value that is there", service, entry(`"values": {"E": ["x"]}`), "x already"},
		{"value of no enumeration", service, entry(`"values": {"In": ["x"]}`), "no enumeration In"},
		{"output of an absent operation", service, entry(`"outputs": {"Undo": "In"}`), "Undo"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := read([]byte(tt.model), []byte(tt.overlay))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestRequests(t *testing.T) {
	m := model(t)
	const arn = "arn:aws:elasticloadbalancing:eu-west-1:111122223333:targetgroup/a/0123456789abcdef"
	newTG := "Name=a&Protocol=TCP&Port=80"
	tests := []struct{ name, service, operation, form, want string }{
		{"all is well", "elasticloadbalancing", "CreateTargetGroup", newTG + "&Tags.member.1.Key=k&Tags.member.1.Value=v", ""},
		{"action and version are nobody's", "sts", "GetCallerIdentity", "Action=GetCallerIdentity&Version=2011-06-15", ""},
		{"missing", "elasticloadbalancing", "CreateTargetGroup", "Protocol=TCP", "Name name: Member must not be null"},
		{"missing in a list", "elasticloadbalancing", "CreateTargetGroup", newTG + "&Tags.member.2.Value=v", "Tags.member.2.Key tags.2.member.key: Member must not be null"},
		{"missing list", "elasticloadbalancing", "RegisterTargets", "TargetGroupArn=" + arn, "Targets targets: Member must not be null"},
		{"unknown", "elasticloadbalancing", "CreateTargetGroup", newTG + "&Colour=red", "Colour Colour: "},
		{"unknown in a list", "elasticloadbalancing", "CreateTargetGroup", newTG + "&Tags.member.1.Key=k&Tags.member.1.Name=v", "Tags.member.1.Name Tags.member.1.Name: "},
		{"list of the other protocol", "elasticloadbalancing", "DescribeTags", "ResourceArns.1=" + arn, "ResourceArns resourceArns: Member must not be null; ResourceArns.1 ResourceArns.1: "},
		{"number", "elasticloadbalancing", "CreateTargetGroup", "Name=a&Port=http", "Port port: Member must be of type integer"},
		{"boolean", "elasticloadbalancing", "CreateTargetGroup", "Name=a&HealthCheckEnabled=yes", "HealthCheckEnabled healthCheckEnabled: Member must be of type boolean"},
		{"twice", "elasticloadbalancing", "CreateTargetGroup", "Name=a&Name=b", "Name name: Member must be given once"},
		{"enumeration", "elasticloadbalancing", "CreateTargetGroup", "Name=a&TargetType=pod", "TargetType targetType: Member must satisfy enum value set: [instance, ip, lambda, alb]"},
		{"too small", "elasticloadbalancing", "CreateTargetGroup", "Name=a&Port=0", "Port port: Member must have value greater than or equal to 1"},
		{"too large", "elasticloadbalancing", "CreateTargetGroup", "Name=a&Port=65536", "Port port: Member must have value less than or equal to 65535"},
		{"too long", "elasticloadbalancing", "RemoveTags", "ResourceArns.member.1=" + arn + "&TagKeys.member.1=" + strings.Repeat("é", 129), "TagKeys.member.1 tagKeys.1.member: Member must have length less than or equal to 128"},
		{"long enough in characters", "elasticloadbalancing", "RemoveTags", "ResourceArns.member.1=" + arn + "&TagKeys.member.1=" + strings.Repeat("é", 128), ""},
		{"pattern", "elasticloadbalancing", "RemoveTags", "ResourceArns.member.1=" + arn + "&TagKeys.member.1=a*", `TagKeys.member.1 tagKeys.1.member: Member must satisfy regular expression pattern: ^([\p{L}\p{Z}\p{N}_.:/=+\-@]*)$`},
		{"empty list that must not be", "elasticloadbalancing", "CreateTargetGroup", newTG + "&Tags=", "Tags tags: Member must have length greater than or equal to 1"},
		{"empty list that may be", "elasticloadbalancing", "RegisterTargets", "TargetGroupArn=" + arn + "&Targets=", ""},
		{"EC2 names", "ec2", "AuthorizeSecurityGroupIngress", "GroupId=sg-1&IpPermissions.1.IpProtocol=tcp&IpPermissions.1.FromPort=1&IpPermissions.1.ToPort=2&IpPermissions.1.IpRanges.1.CidrIp=10.0.0.0/8&IpPermissions.1.Groups.1.GroupId=sg-2&DryRun=true", ""},
		{"EC2 filters", "ec2", "DescribeSubnets", "Filter.1.Name=vpc-id&Filter.1.Value.1=a&Filter.1.Value.2=b&MaxResults=5", ""},
		{"EC2 filter in the other spelling", "ec2", "DescribeSubnets", "Filters.1.Name=vpc-id", "Filters.1.Name Filters.1.Name: "},
		{"EC2 page", "ec2", "DescribeSubnets", "MaxResults=4", "MaxResults maxResults: Member must have value greater than or equal to 5"},
		{"EC2 enumeration", "ec2", "DescribeAvailabilityZones", "AllAvailabilityZones=1", "AllAvailabilityZones allAvailabilityZones: Member must be of type boolean"},
		{"from the overlay", "elasticloadbalancing", "ModifyListenerAttributes", "ListenerArn=" + arn + "&Attributes.member.1.Key=tcp.idle_timeout.seconds&Attributes.member.1.Value=60", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			form, err := url.ParseQuery(tt.form)
			if err != nil {
				t.Fatal(err)
			}
			breaches, err := m.CheckRequest(tt.service, tt.operation, form)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, b := range breaches {
				got = append(got, fmt.Sprintf("%s %s: %s", b.Key, b.Path, b.Rule))
			}
			if strings.Join(got, "; ") != tt.want {
				t.Errorf("breaches\n%s\nwant\n%s", strings.Join(got, "; "), tt.want)
			}
		})
	}
	if _, err := m.CheckRequest("ec2", "RunInstances", nil); err == nil {
		t.Error("an operation that the model has not is checked")
	}
}

func TestAnswers(t *testing.T) {
	m := model(t)
	elb := func(result string) string {
		return "<DescribeTargetHealthResponse><DescribeTargetHealthResult>" + result + "</DescribeTargetHealthResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></DescribeTargetHealthResponse>"
	}
	health := func(in string) string {
		return elb("<TargetHealthDescriptions><member>" + in + "</member></TargetHealthDescriptions>")
	}
	groups := func(in string) string {
		return "<DescribeSecurityGroupsResponse><requestId>1</requestId><securityGroupInfo>" + in + "</securityGroupInfo></DescribeSecurityGroupsResponse>"
	}
	tests := []struct{ name, service, operation, body, want string }{
		{"all is well", "elasticloadbalancing", "DescribeTargetHealth", health("<Target><Id>i-1</Id><Port>80</Port></Target><TargetHealth><State>healthy</State></TargetHealth>"), ""},
		{"another operation's", "elasticloadbalancing", "DescribeTags", elb(""), "DescribeTargetHealthResponse is not DescribeTagsResponse; DescribeTargetHealthResult is neither DescribeTagsResult nor ResponseMetadata"},
		{"unknown element", "elasticloadbalancing", "DescribeTargetHealth", health("<Targets/>"), "DescribeTargetHealth.TargetHealthDescriptions.member.Targets is not in the model"},
		{"element twice", "elasticloadbalancing", "DescribeTargetHealth", health("<HealthCheckPort>1</HealthCheckPort><HealthCheckPort>2</HealthCheckPort>"), "DescribeTargetHealth.TargetHealthDescriptions.member.HealthCheckPort is there twice"},
		{"list's element", "elasticloadbalancing", "DescribeTargetHealth", elb("<TargetHealthDescriptions><item/></TargetHealthDescriptions>"), "DescribeTargetHealth.TargetHealthDescriptions.item is not member"},
		{"number", "elasticloadbalancing", "DescribeTargetHealth", health("<Target><Port>http</Port></Target>"), `DescribeTargetHealth.TargetHealthDescriptions.member.Target.Port "http" is not a integer`},
		{"enumeration", "elasticloadbalancing", "DescribeTargetHealth", health("<TargetHealth><State>fine</State></TargetHealth>"), `DescribeTargetHealth.TargetHealthDescriptions.member.TargetHealth.State "fine" is not one of initial, healthy, unhealthy, unhealthy.draining, unused, draining, unavailable`},
		{"text in a structure", "elasticloadbalancing", "DescribeTargetHealth", health("<Target>i-1</Target>"), `DescribeTargetHealth.TargetHealthDescriptions.member.Target has text "i-1", but is a structure`},
		{"elements in a scalar", "elasticloadbalancing", "DescribeTargetHealth", health("<Target><Id><Id/></Id></Target>"), "DescribeTargetHealth.TargetHealthDescriptions.member.Target.Id has elements, but is a string"},
		{"EC2", "ec2", "DescribeSecurityGroups", groups("<item><groupId>sg-1</groupId><tagSet><item><key>a</key><value>b</value></item></tagSet></item>"), ""},
		{"EC2, members as the API names them", "ec2", "DescribeSecurityGroups", groups("<item><Tags/></item>"), "DescribeSecurityGroups.securityGroupInfo.item.Tags is not in the model"},
		{"EC2 without output", "ec2", "CreateTags", "<CreateTagsResponse><requestId>1</requestId><return>true</return></CreateTagsResponse>", ""},
		{"EC2 without output, but with some", "ec2", "CreateTags", "<CreateTagsResponse><requestId>1</requestId><tagSet/></CreateTagsResponse>", "CreateTags.tagSet is not in the model"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			mistakes, err := m.CheckAnswer(tt.service, tt.operation, []byte(tt.body))
			if err != nil || strings.Join(mistakes, "; ") != tt.want {
				t.Errorf("%v, mistakes\n%s\nwant\n%s", err, strings.Join(mistakes, "; "), tt.want)
			}
		})
	}
	if _, err := m.CheckAnswer("ec2", "CreateTags", []byte("<CreateTags")); err == nil {
		t.Error("a body that is not XML is checked")
	}
	if _, err := m.CheckAnswer("ec2", "RunInstances", nil); err == nil {
		t.Error("an operation that the model has not is checked")
	}
}
