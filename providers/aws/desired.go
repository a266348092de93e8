package aws

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/fairway-lb/fairway/providers/lb"
)

// model builds what one Service shall have. It is pure: everything it knows is
// in its fields.
type model struct {
	*options
	facts facts
	names names

	zones     []string // of the load balancer's subnets
	resources []lb.Resource
}

// desired returns the resources o's Service shall have, given the facts, and
// what its owner should know. Errors are Invalid and name what to change.
func desired(o *options, f facts, n names) ([]lb.Resource, []lb.Notice, error) {
	m := &model{options: o, facts: f, names: n}
	m.remarkOnSpec()
	ports, err := m.ports()
	if err != nil {
		return nil, m.notices, err
	}
	health, err := m.healthCheck()
	if err != nil {
		return nil, m.notices, err
	}
	m.scheme = orDefault(m.scheme, schemeInternet)
	m.sharedByCluster()
	groups := m.frontend(ports)
	balancer, err := m.loadBalancer(groups)
	if err != nil {
		return nil, m.notices, err
	}
	instances := lb.Set(m.instances()...)
	for _, p := range ports {
		group, err := m.targetGroup(p, health, instances)
		if err != nil {
			return nil, m.notices, err
		}
		m.listener(p, balancer, group)
	}
	return m.resources, m.notices, nil
}

func (m *model) owned() []lb.Owner { return []lb.Owner{lb.ByService(m.service.ServiceRef)} }

// tagField returns the field "tags" of what is made for the Service.
func (m *model) tagField() lb.Value { return tagField(m.config.Tags, m.tags) }

func (m *model) add(r lb.Resource) lb.Ref {
	m.resources = append(m.resources, r)
	return r.Ref
}

// remarkOnSpec notes what of the Service's spec has no effect here.
func (m *model) remarkOnSpec() {
	s := m.service
	if s.LoadBalancerIP != "" {
		m.notice("LoadBalancerIPNotHonoured", "spec.loadBalancerIP %s has no effect: a Network Load Balancer's addresses come from its subnets", s.LoadBalancerIP)
	}
	if s.ClientAffinity > 0 && s.ClientAffinity != defaultAffinity {
		m.notice("AffinityTimeoutNotHonoured", "the timeout of spec.sessionAffinityConfig, %s, holds on each node only: a Network Load Balancer has none and sends a client to the same node as long as that is healthy", s.ClientAffinity)
	}
	if s.IPv6 && s.IPv4 {
		m.notice("IPv6NotServed", "the load balancer is reached over IPv4 only: this version does not make dual-stack ones")
	}
}

// port is one listener to be.
type port struct {
	protocol       string // as Elastic Load Balancing spells it: TCP, UDP, TCP_UDP
	port, nodePort uint16
}

// maxListeners is a hard limit per load balancer.
// https://docs.aws.amazon.com/elasticloadbalancing/latest/network/load-balancer-limits.html
const maxListeners = 50

// ports returns the listeners to be by port. TCP and UDP on one port become one
// listener, which has one target group and so needs one node port.
func (m *model) ports() ([]port, error) {
	if !m.service.IPv4 {
		return nil, lb.InvalidField("spec.ipFamilies", "IPv6", "this version makes IPv4 load balancers only; the Service needs an IPv4 family")
	}
	if len(m.service.Ports) == 0 {
		return nil, lb.InvalidField("spec.ports", "", "a load balancer needs at least one port")
	}
	byPort := map[uint16]port{}
	for _, p := range m.service.Ports {
		field := fmt.Sprintf("spec.ports[%s %s/%d]", p.Name, p.Protocol, p.Port)
		if p.Protocol != lb.TCP && p.Protocol != lb.UDP {
			return nil, lb.InvalidField(field+".protocol", string(p.Protocol), "a Network Load Balancer carries TCP and UDP only")
		}
		if p.NodePort == 0 {
			return nil, lb.InvalidField(field+".nodePort", "0", "the load balancer sends to node ports; set spec.allocateLoadBalancerNodePorts to true, or give the port a nodePort")
		}
		have, taken := byPort[p.Port]
		switch {
		case !taken:
			byPort[p.Port] = port{protocol: string(p.Protocol), port: p.Port, nodePort: p.NodePort}
		case have.nodePort != p.NodePort:
			return nil, lb.InvalidField(field+".nodePort", fmt.Sprint(p.NodePort),
				fmt.Sprintf("TCP and UDP on port %d share one listener, which sends to one node port; give both the same nodePort, such as %d", p.Port, have.nodePort))
		default:
			have.protocol = "TCP_UDP"
			byPort[p.Port] = have
		}
	}
	if len(byPort) > maxListeners {
		return nil, lb.InvalidField("spec.ports", fmt.Sprint(len(byPort)), fmt.Sprintf("a load balancer has at most %d listeners", maxListeners))
	}
	return slices.SortedFunc(maps.Values(byPort), func(a, b port) int { return cmp.Compare(a.port, b.port) }), nil
}

