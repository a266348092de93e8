package nodeproxy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	netutils "k8s.io/utils/net"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// Records keep of an API object what forwarding needs, and nothing else: a node
// holds one of every Service and EndpointSlice in the cluster.

// service is the record of a Service.
type service struct {
	ports           []servicePort
	clusterIPs      []netip.Addr
	externalIPs     []netip.Addr
	loadBalancerIPs []netip.Addr // those with ipMode VIP
	internalLocal   bool         // internalTrafficPolicy Local
	externalLocal   bool         // externalTrafficPolicy Local
	healthCheckPort uint16       // healthCheckNodePort, 0 without
	affinity        uint32       // sessionAffinity ClientIP's timeout in seconds, 0 without
	// sources may use the load balancer's addresses. A family of which it has
	// no range is open to all.
	sources []netip.Prefix
	ignored []string // what the Service asks for and does not get
}

type servicePort struct {
	name           string
	protocol       nft.Protocol
	port, nodePort uint16
}

// endpointSlice is the record of an EndpointSlice.
type endpointSlice struct {
	service   string // namespace/name
	ports     []slicePort
	endpoints []endpoint
	// triggered is when the Pod or Service changed that this slice follows, in
	// nanoseconds since 1970; 0 if it does not say.
	triggered int64
	ipv6      bool
}

type slicePort struct {
	name     string
	protocol nft.Protocol
	port     uint16
}

type endpoint struct {
	addr                        netip.Addr
	ready, serving, terminating bool
	local                       bool // on this node
	// The hints say by which nodes and from which zones the endpoint should be
	// used. Of the former only what concerns this node is kept.
	nodeHints, hintedHere bool
	zoneHints             []string
}

// node is the record of the Node this proxy runs on.
type node struct {
	addresses []netip.Addr // at most one of each family
	named     []netip.Addr // all there are in its status
	zone      string
	podCIDRs  []netip.Prefix
	// eligible is false for a node that is going away. Load balancers learn it
	// from the health check and stop sending new connections
	// (https://github.com/kubernetes/enhancements/issues/3836).
	eligible bool
}

// after completes what a Node says by what was known of it before. One without an
// address is new, or not itself: zone and addresses are to come. Ranges are
// allotted later still, and never taken away.
func (n node) after(known node) node {
	if len(n.addresses) == 0 {
		n.addresses, n.named, n.zone = known.addresses, known.named, cmp.Or(n.zone, known.zone)
	}
	if len(n.podCIDRs) == 0 {
		n.podCIDRs = known.podCIDRs
	}
	return n
}

// toBeDeletedTaint is what the cluster autoscaler sets before it removes a node.
const toBeDeletedTaint = "ToBeDeletedByClusterAutoscaler"

// newService returns the record of a Service, or none for one without a virtual
// address of its own.
func newService(s *corev1.Service) (service, bool) {
	if s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return service{}, false
	}
	r := service{
		clusterIPs:    parseAddrs(s.Spec.ClusterIPs),
		externalIPs:   parseAddrs(s.Spec.ExternalIPs),
		internalLocal: s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		externalLocal: s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
	}
	if len(r.clusterIPs) == 0 {
		r.clusterIPs = parseAddrs([]string{s.Spec.ClusterIP})
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && r.externalLocal {
		r.healthCheckPort = uint16(s.Spec.HealthCheckNodePort)
	}
	for _, p := range s.Spec.Ports {
		protocol, ok := protocols[p.Protocol]
		if !ok {
			r.ignored = append(r.ignored, "protocol "+string(p.Protocol)+" of port "+p.Name)
			continue
		}
		r.ports = append(r.ports, servicePort{name: p.Name, protocol: protocol, port: uint16(p.Port), nodePort: uint16(p.NodePort)})
	}
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		r.affinity = affinityTimeout(s)
	}
	if r.loadBalancerIPs = virtualIPs(s); len(r.loadBalancerIPs) > 0 {
		r.sources = parsePrefixes(s.Spec.LoadBalancerSourceRanges)
	}
	return r, true
}

// virtualIPs returns the load balancer addresses that packets on this node still
// carry, so that this node is to answer them
// (https://github.com/kubernetes/enhancements/issues/1860).
func virtualIPs(s *corev1.Service) []netip.Addr {
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	var ips []string
	for _, i := range s.Status.LoadBalancer.Ingress {
		if i.IPMode == nil || *i.IPMode == corev1.LoadBalancerIPModeVIP {
			ips = append(ips, i.IP)
		}
	}
	return parseAddrs(ips)
}

func affinityTimeout(s *corev1.Service) uint32 {
	if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil && *c.ClientIP.TimeoutSeconds > 0 {
		return uint32(*c.ClientIP.TimeoutSeconds)
	}
	return uint32(corev1.DefaultClientIPServiceAffinitySeconds)
}

