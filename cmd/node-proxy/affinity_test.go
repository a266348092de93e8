package main

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// twoPorts is a Service with session affinity, a NodePort and a second port.
func twoPorts() map[string][]any {
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "default", Name: name, ResourceVersion: "1", Labels: map[string]string{discoveryv1.LabelServiceName: "sticky"}}
	}
	seconds := int32(600)
	slice := discoveryv1.EndpointSlice{ObjectMeta: meta("sticky-1"), AddressType: discoveryv1.AddressTypeIPv4}
	for _, name := range []string{"http", "second"} {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &name, Protocol: new(corev1.ProtocolTCP), Port: new(int32(8080))})
	}
	for _, pod := range []string{"a", "b"} {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{families[0].hosts[pod]}, NodeName: new("node-1")})
	}
	return map[string][]any{"endpointslices": {slice}, "services": {corev1.Service{ObjectMeta: meta("sticky"), Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, ClusterIP: "10.96.1.1", ClusterIPs: []string{"10.96.1.1"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
		SessionAffinity:       corev1.ServiceAffinityClientIP,
		SessionAffinityConfig: &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}},
		Ports: []corev1.ServicePort{
			{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, NodePort: 30095},
			{Name: "second", Protocol: corev1.ProtocolTCP, Port: 81, NodePort: 30096},
		},
	}}}}
}

// testTwoPorts asks with many source addresses and returns for how many the
// endpoint at the NodePort, and at the second port, is the one they have at the
// ClusterIP. Each keeps what it has.
func (s *stage) testTwoPorts() (clients, atNodePort, atSecondPort int) {
	s.t.Helper()
	source := netip.MustParseAddr("198.51.100.100")
	for range 24 {
		source = source.Next()
		must(s.t, s.hosts["client"].AddAddress("eth0", netip.PrefixFrom(source, 32)))
		var got [3]string
		for i, at := range []string{"10.96.1.1:80", "10.0.0.11:30095", "10.96.1.1:81"} {
			got[i] = s.askAs(source, at)
			for range 3 {
				if again := s.askAs(source, at); again != got[i] {
					s.t.Fatalf("%v got %s and then %s at %s", source, got[i], again, at)
				}
			}
		}
		clients++
		if got[1] == got[0] {
			atNodePort++
		}
		if got[2] == got[0] {
			atSecondPort++
		}
	}
	return clients, atNodePort, atSecondPort
}

// askAs is ask by the client with one of its addresses.
func (s *stage) askAs(source netip.Addr, to string) (pod string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))}
	must(s.t, s.hosts["client"].Do(func() error {
		c, err := d.DialContext(ctx, "tcp", to)
		if err != nil {
			return err
		}
		defer c.Close()
		pod, err = hear(c)
		return err
	}))
	return pod
}

// TestAffinityAtTwoPorts gives each client one endpoint at all addresses and ports
// of a Service.
func TestAffinityAtTwoPorts(t *testing.T) {
	s := newStage(t)
	s.api.extra = twoPorts()
	s.start("run")
	s.healthy()
	if clients, atNodePort, atSecondPort := s.testTwoPorts(); atNodePort != clients || atSecondPort != clients {
		t.Errorf("of %d clients %d have the same endpoint at the NodePort, %d at the second port", clients, atNodePort, atSecondPort)
	}
}

// TestRealKubeProxyAffinity is the same with kube-proxy, which remembers clients
// for each port of a Service: at one port the address does not matter, and the
// other port is drawn anew.
func TestRealKubeProxyAffinity(t *testing.T) {
	realKubeProxy(t)
	for _, mode := range []string{"nftables", "iptables"} {
		t.Run(mode, func(t *testing.T) {
			s := newStage(t)
			tools := ""
			if mode == "iptables" {
				tools = s.iptables("nft")
			}
			s.api.extra = twoPorts()
			s.startKubeProxy(mode, tools)
			s.served()
			clients, atNodePort, atSecondPort := s.testTwoPorts()
			t.Logf("of %d clients %d have the same endpoint at the NodePort, %d at the second port", clients, atNodePort, atSecondPort)
			if atNodePort != clients || atSecondPort == clients {
				t.Error("kube-proxy does otherwise than docs/node-proxy-conformance.md says")
			}
		})
	}
}
