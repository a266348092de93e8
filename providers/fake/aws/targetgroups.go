package aws

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

type targetGroup struct {
	arn, name, protocol string
	port                int32
	check               healthCheck
	attributes          map[string]string
	targets             map[targetKey]*target
	// releasedAt is until when it counts as in use after its listener is gone.
	releasedAt time.Time
}

func (tg *targetGroup) takesUDP() bool { return tg.protocol == "UDP" || tg.protocol == "TCP_UDP" }

// healthCheck is comparable: equal checks make creation idempotent.
type healthCheck struct {
	protocol, port, path, codes string
	interval, timeout           int32
	healthy, unhealthy          int32
}

func (c healthCheck) http() bool { return c.protocol == "HTTP" || c.protocol == "HTTPS" }

// targetGroup looks one up by its ARN.
func (a *Account) targetGroup(arn string) (*targetGroup, error) {
	if !strings.HasPrefix(arn, a.arn("elasticloadbalancing", "targetgroup/")) {
		return nil, fail(codeValidation, "'%s' is not a valid target group ARN", arn)
	}
	tg, ok := a.targetGroups[arn]
	if !ok {
		return nil, fail(codeTargetGroupNotFound, "Target groups '%s' not found", arn)
	}
	return tg, nil
}

// healthCheckInput is what creation and change of a target group share. An absent
// field means the default, or no change.
type healthCheckInput struct {
	Protocol  *string  `query:"HealthCheckProtocol"`
	Port      *string  `query:"HealthCheckPort"`
	Enabled   *bool    `query:"HealthCheckEnabled"`
	Path      *string  `query:"HealthCheckPath"`
	Interval  *int32   `query:"HealthCheckIntervalSeconds"`
	Timeout   *int32   `query:"HealthCheckTimeoutSeconds"`
	Healthy   *int32   `query:"HealthyThresholdCount"`
	Unhealthy *int32   `query:"UnhealthyThresholdCount"`
	Matcher   *matcher `query:"Matcher"`
}

type matcher struct {
	HTTPCode string `query:"HttpCode,required" xml:"HttpCode"`
}

// newHealthCheck is what a target group has before a request says otherwise.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/network/target-group-health-checks.html
func newHealthCheck() healthCheck {
	return healthCheck{protocol: "TCP", port: "traffic-port", interval: 30, timeout: 10, healthy: 5, unhealthy: 2}
}

// apply returns the check with the changes of a request, or what is wrong with
// them.
func (in healthCheckInput) apply(c healthCheck, created bool) (healthCheck, error) {
	if in.Enabled != nil && !*in.Enabled {
		return c, fail(codeInvalidConfiguration, "Health checks must be enabled for target groups with target type instance")
	}
	if in.Protocol != nil {
		c.protocol = *in.Protocol
	}
	if !slices.Contains([]string{"TCP", "HTTP", "HTTPS"}, c.protocol) {
		return c, fail(codeValidation, "Health check protocol '%s' must be one of 'TCP', 'HTTP', 'HTTPS'", c.protocol)
	}
	if !c.http() {
		c.path, c.codes = "", ""
		if in.Path != nil || in.Matcher != nil {
			return c, fail(codeInvalidConfiguration, "A health check path or matcher cannot be specified for health check protocol TCP")
		}
	} else if c.path == "" {
		c.path, c.codes = "/", "200-399"
		if created && c.protocol == "HTTP" {
			c.timeout = 6
		}
	}
	if in.Path != nil {
		c.path = *in.Path
	}
	if in.Matcher != nil {
		c.codes = in.Matcher.HTTPCode
	}
	setIf(&c.port, in.Port)
	setIf(&c.interval, in.Interval)
	setIf(&c.timeout, in.Timeout)
	setIf(&c.healthy, in.Healthy)
	setIf(&c.unhealthy, in.Unhealthy)
	return c, c.validate()
}

