package aws

import (
	"slices"
	"strings"
	"time"
)

type listener struct {
	arn, loadBalancer, protocol string
	port                        int32
	targetGroup                 string
	attributes                  map[string]string
}

// listener looks one up by its ARN.
func (a *Account) listener(arn string) (*listener, error) {
	if !strings.HasPrefix(arn, a.arn("elasticloadbalancing", "listener/")) {
		return nil, fail(codeValidation, "'%s' is not a valid listener ARN", arn)
	}
	l, ok := a.listeners[arn]
	if !ok {
		return nil, fail(codeListenerNotFound, "Listener '%s' not found", arn)
	}
	return l, nil
}

// listenersOf returns the listeners of a load balancer in the order of their ARNs.
func (a *Account) listenersOf(loadBalancer string) []*listener {
	return slices.DeleteFunc(sorted(a.listeners), func(l *listener) bool { return l.loadBalancer != loadBalancer })
}

// loadBalancerOf returns the ARN of the load balancer that uses a target group,
// empty when none does.
func (a *Account) loadBalancerOf(targetGroup string) string {
	for _, l := range a.listeners {
		if l.targetGroup == targetGroup {
			return l.loadBalancer
		}
	}
	return ""
}

type actionInput struct {
	Type           string        `query:"Type,required"`
	TargetGroupARN string        `query:"TargetGroupArn"`
	Order          *int32        `query:"Order"`
	Forward        *forwardInput `query:"ForwardConfig"`
}

type forwardInput struct {
	TargetGroups []weightedInput `query:"TargetGroups.member"`
}

type weightedInput struct {
	ARN    string `query:"TargetGroupArn,required"`
	Weight *int32 `query:"Weight"`
}

// forwardTarget returns the target group a listener's actions forward to.
func (a *Account) forwardTarget(actions []actionInput) (*targetGroup, error) {
	if len(actions) != 1 {
		return nil, fail(codeValidation, "A listener of a Network Load Balancer must have exactly one default action, not %d", len(actions))
	}
	action := actions[0]
	if action.Type != "forward" {
		return nil, fail("InvalidLoadBalancerAction", "Action type '%s' is not supported for Network Load Balancers", action.Type)
	}
	arn := action.TargetGroupARN
	if action.Forward != nil {
		if len(action.Forward.TargetGroups) != 1 {
			return nil, fail(codeValidation, "Forwarding to %d target groups is not served here, only to one", len(action.Forward.TargetGroups))
		}
		forward := action.Forward.TargetGroups[0].ARN
		if arn != "" && arn != forward {
			return nil, fail(codeInvalidConfiguration, "TargetGroupArn and ForwardConfig name different target groups")
		}
		arn = forward
	}
	if arn == "" {
		return nil, fail(codeValidation, "A forward action must have a target group ARN")
	}
	return a.targetGroup(arn)
}

// checkListener checks what a listener is about to be: its protocol, its port
// against those of its load balancer's other listeners, and its target group.
func (a *Account) checkListener(want *listener, tg *targetGroup) error {
	switch {
	case !slices.Contains(targetProtocols, want.protocol):
		return fail("UnsupportedProtocol", "Listener protocol '%s' is not one of those served here: %s", want.protocol, strings.Join(targetProtocols, ", "))
	case want.port < 1 || want.port > 65535:
		return fail(codeValidation, "Listener port '%d' must be between 1 and 65535", want.port)
	case tg.protocol != want.protocol && tg.protocol != "TCP_UDP":
		return fail("IncompatibleProtocols", "A listener with protocol %s cannot forward to target group '%s' with protocol %s", want.protocol, tg.arn, tg.protocol)
	}
	for _, other := range a.listeners {
		if other.targetGroup == tg.arn && other.loadBalancer != want.loadBalancer {
			return fail("TargetGroupAssociationLimit", "Target group '%s' cannot be associated with more than one load balancer", tg.arn)
		}
		if other.loadBalancer == want.loadBalancer && other.port == want.port && other.arn != want.arn {
			return fail("DuplicateListener", "A listener already exists on this port (%d) for load balancer '%s'", want.port, want.loadBalancer)
		}
	}
	return a.checkTargetQuotas(want.loadBalancer, tg, tg.activeKeys())
}

type createListenerInput struct {
	LoadBalancerARN string        `query:"LoadBalancerArn,required"`
	Protocol        string        `query:"Protocol"`
	Port            *int32        `query:"Port"`
	DefaultActions  []actionInput `query:"DefaultActions.member,required"`
	Tags            []tagInput    `query:"Tags.member"`
}

type listenersResult struct {
	Listeners  members[listenerXML] `xml:"Listeners"`
	NextMarker string               `xml:"NextMarker,omitempty"`
}

func (a *Account) createListener(in *createListenerInput) (*listenersResult, error) {
	lb, err := a.loadBalancer(in.LoadBalancerARN)
	if err != nil {
		return nil, err
	}
	tags, err := elbTags(in.Tags)
	if err != nil {
		return nil, err
	}
	tg, err := a.forwardTarget(in.DefaultActions)
	if err != nil {
		return nil, err
	}
	if in.Port == nil {
		return nil, fail(codeValidation, "A listener port must be specified")
	}
	l := &listener{loadBalancer: lb.arn, protocol: in.Protocol, port: *in.Port, targetGroup: tg.arn}
	existing := a.listenersOf(lb.arn)
	for _, other := range existing {
		if other.port == l.port && other.protocol == l.protocol && other.targetGroup == l.targetGroup {
			return listenersXML(other), nil
		}
	}
	if err := a.checkListener(l, tg); err != nil {
		return nil, err
	}
	if len(existing) >= a.quotas.ListenersPerLoadBalancer {
		return nil, fail("TooManyListeners", "The maximum number of listeners of load balancer '%s' has been reached", lb.arn)
	}
	l.arn = a.arn("elasticloadbalancing", "listener/net/"+lb.name+"/"+lb.suffix+"/"+a.ids.Hex("listener", 16))
	l.attributes = map[string]string{}
	if l.protocol != "UDP" {
		l.attributes = listenerAttributes.defaults(nil)
	}
	a.attach(l, tg)
	a.setTags(l.arn, tags)
	return listenersXML(l), nil
}

