package aws

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// settings are attributes by key, as annotations ask for them.
type settings map[string]string

// set adds a setting; two annotations that want it otherwise contradict.
func (s *settings) set(key, value string) error {
	if have, ok := (*s)[key]; ok && have != value {
		return fmt.Errorf("it wants %s=%s where another annotation wants %s", key, value, have)
	}
	if *s == nil {
		*s = settings{}
	}
	(*s)[key] = value
	return nil
}

// attributeOptions are what annotations say about attributes.
type attributeOptions struct {
	balancer settings
	// group is for all target groups, port for that of one of the Service's
	// ports, and wins.
	group settings
	port  map[uint16]settings
}

func (o *attributeOptions) ofPort(port uint16) settings {
	if o.port == nil {
		o.port = map[uint16]settings{}
	}
	if o.port[port] == nil {
		o.port[port] = settings{}
	}
	return o.port[port]
}

func attributeAnnotations() []Annotation {
	return []Annotation{
		{Name: "attributes", Type: "list of key=value", Default: "AWS's own", parse: parseBalancerAttributes,
			Doc: "Attributes of the load balancer: " + keysIn(balancerAttributes) + ". One that is no longer listed is reset."},
		{Name: "cross-zone-load-balancing-enabled", Type: "true or false", Default: "false", parse: parseCrossZone,
			Doc: "Whether a zone sends to targets of other zones."},
		{Name: "target-group-attributes", PerPort: true, Type: "list of key=value", Default: "AWS's own", parse: parseGroupAttributes, parsePort: parsePortAttributes,
			Doc: "Attributes of target groups, with a dot and a port of the Service at the end those of one: " + keysIn(groupAttributes) + ". One that is no longer listed is reset."},
		{Name: "proxy-protocol", Type: "*", Default: "none", parse: parseProxyProtocol,
			Doc: "Proxy protocol v2 to all targets, which must understand it. AWS sends it in health checks too, which kube-proxy does not understand: beside it, set healthcheck-protocol to TCP."},
		{Name: "proxy-protocol-per-target-group", Type: "list of ports", Default: "none", parse: parseProxyProtocolPorts,
			Doc: "Proxy protocol v2 to the targets of these ports of the Service."},
		{Name: "connection-draining-enabled", Type: "true or false", Default: "true", parse: parseDraining,
			Doc: "Whether connections to a removed target may end by themselves."},
		{Name: "connection-draining-timeout", Type: "seconds, 0 to 3600", Default: "300", parse: parseDrainingTimeout,
			Doc: "How long a removed target drains."},
	}
}

func keysIn(t attributeTable) string {
	var keys []string
	for _, a := range t.known {
		keys = append(keys, "`"+a.key+"`")
	}
	return strings.Join(keys, ", ")
}

// parseSettings reads key=value,key=value into s. What AWS knows and this
// version does not set becomes a notice.
func (o *options) parseSettings(s *settings, table attributeTable, value string) error {
	items, err := parseList(value, func(item string) bool { return strings.Index(item, "=") > 0 }, "key=value")
	for _, item := range items {
		key, v, _ := strings.Cut(item, "=")
		key, v = strings.TrimSpace(key), strings.TrimSpace(v)
		if slices.Contains(table.later, key) {
			o.notice("AttributeNotHonoured", "attribute %s has no effect yet: this version does not set it", key)
			continue
		}
		if err := table.check(key, v); err != nil {
			return err
		}
		if err := s.set(key, v); err != nil {
			return err
		}
	}
	return err
}

func parseBalancerAttributes(o *options, value string) error {
	return o.parseSettings(&o.attributes.balancer, balancerAttributes, value)
}

func parseGroupAttributes(o *options, value string) error {
	return o.parseSettings(&o.attributes.group, groupAttributes, value)
}

func parsePortAttributes(o *options, port uint16, value string) error {
	s := o.attributes.ofPort(port)
	return o.parseSettings(&s, groupAttributes, value)
}

func parseCrossZone(o *options, value string) error {
	if !isBool(value) {
		return fmt.Errorf("want true or false")
	}
	return o.attributes.balancer.set(attrCrossZone, value)
}

func parseProxyProtocol(o *options, value string) error {
	if value != "*" {
		return fmt.Errorf("want *, for all ports; single ones are listed in %sproxy-protocol-per-target-group", annotationPrefix)
	}
	return o.attributes.group.set(attrProxyProtocol, "true")
}

func parseProxyProtocolPorts(o *options, value string) error {
	items, err := parseList(value, nil, "ports of the Service")
	for _, item := range items {
		port, err := o.portOf(item)
		if err != nil {
			return err
		}
		s := o.attributes.ofPort(port)
		if err := s.set(attrProxyProtocol, "true"); err != nil {
			return err
		}
	}
	return err
}

func parseDraining(o *options, value string) error {
	switch value {
	case "true":
		return nil
	case "false":
		return o.attributes.group.set(attrDraining, "0")
	default:
		return fmt.Errorf("want true or false")
	}
}

func parseDrainingTimeout(o *options, value string) error {
	if err := groupAttributes.check(attrDraining, value); err != nil {
		return err
	}
	return o.attributes.group.set(attrDraining, value)
}

// portOf reads a port of the Service.
func (o *options) portOf(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || !slices.ContainsFunc(o.service.Ports, func(p lb.Port) bool { return p.Port == uint16(n) }) {
		return 0, fmt.Errorf("the Service has no port %q", text)
	}
	return uint16(n), nil
}

// defaultAffinity is sessionAffinityConfig's timeout when nobody sets it
// (core/v1 ClientIPConfig).
const defaultAffinity = 3 * time.Hour

// groupAttributes returns the target group's field "attributes".
func (m *model) groupAttributes(p port) (lb.Value, error) {
	all := settings{}
	if m.service.ClientAffinity > 0 {
		all[attrSticky] = "true"
	}
	maps.Copy(all, m.attributes.group)
	maps.Copy(all, m.attributes.port[p.port])
	refuse := func(key, why string, args ...any) error {
		return lb.InvalidField(fmt.Sprintf("%starget-group-attributes.%d", annotationPrefix, p.port), key+"="+all[key], fmt.Sprintf(why, args...))
	}
	switch udp := takesUDP(p.protocol); {
	case udp && all[attrPreserve] == "false":
		return nil, refuse(attrPreserve, "AWS keeps the client address of UDP, and port %d is %s; set this on other ports alone, by their number at the end of the annotation", p.port, p.protocol)
	case udp && all[attrTerminate] == "true":
		return nil, refuse(attrTerminate, "AWS cannot do so with UDP, and port %d is %s; set this on other ports alone, by their number at the end of the annotation", p.port, p.protocol)
	case !udp && all[attrTerminate] != "false" && all[attrDrainInterval] != "" && all[attrDrainInterval] != "0":
		return nil, refuse(attrDrainInterval, "an interval needs %s=false", attrTerminate)
	}
	return groupAttributes.field(all, p.protocol), nil
}