var protocols = map[corev1.Protocol]nft.Protocol{
	corev1.ProtocolTCP:  nft.TCP,
	corev1.ProtocolUDP:  nft.UDP,
	corev1.ProtocolSCTP: nft.SCTP,
	"":                  nft.TCP,
}

// parseAddrs leaves out what is no address, or one that must never be a
// Service's: unspecified, loopback, multicast. Numbers with leading zeros, which
// the API server once took, are decimal as everywhere in Kubernetes.
func parseAddrs(in []string) []netip.Addr {
	var out []netip.Addr
	for _, s := range in {
		a, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(s))
		if !ok {
			continue
		}
		a = a.Unmap()
		if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || slices.Contains(out, a) {
			continue
		}
		out = append(out, a)
	}
	return out
}

// parsePrefixes leaves out what is no address range. White space around it is
// let pass, as the API server does.
func parsePrefixes(in []string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range in {
		_, network, err := netutils.ParseCIDRSloppy(strings.TrimSpace(s))
		if err != nil {
			continue
		}
		a, _ := netip.AddrFromSlice(network.IP)
		bits, _ := network.Mask.Size()
		out = append(out, netip.PrefixFrom(a, bits).Masked())
	}
	return out
}

// newEndpointSlice returns the record of a slice as seen from the named node, or
// none for a slice that belongs to no Service or holds no addresses.
func newEndpointSlice(s *discoveryv1.EndpointSlice, nodeName string) (endpointSlice, bool) {
	name := s.Labels[discoveryv1.LabelServiceName]
	if name == "" || s.AddressType == discoveryv1.AddressTypeFQDN {
		return endpointSlice{}, false
	}
	r := endpointSlice{service: s.Namespace + "/" + name, ipv6: s.AddressType == discoveryv1.AddressTypeIPv6}
	if at, err := time.Parse(time.RFC3339Nano, s.Annotations[corev1.EndpointsLastChangeTriggerTime]); err == nil {
		r.triggered = at.UnixNano()
	}
	for _, p := range s.Ports {
		if p.Port == nil || *p.Port == 0 || p.Name == nil {
			continue
		}
		var asked corev1.Protocol
		if p.Protocol != nil {
			asked = *p.Protocol
		}
		if protocol, ok := protocols[asked]; ok {
			r.ports = append(r.ports, slicePort{name: *p.Name, protocol: protocol, port: uint16(*p.Port)})
		}
	}
	for _, e := range s.Endpoints {
		// Addresses beyond the first were never given a meaning.
		addrs := parseAddrs(e.Addresses[:min(len(e.Addresses), 1)])
		if len(addrs) == 0 {
			continue
		}
		c := e.Conditions
		record := endpoint{
			addr:        addrs[0],
			ready:       c.Ready == nil || *c.Ready,
			serving:     c.Serving == nil || *c.Serving,
			terminating: c.Terminating != nil && *c.Terminating,
			local:       e.NodeName != nil && *e.NodeName == nodeName,
		}
		if e.Hints != nil {
			record.hint(e.Hints, nodeName)
		}
		r.endpoints = append(r.endpoints, record)
	}
	return r, true
}

func (e *endpoint) hint(h *discoveryv1.EndpointHints, nodeName string) {
	for _, n := range h.ForNodes {
		e.nodeHints = true
		e.hintedHere = e.hintedHere || n.Name == nodeName
	}
	for _, z := range h.ForZones {
		// There are few zones, and many endpoints that name one.
		e.zoneHints = append(e.zoneHints, unique.Make(z.Name).Value())
	}
}

// newNode returns the record of a Node. Its addresses are, of each family, the
// first internal one or, in want of that, the first external one: those that
// kube-proxy takes for the node's (GetNodeHostIPs in pkg/util/node of Kubernetes).
func newNode(n *corev1.Node) node {
	byType := make(map[corev1.NodeAddressType][]string)
	for _, a := range n.Status.Addresses {
		byType[a.Type] = append(byType[a.Type], a.Address)
	}
	r := node{named: parseAddrs(slices.Concat(byType[corev1.NodeInternalIP], byType[corev1.NodeExternalIP]))}
	for _, a := range r.named {
		if !slices.ContainsFunc(r.addresses, func(first netip.Addr) bool { return first.Is6() == a.Is6() }) {
			r.addresses = append(r.addresses, a)
		}
	}
	r.zone = n.Labels[corev1.LabelTopologyZone]
	if r.podCIDRs = parsePrefixes(n.Spec.PodCIDRs); len(r.podCIDRs) == 0 && n.Spec.PodCIDR != "" {
		r.podCIDRs = parsePrefixes([]string{n.Spec.PodCIDR})
	}
	r.eligible = n.DeletionTimestamp.IsZero() &&
		!slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == toBeDeletedTaint })
	return r
}
