package aws

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/fairway-lb/fairway/providers/fake"
	"github.com/fairway-lb/fairway/providers/fake/aws/apimodel"
)

type protocol int

const (
	awsQuery protocol = iota
	ec2Query
)

// service is one AWS service: its protocol and its operations.
type service struct {
	// name is the signing name, which is also the prefix of IAM actions.
	name, version, namespace, contentType string
	protocol                              protocol
	operations                            map[string]*operation
}

// operation is one action of a service.
type operation struct {
	name string
	// write says that it can change something.
	write bool
	// input returns a new struct for decodeForm.
	input func() any
	// run does it, with the account locked and the input decoded. A result of EC2
	// embeds ec2Reply and is a pointer. On error nothing has changed.
	run func(a *Account, in any) (any, error)
}

func reads[In, Out any](name string, run func(*Account, *In) (Out, error)) *operation {
	return newOperation(name, false, run)
}

// writes makes an operation that can change something; its input has to know which
// permissions that takes.
func writes[In, Out any, P interface {
	*In
	authorizer
}](name string, run func(*Account, *In) (Out, error)) *operation {
	return newOperation(name, true, run)
}

func newOperation[In, Out any](name string, write bool, run func(*Account, *In) (Out, error)) *operation {
	return &operation{
		name: name, write: write,
		input: func() any { return new(In) },
		run: func(a *Account, in any) (any, error) {
			out, err := run(a, in.(*In))
			if err != nil {
				return nil, err
			}
			return out, nil
		},
	}
}

func index(operations ...*operation) map[string]*operation {
	m := make(map[string]*operation, len(operations))
	for _, op := range operations {
		m[op.name] = op
	}
	return m
}

var elbService = &service{
	name: "elasticloadbalancing", version: "2015-12-01", protocol: awsQuery, contentType: "text/xml",
	namespace: "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/",
	operations: index(
		writes("CreateLoadBalancer", (*Account).createLoadBalancer),
		writes("DeleteLoadBalancer", (*Account).deleteLoadBalancer),
		reads("DescribeLoadBalancers", (*Account).describeLoadBalancers),
		reads("DescribeLoadBalancerAttributes", (*Account).describeLoadBalancerAttributes),
		writes("ModifyLoadBalancerAttributes", (*Account).modifyLoadBalancerAttributes),
		writes("SetSecurityGroups", (*Account).setSecurityGroups),
		writes("SetSubnets", (*Account).setSubnets),
		writes("SetIpAddressType", (*Account).setIPAddressType),
		writes("CreateTargetGroup", (*Account).createTargetGroup),
		writes("DeleteTargetGroup", (*Account).deleteTargetGroup),
		reads("DescribeTargetGroups", (*Account).describeTargetGroups),
		writes("ModifyTargetGroup", (*Account).modifyTargetGroup),
		reads("DescribeTargetGroupAttributes", (*Account).describeTargetGroupAttributes),
		writes("ModifyTargetGroupAttributes", (*Account).modifyTargetGroupAttributes),
		writes("RegisterTargets", (*Account).registerTargets),
		writes("DeregisterTargets", (*Account).deregisterTargets),
		reads("DescribeTargetHealth", (*Account).describeTargetHealth),
		writes("CreateListener", (*Account).createListener),
		writes("DeleteListener", (*Account).deleteListener),
		reads("DescribeListeners", (*Account).describeListeners),
		writes("ModifyListener", (*Account).modifyListener),
		reads("DescribeListenerAttributes", (*Account).describeListenerAttributes),
		writes("ModifyListenerAttributes", (*Account).modifyListenerAttributes),
		writes("AddTags", (*Account).addTags),
		writes("RemoveTags", (*Account).removeTags),
		reads("DescribeTags", (*Account).describeTags),
	),
}

var ec2Service = &service{
	name: "ec2", version: "2016-11-15", protocol: ec2Query, contentType: "text/xml;charset=UTF-8",
	namespace: "http://ec2.amazonaws.com/doc/2016-11-15/",
	operations: index(
		reads("DescribeInstances", (*Account).describeInstances),
		reads("DescribeSubnets", (*Account).describeSubnets),
		reads("DescribeRouteTables", (*Account).describeRouteTables),
		reads("DescribeVpcs", (*Account).describeVPCs),
		reads("DescribeAvailabilityZones", (*Account).describeAvailabilityZones),
		reads("DescribeSecurityGroups", (*Account).describeSecurityGroups),
		reads("DescribeSecurityGroupRules", (*Account).describeSecurityGroupRules),
		writes("CreateSecurityGroup", (*Account).createSecurityGroup),
		writes("DeleteSecurityGroup", (*Account).deleteSecurityGroup),
		writes("AuthorizeSecurityGroupIngress", (*Account).authorizeIngress),
		writes("AuthorizeSecurityGroupEgress", (*Account).authorizeEgress),
		writes("RevokeSecurityGroupIngress", (*Account).revokeIngress),
		writes("RevokeSecurityGroupEgress", (*Account).revokeEgress),
		writes("CreateTags", (*Account).createEC2Tags),
		writes("DeleteTags", (*Account).deleteEC2Tags),
		reads("DescribeNetworkInterfaces", (*Account).describeNetworkInterfaces),
		reads("DescribeAddresses", (*Account).describeAddresses),
	),
}

var stsService = &service{
	name: "sts", version: "2011-06-15", protocol: awsQuery, contentType: "text/xml",
	namespace:  "https://sts.amazonaws.com/doc/2011-06-15/",
	operations: index(reads("GetCallerIdentity", (*Account).getCallerIdentity)),
}