func setIf[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

func (c healthCheck) validate() error {
	switch {
	case c.port != "traffic-port" && !between(1, 65535)(c.port):
		return fail(codeValidation, "Health check port '%s' must be 'traffic-port' or a port number", c.port)
	case c.http() && (!strings.HasPrefix(c.path, "/") || len(c.path) > 1024):
		return fail(codeValidation, "Health check path '%s' must begin with '/' and have at most 1024 characters", c.path)
	case c.http() && !validCodes(c.codes):
		return fail(codeValidation, "Health check matcher HTTP code '%s' must be within '200-599'", c.codes)
	case c.interval < 5 || c.interval > 300:
		return fail(codeValidation, "Health check interval '%d' must be between 5 and 300 seconds", c.interval)
	case c.timeout < 2 || c.timeout > 120:
		return fail(codeValidation, "Health check timeout '%d' must be between 2 and 120 seconds", c.timeout)
	case c.timeout > c.interval:
		return fail(codeValidation, "Health check timeout '%d' must not be longer than the interval '%d'", c.timeout, c.interval)
	case c.healthy < 2 || c.healthy > 10 || c.unhealthy < 2 || c.unhealthy > 10:
		return fail(codeValidation, "Health check thresholds '%d' and '%d' must be between 2 and 10", c.healthy, c.unhealthy)
	}
	return nil
}

type createTargetGroupInput struct {
	Name            string  `query:"Name,required"`
	Protocol        string  `query:"Protocol"`
	ProtocolVersion *string `query:"ProtocolVersion"`
	Port            *int32  `query:"Port"`
	VPCID           string  `query:"VpcId"`
	TargetType      string  `query:"TargetType"`
	IPAddressType   string  `query:"IpAddressType"`
	healthCheckInput
	Tags []tagInput `query:"Tags.member"`
}

type targetGroupsResult struct {
	TargetGroups members[targetGroupXML] `xml:"TargetGroups"`
	NextMarker   string                  `xml:"NextMarker,omitempty"`
}

func (a *Account) createTargetGroup(in *createTargetGroupInput) (*targetGroupsResult, error) {
	if err := a.checkNewTargetGroup(in); err != nil {
		return nil, err
	}
	check, err := in.apply(newHealthCheck(), true)
	if err != nil {
		return nil, err
	}
	tags, err := elbTags(in.Tags)
	if err != nil {
		return nil, err
	}
	for _, tg := range a.targetGroups {
		if tg.name != in.Name {
			continue
		}
		if tg.protocol != in.Protocol || tg.port != *in.Port || tg.check != check || !maps.Equal(a.tags[tg.arn], tags) {
			return nil, fail("DuplicateTargetGroupName", "A target group with the same name '%s' exists, but with different settings", in.Name)
		}
		return a.targetGroupsXML(tg), nil
	}
	if len(a.targetGroups) >= a.quotas.TargetGroups {
		return nil, fail("TooManyTargetGroups", "The maximum number of target groups has been reached")
	}
	tg := &targetGroup{
		arn:  a.arn("elasticloadbalancing", "targetgroup/"+in.Name+"/"+a.ids.Hex("targetgroup", 16)),
		name: in.Name, protocol: in.Protocol, port: *in.Port, check: check, targets: map[targetKey]*target{},
	}
	udp := tg.takesUDP()
	tg.attributes = targetGroupAttributes.defaults(&udp)
	a.targetGroups[tg.arn] = tg
	a.setTags(tg.arn, tags)
	return a.targetGroupsXML(tg), nil
}

// targetProtocols are those of Network Load Balancers that are served here.
var targetProtocols = []string{"TCP", "UDP", "TCP_UDP"}

func (a *Account) checkNewTargetGroup(in *createTargetGroupInput) error {
	if err := checkELBName("Target group", in.Name); err != nil {
		return err
	}
	switch {
	case in.TargetType != "" && in.TargetType != "instance":
		return fail(codeValidation, "Target type '%s' is not served here, only 'instance'", in.TargetType)
	case !slices.Contains(targetProtocols, in.Protocol):
		return fail(codeValidation, "Target group protocol '%s' is not one of those served here: %s", in.Protocol, strings.Join(targetProtocols, ", "))
	case in.ProtocolVersion != nil:
		return fail(codeValidation, "ProtocolVersion cannot be specified for target groups with protocol %s", in.Protocol)
	case in.Port == nil || *in.Port < 1 || *in.Port > 65535:
		return fail(codeValidation, "A port from 1 to 65535 must be specified")
	case in.VPCID == "":
		return fail(codeValidation, "A VPC ID must be specified")
	case in.VPCID != a.vpc.id:
		return fail(codeValidation, "The VPC ID '%s' is not found", in.VPCID)
	case in.IPAddressType != "" && in.IPAddressType != "ipv4":
		return fail(codeInvalidConfiguration, "IP address type '%s' is not available: the VPC has no IPv6 CIDR block", in.IPAddressType)
	}
	return nil
}

// deleteTargetGroup succeeds when the target group is not there; a listener's is in
// use.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_DeleteTargetGroup.html
func (a *Account) deleteTargetGroup(in *targetGroupARNInput) (*emptyResult, error) {
	tg, err := a.targetGroup(in.ARN)
	if isCode(err, codeTargetGroupNotFound) {
		return &emptyResult{}, nil
	}
	if err != nil {
		return nil, err
	}
	if a.loadBalancerOf(tg.arn) != "" || time.Now().Before(tg.releasedAt) {
		return nil, fail(codeResourceInUse, "Target group '%s' is currently in use by a listener or a rule", tg.arn)
	}
	delete(a.targetGroups, tg.arn)
	delete(a.tags, tg.arn)
	return &emptyResult{}, nil
}

type describeTargetGroupsInput struct {
	LoadBalancerARN string   `query:"LoadBalancerArn"`
	ARNs            []string `query:"TargetGroupArns.member"`
	Names           []string `query:"Names.member"`
	Marker          string   `query:"Marker"`
	PageSize        *int32   `query:"PageSize"`
}

func (a *Account) describeTargetGroups(in *describeTargetGroupsInput) (*targetGroupsResult, error) {
	objects, err := a.askedTargetGroups(in)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(objects, func(x, y *targetGroup) int { return strings.Compare(x.arn, y.arn) })
	page, next, err := elbPage(objects, func(tg *targetGroup) string { return tg.arn }, in.PageSize, in.Marker)
	if err != nil {
		return nil, err
	}
	out := a.targetGroupsXML(page...)
	out.NextMarker = next
	return out, nil
}

func (a *Account) askedTargetGroups(in *describeTargetGroupsInput) ([]*targetGroup, error) {
	ways := 0
	for _, given := range []bool{in.LoadBalancerARN != "", len(in.ARNs) > 0, len(in.Names) > 0} {
		if given {
			ways++
		}
	}
	if ways > 1 {
		return nil, fail(codeValidation, "Only one of a load balancer ARN, target group ARNs and names can be specified")
	}
	if n := max(len(in.ARNs), len(in.Names)); n > maxLookups {
		return nil, fail(codeValidation, "The maximum number of target groups that can be described at once is %d, not %d", maxLookups, n)
	}
	notFound := func(string) error { return fail(codeTargetGroupNotFound, "One or more target groups not found") }
	switch {
	case in.LoadBalancerARN != "":
		if _, err := a.loadBalancer(in.LoadBalancerARN); err != nil {
			return nil, err
		}
		return slices.DeleteFunc(sorted(a.targetGroups), func(tg *targetGroup) bool {
			return a.loadBalancerOf(tg.arn) != in.LoadBalancerARN
		}), nil
	case len(in.Names) > 0:
		byName := map[string]*targetGroup{}
		for _, tg := range a.targetGroups {
			byName[tg.name] = tg
		}
		return byIDs(byName, in.Names, notFound)
	}
	for _, arn := range in.ARNs {
		if _, err := a.targetGroup(arn); isCode(err, codeValidation) {
			return nil, err
		}
	}
	return byIDs(a.targetGroups, in.ARNs, notFound)
}

type modifyTargetGroupInput struct {
	ARN string `query:"TargetGroupArn,required"`
	healthCheckInput
}

func (a *Account) modifyTargetGroup(in *modifyTargetGroupInput) (*targetGroupsResult, error) {
	tg, err := a.targetGroup(in.ARN)
	if err != nil {
		return nil, err
	}
	check, err := in.apply(tg.check, false)
	if err != nil {
		return nil, err
	}
	tg.check = check
	return a.targetGroupsXML(tg), nil
}

type targetGroupXML struct {
	ARN              string          `xml:"TargetGroupArn"`
	Name             string          `xml:"TargetGroupName"`
	Protocol         string          `xml:"Protocol"`
	Port             int32           `xml:"Port"`
	VPCID            string          `xml:"VpcId"`
	CheckProtocol    string          `xml:"HealthCheckProtocol"`
	CheckPort        string          `xml:"HealthCheckPort"`
	CheckEnabled     bool            `xml:"HealthCheckEnabled"`
	Interval         int32           `xml:"HealthCheckIntervalSeconds"`
	Timeout          int32           `xml:"HealthCheckTimeoutSeconds"`
	Healthy          int32           `xml:"HealthyThresholdCount"`
	Unhealthy        int32           `xml:"UnhealthyThresholdCount"`
	Path             string          `xml:"HealthCheckPath,omitempty"`
	Matcher          *matcher        `xml:"Matcher"`
	LoadBalancerARNs members[string] `xml:"LoadBalancerArns"`
	TargetType       string          `xml:"TargetType"`
	IPAddressType    string          `xml:"IpAddressType"`
}

func (a *Account) targetGroupsXML(tgs ...*targetGroup) *targetGroupsResult {
	out := &targetGroupsResult{}
	for _, tg := range tgs {
		x := targetGroupXML{
			ARN: tg.arn, Name: tg.name, Protocol: tg.protocol, Port: tg.port, VPCID: a.vpc.id,
			CheckProtocol: tg.check.protocol, CheckPort: tg.check.port, CheckEnabled: true, Interval: tg.check.interval,
			Timeout: tg.check.timeout, Healthy: tg.check.healthy, Unhealthy: tg.check.unhealthy, Path: tg.check.path,
			TargetType: "instance", IPAddressType: "ipv4",
		}
		if tg.check.http() {
			x.Matcher = &matcher{HTTPCode: tg.check.codes}
		}
		if arn := a.loadBalancerOf(tg.arn); arn != "" {
			x.LoadBalancerARNs.Member = []string{arn}
		}
		out.TargetGroups.Member = append(out.TargetGroups.Member, x)
	}
	return out
}

// deregistrationDelay is how long a target of the group drains.
func (a *Account) deregistrationDelay(tg *targetGroup) time.Duration {
	seconds, _ := strconv.Atoi(tg.attributes[tgDeregistration])
	delay := time.Duration(seconds) * time.Second
	if a.timing.maxDraining > 0 {
		delay = min(delay, a.timing.maxDraining)
	}
	return delay
}
