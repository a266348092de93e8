package aws

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/fairway-lb/fairway/providers/lb"
)

// kinds says what each code of EC2 and Elastic Load Balancing means. The suffix
// Exception, which only some senders use, is not part of the codes here.
// https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/CommonErrors.html
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
var kinds = map[lb.ErrorKind][]string{
	lb.NotFound: {"LoadBalancerNotFound", "TargetGroupNotFound", "ListenerNotFound", "RuleNotFound", "InvalidGroup.NotFound",
		"InvalidGroupId.NotFound", "InvalidSecurityGroupID.NotFound", "InvalidPermission.NotFound", "InvalidInstanceID.NotFound"},
	lb.Conflict: {"DuplicateLoadBalancerName", "DuplicateTargetGroupName", "DuplicateListener", "InvalidGroup.Duplicate",
		"InvalidPermission.Duplicate"},
	lb.Pending: {"ResourceInUse", "DependencyViolation", "PriorRequestNotComplete", "HealthUnavailable"},
	lb.Throttled: {"Throttling", "Throttled", "RequestThrottled", "RequestLimitExceeded", "TooManyRequests", "SlowDown",
		"EC2Throttled", "BandwidthLimitExceeded"},
	lb.Quota: {"TooManyLoadBalancers", "TooManyTargetGroups", "TooManyTargets", "TooManyListeners", "TooManyCertificates", "TooManyTags",
		"TooManyRegistrationsForTargetId", "TooManyUniqueTargetGroupsPerLoadBalancer", "TargetGroupAssociationLimit",
		"RulesPerSecurityGroupLimitExceeded", "SecurityGroupLimitExceeded", "SecurityGroupsPerInterfaceLimitExceeded",
		"InsufficientFreeAddressesInSubnet", "TagLimitExceeded"},
	lb.Denied: {"UnauthorizedOperation", "AccessDenied", "AuthFailure", "OperationNotPermitted", "UnrecognizedClient", "InvalidClientTokenId",
		"ExpiredToken", "SignatureDoesNotMatch", "MissingAuthenticationToken", "OptInRequired", "IncompleteSignature", "PendingVerification", "Blocked"},
	lb.Invalid: {"InvalidConfigurationRequest", "ValidationError", "InvalidSubnet", "SubnetNotFound", "AllocationIdNotFound",
		"CertificateNotFound", "SSLPolicyNotFound", "ALPNPolicyNotSupported", "ALPNPolicyNotFound", "InvalidSecurityGroup",
		"UnsupportedProtocol", "IncompatibleProtocols", "AvailabilityZoneNotSupported", "InvalidScheme", "InvalidTarget",
		"InvalidLoadBalancerAction", "InvalidParameterValue", "InvalidParameter", "InvalidParameterCombination", "MissingParameter",
		"UnknownParameter", "InvalidVpcID.NotFound", "InvalidPrefixListID.NotFound", "InvalidPrefixListId.NotFound", "InvalidFilter",
		"InvalidGroup.Reserved", "InvalidSubnetID.NotFound"},
}

var kindOfCode = func() map[string]lb.ErrorKind {
	byCode := map[string]lb.ErrorKind{}
	for kind, codes := range kinds {
		for _, code := range codes {
			byCode[code] = kind
		}
	}
	return byCode
}()

// code returns the API's error code in err, "" when err is something else.
func code(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return strings.TrimSuffix(api.ErrorCode(), "Exception")
	}
	return ""
}

func isCode(err error, codes ...string) bool {
	return err != nil && slices.Contains(codes, code(err))
}

// failed turns an SDK error into an lb.Error. It is the one place where codes
// become kinds; an unknown code is judged by its HTTP status, and no answer at
// all is Unavailable.
func failed(op string, ref lb.Ref, err error) *lb.Error {
	e := &lb.Error{Kind: lb.Unavailable, Op: op, Resource: ref, Code: code(err), Err: err}
	api, isAPI := errors.AsType[smithy.APIError](err)
	if !isAPI || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return e
	}
	e.Message = strings.TrimSpace(api.ErrorMessage())
	status, after := answer(err)
	e.RetryAfter = after
	if kind, known := kindOfCode[e.Code]; known {
		e.Kind = kind
	} else if status == http.StatusTooManyRequests {
		e.Kind = lb.Throttled
	} else if status == http.StatusForbidden || status == http.StatusUnauthorized {
		e.Kind = lb.Denied
	} else if status >= 400 && status < 500 {
		e.Kind = lb.Invalid
	}
	e.RetryAfter = max(e.RetryAfter, hint(e))
	return e
}

// answer returns the HTTP status and what a Retry-After header asks for.
func answer(err error) (status int, after time.Duration) {
	r, ok := errors.AsType[*awshttp.ResponseError](err)
	if !ok || r.Response == nil {
		return 0, 0
	}
	if seconds, err := strconv.Atoi(r.Response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		after = time.Duration(seconds) * time.Second
	}
	return r.HTTPStatusCode(), after
}

// hint is when it is worth looking again, from how long AWS usually takes.
func hint(e *lb.Error) time.Duration {
	switch {
	case e.Code == "DependencyViolation":
		// The interfaces of a deleted load balancer stay for half a minute to two.
		return 10 * time.Second
	case e.Kind == lb.Pending:
		return 3 * time.Second
	case e.Kind == lb.Throttled:
		return 5 * time.Second
	default:
		return 0
	}
}

// notYetVisible is for what was just made but is not found by other calls.
func notYetVisible(op string, ref lb.Ref, err error) *lb.Error {
	return &lb.Error{Kind: lb.Pending, Op: op, Resource: ref, Code: code(err), Err: err, RetryAfter: 2 * time.Second,
		Message: "something it needs was just made and is not visible everywhere yet"}
}

// untilVisible calls do again, after pauses of a quarter of a second to two, as
// long as it fails because something is not there. What was just made is seen
// everywhere within a moment, as a rule: that is worth a wait, for whoever gives
// up stands at the end of the queue, behind everything else that is to be made.
// https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html
func untilVisible(ctx context.Context, do func() error) error {
	for pause := 250 * time.Millisecond; ; pause *= 2 {
		err := do()
		if lb.KindOf(err) != lb.NotFound || pause > 2*time.Second {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// foreign is for a name that is taken by something without our mark.
func foreign(ref lb.Ref, name, id string) *lb.Error {
	return &lb.Error{Kind: lb.Conflict, Op: "create", Resource: ref,
		Message: "the name " + name + " is taken by " + id + ", which does not carry this cluster's owner mark; remove or rename that"}
}
