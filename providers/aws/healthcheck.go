package aws

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// healthOptions are what annotations say about health checks; zero values are
// left to the defaults.
type healthOptions struct {
	protocol, port, path, codes           string
	interval, timeout, healthy, unhealthy int
}

const trafficPort = "traffic-port"

func healthAnnotations() []Annotation {
	number := func(lo, hi int, field func(*options) *int) func(*options, string) error {
		return func(o *options, value string) error {
			n, err := strconv.Atoi(value)
			if err != nil || n < lo || n > hi {
				return fmt.Errorf("want a whole number from %d to %d", lo, hi)
			}
			*field(o) = n
			return nil
		}
	}
	return []Annotation{
		{Name: "healthcheck-protocol", Neutral: "health-check-protocol", Type: "HTTP, HTTPS or TCP", Default: "that of the configuration", parse: parseHealthProtocol,
			Doc: "How nodes are probed. Without it, another port than the default one is probed with TCP."},
		{Name: "healthcheck-port", Neutral: "health-check-port", Type: "traffic-port, a number or the name of a port of the Service", Default: "that of the configuration; healthCheckNodePort with externalTrafficPolicy Local", parse: parseHealthPort,
			Doc: "Port to probe on the node; it must be one that nodes admit from load balancers."},
		{Name: "healthcheck-path", Neutral: "health-check-path", Type: "path", Default: "that of the configuration; / for another port than the default one", parse: parseHealthPath,
			Doc: "Path of HTTP and HTTPS probes."},
		{Name: "healthcheck-success-codes", Neutral: "health-check-success-codes", Type: "codes and ranges, 200-399", Default: "200-399", parse: parseHealthCodes,
			Doc: "HTTP statuses that mean healthy."},
		{Name: "healthcheck-interval", Neutral: "health-check-interval", Type: "seconds, 5 to 300", Default: "that of the configuration",
			parse: number(minInterval, maxInterval, func(o *options) *int { return &o.health.interval }),
			Doc:   "Time between two probes of a node."},
		{Name: "healthcheck-timeout", Neutral: "health-check-timeout", Type: "seconds, 2 to 120", Default: "that of the configuration",
			parse: number(minTimeout, maxTimeout, func(o *options) *int { return &o.health.timeout }),
			Doc:   "How long a probe may take."},
		{Name: "healthcheck-healthy-threshold", Neutral: "healthy-threshold", Type: "2 to 10", Default: "that of the configuration",
			parse: number(minThreshold, maxThreshold, func(o *options) *int { return &o.health.healthy }),
			Doc:   "Successes in a row that make a node healthy."},
		{Name: "healthcheck-unhealthy-threshold", Neutral: "unhealthy-threshold", Type: "2 to 10", Default: "that of the configuration",
			parse: number(minThreshold, maxThreshold, func(o *options) *int { return &o.health.unhealthy }),
			Doc:   "Failures in a row that make a node unhealthy."},
	}
}

func parseHealthProtocol(o *options, value string) error {
	o.health.protocol = strings.ToUpper(value)
	if !slices.Contains(healthProtocols, o.health.protocol) {
		return fmt.Errorf("want one of %s", strings.Join(healthProtocols, ", "))
	}
	return nil
}

func parseHealthPath(o *options, value string) error {
	if !strings.HasPrefix(value, "/") || len(value) > maxHealthPath {
		return fmt.Errorf("want a path that begins with / and has at most %d characters", maxHealthPath)
	}
	o.health.path = value
	return nil
}

var codeList = regexp.MustCompile(`^[2-5]\d\d(-[2-5]\d\d)?(,[2-5]\d\d(-[2-5]\d\d)?)*$`)

func parseHealthCodes(o *options, value string) error {
	if !codeList.MatchString(value) {
		return fmt.Errorf("want HTTP codes from 200 to 599 such as 200-399 or 200,204")
	}
	o.health.codes = value
	return nil
}

