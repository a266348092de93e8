package loadbalancer

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	utilnet "k8s.io/utils/net"

	"github.com/fairway-lb/fairway/providers/lb"
)

// ServiceFrom returns a Service and its targets in the neutral model. It shares
// the targets with the caller and nothing with svc. The error is Invalid and
// names the field or annotation that the user must change.
func ServiceFrom(svc *v1.Service, targets []lb.Target) (lb.Service, error) {
	ranges, err := sourceRanges(svc)
	if err != nil {
		return lb.Service{}, err
	}
	s := lb.Service{
		ServiceRef:            RefOf(svc),
		Annotations:           withoutNotes(svc.Annotations),
		SourceRanges:          ranges,
		ExternalTrafficPolicy: lb.PolicyCluster,
		ClientAffinity:        clientAffinity(svc),
		LoadBalancerIP:        svc.Spec.LoadBalancerIP,
		Targets:               targets,
	}
	s.IPv4, s.IPv6 = families(svc)
	if svc.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal {
		s.ExternalTrafficPolicy = lb.PolicyLocal
		s.HealthCheckNodePort = uint16(svc.Spec.HealthCheckNodePort)
	}
	for _, p := range svc.Spec.Ports {
		port := lb.Port{
			Name:     p.Name,
			Protocol: lb.Protocol(cmp.Or(p.Protocol, v1.ProtocolTCP)),
			Port:     uint16(p.Port),
			NodePort: uint16(p.NodePort),
		}
		if p.AppProtocol != nil {
			port.AppProtocol = *p.AppProtocol
		}
		s.Ports = append(s.Ports, port)
	}
	return s, nil
}

// withoutNotes returns a copy of a Service's annotations without those that are
// no wish: kubectl's copy of the whole object, and our own note. It is nil when
// there is none: that there are notes is no wish either.
func withoutNotes(annotations map[string]string) map[string]string {
	wishes := maps.Clone(annotations)
	delete(wishes, v1.LastAppliedConfigAnnotation)
	delete(wishes, CheckpointAnnotation)
	if len(wishes) == 0 {
		return nil
	}
	return wishes
}

// RefOf returns what identifies svc for as long as it lives.
func RefOf(svc *v1.Service) lb.ServiceRef {
	return lb.ServiceRef{Namespace: svc.Namespace, Name: svc.Name, UID: string(svc.UID)}
}

// sourceRanges returns the clients that may connect: spec.loadBalancerSourceRanges,
// or when that is empty the annotation of the same meaning, a comma-separated
// list (core/v1 AnnotationLoadBalancerSourceRangesKey).
func sourceRanges(svc *v1.Service) ([]netip.Prefix, error) {
	name, texts := "spec.loadBalancerSourceRanges", svc.Spec.LoadBalancerSourceRanges
	if len(texts) == 0 {
		name = v1.AnnotationLoadBalancerSourceRangesKey
		if list := strings.TrimSpace(svc.Annotations[name]); list != "" {
			texts = strings.Split(list, ",")
		}
	}
	var ranges []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return nil, lb.InvalidField(name, text, "not an IP range; write it like 10.0.0.0/24 or 2001:db8::/64")
		}
		ranges = append(ranges, p.Masked())
	}
	slices.SortFunc(ranges, comparePrefix)
	return slices.Compact(ranges), nil
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func clientAffinity(svc *v1.Service) time.Duration {
	if svc.Spec.SessionAffinity != v1.ServiceAffinityClientIP {
		return 0
	}
	seconds := v1.DefaultClientIPServiceAffinitySeconds
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	return time.Duration(seconds) * time.Second
}

// families returns which IP families svc has. The API server fills in
// spec.ipFamilies; an object without them is judged by its cluster IPs.
func families(svc *v1.Service) (ipv4, ipv6 bool) {
	for _, f := range svc.Spec.IPFamilies {
		ipv4 = ipv4 || f == v1.IPv4Protocol
		ipv6 = ipv6 || f == v1.IPv6Protocol
	}
	if len(svc.Spec.IPFamilies) == 0 {
		ips := append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...)
		ipv6 = slices.ContainsFunc(ips, utilnet.IsIPv6String)
		ipv4 = !ipv6 || slices.ContainsFunc(ips, utilnet.IsIPv4String)
	}
	return ipv4, ipv6
}

// StatusFrom returns a load balancer's addresses as the status of a Service
// with the given ports. An IP comes with its ipMode and the ports it serves; a
// hostname, to which the API server allows no ipMode, with the ports only.
func StatusFrom(status lb.Status, ports []v1.ServicePort) v1.LoadBalancerStatus {
	var result v1.LoadBalancerStatus
	for _, a := range status.Addresses {
		ingress := v1.LoadBalancerIngress{Ports: portStatus(ports)}
		if a.IP.IsValid() {
			mode := v1.LoadBalancerIPMode(cmp.Or(a.Mode, lb.ModeVIP))
			ingress.IP, ingress.IPMode = a.IP.String(), &mode
		} else {
			// The API server accepts lower case only.
			ingress.Hostname = strings.ToLower(a.Hostname)
		}
		result.Ingress = append(result.Ingress, ingress)
	}
	return result
}

func portStatus(ports []v1.ServicePort) []v1.PortStatus {
	var statuses []v1.PortStatus
	for _, p := range ports {
		statuses = append(statuses, v1.PortStatus{Port: p.Port, Protocol: cmp.Or(p.Protocol, v1.ProtocolTCP)})
	}
	return statuses
}

// fingerprint identifies all that s says but its targets.
func fingerprint(s lb.Service) string {
	s.Targets = nil
	// JSON has one form for a value: maps in the order of their keys. None of
	// these types can fail to be written.
	text, _ := json.Marshal(s)
	sum := sha256.Sum256(text)
	return string(sum[:])
}