// sharedByCluster adds what every load balancer of the cluster needs: the
// backend group, and in each group of the nodes the few rules that admit it.
// They are the same for all Services, so that the group's limit of 60 rules
// never matters and nobody contends for them.
func (m *model) sharedByCluster() {
	cluster := []lb.Owner{lb.ByCluster()}
	backend := m.add(lb.Resource{Ref: backendRef(m.facts.vpc), Owners: cluster, Fields: lb.Fields{
		"name": lb.Text(m.names.backend()), "vpc": lb.Text(m.facts.vpc), "tags": tagField(m.config.Tags),
	}})
	rules := m.nodeRules(backend)
	for _, id := range m.facts.nodeGroups {
		group := m.add(lb.Resource{Ref: nodeGroupRef(id), Owners: []lb.Owner{{Kind: lb.Attached}}})
		m.add(lb.Resource{Ref: nodeRulesRef(id), Owners: cluster, Parent: group, DependsOn: []lb.Ref{backend},
			Fields: lb.Fields{"ingress": rules}})
	}
}

func (m *model) nodeRules(backend lb.Ref) lb.Value {
	r, health := m.config.NodePortRange, m.config.HealthCheck.Port
	rules := []string{
		rule{"tcp", int32(r.From), int32(r.To), backend.String()}.String(),
		rule{"udp", int32(r.From), int32(r.To), backend.String()}.String(),
	}
	if !r.Contains(health) {
		rules = append(rules, rule{"tcp", int32(health), int32(health), backend.String()}.String())
	}
	return lb.Set(rules...)
}

// frontend adds the group that admits clients, unless the Service names groups
// of its own, and returns the load balancer's groups.
func (m *model) frontend(ports []port) []lb.Ref {
	groups := []lb.Ref{backendRef(m.facts.vpc)}
	if len(m.securityGroups) > 0 {
		return groups
	}
	return append(groups, m.add(lb.Resource{Ref: frontendRef(m.service.ServiceRef, m.facts.vpc), Owners: m.owned(), Fields: lb.Fields{
		"name": lb.Text(m.names.frontend(m.service.ServiceRef)), "vpc": lb.Text(m.facts.vpc), "ingress": m.ingress(ports),
		"tags": m.tagField(),
	}}))
}

// ingress returns the rules that admit clients. Path MTU discovery needs the
// ICMP message of any router on the way, so that one is admitted from anywhere.
func (m *model) ingress(ports []port) lb.Value {
	sources := slices.Clone(m.prefixLists)
	for _, prefix := range m.service.SourceRanges {
		sources = append(sources, prefix.Masked().String())
	}
	if len(sources) == 0 {
		sources = []string{"0.0.0.0/0"}
	}
	var rules []string
	for _, p := range ports {
		for protocol := range strings.SplitSeq(strings.ToLower(p.protocol), "_") {
			for _, source := range sources {
				rules = append(rules, rule{protocol, int32(p.port), int32(p.port), source}.String())
			}
		}
	}
	if !m.noICMP {
		rules = append(rules, rule{"icmp", 3, 4, "0.0.0.0/0"}.String())
	}
	return lb.Set(rules...)
}

func (m *model) loadBalancer(groups []lb.Ref) (lb.Ref, error) {
	name := m.names.loadBalancer(m.service.ServiceRef, m.scheme, m.facts.vpc)
	choose := chooser{facts: m.facts, cluster: m.config.Cluster.Name, scheme: m.scheme, balancer: name}
	var chosen []subnet
	var err error
	if len(m.subnets) > 0 {
		chosen, err = choose.named(m.subnets)
	} else {
		chosen, err = choose.discover()
	}
	if err != nil {
		return lb.Ref{}, err
	}
	var subnets []string
	for _, s := range chosen {
		subnets = append(subnets, s.id)
		m.zones = append(m.zones, s.zone)
	}
	inGroups := slices.Clone(m.securityGroups)
	for _, g := range groups {
		inGroups = append(inGroups, g.String())
	}
	return m.add(lb.Resource{
		Ref: loadBalancerRef(m.service.ServiceRef, m.scheme, m.facts.vpc), Owners: m.owned(), DependsOn: groups,
		Fields: lb.Fields{
			"name": lb.Text(name), "scheme": lb.Text(m.scheme), "ip-address-type": lb.Text("ipv4"), "failure": lb.Set(),
			"subnets": lb.Set(subnets...), "security-groups": lb.Set(inGroups...),
			"attributes": balancerAttributes.field(m.attributes.balancer, ""), "tags": m.tagField(),
		}}), nil
}

