package aws

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/fairway-lb/fairway/providers/lb"
)

// attribute is one setting of a load balancer or a target group that AWS keeps
// apart from the thing itself.
type attribute struct {
	key string
	// byDefault is what it is when nobody has set it; udp replaces that for
	// target groups that take UDP.
	byDefault, udp string
	// values says what it can be, valid whether something is that.
	values string
	valid  func(string) bool
}

func (a attribute) fallback(protocol string) string {
	if a.udp != "" && takesUDP(protocol) {
		return a.udp
	}
	return a.byDefault
}

func takesUDP(protocol string) bool { return protocol == "UDP" || protocol == "TCP_UDP" }

// attributeTable is what can be set on one kind of resource. A resource's field
// "attributes" is the set of those that are not at their default, as "key=value":
// an item that goes is reset.
type attributeTable struct {
	known []attribute
	// later are keys that AWS has and this version does not set.
	later []string
}

// The attributes that decide something here.
const (
	attrCrossZone     = "load_balancing.cross_zone.enabled"
	attrProtection    = "deletion_protection.enabled"
	attrDraining      = "deregistration_delay.timeout_seconds"
	attrPreserve      = "preserve_client_ip.enabled"
	attrProxyProtocol = "proxy_protocol_v2.enabled"
	attrSticky        = "stickiness.enabled"
	attrTerminate     = "target_health_state.unhealthy.connection_termination.enabled"
	attrDrainInterval = "target_health_state.unhealthy.draining_interval_seconds"
)

// balancerAttributes are those of Network Load Balancers.
// https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_LoadBalancerAttribute.html
var balancerAttributes = attributeTable{
	known: []attribute{
		yesOrNo(attrCrossZone, "false"),
		yesOrNo(attrProtection, "false"),
		oneOfThese("dns_record.client_routing_policy", "any_availability_zone", "availability_zone_affinity", "partial_availability_zone_affinity"),
		yesOrNo("zonal_shift.config.enabled", "false"),
	},
	later: []string{"access_logs.s3.bucket", "access_logs.s3.enabled", "access_logs.s3.prefix", "ipv6.deny_all_igw_traffic", "secondary_ips.auto_assigned.per_subnet"},
}

// groupAttributes are those of target groups of Network Load Balancers.
// https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetGroupAttribute.html
var groupAttributes = attributeTable{known: []attribute{
	numberFrom(attrDraining, "300", 0, 3600),
	{"deregistration_delay.connection_termination.enabled", "false", "true", "true or false", isBool},
	yesOrNo(attrPreserve, "true"),
	yesOrNo(attrProxyProtocol, "false"),
	yesOrNo(attrSticky, "false"),
	oneOfThese("stickiness.type", "source_ip"),
	oneOfThese(attrCrossZone, "use_load_balancer_configuration", "true", "false"),
	{attrTerminate, "true", "false", "true or false", isBool},
	numberFrom(attrDrainInterval, "0", 0, 360000),
	numberOrOff("target_group_health.dns_failover.minimum_healthy_targets.count", "1", 1000),
	numberOrOff("target_group_health.dns_failover.minimum_healthy_targets.percentage", "off", 100),
	numberFrom("target_group_health.unhealthy_state_routing.minimum_healthy_targets.count", "1", 1, 1000),
	numberOrOff("target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage", "off", 100),
}}

func isBool(s string) bool { return s == "true" || s == "false" }

func yesOrNo(key, byDefault string) attribute {
	return attribute{key: key, byDefault: byDefault, values: "true or false", valid: isBool}
}

// oneOfThese has the first of the values by default.
func oneOfThese(key string, values ...string) attribute {
	return attribute{key: key, byDefault: values[0], values: strings.Join(values, " or "),
		valid: func(s string) bool { return slices.Contains(values, s) }}
}

func numberFrom(key, byDefault string, lo, hi int) attribute {
	return attribute{key: key, byDefault: byDefault, values: fmt.Sprintf("a number from %d to %d", lo, hi),
		valid: func(s string) bool {
			n, err := strconv.Atoi(s)
			return err == nil && lo <= n && n <= hi && strconv.Itoa(n) == s
		}}
}

func numberOrOff(key, byDefault string, hi int) attribute {
	a := numberFrom(key, byDefault, 1, hi)
	isNumber := a.valid
	a.values, a.valid = a.values+" or off", func(s string) bool { return s == "off" || isNumber(s) }
	return a
}

// find returns the attribute called key.
func (t attributeTable) find(key string) (attribute, bool) {
	i := slices.IndexFunc(t.known, func(a attribute) bool { return a.key == key })
	if i < 0 {
		return attribute{}, false
	}
	return t.known[i], true
}

// check says what is wrong with a setting, nil when it can be.
func (t attributeTable) check(key, value string) error {
	a, ok := t.find(key)
	if !ok {
		var all []string
		for _, a := range t.known {
			all = append(all, a.key)
		}
		return fmt.Errorf("there is no attribute %q%s; want some of %s", key, didYouMean(key, all), strings.Join(all, ", "))
	}
	if !a.valid(value) {
		return fmt.Errorf("%s cannot be %q; want %s", key, value, a.values)
	}
	return nil
}

// field returns the settings that differ from what AWS takes by default, for
// what speaks the given protocol. Attributes that are not in the table are left
// out: they are none of ours.
func (t attributeTable) field(settings map[string]string, protocol string) lb.Value {
	var items []string
	for _, a := range t.known {
		if value, set := settings[a.key]; set && value != a.fallback(protocol) {
			items = append(items, a.key+"="+value)
		}
	}
	return lb.Set(items...)
}

// changes returns, by key, what has to be set to get from one field to another:
// of what is not in the new one any more, the default.
func (t attributeTable) changes(before, after lb.Value, protocol string) map[string]string {
	set := map[string]string{}
	for _, item := range missing(before, after) {
		key, _, _ := strings.Cut(item, "=")
		if a, ok := t.find(key); ok {
			set[key] = a.fallback(protocol)
		}
	}
	for _, item := range missing(after, before) {
		key, value, _ := strings.Cut(item, "=")
		set[key] = value
	}
	return set
}
