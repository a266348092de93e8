package aws

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	smithy "github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/fairway-lb/fairway/providers/lb"
)

var elbName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

func TestNamesAreValid(t *testing.T) {
	services := []lb.ServiceRef{
		{Namespace: "default", Name: "web", UID: "1"},
		{Namespace: "internal", Name: "internal", UID: "2"},
		{Namespace: strings.Repeat("n", 63), Name: strings.Repeat("s", 63), UID: strings.Repeat("u", 36)},
		{Namespace: "a-b-c-d-e-f", Name: "-", UID: "4"},
		{Namespace: "kube-system", Name: "x", UID: "5"},
	}
	n := names{lb.Cluster{Name: strings.Repeat("c", 100), UID: "u"}}
	for _, s := range services {
		for _, scheme := range []string{schemeInternet, schemeInternal} {
			for _, name := range []string{n.loadBalancer(s, scheme, testVPC), n.targetGroup(s, scheme, testVPC, "TCP_UDP", 65535)} {
				if !elbName.MatchString(name) || strings.HasPrefix(name, "internal-") {
					t.Errorf("%q (%d characters) is no name for %s", name, len(name), s)
				}
			}
		}
		if name := n.frontend(s); len(name) > 255 || strings.HasPrefix(name, "sg-") {
			t.Errorf("%q is no name of a security group", name)
		}
	}
	if len(n.backend()) > 255 {
		t.Errorf("%q is too long", n.backend())
	}
}

// TestNamesDiffer: whatever AWS cannot change in place, and whoever owns it,
// makes another name.
func TestNamesDiffer(t *testing.T) {
	s := lb.ServiceRef{Namespace: "default", Name: "web", UID: "1"}
	again := lb.ServiceRef{Namespace: "default", Name: "web", UID: "2"}
	demo, reborn, other := names{lb.Cluster{Name: "demo", UID: "1"}}, names{lb.Cluster{Name: "demo", UID: "2"}}, names{lb.Cluster{Name: "other", UID: "1"}}
	seen := map[string]string{}
	check := func(what, name string) {
		if was, taken := seen[name]; taken {
			t.Errorf("%s and %s are both called %s", what, was, name)
		}
		seen[name] = what
	}
	for label, n := range map[string]names{"demo": demo, "reborn": reborn, "other": other} {
		check(label+" backend", n.backend())
		for life, s := range map[string]lb.ServiceRef{"first": s, "second": again} {
			check(label+life+"frontend", n.frontend(s))
			for _, scheme := range []string{schemeInternet, schemeInternal} {
				for _, vpc := range []string{"vpc-1", "vpc-2"} {
					check(fmt.Sprint(label, life, scheme, vpc), n.loadBalancer(s, scheme, vpc))
					for _, protocol := range []string{"TCP", "UDP", "TCP_UDP"} {
						check(fmt.Sprint(label, life, scheme, vpc, protocol), n.targetGroup(s, scheme, vpc, protocol, 30080))
					}
				}
			}
		}
	}
}

func TestRulesSurviveTheRoundTrip(t *testing.T) {
	rules := []string{
		"all from sg-1", "icmp/3-4 from 0.0.0.0/0", "icmpv6/2-0 from ::/0", "icmp from 10.0.0.0/8", "tcp/443 from pl-0f",
		"tcp/80 from 0.0.0.0/0", "tcp/80 from 2001:db8::/32", "udp/30000-32767 from sg-2",
	}
	made, err := permissions(rules, "why")
	if err != nil {
		t.Fatal(err)
	}
	if len(made) != 7 {
		t.Errorf("%d permissions, want the two of tcp/80 together", len(made))
	}
	got := lb.Set(rulesIn(ec2types.SecurityGroup{IpPermissions: made}, func(d string) bool { return d == "why" }, sameName)...)
	if !got.Equal(lb.Set(rules...)) {
		t.Errorf("got %v, want %v", got, rules)
	}
	if _, err := permissions([]string{"tcp/80"}, ""); err == nil {
		t.Error("a rule without a source is taken")
	}
}

func TestErrorKinds(t *testing.T) {
	answered := func(status int, code string, headers ...string) error {
		r := &http.Response{StatusCode: status, Header: http.Header{}}
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		return &smithy.OperationError{ServiceID: "ELB", OperationName: "X", Err: &awshttp.ResponseError{ResponseError: &smithyhttp.ResponseError{
			Response: &smithyhttp.Response{Response: r}, Err: &smithy.GenericAPIError{Code: code, Message: "because"}}}}
	}
	cases := []struct {
		err  error
		want lb.ErrorKind
		hint bool
	}{
		{answered(400, "TargetGroupNotFound"), lb.NotFound, false},
		{answered(400, "TargetGroupNotFoundException"), lb.NotFound, false},
		{answered(400, "Throttling"), lb.Throttled, true},
		{answered(503, "RequestLimitExceeded"), lb.Throttled, true},
		{answered(400, "DependencyViolation"), lb.Pending, true},
		{answered(400, "ResourceInUse"), lb.Pending, true},
		{answered(400, "TooManyTargets"), lb.Quota, false},
		{answered(403, "UnauthorizedOperation"), lb.Denied, false},
		{answered(400, "DuplicateTargetGroupName"), lb.Conflict, false},
		{answered(400, "InvalidTarget"), lb.Invalid, false},
		{answered(400, "NeverHeardOf"), lb.Invalid, false},
		{answered(403, "NeverHeardOf"), lb.Denied, false},
		{answered(429, "NeverHeardOf", "Retry-After", "7"), lb.Throttled, true},
		{answered(500, "InternalFailure"), lb.Unavailable, false},
		{errors.New("connection reset"), lb.Unavailable, false},
	}
	for _, c := range cases {
		e := failed("do", lb.Ref{Kind: "x", Key: "y"}, c.err)
		if e.Kind != c.want || (e.RetryAfter > 0) != c.hint {
			t.Errorf("%v: got %s after %s, want %s (hint %v)", c.err, e.Kind, e.RetryAfter, c.want, c.hint)
		}
		if !errors.Is(e, c.err) {
			t.Errorf("%v is lost", c.err)
		}
	}
	seen := map[string]lb.ErrorKind{}
	for kind, codes := range kinds {
		for _, code := range codes {
			if was, twice := seen[code]; twice || strings.HasSuffix(code, "Exception") {
				t.Errorf("%s is %s and %s, or has a suffix", code, was, kind)
			}
			seen[code] = kind
		}
	}
}
