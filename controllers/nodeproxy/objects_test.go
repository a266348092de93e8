package nodeproxy

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// newTestService is a dual-stack Service "default/<name>" with port 80, TCP and
// UDP, NodePort 30080 and the addresses "cluster" and "vip"; edits change it.
func newTestService(name string, edits ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	s.Spec.ClusterIP = addresses["cluster"][0]
	s.Spec.ClusterIPs = slices.Clone(addr2("cluster"))
	for _, p := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: strings.ToLower(string(p)), Protocol: p, Port: 80, NodePort: nodePort})
	}
	for _, ip := range addr2("vip") {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
	}
	for _, edit := range edits {
		edit(s)
	}
	return s
}

func addr2(name string) []string { a := addresses[name]; return a[:] }

// newTestSlices are the two families' slices of a Service with these Pods.
func newTestSlices(service string, endpoints ...discoveryv1.Endpoint) []any {
	var out []any
	for family, kind := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		s := &discoveryv1.EndpointSlice{AddressType: kind}
		s.Namespace, s.Name = "default", fmt.Sprintf("%s-%d", service, family)
		s.Labels = map[string]string{discoveryv1.LabelServiceName: service}
		for _, p := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
			s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: new(strings.ToLower(string(p))), Protocol: &p, Port: new(int32(podPort))})
		}
		for _, e := range endpoints {
			e.Addresses = []string{addresses[e.Addresses[0]][family]}
			s.Endpoints = append(s.Endpoints, e)
		}
		out = append(out, s)
	}
	return out
}

// pod is an endpoint; its address is filled in by newTestSlices.
func pod(name string) discoveryv1.Endpoint {
	on := "node"
	if name == "remote" {
		on = "other"
	}
	return discoveryv1.Endpoint{Addresses: []string{name}, NodeName: &on}
}

func podsNamed(names ...string) []discoveryv1.Endpoint {
	var out []discoveryv1.Endpoint
	for _, n := range names {
		out = append(out, pod(n))
	}
	return out
}

func terminating(e discoveryv1.Endpoint) discoveryv1.Endpoint {
	e.Conditions = discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)}
	return e
}

// withTargetPort has the Pods of the slices listen at another port.
func withTargetPort(slices []any, port int32) []any {
	for _, o := range slices {
		ports := o.(*discoveryv1.EndpointSlice).Ports
		for i := range ports {
			ports[i].Port = &port
		}
	}
	return slices
}
