package aws

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/fairway-lb/fairway/providers/lb"
)

// The version and kind of the configuration file this package reads.
const (
	ConfigAPIVersion = "fairway.io/v1alpha1"
	ConfigKind       = "AWSConfig"
)

// Config is the configuration file of this provider. Credentials, endpoints and
// proxies are not part of it: the SDK takes them from its own environment,
// credential chain and endpoint variables.
type Config struct {
	APIVersion string        `json:"apiVersion"`
	Kind       string        `json:"kind"`
	Cluster    ClusterConfig `json:"cluster"`
	// Region of the cluster. Empty: AWS_REGION, the shared configuration file
	// or the instance metadata service.
	Region string `json:"region,omitempty"`
	// VPC of the nodes. Empty: that of the nodes' instances or, as long as
	// there are none, of the instance the controller runs on.
	VPC string `json:"vpc,omitempty"`
	// NodeSecurityGroup is the group of the nodes that admits load balancers.
	// Empty: the only group of each node's instance or, where it has several,
	// the one tagged kubernetes.io/cluster/<cluster name>.
	NodeSecurityGroup string `json:"nodeSecurityGroup,omitempty"`
	// NodePortRange is what the nodes admit from load balancers; it must be
	// the API server's --service-node-port-range. Default 30000-32767.
	NodePortRange PortRange `json:"nodePortRange,omitzero"`
	// HealthCheck is the default for Services with externalTrafficPolicy
	// Cluster; Local ones are checked at their healthCheckNodePort.
	HealthCheck HealthCheckConfig `json:"healthCheck,omitzero"`
	// RequestRate is how many times AWS's usual request limits this account has;
	// requests wait rather than exceed them. Default 1.
	RequestRate float64 `json:"requestRate,omitempty"`
	// Tags are put on everything made, besides the owner marks.
	Tags map[string]string `json:"tags,omitempty"`
}

// ClusterConfig says which cluster this is.
type ClusterConfig struct {
	// Name is required: it enters names and owner marks, and two clusters of
	// one account must not share it by accident.
	Name string `json:"name"`
}

// HealthCheckConfig is how target groups probe nodes.
type HealthCheckConfig struct {
	// Protocol is HTTP, HTTPS or TCP. Default HTTP.
	Protocol string `json:"protocol,omitempty"`
	// Port default 10256, the node proxy's.
	Port uint16 `json:"port,omitempty"`
	// Path of HTTP and HTTPS checks. Default /healthz.
	Path string `json:"path,omitempty"`
	// Interval between two probes of a target, 5s to 300s. Default 10s.
	Interval Duration `json:"interval,omitempty"`
	// Timeout of a probe, 2s to 120s and not above Interval. Default 6s.
	Timeout Duration `json:"timeout,omitempty"`
	// HealthyThreshold and UnhealthyThreshold are the consecutive results
	// that turn a target, 2 to 10. Default 2.
	HealthyThreshold   int `json:"healthyThreshold,omitempty"`
	UnhealthyThreshold int `json:"unhealthyThreshold,omitempty"`
}

// Duration is a time.Duration written as text, "10s".
type Duration time.Duration

// UnmarshalJSON reads a string such as "10s"; AWS counts in whole seconds.
func (d *Duration) UnmarshalJSON(data []byte) error {
	text, err := strconv.Unquote(string(data))
	if err != nil {
		return fmt.Errorf("%s is not a duration such as 10s", data)
	}
	v, err := time.ParseDuration(text)
	if err != nil || v <= 0 || v%time.Second != 0 {
		return fmt.Errorf("%q is not a duration in whole seconds such as 10s", text)
	}
	*d = Duration(v)
	return nil
}

func (d Duration) seconds() int { return int(time.Duration(d) / time.Second) }

// PortRange is a range of ports, both ends included, written "30000-32767".
type PortRange struct{ From, To uint16 }

// UnmarshalJSON reads "from-to".
func (r *PortRange) UnmarshalJSON(data []byte) error {
	text, _ := strconv.Unquote(string(data))
	from, to, ok := strings.Cut(text, "-")
	first, err1 := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	if !ok || err1 != nil || err2 != nil || first == 0 || first > last {
		return fmt.Errorf("%s is not a port range such as 30000-32767", data)
	}
	r.From, r.To = uint16(first), uint16(last)
	return nil
}