// parseHealthPort accepts ports that the nodes' fixed rules admit, as a probe of
// any other would never arrive.
func parseHealthPort(o *options, value string) error {
	if value == trafficPort {
		o.health.port = value
		return nil
	}
	for _, p := range o.service.Ports {
		if p.Name == value && value != "" {
			o.health.port = strconv.Itoa(int(p.NodePort))
			return nil
		}
	}
	n, err := strconv.ParseUint(value, 10, 16)
	port := uint16(n)
	if err != nil || port != o.config.HealthCheck.Port && !o.config.NodePortRange.Contains(port) {
		return fmt.Errorf("want %s, the name of a port of the Service, %d or a NodePort (%s): nodes admit no other ports from load balancers",
			trafficPort, o.config.HealthCheck.Port, o.config.NodePortRange)
	}
	o.health.port = value
	return nil
}

// healthCheck returns the target groups' health check fields.
//
// With externalTrafficPolicy Local only nodes with an endpoint answer at the
// healthCheckNodePort (https://kubernetes.io/docs/reference/networking/virtual-ips/#external-traffic-policy);
// otherwise a node is healthy when its node proxy is, which also takes nodes
// that are about to go out of rotation (KEP-3458, KEP-3836).
func (o *options) healthCheck() (lb.Fields, error) {
	h := o.config.HealthCheck
	port := strconv.Itoa(int(h.Port))
	if o.service.ExternalTrafficPolicy == lb.PolicyLocal {
		if o.service.HealthCheckNodePort == 0 && o.health.port == "" {
			return nil, lb.InvalidField("spec.healthCheckNodePort", "0", "externalTrafficPolicy Local needs one; recreate the Service so that the API server allocates it")
		}
		h.Protocol, h.Path = "HTTP", "/healthz"
		port = strconv.Itoa(int(o.service.HealthCheckNodePort))
	}
	if o.health.port != "" && o.health.port != port {
		port, h.Protocol, h.Path = o.health.port, "TCP", ""
	}
	h.Protocol = orDefault(o.health.protocol, h.Protocol)
	if h.Protocol == "TCP" {
		h.Path = ""
		if o.health.path != "" || o.health.codes != "" {
			o.notice("HealthCheckPathIgnored", "the health check is made with TCP, which has no path and no success codes; set %shealthcheck-protocol to use them", annotationPrefix)
		}
	} else {
		h.Path = orDefault(o.health.path, orDefault(h.Path, "/"))
	}
	if o.health.interval > 0 {
		h.Interval = Duration(o.health.interval) * Duration(time.Second)
		if o.health.timeout == 0 {
			h.Timeout = min(h.Timeout, h.Interval)
		}
	}
	if o.health.timeout > 0 {
		h.Timeout = Duration(o.health.timeout) * Duration(time.Second)
	}
	if h.Timeout > h.Interval {
		return nil, lb.InvalidField(annotationPrefix+"healthcheck-timeout", strconv.Itoa(h.Timeout.seconds()),
			fmt.Sprintf("it is more than the interval of %d seconds", h.Interval.seconds()))
	}
	h.HealthyThreshold = orDefault(o.health.healthy, h.HealthyThreshold)
	h.UnhealthyThreshold = orDefault(o.health.unhealthy, h.UnhealthyThreshold)

	fields := lb.Fields{
		"health-check-protocol": lb.Text(h.Protocol),
		"health-check-port":     lb.Text(port),
		"health-check-interval": lb.Number(h.Interval.seconds()),
		"health-check-timeout":  lb.Number(h.Timeout.seconds()),
		"healthy-threshold":     lb.Number(h.HealthyThreshold),
		"unhealthy-threshold":   lb.Number(h.UnhealthyThreshold),
	}
	if h.Protocol != "TCP" {
		fields["health-check-path"] = lb.Text(h.Path)
		fields["health-check-codes"] = lb.Text(orDefault(o.health.codes, "200-399"))
	}
	return fields, nil
}
