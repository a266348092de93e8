package aws

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Names of attributes that have an effect here.
const (
	lbCrossZone          = "load_balancing.cross_zone.enabled"
	lbDeletionProtection = "deletion_protection.enabled"
	lbSecondaryIPs       = "secondary_ips.auto_assigned.per_subnet"
	tgDeregistration     = "deregistration_delay.timeout_seconds"
	tgPreserveClientIP   = "preserve_client_ip.enabled"
	tgProxyProtocol      = "proxy_protocol_v2.enabled"
	tgStickiness         = "stickiness.enabled"
	tgCrossZone          = "load_balancing.cross_zone.enabled"
	tgTerminateUnhealthy = "target_health_state.unhealthy.connection_termination.enabled"
	listenerIdleTimeout  = "tcp.idle_timeout.seconds"
)

// attribute is one setting of a resource: what it may be, and what it is when
// nobody set it. udp replaces fallback for target groups that take UDP.
type attribute struct {
	fallback, udp string
	valid         func(string) bool
}

// attributeSet is what can be set on one kind of resource.
type attributeSet map[string]attribute

// loadBalancerAttributes are those of Network Load Balancers.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_LoadBalancerAttribute.html
var loadBalancerAttributes = attributeSet{
	lbDeletionProtection:               {fallback: "false", valid: isBool},
	lbCrossZone:                        {fallback: "false", valid: isBool},
	"access_logs.s3.enabled":           {fallback: "false", valid: isBool},
	"access_logs.s3.bucket":            {valid: anyText},
	"access_logs.s3.prefix":            {valid: anyText},
	"ipv6.deny_all_igw_traffic":        {fallback: "false", valid: isBool},
	"zonal_shift.config.enabled":       {fallback: "false", valid: isBool},
	"dns_record.client_routing_policy": {fallback: "any_availability_zone", valid: oneOf("any_availability_zone", "availability_zone_affinity", "partial_availability_zone_affinity")},
	lbSecondaryIPs:                     {fallback: "0", valid: between(0, 7)},
}

// targetGroupAttributes are those of target groups of Network Load Balancers with
// instance targets.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetGroupAttribute.html
var targetGroupAttributes = attributeSet{
	tgDeregistration: {fallback: "300", valid: between(0, 3600)},
	"deregistration_delay.connection_termination.enabled": {fallback: "false", udp: "true", valid: isBool},
	tgPreserveClientIP:   {fallback: "true", valid: isBool},
	tgProxyProtocol:      {fallback: "false", valid: isBool},
	tgStickiness:         {fallback: "false", valid: isBool},
	"stickiness.type":    {fallback: "source_ip", valid: oneOf("source_ip")},
	tgCrossZone:          {fallback: "use_load_balancer_configuration", valid: oneOf("true", "false", "use_load_balancer_configuration")},
	tgTerminateUnhealthy: {fallback: "true", udp: "false", valid: isBool},
	"target_health_state.unhealthy.draining_interval_seconds":                        {fallback: "0", valid: between(0, 360000)},
	"target_group_health.dns_failover.minimum_healthy_targets.count":                 {fallback: "1", valid: countOrOff},
	"target_group_health.dns_failover.minimum_healthy_targets.percentage":            {fallback: "off", valid: percentOrOff},
	"target_group_health.unhealthy_state_routing.minimum_healthy_targets.count":      {fallback: "1", valid: between(1, 1000)},
	"target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage": {fallback: "off", valid: percentOrOff},
}

// listenerAttributes are those of TCP listeners.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_ListenerAttribute.html
var listenerAttributes = attributeSet{
	listenerIdleTimeout: {fallback: "350", valid: between(60, 6000)},
}

// defaults returns the attributes of a new resource; udp says whether one of the
// UDP protocols is its.
func (s attributeSet) defaults(udp *bool) map[string]string {
	m := make(map[string]string, len(s))
	for key, attr := range s {
		m[key] = attr.fallback
		if udp != nil && *udp && attr.udp != "" {
			m[key] = attr.udp
		}
	}
	return m
}

type attributeInput struct {
	Key   string `query:"Key"`
	Value string `query:"Value"`
}

// maxAttributes is how many one request can set.
const maxAttributes = 20

// apply returns have with the requested changes, or an error of the first that is
// unknown, malformed or given twice.
func (s attributeSet) apply(have map[string]string, changes []attributeInput) (map[string]string, error) {
	if len(changes) == 0 || len(changes) > maxAttributes {
		return nil, fail(codeValidation, "1 to %d attributes must be given, not %d", maxAttributes, len(changes))
	}
	result := maps.Clone(have)
	for i, c := range changes {
		attr, ok := s[c.Key]
		switch {
		case !ok:
			return nil, fail(codeValidation, "Attribute key '%s' is not recognized", c.Key)
		case slices.ContainsFunc(changes[:i], func(o attributeInput) bool { return o.Key == c.Key }):
			return nil, fail(codeValidation, "Attribute key '%s' is given more than once", c.Key)
		case !attr.valid(c.Value):
			return nil, fail(codeValidation, "Attribute value '%s' is not valid for key '%s'", c.Value, c.Key)
		}
		result[c.Key] = c.Value
	}
	return result, nil
}

type attributeXML struct {
	Key   string `xml:"Key"`
	Value string `xml:"Value"`
}

type attributesResult struct {
	Attributes members[attributeXML] `xml:"Attributes"`
}

func attributesXML(m map[string]string) *attributesResult {
	out := &attributesResult{}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		out.Attributes.Member = append(out.Attributes.Member, attributeXML{Key: key, Value: m[key]})
	}
	return out
}

