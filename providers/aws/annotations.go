package aws

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fairway-lb/fairway/providers/lb"
)

const (
	annotationPrefix = "service.beta.kubernetes.io/aws-load-balancer-"
	neutralPrefix    = "fairway.io/"
)

// Annotation describes one annotation this provider knows; the annotation
// reference is generated from these.
type Annotation struct {
	// Name is the full annotation key. Where PerPort is set, keys that go on
	// with a dot and a port are meant too.
	Name    string
	PerPort bool
	// Neutral is another key for the same thing that is spelled alike on every
	// cloud, "" when there is none.
	Neutral string
	// Type says in a few words what values look like.
	Type string
	// Default is what happens without the annotation.
	Default string
	// Doc says what it does.
	Doc string
	// Honoured is false for what this version only reports with an event.
	Honoured bool

	parse func(o *options, value string) error
	// parsePort is for keys that end in a port of the Service.
	parsePort func(o *options, port uint16, value string) error
}

// Annotations returns all annotations this provider knows, sorted by name.
func Annotations() []Annotation {
	return slices.Clone(annotationTable)
}

// options is what a Service's annotations ask for.
type options struct {
	service lb.Service
	config  Config

	scheme         string // "" when not asked for
	subnets        []string
	securityGroups []string
	prefixLists    []string
	noICMP         bool
	targetLabels   map[string]string
	health         healthOptions
	attributes     attributeOptions
	tags           map[string]string
	notices        []lb.Notice
}

const (
	schemeInternet = "internet-facing"
	schemeInternal = "internal"
)

// parseAnnotations reads s's annotations. A value that cannot be is an Invalid
// error naming annotation, value and what is allowed; what is known but not
// honoured, or not known at all under our prefix, becomes a notice.
func parseAnnotations(s lb.Service, cfg Config) (*options, error) {
	o := &options{service: s, config: cfg}
	for _, a := range annotationTable {
		if !a.Honoured {
			continue
		}
		if err := a.read(o); err != nil {
			return nil, err
		}
	}
	if len(o.securityGroups) > 0 && (len(o.prefixLists) > 0 || len(s.SourceRanges) > 0) {
		return nil, lb.InvalidField(annotationPrefix+"security-groups", strings.Join(o.securityGroups, ","),
			"groups of your own decide who may connect; remove the source ranges and prefix lists, or this annotation")
	}
	o.remarkOnTheRest()
	return o, nil
}

// read parses what the Service has of the annotation, if anything.
func (a Annotation) read(o *options) error {
	key, value, err := a.lookup(o.service.Annotations)
	if err != nil {
		return err
	}
	if key != "" {
		if err := a.parse(o, strings.TrimSpace(value)); err != nil {
			return lb.InvalidField(key, value, err.Error())
		}
	}
	if a.parsePort == nil {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(o.service.Annotations)) {
		of, isPort := strings.CutPrefix(key, a.Name+".")
		if !isPort {
			continue
		}
		value := o.service.Annotations[key]
		port, err := o.portOf(of)
		if err == nil {
			err = a.parsePort(o, port, strings.TrimSpace(value))
		}
		if err != nil {
			return lb.InvalidField(key, value, err.Error())
		}
	}
	return nil
}

// lookup returns the value of the annotation under either of its keys, and the
// key it was found under.
func (a Annotation) lookup(all map[string]string) (key, value string, err error) {
	value, ok := all[a.Name]
	neutral, also := all[a.Neutral]
	switch {
	case a.Neutral == "" || !also:
		if !ok {
			return "", "", nil
		}
		return a.Name, value, nil
	case ok && value != neutral:
		return "", "", lb.InvalidField(a.Neutral, neutral, fmt.Sprintf("%s says %q; they mean the same and must agree", a.Name, value))
	}
	return a.Neutral, neutral, nil
}

// remarkOnTheRest adds a notice for each annotation under the AWS prefix that
// nothing here acts upon.
func (o *options) remarkOnTheRest() {
	for _, key := range slices.Sorted(maps.Keys(o.service.Annotations)) {
		if !strings.HasPrefix(key, annotationPrefix) {
			continue
		}
		a, known := findAnnotation(key)
		value := strings.TrimSpace(o.service.Annotations[key])
		switch {
		case known && (a.Honoured || value == a.Default):
		case known:
			o.notice("AnnotationNotHonoured", "annotation %s has no effect yet: this version does not implement it", key)
		default:
			o.notice("UnknownAnnotation", "annotation %s is not known and has no effect%s", key, didYouMean(key, annotationNames()))
		}
	}
}

func (o *options) notice(reason, format string, args ...any) {
	o.notices = append(o.notices, lb.Notice{Reason: reason, Message: fmt.Sprintf(format, args...)})
}

func findAnnotation(key string) (Annotation, bool) {
	i := slices.IndexFunc(annotationTable, func(a Annotation) bool {
		return a.Name == key || a.PerPort && strings.HasPrefix(key, a.Name+".")
	})
	if i < 0 {
		return Annotation{}, false
	}
	return annotationTable[i], true
}