func (m *model) targetGroup(p port, health lb.Fields, instances lb.Value) (lb.Ref, error) {
	attributes, err := m.groupAttributes(p)
	if err != nil {
		return lb.Ref{}, err
	}
	fields := maps.Clone(health)
	fields["attributes"], fields["tags"] = attributes, m.tagField()
	fields["name"] = lb.Text(m.names.targetGroup(m.service.ServiceRef, m.scheme, m.facts.vpc, p.protocol, p.nodePort))
	fields["vpc"] = lb.Text(m.facts.vpc)
	fields["protocol"] = lb.Text(p.protocol)
	fields["port"] = lb.Number(p.nodePort)
	fields["target-type"] = lb.Text("instance")
	group := m.add(lb.Resource{Ref: targetGroupRef(m.service.ServiceRef, m.scheme, m.facts.vpc, p.protocol, p.nodePort), Owners: m.owned(), Fields: fields})
	m.add(lb.Resource{Ref: targetsRef(group), Owners: m.owned(), Parent: group, Fields: lb.Fields{"instances": instances}, Brake: "instances"})
	return group, nil
}

// listener depends on the targets, so that no client is let in before there is
// a node to send it to.
func (m *model) listener(p port, balancer, group lb.Ref) {
	m.add(lb.Resource{Ref: listenerRef(balancer, int(p.port)), Owners: m.owned(), Parent: balancer,
		DependsOn: []lb.Ref{group, targetsRef(group)},
		Fields: lb.Fields{
			"protocol": lb.Text(p.protocol), "port": lb.Number(p.port), "target-group": lb.Text(group.String()),
			"tags": m.tagField(),
		}})
}

// instances returns the ids of the instances that shall get new connections.
// Nodes that can be no target, or that would get no traffic, are noted.
func (m *model) instances() []string {
	var ids, elsewhere, unknown []string
	for _, t := range m.service.Targets {
		if t.State != lb.TargetActive || !labelled(t.Labels, m.targetLabels) {
			continue
		}
		id, ok := instanceID(t.ProviderID)
		switch {
		case !ok:
			unknown = append(unknown, t.Node)
			continue
		case t.Zone != "" && !slices.Contains(m.zones, t.Zone):
			elsewhere = append(elsewhere, t.Node+" ("+t.Zone+")")
		}
		ids = append(ids, id)
	}
	if len(unknown) > 0 {
		m.notice("NodesNotUsable", "%s: not instances of EC2, so no traffic is sent to them", abridged(unknown))
	}
	if len(elsewhere) > 0 {
		m.notice("ZoneNotServed", "%s: the load balancer has no subnet in their zone, so no traffic is sent to them; give it one, or take them out with the annotation %starget-node-labels",
			abridged(elsewhere), annotationPrefix)
	}
	return ids
}

func labelled(labels, want map[string]string) bool {
	for k, v := range want {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// abridged lists at most three items.
func abridged(items []string) string {
	const most = 3
	if len(items) > most {
		return fmt.Sprintf("%s and %d more nodes", strings.Join(items[:most], ", "), len(items)-most)
	}
	return strings.Join(items, ", ")
}

var providerIDForm = regexp.MustCompile(`^aws:///?(?:([a-z0-9-]*)/)?(i-[0-9a-f]+)$`)

// parseProviderID returns the zone, "" when there is none, and the instance that
// a node's spec.providerID names; false when the node is something else, such as
// a Fargate one.
// https://cloud-provider-aws.sigs.k8s.io/prerequisites/
func parseProviderID(providerID string) (zone, id string, ok bool) {
	m := providerIDForm.FindStringSubmatch(providerID)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// instanceID is parseProviderID for who does not care about the zone.
func instanceID(providerID string) (id string, ok bool) {
	_, id, ok = parseProviderID(providerID)
	return id, ok
}
