package aws

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairway-lb/fairway/providers/fake"
)

// publish hands the data plane to the carrier if it differs from what it carries.
func (a *Account) publish() {
	if a.carrier == nil {
		return
	}
	next := a.dataplane()
	next.Generation = a.carried.Generation
	if reflect.DeepEqual(next, a.carried) && next.Generation > 0 {
		return
	}
	next.Generation++
	a.carried = next
	a.carrier.Carry(next)
}

// Dataplane returns what a carrier is, or would be, asked to carry now.
func (a *Account) Dataplane() fake.Dataplane {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.agenda.RunDue()
	d := a.dataplane()
	d.Generation = a.carried.Generation
	return d
}

func (a *Account) dataplane() fake.Dataplane {
	d := fake.Dataplane{Network: []netip.Prefix{a.vpc.cidr}}
	for _, lb := range sorted(a.loadBalancers) {
		if lb.active() {
			d.LoadBalancers = append(d.LoadBalancers, a.carriedLoadBalancer(lb))
		}
	}
	for _, i := range sorted(a.instances) {
		if i.state != Running {
			continue
		}
		addresses := append([]netip.Prefix{netip.PrefixFrom(i.private, i.private.BitLen())}, i.prefixes...)
		d.Network = append(d.Network, i.prefixes...)
		d.Interfaces = append(d.Interfaces, fake.Interface{
			Device: i.device, Addresses: addresses, Filtered: true, Ingress: a.ingress(i.groups), Groups: i.groups,
		})
	}
	slices.SortStableFunc(d.Interfaces, func(x, y fake.Interface) int { return strings.Compare(x.Device, y.Device) })
	return d
}

func (a *Account) carriedLoadBalancer(lb *loadBalancer) fake.LoadBalancer {
	c := fake.LoadBalancer{
		ID: lb.arn, CrossZone: lb.crossZone(), Filtered: len(lb.groups) > 0, Ingress: a.ingress(lb.groups), Groups: slices.Clone(lb.groups),
	}
	for _, z := range lb.zones {
		nic := a.interfaces[z.nic]
		// A node in a subnet without a route to the internet gateway answers nobody
		// on the internet.
		if !lb.internal() && !z.subnet.public {
			continue
		}
		c.Nodes = append(c.Nodes, fake.LoadBalancerNode{Zone: z.subnet.zone, Public: nic.public, Private: nic.private})
	}
	for _, l := range a.listenersOf(lb.arn) {
		c.Listeners = append(c.Listeners, a.carriedListener(l))
	}
	slices.SortFunc(c.Listeners, func(x, y fake.Listener) int {
		return cmp.Or(cmp.Compare(x.Port, y.Port), cmp.Compare(x.Protocol, y.Protocol))
	})
	return c
}

func (a *Account) carriedListener(l *listener) fake.Listener {
	tg := a.targetGroups[l.targetGroup]
	port, _ := strconv.ParseUint(tg.check.port, 10, 16) // 0 for traffic-port, as the carrier has it
	proxied := tg.attributes[tgProxyProtocol] == "true"
	c := fake.Listener{
		Protocol: fake.Protocol(strings.ToLower(l.protocol)), Port: uint16(l.port), TargetGroup: tg.arn, ProxyProtocol: proxied,
		PreserveClientIP: tg.attributes[tgPreserveClientIP] == "true", Sticky: tg.attributes[tgStickiness] == "true", DeregistrationDelay: a.deregistrationDelay(tg),
		HealthCheck: fake.HealthCheck{
			Protocol: strings.ToLower(tg.check.protocol), Port: uint16(port), Path: tg.check.path, Codes: tg.check.codes,
			Interval: time.Duration(tg.check.interval) * time.Second, Timeout: time.Duration(tg.check.timeout) * time.Second,
			HealthyThreshold: int(tg.check.healthy), UnhealthyThreshold: int(tg.check.unhealthy),
			// "the proxy protocol header is also included in health check connections":
			// https://docs.aws.amazon.com/elasticloadbalancing/latest/network/edit-target-group-attributes.html
			ProxyProtocol: proxied,
		},
	}
	for _, k := range tg.sortedKeys() {
		state := fake.TargetState(a.health(tg, k).state)
		if state == "unused" || state == fake.StateInitial && !tg.targets[k].enrolled {
			continue
		}
		i, ok := a.instances[k.instance]
		if !ok || i.state != Running {
			continue
		}
		c.Targets = append(c.Targets, fake.Target{
			ID: targetID(tg, k), Addr: netip.AddrPortFrom(i.private, uint16(k.port)), Zone: i.subnet.zone, State: state,
		})
	}
	slices.SortFunc(c.Targets, func(x, y fake.Target) int { return strings.Compare(x.ID, y.ID) })
	return c
}

// ingress merges the inbound rules of groups, one for each protocol and port range.
func (a *Account) ingress(groups []string) []fake.Rule {
	var rules []fake.Rule
	for _, id := range groups {
		for _, r := range a.groups[id].rules {
			if r.egress {
				continue
			}
			carried := r.carried()
			at := slices.IndexFunc(rules, func(o fake.Rule) bool {
				return o.Protocol == carried.Protocol && o.FromPort == carried.FromPort && o.ToPort == carried.ToPort
			})
			if at < 0 {
				rules = append(rules, carried)
				continue
			}
			rules[at].Sources = append(rules[at].Sources, carried.Sources...)
			rules[at].SourceGroups = append(rules[at].SourceGroups, carried.SourceGroups...)
		}
	}
	return rules
}

func (r *rule) carried() fake.Rule {
	c := fake.Rule{Protocol: r.protocol}
	switch r.protocol {
	case "tcp", "udp":
		c.FromPort, c.ToPort = uint16(r.from), uint16(r.to)
	case "icmp", "icmpv6":
		c.Protocol = "icmp"
	default:
		c.Protocol = "all"
	}
	if r.group != "" {
		c.SourceGroups = []string{r.group}
	} else {
		c.Sources = []netip.Prefix{r.cidr}
	}
	return c
}