type loadBalancerARNInput struct {
	ARN string `query:"LoadBalancerArn,required"`
}

func (a *Account) describeLoadBalancerAttributes(in *loadBalancerARNInput) (*attributesResult, error) {
	lb, err := a.loadBalancer(in.ARN)
	if err != nil {
		return nil, err
	}
	return attributesXML(lb.attributes), nil
}

type modifyLoadBalancerAttributesInput struct {
	ARN        string           `query:"LoadBalancerArn,required"`
	Attributes []attributeInput `query:"Attributes.member,required"`
}

func (a *Account) modifyLoadBalancerAttributes(in *modifyLoadBalancerAttributesInput) (*attributesResult, error) {
	lb, err := a.loadBalancer(in.ARN)
	if err != nil {
		return nil, err
	}
	m, err := loadBalancerAttributes.apply(lb.attributes, in.Attributes)
	switch {
	case err != nil:
		return nil, err
	case m["access_logs.s3.enabled"] == "true" && m["access_logs.s3.bucket"] == "":
		return nil, fail(codeInvalidConfiguration, "Access logs need access_logs.s3.bucket")
	case m[lbSecondaryIPs] < lb.attributes[lbSecondaryIPs]:
		return nil, fail(codeInvalidConfiguration, "%s cannot be decreased", lbSecondaryIPs)
	}
	lb.attributes = m
	return attributesXML(changed(m, in.Attributes)), nil
}

// changed leaves of m what was asked to change, which is what is answered.
func changed(m map[string]string, changes []attributeInput) map[string]string {
	some := map[string]string{}
	for _, c := range changes {
		some[c.Key] = m[c.Key]
	}
	return some
}

type targetGroupARNInput struct {
	ARN string `query:"TargetGroupArn,required"`
}

func (a *Account) describeTargetGroupAttributes(in *targetGroupARNInput) (*attributesResult, error) {
	tg, err := a.targetGroup(in.ARN)
	if err != nil {
		return nil, err
	}
	return attributesXML(tg.attributes), nil
}

type modifyTargetGroupAttributesInput struct {
	ARN        string           `query:"TargetGroupArn,required"`
	Attributes []attributeInput `query:"Attributes.member,required"`
}

func (a *Account) modifyTargetGroupAttributes(in *modifyTargetGroupAttributesInput) (*attributesResult, error) {
	tg, err := a.targetGroup(in.ARN)
	if err != nil {
		return nil, err
	}
	m, err := targetGroupAttributes.apply(tg.attributes, in.Attributes)
	switch {
	case err != nil:
		return nil, err
	case tg.takesUDP() && m[tgPreserveClientIP] == "false":
		return nil, fail(codeInvalidConfiguration, "Client IP preservation cannot be disabled for target groups with protocol %s", tg.protocol)
	case tg.takesUDP() && m[tgTerminateUnhealthy] == "true":
		return nil, fail(codeInvalidConfiguration, "%s cannot be enabled for target groups with protocol %s", tgTerminateUnhealthy, tg.protocol)
	case m["target_health_state.unhealthy.draining_interval_seconds"] != "0" && m[tgTerminateUnhealthy] == "true":
		return nil, fail(codeInvalidConfiguration, "A draining interval needs %s disabled", tgTerminateUnhealthy)
	}
	tg.attributes = m
	return attributesXML(changed(m, in.Attributes)), nil
}

type listenerARNInput struct {
	ARN string `query:"ListenerArn,required"`
}

func (a *Account) describeListenerAttributes(in *listenerARNInput) (*attributesResult, error) {
	l, err := a.listener(in.ARN)
	if err != nil {
		return nil, err
	}
	return attributesXML(l.attributes), nil
}

type modifyListenerAttributesInput struct {
	ARN        string           `query:"ListenerArn,required"`
	Attributes []attributeInput `query:"Attributes.member,required"`
}

func (a *Account) modifyListenerAttributes(in *modifyListenerAttributesInput) (*attributesResult, error) {
	l, err := a.listener(in.ARN)
	if err != nil {
		return nil, err
	}
	m, err := listenerAttributes.apply(l.attributes, in.Attributes)
	if err != nil {
		return nil, err
	}
	if l.protocol == "UDP" {
		return nil, fail(codeInvalidConfiguration, "%s cannot be set on a listener with protocol UDP", listenerIdleTimeout)
	}
	l.attributes = m
	return attributesXML(changed(m, in.Attributes)), nil
}

func anyText(string) bool { return true }

func isBool(s string) bool { return s == "true" || s == "false" }

func oneOf(values ...string) func(string) bool {
	return func(s string) bool { return slices.Contains(values, s) }
}

func between(low, high int) func(string) bool {
	return func(s string) bool {
		n, err := strconv.Atoi(s)
		return err == nil && n >= low && n <= high && strconv.Itoa(n) == s
	}
}

func countOrOff(s string) bool { return s == "off" || between(1, 1000)(s) }

func percentOrOff(s string) bool { return s == "off" || between(1, 100)(s) }

var codesPattern = regexp.MustCompile(`^\d{3}(-\d{3})?(,\d{3}(-\d{3})?)*$`)

// validCodes says whether s lists HTTP statuses from 200 to 599 as a matcher does:
// "200", "200,404", "200-399".
func validCodes(s string) bool {
	if !codesPattern.MatchString(s) {
		return false
	}
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		if low < "200" || high > "599" || low > high {
			return false
		}
	}
	return true
}
