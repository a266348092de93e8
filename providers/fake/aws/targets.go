package aws

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fairway-lb/fairway/providers/fake"
)

// targetKey is what a registration is known by within its group.
type targetKey struct {
	instance string
	port     int32
}

func (k targetKey) String() string { return fmt.Sprintf("%s:%d", k.instance, k.port) }

type target struct {
	targetKey
	draining bool
	// enrolled: health checks have begun. verdict is their outcome so far.
	enrolled bool
	verdict  verdict
	reason   string
	// turn tells scheduled changes of an earlier registration from this one's.
	turn int
}

type verdict int

const (
	undecided verdict = iota
	healthy
	unhealthy
)

// targetID is the key of health reports.
func targetID(tg *targetGroup, k targetKey) string { return tg.arn + "|" + k.String() }

type targetsInput struct {
	ARN     string        `query:"TargetGroupArn,required"`
	Targets []targetInput `query:"Targets.member,required"`
}

type targetInput struct {
	ID   string  `query:"Id,required"`
	Port *int32  `query:"Port"`
	Zone *string `query:"AvailabilityZone"`
}

// keys checks the form of the targets of a request and gives those without a port
// the group's.
func (tg *targetGroup) keys(targets []targetInput) ([]targetKey, error) {
	if len(targets) == 0 {
		return nil, fail(codeValidation, "At least one target must be specified")
	}
	var keys []targetKey
	for _, t := range targets {
		key := targetKey{instance: t.ID, port: tg.port}
		setIf(&key.port, t.Port)
		switch {
		case checkID("i", t.ID) != nil:
			return nil, fail(codeValidation, "Instance ID '%s' is not valid", t.ID)
		case key.port < 1 || key.port > 65535:
			return nil, fail(codeValidation, "Target port %d must be between 1 and 65535", key.port)
		case t.Zone != nil:
			return nil, fail(codeValidation, "You cannot specify an Availability Zone for targets of type instance")
		case slices.Contains(keys, key):
			return nil, fail(codeValidation, "Target '%s' is given more than once", key)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// targetsOf looks up which targets of which group are meant.
func (a *Account) targetsOf(in *targetsInput) (*targetGroup, []targetKey, error) {
	tg, err := a.targetGroup(in.ARN)
	if err != nil {
		return nil, nil, err
	}
	keys, err := tg.keys(in.Targets)
	return tg, keys, err
}

// oldFamilies are the instance types a Network Load Balancer does not take by
// instance id.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/network/target-group-register-targets.html
var oldFamilies = []string{"c1", "cc1", "cc2", "cg1", "cg2", "cr1", "g1", "g2", "hi1", "hs1", "m1", "m2", "m3", "t1"}

// registerTargets registers all or, when one of them cannot be, none.
func (a *Account) registerTargets(in *targetsInput) (*emptyResult, error) {
	tg, keys, err := a.targetsOf(in)
	if err != nil {
		return nil, err
	}
	if err := a.checkTargets(keys); err != nil {
		return nil, err
	}
	after := tg.activeKeys()
	for _, k := range keys {
		if !slices.Contains(after, k) {
			after = append(after, k)
		}
	}
	if len(after) > a.quotas.TargetsPerGroup {
		return nil, fail("TooManyTargets", "The maximum number of targets of a target group is %d", a.quotas.TargetsPerGroup)
	}
	if err := a.checkTargetQuotas(a.loadBalancerOf(tg.arn), tg, after); err != nil {
		return nil, err
	}
	for _, k := range keys {
		t := tg.targets[k]
		if t == nil {
			t = &target{targetKey: k}
			tg.targets[k] = t
		} else if !t.draining {
			continue
		}
		t.draining = false
		a.beginHealth(tg, t)
	}
	return &emptyResult{}, nil
}

// activeKeys are the targets that quotas count: not those that are draining.
func (tg *targetGroup) activeKeys() []targetKey {
	return slices.DeleteFunc(tg.sortedKeys(), func(k targetKey) bool { return tg.targets[k].draining })
}

// checkTargetQuotas says whether a load balancer would have too many targets if
// tg, with these targets, were among its groups; never for no load balancer.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/network/load-balancer-limits.html
func (a *Account) checkTargetQuotas(loadBalancer string, tg *targetGroup, keys []targetKey) error {
	lb := a.loadBalancers[loadBalancer]
	if lb == nil {
		return nil
	}
	groups := map[string][]targetKey{tg.arn: keys}
	for _, l := range a.listenersOf(loadBalancer) {
		if l.targetGroup != tg.arn {
			groups[l.targetGroup] = a.targetGroups[l.targetGroup].activeKeys()
		}
	}
	total, zones := 0, map[string]int{}
	for _, keys := range groups {
		for _, k := range keys {
			total++
			if i := a.instances[k.instance]; i != nil {
				zones[i.subnet.zone]++
			}
		}
	}
	limit := a.quotas.TargetsPerLoadBalancer
	if lb.crossZone() {
		limit = a.quotas.TargetsAcrossZones
	}
	if total > limit {
		return fail("TooManyTargets", "The maximum number of targets of load balancer '%s' is %d", lb.arn, limit)
	}
	for _, zone := range slices.Sorted(maps.Keys(zones)) {
		if zones[zone] > a.quotas.TargetsPerZone && !lb.crossZone() {
			return fail("TooManyTargets", "The maximum number of targets of load balancer '%s' in %s is %d", lb.arn, zone, a.quotas.TargetsPerZone)
		}
	}
	return nil
}

func (a *Account) checkTargets(keys []targetKey) error {
	var absent, notRunning, unsupported []string
	for _, k := range keys {
		i, ok := a.instances[k.instance]
		family := ""
		if ok {
			family, _, _ = strings.Cut(i.kind, ".")
		}
		switch {
		case !ok:
			absent = append(absent, k.instance)
		case i.state != Running:
			notRunning = append(notRunning, k.instance)
		case slices.Contains(oldFamilies, family):
			unsupported = append(unsupported, k.instance)
		}
	}
	quoted := func(ids []string) string { return "'" + strings.Join(ids, "', '") + "'" }
	switch {
	case len(absent) > 0:
		return fail("InvalidTarget", "The following targets are not in the target group VPC '%s': %s", a.vpc.id, quoted(absent))
	case len(notRunning) > 0:
		return fail("InvalidTarget", "The following targets are not in a running state and cannot be registered: %s", quoted(notRunning))
	case len(unsupported) > 0:
		return fail("InvalidTarget", "The following targets have an instance type that is not supported: %s", quoted(unsupported))
	}
	return nil
}

// deregisterTargets ignores targets that are not registered.
func (a *Account) deregisterTargets(in *targetsInput) (*emptyResult, error) {
	tg, keys, err := a.targetsOf(in)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		t := tg.targets[k]
		if t == nil || t.draining {
			continue
		}
		t.turn++
		delay := a.deregistrationDelay(tg)
		if a.loadBalancerOf(tg.arn) == "" || delay == 0 {
			delete(tg.targets, k)
			continue
		}
		t.draining = true
		turn := t.turn
		a.agenda.After(delay, func() {
			if tg.targets[k] == t && t.turn == turn {
				delete(tg.targets, k)
				a.publish()
			}
		})
	}
	return &emptyResult{}, nil
}

// beginHealth starts a target's life anew: nothing is known about its health until
// the registration time has passed. Then a data path tells; without one a running
// instance is healthy.
func (a *Account) beginHealth(tg *targetGroup, t *target) {
	t.turn++
	t.enrolled, t.verdict, t.reason = false, undecided, ""
	turn := t.turn
	enrol := func() {
		if tg.targets[t.targetKey] != t || t.turn != turn || t.draining {
			return
		}
		t.enrolled = true
		if a.carrier == nil {
			t.verdict = healthy
		}
		a.publish()
	}
	if a.timing.registration <= 0 {
		enrol()
		return
	}
	a.agenda.After(a.timing.registration, enrol)
}

// instanceChanged restarts the health of an instance's targets after its state
// changed.
func (a *Account) instanceChanged(i *instance) {
	for _, tg := range a.targetGroups {
		for k, t := range tg.targets {
			if k.instance == i.id && !t.draining {
				a.beginHealth(tg, t)
			}
		}
	}
}

// ReportHealth takes the data path's verdict on a target, as a fake.HealthReporter.
func (a *Account) ReportHealth(id string, isHealthy bool, reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	arn, name, _ := strings.Cut(id, "|")
	tg := a.targetGroups[arn]
	if tg == nil {
		return
	}
	for k, t := range tg.targets {
		if k.String() != name || t.draining || !t.enrolled {
			continue
		}
		t.verdict, t.reason = unhealthy, reason
		if isHealthy {
			t.verdict = healthy
		}
		a.publish()
	}
}

type describeTargetHealthInput struct {
	ARN     string        `query:"TargetGroupArn,required"`
	Targets []targetInput `query:"Targets.member"`
}

type targetHealthXML struct {
	ID          string `xml:"Target>Id"`
	Port        int32  `xml:"Target>Port"`
	CheckPort   string `xml:"HealthCheckPort,omitempty"`
	State       string `xml:"TargetHealth>State"`
	Reason      string `xml:"TargetHealth>Reason,omitempty"`
	Description string `xml:"TargetHealth>Description,omitempty"`
}

type describeTargetHealthResult struct {
	Descriptions members[targetHealthXML] `xml:"TargetHealthDescriptions"`
}

func (a *Account) describeTargetHealth(in *describeTargetHealthInput) (*describeTargetHealthResult, error) {
	tg, err := a.targetGroup(in.ARN)
	if err != nil {
		return nil, err
	}
	keys := tg.sortedKeys()
	if in.Targets != nil {
		if keys, err = tg.keys(in.Targets); err != nil {
			return nil, err
		}
	}
	out := &describeTargetHealthResult{}
	for _, k := range keys {
		h := a.health(tg, k)
		x := targetHealthXML{ID: k.instance, Port: k.port, State: h.state, Reason: h.reason, Description: h.description}
		if x.CheckPort = tg.check.port; x.CheckPort == "traffic-port" {
			x.CheckPort = fmt.Sprint(k.port)
		}
		out.Descriptions.Member = append(out.Descriptions.Member, x)
	}
	return out, nil
}

func (tg *targetGroup) sortedKeys() []targetKey {
	var keys []targetKey
	for k := range tg.targets {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(x, y targetKey) int {
		return cmp.Or(strings.Compare(x.instance, y.instance), cmp.Compare(x.port, y.port))
	})
	return keys
}

// targetHealth is a target's state with AWS's reason for it.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetHealth.html
type targetHealth struct{ state, reason, description string }

func (a *Account) health(tg *targetGroup, k targetKey) targetHealth {
	t := tg.targets[k]
	lb := a.loadBalancers[a.loadBalancerOf(tg.arn)]
	i := a.instances[k.instance]
	switch {
	case t == nil:
		return targetHealth{"unused", "Target.NotRegistered", "Target is not registered to the target group"}
	case t.draining:
		return targetHealth{string(fake.StateDraining), "Target.DeregistrationInProgress", "Target deregistration is in progress"}
	case lb == nil:
		return targetHealth{"unused", "Target.NotInUse", "Target group is not configured to receive traffic from the load balancer"}
	case i.state != Running:
		return targetHealth{"unused", "Target.InvalidState", "Target is in the stopped or terminated state"}
	case !lb.inZone(i.subnet.zone) && !a.crossZone(lb, tg):
		return targetHealth{"unused", "Target.NotInUse", "Target is in an Availability Zone that is not enabled for the load balancer"}
	case t.verdict == healthy:
		return targetHealth{state: string(fake.StateHealthy)}
	case t.verdict == unhealthy:
		return targetHealth{string(fake.StateUnhealthy), "Target.FailedHealthChecks", cmp.Or(t.reason, "Health checks failed")}
	case !t.enrolled:
		return targetHealth{string(fake.StateInitial), "Elb.RegistrationInProgress", "Target registration is in progress"}
	}
	return targetHealth{string(fake.StateInitial), "Elb.InitialHealthChecking", "Initial health checks in progress"}
}

// crossZone says whether targets of the group get traffic from nodes of all zones.
func (a *Account) crossZone(lb *loadBalancer, tg *targetGroup) bool {
	if own := tg.attributes[tgCrossZone]; isBool(own) {
		return own == "true"
	}
	return lb.crossZone()
}