func annotationNames() []string {
	var all []string
	for _, a := range annotationTable {
		all = append(all, a.Name)
	}
	return all
}

// annotationTable is every annotation that the in-tree-style controllers of AWS
// understand on a Service, with what becomes of it here.
// https://cloud-provider-aws.sigs.k8s.io/service_controller/ and
// https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/service/annotations/
var annotationTable = makeAnnotationTable()

func makeAnnotationTable() []Annotation {
	table := slices.Concat(placementAnnotations(), healthAnnotations(), attributeAnnotations(), laterAnnotations())
	for i, a := range table {
		table[i].Name = annotationPrefix + a.Name
		table[i].Honoured = a.parse != nil
		if a.Neutral != "" {
			table[i].Neutral = neutralPrefix + a.Neutral
		}
	}
	slices.SortFunc(table, func(a, b Annotation) int { return cmp.Compare(a.Name, b.Name) })
	return table
}

func placementAnnotations() []Annotation {
	return []Annotation{
		{Name: "type", Type: "nlb", Default: "nlb", parse: parseType,
			Doc: "Kind of load balancer. Only Network Load Balancers are made; external and nlb-ip mean that another controller serves the Service."},
		{Name: "nlb-target-type", Type: "instance", Default: "instance", parse: oneOf("instance", nil),
			Doc: "What targets are. Only instances at their NodePorts."},
		{Name: "scheme", Neutral: "scheme", Type: "internet-facing or internal", Default: schemeInternet, parse: parseScheme,
			Doc: "Whether the load balancer has public addresses. A change makes a new load balancer before the old one goes."},
		{Name: "internal", Type: "true or false", Default: "false", parse: parseInternal,
			Doc: "Older form of scheme. 0.0.0.0/0 is taken for true, as it once was."},
		{Name: "subnets", Neutral: "subnets", Type: "list of subnet ids or Name tags, one per zone", Default: "found by role tag, else by route table", parse: parseSubnets,
			Doc: "Subnets the load balancer lives in."},
		{Name: "security-groups", Type: "list of security group ids, at most 4", Default: "a group of the Service's own", parse: parseSecurityGroups,
			Doc: "Groups of your own that decide who may connect, in place of the one made for the Service."},
		{Name: "security-group-prefix-lists", Type: "list of prefix list ids", Default: "none", parse: parsePrefixLists,
			Doc: "Managed prefix lists whose members may connect, beside the source ranges; without source ranges, they alone."},
		{Name: "enable-icmp-for-path-mtu-discovery", Type: "on or off", Default: "on", parse: parseICMP,
			Doc: "Admit the ICMP message that path MTU discovery needs."},
		{Name: "target-node-labels", Neutral: "target-node-labels", Type: "list of label=value", Default: "every node", parse: parseTargetLabels,
			Doc: "Only nodes that carry all these labels become targets."},
		{Name: "additional-resource-tags", Type: "list of key=value", Default: "those of the configuration", parse: parseTags,
			Doc: "Tags on everything made for the Service. One that is no longer listed is removed; those that others set stay."},
	}
}

func parseType(_ *options, value string) error {
	switch value {
	case "nlb":
		return nil
	case "external", "nlb-ip":
		return fmt.Errorf("this value gives the Service to the AWS Load Balancer Controller; remove the annotation or set it to nlb to be served here")
	default:
		return fmt.Errorf("want nlb, the only type made here")
	}
}

// oneOf accepts one value and, when set is given, calls it.
func oneOf(allowed string, set func(*options)) func(*options, string) error {
	return func(o *options, value string) error {
		if value != allowed {
			return fmt.Errorf("want %s, the only one made here", allowed)
		}
		if set != nil {
			set(o)
		}
		return nil
	}
}

func parseScheme(o *options, value string) error {
	if value != schemeInternet && value != schemeInternal {
		return fmt.Errorf("want %s or %s", schemeInternet, schemeInternal)
	}
	return o.setScheme(value)
}

func parseInternal(o *options, value string) error {
	switch value {
	case "true", "0.0.0.0/0":
		return o.setScheme(schemeInternal)
	case "false", "":
		return o.setScheme(schemeInternet)
	default:
		return fmt.Errorf("want true or false")
	}
}

func (o *options) setScheme(scheme string) error {
	if o.scheme != "" && o.scheme != scheme {
		return fmt.Errorf("annotations %sscheme and %sinternal contradict one another", annotationPrefix, annotationPrefix)
	}
	o.scheme = scheme
	return nil
}

func parseSubnets(o *options, value string) (err error) {
	o.subnets, err = parseList(value, nil, "subnet ids (subnet-…) or Name tags")
	return err
}

