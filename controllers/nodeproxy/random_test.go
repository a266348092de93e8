package nodeproxy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Addresses and ranges of all kinds, most of which mean nothing to us.
var (
	oddAddresses = []string{"", "None", "10.96.7.1", "10.96.7.2", "fd00:96::7", "010.096.007.003", "::ffff:10.96.7.4", "0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1",
		"fe80::1%eth0", "fe80::1", "255.255.255.255", "example.com", "10.244.1.10", "10.0.0.11", "203.0.113.10", "1.2.3.4/32", "999.1.1.1", "fd00:f4:1::10"}
	oddRanges = []string{"", "0.0.0.0/0", "::/0", "10.0.0.0/8", " 10.1.0.0/16 ", "10.1.2.3/16", "010.0.0.0/08", "fd00::/8", "fd00::/130", "::ffff:10.0.0.0/104", "nonsense", "10.0.0.0", "192.0.2.7/32", "255.255.255.255/32", "ffff::/16", "0.0.0.0/1", "128.0.0.0/1"}
	// Mostly the same, or else Services would seldom have endpoints.
	oddPortNames = []string{"tcp", "tcp", "tcp", "udp", "", "x"}
	oddProtocols = []corev1.Protocol{"TCP", "TCP", "TCP", "UDP", "UDP", "SCTP", "", "ICMP"}
)

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func some[T any](r *rand.Rand, most int, from []T) []T {
	var out []T
	for range r.IntN(most + 1) {
		out = append(out, pick(r, from))
	}
	return out
}

// odd picks, or now and then returns what is in no list: bytes, as text or as an
// address.
func odd(r *rand.Rand, from []string) string {
	if r.IntN(8) > 0 {
		return pick(r, from)
	}
	text := make([]byte, pick(r, []int{4, 4, 16, 1 + r.IntN(30)}))
	for i := range text {
		text[i] = byte(r.IntN(256))
	}
	if a, ok := netip.AddrFromSlice(text); ok {
		return a.String()
	}
	return string(text)
}

func manyOdd(r *rand.Rand, most int, from []string) []string {
	var out []string
	for range r.IntN(most + 1) {
		out = append(out, odd(r, from))
	}
	return out
}

// oddPort is one of these, or now and then any number.
func oddPort(r *rand.Rand, from ...int32) int32 {
	if r.IntN(8) > 0 {
		return pick(r, from)
	}
	return int32(r.IntN(256)<<24 | r.IntN(256)<<16 | r.IntN(256)<<8 | r.IntN(256))
}

// oddService is a Service the API server would not always take.
func oddService(r *rand.Rand, name string) *corev1.Service {
	s := &corev1.Service{}
	s.Namespace, s.Name = "odd", name
	s.Spec.Type = pick(r, []corev1.ServiceType{"", corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName})
	s.Spec.ClusterIP, s.Spec.ClusterIPs = odd(r, oddAddresses), manyOdd(r, 3, oddAddresses)
	s.Spec.ExternalIPs = manyOdd(r, 3, oddAddresses)
	s.Spec.ExternalTrafficPolicy = pick(r, []corev1.ServiceExternalTrafficPolicy{"", "Cluster", "Local", "Other"})
	if r.IntN(2) == 0 {
		s.Spec.InternalTrafficPolicy = new(pick(r, []corev1.ServiceInternalTrafficPolicy{"Cluster", "Local"}))
	}
	s.Spec.LoadBalancerSourceRanges = manyOdd(r, 4, oddRanges)
	s.Spec.HealthCheckNodePort = oddPort(r, 0, 31999)
	if r.IntN(2) == 0 {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		if r.IntN(3) > 0 {
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: new(oddPort(r, -1, 0, 1, 10800, 1<<31-1))}}
		}
	}
	for range r.IntN(4) {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{
			Name: pick(r, oddPortNames), Protocol: pick(r, oddProtocols),
			Port: oddPort(r, 0, 1, 80, 10256, 65535), NodePort: oddPort(r, 0, 30001, 30002),
		})
	}
	for _, ip := range manyOdd(r, 3, oddAddresses) {
		i := corev1.LoadBalancerIngress{IP: ip}
		if r.IntN(2) == 0 {
			i.IPMode = new(pick(r, []corev1.LoadBalancerIPMode{"VIP", "Proxy", "Other"}))
		}
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, i)
	}
	return s
}

func oddSlice(r *rand.Rand, service string, n int) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: pick(r, []discoveryv1.AddressType{"IPv4", "IPv6", "FQDN", "Other"})}
	s.Namespace, s.Name = "odd", fmt.Sprint(service, "-", n)
	s.Labels = map[string]string{discoveryv1.LabelServiceName: pick(r, []string{service, service, service, "other", ""})}
	for range 1 + r.IntN(4) {
		p := discoveryv1.EndpointPort{Port: new(oddPort(r, 0, 80, 8080, 65535))}
		if r.IntN(5) > 0 {
			p.Name, p.Protocol = new(pick(r, oddPortNames)), new(pick(r, oddProtocols))
		}
		s.Ports = append(s.Ports, p)
	}
	maybe := func() *bool { return pick(r, []*bool{nil, nil, new(true), new(false)}) }
	for range r.IntN(12) {
		e := discoveryv1.Endpoint{Addresses: manyOdd(r, 2, oddAddresses), Conditions: discoveryv1.EndpointConditions{Ready: maybe(), Serving: maybe(), Terminating: maybe()}}
		if r.IntN(2) == 0 {
			e.Addresses = []string{fmt.Sprintf("10.244.%d.%d", r.IntN(3), r.IntN(20))}
		}
		if r.IntN(3) > 0 {
			e.NodeName = new(pick(r, []string{"node", "other", ""}))
		}
		if r.IntN(2) == 0 {
			e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: pick(r, []string{"", "zone-a"})}}}
			for range r.IntN(3) {
				e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: pick(r, []string{"node", "other"})})
			}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// oddObjects are some Services and their slices, of few names, so that they change
// each other.
func oddObjects(r *rand.Rand) []any {
	var out []any
	for range 1 + r.IntN(6) {
		name := fmt.Sprint("s", r.IntN(8))
		out = append(out, oddService(r, name))
		for n := range r.IntN(4) {
			out = append(out, oddSlice(r, name, n))
		}
	}
	return out
}