// serviceOf tells which service a request is for: by the credential scope, else by
// the API version, else the one whose errors most clients can read.
func serviceOf(version, authorization string) *service {
	all := []*service{elbService, ec2Service, stsService}
	for _, s := range all {
		if strings.Contains(authorization, "/"+s.name+"/aws4_request") {
			return s
		}
	}
	for _, s := range all {
		if s.version == version {
			return s
		}
	}
	return elbService
}

// throttled is what the service answers when calls come too fast.
func (s *service) throttled() error {
	if s.protocol == ec2Query {
		return failStatus(http.StatusServiceUnavailable, "RequestLimitExceeded", "Request limit exceeded.")
	}
	return fail("Throttling", "Rate exceeded")
}

func (s *service) unauthenticated(why string) error {
	if s.protocol == ec2Query {
		return failStatus(http.StatusUnauthorized, "AuthFailure", "AWS was not able to validate the provided access credentials: %s", why)
	}
	return failStatus(http.StatusForbidden, "MissingAuthenticationToken", "%s", why)
}

// unknownKey words that an access key does not exist, or not any more, as the
// service does.
func (s *service) unknownKey() error {
	if s.protocol == ec2Query {
		return failStatus(http.StatusUnauthorized, "AuthFailure", "AWS was not able to validate the provided access credentials")
	}
	return failStatus(http.StatusForbidden, "InvalidClientTokenId", "The security token included in the request is invalid.")
}

// badParameter words an error of decodeForm as the service does.
func (s *service) badParameter(err error) error {
	if missing, ok := errors.AsType[missingParameter](err); ok {
		if s.protocol == ec2Query {
			return fail(codeMissingParameter, "The request must contain the parameter %s", string(missing))
		}
		return fail(codeValidation, "1 validation error detected: value at '%s' must not be null", string(missing))
	}
	if s.protocol == ec2Query {
		return fail(codeInvalidParameter, "%v", err)
	}
	return fail(codeValidation, "%v", err)
}

// unserved refuses parameters that AWS has but the account does not serve: to
// ignore them would be wrong.
func (s *service) unserved(operation string, names []string) error {
	what := fmt.Sprintf("%s is served here without the parameters %s", operation, strings.Join(names, ", "))
	if s.protocol == ec2Query {
		return fail("UnsupportedOperation", "%s", what)
	}
	return fail(codeValidation, "%s", what)
}

// breached words what a request gets wrong by AWS's description, as the service
// does: ELBv2 lists everything, EC2 names the first.
//
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
func (s *service) breached(operation string, breaches []apimodel.Breach) error {
	if s.protocol != ec2Query {
		var list []string
		for _, b := range breaches {
			switch b.Kind {
			case apimodel.Missing:
				list = append(list, fmt.Sprintf("Value null at '%s' failed to satisfy constraint: %s", b.Path, b.Rule))
			case apimodel.Unknown:
				list = append(list, fmt.Sprintf("%s does not know the parameter '%s'", operation, b.Key))
			default:
				list = append(list, fmt.Sprintf("Value '%s' at '%s' failed to satisfy constraint: %s", b.Value, b.Path, b.Rule))
			}
		}
		errors := "errors"
		if len(list) == 1 {
			errors = "error"
		}
		return fail(codeValidation, "%d validation %s detected: %s", len(list), errors, strings.Join(list, "; "))
	}
	switch b := breaches[0]; b.Kind {
	case apimodel.Missing:
		return fail(codeMissingParameter, "The request must contain the parameter %s", b.Key)
	case apimodel.Unknown:
		return fail("UnknownParameter", "The parameter %s is not recognized by %s", b.Key, operation)
	default:
		return fail(codeInvalidParameter, "Value ( %s ) for parameter %s is invalid. %s", b.Value, b.Path, b.Rule)
	}
}

// PublishedLimits are the request rates AWS publishes, or where it publishes only
// the scheme, the rates its own load balancer controller keeps to.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/userguide/elb-api-throttling.html
// https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
func PublishedLimits() []fake.Limit {
	return []fake.Limit{
		{Operations: "elasticloadbalancing:Describe*", Burst: 40, PerSecond: 10},
		{Operations: "elasticloadbalancing:*egisterTargets", Burst: 20, PerSecond: 4},
		{Operations: "elasticloadbalancing:*", Burst: 20, PerSecond: 3},
		{Operations: "ec2:Describe*", Each: true, Burst: 100, PerSecond: 20},
		{Operations: "ec2:*Tags", Each: true, Burst: 100, PerSecond: 10},
		{Operations: "ec2:*", Each: true, Burst: 50, PerSecond: 5},
	}
}

func (t *Throttle) build() *fake.Throttle {
	switch {
	case t == nil || !t.Off && len(t.Limits) == 0:
		return fake.NewThrottle(PublishedLimits())
	case t.Off:
		return fake.NewThrottle(nil)
	default:
		return fake.NewThrottle(t.Limits)
	}
}

type getCallerIdentityInput struct{}

type getCallerIdentityResult struct {
	Arn     string `xml:"Arn"`
	UserID  string `xml:"UserId"`
	Account string `xml:"Account"`
}

func (a *Account) getCallerIdentity(*getCallerIdentityInput) (*getCallerIdentityResult, error) {
	return &getCallerIdentityResult{
		Arn: a.principal(), UserID: "AROAFAIRWAYFAKE00000:fairway", Account: a.id,
	}, nil
}