// String returns "from-to".
func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.From, r.To) }

// Contains reports whether port is in the range.
func (r PortRange) Contains(port uint16) bool { return r.From <= port && port <= r.To }

// Load reads the configuration file, one strict YAML document: a key it does
// not know is an error that names it. Defaults are filled in. Errors are Invalid.
func Load(r io.Reader) (Config, error) {
	c, err := load(r)
	if err != nil {
		return Config{}, &lb.Error{Kind: lb.Invalid, Op: "read AWS configuration", Message: err.Error(), Err: err}
	}
	return c, nil
}

func load(r io.Reader) (Config, error) {
	if r == nil {
		return Config{}, fmt.Errorf("no file given; it must at least name the cluster: apiVersion: %s, kind: %s, cluster: {name: …}", ConfigAPIVersion, ConfigKind)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return Config{}, err
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return Config{}, fmt.Errorf("the file is empty")
	}
	if documents(data) > 1 {
		return Config{}, fmt.Errorf("the file holds more than one YAML document")
	}
	// The version is judged first, so that a file of another version is not
	// blamed for its keys.
	var header struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := yaml.Unmarshal(data, &header); err != nil {
		return Config{}, fmt.Errorf("not valid YAML: %w", err)
	}
	if header.APIVersion != ConfigAPIVersion || header.Kind != ConfigKind {
		return Config{}, fmt.Errorf("it is of apiVersion %q, kind %q; want %q, %q", header.APIVersion, header.Kind, ConfigAPIVersion, ConfigKind)
	}
	var c Config
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return Config{}, explainUnknown(err)
	}
	c.setDefaults()
	return c, c.validate()
}

var unknownField = regexp.MustCompile(`unknown field "(?:.*\.)?([^".]+)"`)

// explainUnknown names the key that no field takes, with the nearest one that
// exists.
func explainUnknown(err error) error {
	m := unknownField.FindStringSubmatch(err.Error())
	if m == nil {
		return err
	}
	return fmt.Errorf("unknown key %q%s", m[1], didYouMean(m[1], keysOf(reflect.TypeFor[Config]())))
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for f := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(f).Tag.Get("json"), ",")
		if name == "" {
			continue
		}
		keys = append(keys, name)
		if t.Field(f).Type.Kind() == reflect.Struct {
			keys = append(keys, keysOf(t.Field(f).Type)...)
		}
	}
	return keys
}

// documents counts the YAML documents that are not empty.
func documents(data []byte) int {
	n, content := 0, false
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, " \t\r\n")
		switch {
		case line == "---" || strings.HasPrefix(line, "--- "):
			content = false
		case line != "" && !strings.HasPrefix(strings.TrimLeft(line, " "), "#") && !content:
			n, content = n+1, true
		}
	}
	return n
}

func (c *Config) setDefaults() {
	if c.NodePortRange == (PortRange{}) {
		c.NodePortRange = PortRange{30000, 32767}
	}
	c.RequestRate = orDefault(c.RequestRate, 1)
	h := &c.HealthCheck
	h.Protocol = orDefault(h.Protocol, "HTTP")
	h.Port = orDefault(h.Port, 10256)
	if h.Protocol != "TCP" {
		h.Path = orDefault(h.Path, "/healthz")
	}
	h.Interval = orDefault(h.Interval, Duration(10*time.Second))
	h.Timeout = orDefault(h.Timeout, min(Duration(6*time.Second), h.Interval))
	h.HealthyThreshold = orDefault(h.HealthyThreshold, 2)
	h.UnhealthyThreshold = orDefault(h.UnhealthyThreshold, 2)
}

func orDefault[T comparable](v, byDefault T) T {
	var zero T
	if v == zero {
		return byDefault
	}
	return v
}

var (
	vpcID         = regexp.MustCompile(`^vpc-[0-9a-f]+$`)
	groupID       = regexp.MustCompile(`^sg-[0-9a-f]+$`)
	prefixListID  = regexp.MustCompile(`^pl-[0-9a-f]+$`)
	regionPattern = regexp.MustCompile(`^[a-z]+(-[a-z]+)+-[0-9]+$`)
	// clusterName keeps names within what tags, security group names and rule
	// descriptions allow.
	clusterName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)
	// tagText is what Elastic Load Balancing allows in tags.
	tagText = regexp.MustCompile(`^[\pL\pN\pZ_.:/=+\-@]*$`)
)