func parseSecurityGroups(o *options, value string) (err error) {
	o.securityGroups, err = parseList(value, groupID.MatchString, "security group ids (sg-…)")
	// An interface is in at most five groups, and the cluster's is one.
	if err == nil && len(o.securityGroups) > 4 {
		return fmt.Errorf("want at most 4 groups beside the cluster's own")
	}
	return err
}

func parsePrefixLists(o *options, value string) (err error) {
	o.prefixLists, err = parseList(value, prefixListID.MatchString, "prefix list ids (pl-…)")
	return err
}

func parseICMP(o *options, value string) error {
	if value != "on" && value != "off" {
		return fmt.Errorf("want on or off")
	}
	o.noICMP = value == "off"
	return nil
}

func parseTargetLabels(o *options, value string) error {
	items, err := parseList(value, func(s string) bool { return strings.Index(s, "=") > 0 }, "label=value")
	o.targetLabels = map[string]string{}
	for _, item := range items {
		k, v, _ := strings.Cut(item, "=")
		o.targetLabels[strings.TrimSpace(k)] = strings.TrimSpace(v)
	}
	return err
}

// parseList splits at commas. Nothing between two commas, a repeated item and
// one that ok refuses are errors.
func parseList(value string, ok func(string) bool, of string) ([]string, error) {
	var items []string
	for item := range strings.SplitSeq(value, ",") {
		item = strings.TrimSpace(item)
		switch {
		case item == "" || ok != nil && !ok(item):
			return nil, fmt.Errorf("%q does not belong here; want a list of %s separated by commas", item, of)
		case slices.Contains(items, item):
			return nil, fmt.Errorf("%q is listed twice", item)
		}
		items = append(items, item)
	}
	return items, nil
}

// laterAnnotations are known but not honoured yet. One whose value is its
// default changes nothing and is not worth a notice.
func laterAnnotations() []Annotation {
	return []Annotation{
		{Name: "name", Type: "up to 32 characters", Doc: "Name of the load balancer."},
		{Name: "eip-allocations", Type: "list of eipalloc ids", Doc: "Elastic IPs, one per subnet."},
		{Name: "private-ipv4-addresses", Type: "list of addresses", Doc: "Fixed private addresses, one per subnet."},
		{Name: "ipv6-addresses", Type: "list of addresses", Doc: "Fixed IPv6 addresses, one per subnet."},
		{Name: "ip-address-type", Type: "ipv4 or dualstack", Default: "ipv4", Doc: "Address families of the load balancer."},
		{Name: "enable-prefix-for-ipv6-source-nat", Type: "on or off", Default: "off", Doc: "Source NAT prefixes, which UDP needs on dual-stack load balancers."},
		{Name: "source-nat-ipv6-prefixes", Type: "list of prefixes", Doc: "Source NAT prefixes, one per subnet."},
		{Name: "minimum-load-balancer-capacity", Type: "CapacityUnits=n", Doc: "Reserved capacity."},
		{Name: "enable-tcp-udp-listener", Type: "true or false", Default: "true", Doc: "One listener for TCP and UDP on the same port; always done here."},
		{Name: "ssl-cert", Type: "list of ARNs", Doc: "Certificates of TLS listeners."},
		{Name: "ssl-ports", Type: "list of ports or names", Doc: "Ports with TLS."},
		{Name: "ssl-negotiation-policy", Type: "policy name", Doc: "TLS policy."},
		{Name: "backend-protocol", Type: "tcp or ssl", Default: "tcp", Doc: "Protocol between load balancer and nodes."},
		{Name: "alpn-policy", Type: "policy name", Default: "None", Doc: "ALPN policy of TLS listeners."},
		{Name: "listener-attributes", PerPort: true, Type: "list of key=value", Doc: "Attributes of a listener."},
		{Name: "connection-idle-timeout", Type: "seconds", Doc: "Idle timeout of connections."},
		{Name: "quic-enabled-ports", Type: "list of ports", Doc: "Ports with QUIC."},
		{Name: "multi-cluster-target-group", Type: "true or false", Default: "false", Doc: "Target groups shared by clusters."},
		{Name: "access-log-enabled", Type: "true or false", Default: "false", Doc: "Access logs."},
		{Name: "access-log-emit-interval", Type: "minutes", Doc: "Classic load balancers only."},
		{Name: "access-log-s3-bucket-name", Type: "bucket", Doc: "Where access logs go."},
		{Name: "access-log-s3-bucket-prefix", Type: "prefix", Doc: "Where access logs go."},
		{Name: "extra-security-groups", Type: "list of ids", Doc: "Further security groups."},
		{Name: "manage-backend-security-group-rules", Type: "true or false", Default: "true", Doc: "Whether the nodes admit the load balancer by themselves."},
		{Name: "inbound-sg-rules-on-private-link-traffic", Type: "on or off", Default: "on", Doc: "Whether source ranges bind PrivateLink clients."},
		{Name: "disable-nlb-sg", Type: "true or false", Default: "false", Doc: "Make the load balancer without security groups."},
	}
}