// attach stores a listener with its target group, whose targets come to life if it
// is the group's first.
func (a *Account) attach(l *listener, tg *targetGroup) {
	first := a.loadBalancerOf(tg.arn) == ""
	l.targetGroup = tg.arn
	a.listeners[l.arn] = l
	if !first {
		return
	}
	for _, k := range tg.sortedKeys() {
		a.beginHealth(tg, tg.targets[k])
	}
}

// removeListener deletes a listener and lets its target group go.
func (a *Account) removeListener(l *listener) {
	delete(a.listeners, l.arn)
	delete(a.tags, l.arn)
	a.detached(l.targetGroup)
}

// detached notes that a listener let go of a target group. Targets that were
// draining are gone once nothing uses the group.
func (a *Account) detached(arn string) {
	tg := a.targetGroups[arn]
	if tg == nil || a.loadBalancerOf(arn) != "" {
		return
	}
	tg.releasedAt = time.Now().Add(a.timing.releaseLag)
	for k, t := range tg.targets {
		if t.draining {
			delete(tg.targets, k)
		}
	}
}

func (a *Account) deleteListener(in *listenerARNInput) (*emptyResult, error) {
	l, err := a.listener(in.ARN)
	if err != nil {
		return nil, err
	}
	a.removeListener(l)
	return &emptyResult{}, nil
}

type describeListenersInput struct {
	LoadBalancerARN string   `query:"LoadBalancerArn"`
	ARNs            []string `query:"ListenerArns.member"`
	Marker          string   `query:"Marker"`
	PageSize        *int32   `query:"PageSize"`
}

func (a *Account) describeListeners(in *describeListenersInput) (*listenersResult, error) {
	if (in.LoadBalancerARN == "") == (len(in.ARNs) == 0) {
		return nil, fail(codeValidation, "You must specify either listener ARNs or a load balancer ARN")
	}
	if len(in.ARNs) > maxLookups {
		return nil, fail(codeValidation, "The maximum number of listeners that can be described at once is %d, not %d", maxLookups, len(in.ARNs))
	}
	var objects []*listener
	if in.LoadBalancerARN != "" {
		if _, err := a.loadBalancer(in.LoadBalancerARN); err != nil {
			return nil, err
		}
		objects = a.listenersOf(in.LoadBalancerARN)
	}
	for _, arn := range in.ARNs {
		l, err := a.listener(arn)
		if err != nil {
			return nil, err
		}
		objects = append(objects, l)
	}
	slices.SortFunc(objects, func(x, y *listener) int { return strings.Compare(x.arn, y.arn) })
	page, next, err := elbPage(slices.Compact(objects), func(l *listener) string { return l.arn }, in.PageSize, in.Marker)
	if err != nil {
		return nil, err
	}
	out := listenersXML(page...)
	out.NextMarker = next
	return out, nil
}

type modifyListenerInput struct {
	ARN            string        `query:"ListenerArn,required"`
	Port           *int32        `query:"Port"`
	Protocol       *string       `query:"Protocol"`
	DefaultActions []actionInput `query:"DefaultActions.member"`
}

func (a *Account) modifyListener(in *modifyListenerInput) (*listenersResult, error) {
	l, err := a.listener(in.ARN)
	if err != nil {
		return nil, err
	}
	tg := a.targetGroups[l.targetGroup]
	if in.DefaultActions != nil {
		if tg, err = a.forwardTarget(in.DefaultActions); err != nil {
			return nil, err
		}
	}
	want := *l
	setIf(&want.port, in.Port)
	setIf(&want.protocol, in.Protocol)
	if err := a.checkListener(&want, tg); err != nil {
		return nil, err
	}
	before := l.targetGroup
	l.port, l.protocol = want.port, want.protocol
	if tg.arn != before {
		a.attach(l, tg)
		a.detached(before)
	}
	return listenersXML(l), nil
}

type listenerXML struct {
	ARN             string             `xml:"ListenerArn"`
	LoadBalancerARN string             `xml:"LoadBalancerArn"`
	Port            int32              `xml:"Port"`
	Protocol        string             `xml:"Protocol"`
	DefaultActions  members[actionXML] `xml:"DefaultActions"`
}

type actionXML struct {
	Type           string                    `xml:"Type"`
	TargetGroupARN string                    `xml:"TargetGroupArn"`
	Forward        members[weightedGroupXML] `xml:"ForwardConfig>TargetGroups"`
}

type weightedGroupXML struct {
	ARN string `xml:"TargetGroupArn"`
}

func listenersXML(listeners ...*listener) *listenersResult {
	out := &listenersResult{}
	for _, l := range listeners {
		out.Listeners.Member = append(out.Listeners.Member, listenerXML{
			ARN: l.arn, LoadBalancerARN: l.loadBalancer, Port: l.port, Protocol: l.protocol,
			DefaultActions: members[actionXML]{Member: []actionXML{{
				Type: "forward", TargetGroupARN: l.targetGroup,
				Forward: members[weightedGroupXML]{Member: []weightedGroupXML{{ARN: l.targetGroup}}},
			}}},
		})
	}
	return out
}