// Below the lowest rate not even a single Service would be done in time.
const minRequestRate, maxRequestRate = 0.1, 1000

func (c *Config) validate() error {
	switch {
	case c.Cluster.Name == "":
		return fmt.Errorf("cluster.name is missing; it tells the resources of this cluster from those of others in the account")
	case !clusterName.MatchString(c.Cluster.Name):
		return fmt.Errorf("cluster.name %q: want letters, digits, dots, underscores and hyphens, at most 100", c.Cluster.Name)
	case c.Region != "" && !regionPattern.MatchString(c.Region):
		return fmt.Errorf("region %q is not a region such as eu-west-1", c.Region)
	case c.VPC != "" && !vpcID.MatchString(c.VPC):
		return fmt.Errorf("vpc %q is not a VPC id such as vpc-0123456789abcdef0", c.VPC)
	case c.NodeSecurityGroup != "" && !groupID.MatchString(c.NodeSecurityGroup):
		return fmt.Errorf("nodeSecurityGroup %q is not a security group id such as sg-0123456789abcdef0", c.NodeSecurityGroup)
	case !(c.RequestRate >= minRequestRate && c.RequestRate <= maxRequestRate):
		return fmt.Errorf("requestRate %v: want %v to %v times AWS's usual limits", c.RequestRate, minRequestRate, maxRequestRate)
	case len(c.Tags) > maxUserTags:
		return fmt.Errorf("tags: %d are given, at most %d fit beside the owner marks", len(c.Tags), maxUserTags)
	}
	if err := c.HealthCheck.validate(); err != nil {
		return fmt.Errorf("healthCheck.%w", err)
	}
	for k, v := range c.Tags {
		if err := checkTag(k, v); err != nil {
			return fmt.Errorf("tags: %w", err)
		}
	}
	return nil
}

// The values AWS accepts for target groups of a Network Load Balancer.
// https://docs.aws.amazon.com/elasticloadbalancing/latest/network/target-group-health-checks.html
var healthProtocols = []string{"TCP", "HTTP", "HTTPS"}

const (
	minInterval, maxInterval   = 5, 300
	minTimeout, maxTimeout     = 2, 120
	minThreshold, maxThreshold = 2, 10
	maxHealthPath              = 1024
)

// validate's errors begin with the key they are about.
func (h HealthCheckConfig) validate() error {
	switch {
	case !slices.Contains(healthProtocols, h.Protocol):
		return fmt.Errorf("protocol %q: want one of %s", h.Protocol, strings.Join(healthProtocols, ", "))
	case h.Protocol == "TCP" && h.Path != "":
		return fmt.Errorf("path %q: a TCP check has no path", h.Path)
	case h.Protocol != "TCP" && (!strings.HasPrefix(h.Path, "/") || len(h.Path) > maxHealthPath):
		return fmt.Errorf("path %q: want a path that begins with / and has at most %d characters", h.Path, maxHealthPath)
	case h.Interval.seconds() < minInterval || h.Interval.seconds() > maxInterval:
		return fmt.Errorf("interval %s: want %ds to %ds", time.Duration(h.Interval), minInterval, maxInterval)
	case h.Timeout.seconds() < minTimeout || h.Timeout.seconds() > maxTimeout || h.Timeout > h.Interval:
		return fmt.Errorf("timeout %s: want %ds to %ds and not more than the interval %s", time.Duration(h.Timeout), minTimeout, maxTimeout, time.Duration(h.Interval))
	case h.HealthyThreshold < minThreshold || h.HealthyThreshold > maxThreshold:
		return fmt.Errorf("healthyThreshold %d: want %d to %d", h.HealthyThreshold, minThreshold, maxThreshold)
	case h.UnhealthyThreshold < minThreshold || h.UnhealthyThreshold > maxThreshold:
		return fmt.Errorf("unhealthyThreshold %d: want %d to %d", h.UnhealthyThreshold, minThreshold, maxThreshold)
	}
	return nil
}
