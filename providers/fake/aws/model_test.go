package aws

import (
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fairway-lb/fairway/providers/fake/aws/apimodel"
)

// TestServedIsDescribed: the account serves exactly the operations that AWS's
// description of it has, and takes no parameter that AWS does not.
func TestServedIsDescribed(t *testing.T) {
	model, err := apimodel.Published()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*service{elbService, ec2Service, stsService} {
		served, described := slices.Sorted(maps.Keys(s.operations)), slices.Sorted(maps.Keys(model[s.name].Operations))
		if !slices.Equal(served, described) {
			t.Errorf("%s serves %v, described are %v", s.name, served, described)
		}
		for _, name := range served {
			form := url.Values{}
			everything(form, reflect.TypeOf(s.operations[name].input()).Elem(), "")
			breaches, err := model.CheckRequest(s.name, name, form)
			if err != nil {
				t.Error(err)
			}
			for _, b := range breaches {
				if b.Kind == apimodel.Unknown || b.Kind == apimodel.Missing {
					t.Errorf("%s takes %s: kind %d, %s", name, b.Key, b.Kind, b.Rule)
				}
			}
		}
	}
}

// everything gives each parameter of an input a value.
func everything(form url.Values, in reflect.Type, prefix string) {
	for i := range in.NumField() {
		f := in.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("query"), ",")
		kind := f.Type
		if kind.Kind() == reflect.Slice {
			name, kind = name+".1", kind.Elem()
		}
		if kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		switch {
		case f.Anonymous:
			everything(form, f.Type, prefix)
		case kind.Kind() == reflect.Struct:
			everything(form, kind, prefix+name+".")
		case kind.Kind() == reflect.Bool:
			form.Set(prefix+name, "true")
		default:
			form.Set(prefix+name, "6")
		}
	}
}

// TestBreachesAreAnswered: what AWS's description does not allow is answered as the
// service does, changes nothing and is remembered.
func TestBreachesAreAnswered(t *testing.T) {
	for _, tt := range []struct {
		name, operation string
		parameters      []string
		code, message   string
	}{
		{"missing, ELBv2", "CreateLoadBalancer", nil, "ValidationError", "1 validation error detected: Value null at 'name' failed to satisfy constraint: Member must not be null"},
		{"two at once, ELBv2", "CreateTargetGroup", newTG("web", "TargetType=pod", "HealthCheckIntervalSeconds=1"), "ValidationError",
			"2 validation errors detected: Value '1' at 'healthCheckIntervalSeconds' failed to satisfy constraint: Member must have value greater than or equal to 5; " +
				"Value 'pod' at 'targetType' failed to satisfy constraint: Member must satisfy enum value set: [instance, ip, lambda, alb]"},
		{"unknown, ELBv2", "DescribeTargetGroups", []string{"Colour=red"}, "ValidationError", "1 validation error detected: DescribeTargetGroups does not know the parameter 'Colour'"},
		{"missing, EC2", "CreateSecurityGroup", []string{"GroupName=web", "VpcId=" + vpcID}, "MissingParameter", "The request must contain the parameter GroupDescription"},
		{"too small, EC2", "DescribeSubnets", []string{"MaxResults=4"}, "InvalidParameterValue", "Value ( 4 ) for parameter maxResults is invalid. Member must have value greater than or equal to 5"},
		{"unknown, EC2", "DescribeSubnets", []string{"Colour=red"}, "UnknownParameter", "The parameter Colour is not recognized by DescribeSubnets"},
		{"known but not served, ELBv2", "CreateLoadBalancer", newLB("web", "CustomerOwnedIpv4Pool=ipv4pool-coip-1"), "ValidationError", "CreateLoadBalancer is served here without the parameters CustomerOwnedIpv4Pool"},
		{"known but not served, EC2", "AuthorizeSecurityGroupIngress", join([]string{"GroupId=" + nodeGroup, "CidrIp=10.0.0.0/8"}, permission("tcp", "80", "80", "IpRanges.1.CidrIp=10.0.0.0/8")), "UnsupportedOperation", "AuthorizeSecurityGroupIngress is served here without the parameters CidrIp"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClient(t, atOnce)
			r := c.ask(tt.operation, tt.parameters...)
			if r.code != tt.code || r.text("Message") != tt.message {
				t.Errorf("answered %q %q, want %q %q", r.code, r.text("Message"), tt.code, tt.message)
			}
			if v := c.Violations(); (len(v) == 1) != (tt.code != "") {
				t.Errorf("remembered: %q", v)
			}
			if left := c.Leftovers(); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}
