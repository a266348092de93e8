package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

const namespace = "default"

// objects are the Services there are and where they answer, by index.
type objects struct {
	client    kubernetes.Interface
	addresses []netip.Addr // the cluster IPs
	nodePorts []uint16     // 0 without
	versions  []atomic.Int32
}

// writers is how many requests load the API server at a time.
const writers = 16

// Of the first so many Services some have a NodePort. The API server's range has
// 2,768: four in twenty of these take 1,200, and each load balancer, to the most
// there may be, takes one for its health check, 1,500.
const (
	withNodePorts = 6000
	most          = 30000
)

// udpService is one more Service, for datagrams.
const udpService = "bench-udp"

func serviceName(i int) string { return fmt.Sprintf("bench-%05d", i) }

// answering reports whether Service i has the one backend that answers; the
// endpoints of the others are addresses that nobody has. The last of a number
// that ends with 0 is one, and every other one of them has a NodePort.
func answering(i int) bool { return i%10 == 9 }

// endpointsOf is how many endpoints Service i has: a fifth have 1, one in forty
// has 32, the rest 4; on average 4.1.
func endpointsOf(i int) int {
	switch {
	case answering(i) || i%10 == 4:
		return 1
	case i%40 == 10:
		return 32
	default:
		return 4
	}
}

// endpoints are those of Service i in its given version; the first of them
// differs from one version to the next.
func endpoints(i, version int) []netip.AddrPort {
	if answering(i) {
		return []netip.AddrPort{netip.AddrPortFrom(backendOf(i), backendPort)}
	}
	all := make([]netip.AddrPort, endpointsOf(i))
	for e := range all {
		// Services that are 2,048 apart share addresses, which makes no difference.
		k := (i*32 + e) % (1 << 16)
		all[e] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 246, byte(k >> 8), byte(k)}), backendPort)
	}
	if version%2 == 1 {
		first := all[0].Addr().As4()
		first[1] = 247
		all[0] = netip.AddrPortFrom(netip.AddrFrom4(first), backendPort)
	}
	return all
}

// balancer is the load balancer's address of Service i.
func balancer(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 18, byte(i / 20 >> 8), byte(i / 20)})
}

// load makes Services until there are n, besides those that are there.
func (w *world) load(ctx context.Context, n int) error {
	o := &w.objects
	if o.client == nil {
		config := rest.CopyConfig(w.RESTConfig)
		config.ContentType = runtime.ContentTypeProtobuf
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		o.client = client
		if err := o.makeUDP(ctx); err != nil {
			return err
		}
	}
	before := len(o.addresses)
	o.nodePorts = append(o.nodePorts, make([]uint16, n-before)...)
	versions := make([]atomic.Int32, n)
	for i := range before {
		versions[i].Store(o.versions[i].Load())
	}
	o.versions = versions
	for i := before; i < n; i++ {
		o.addresses = append(o.addresses, addressOf(i))
	}
	return o.makeAll(ctx, before)
}

// addressOf is the cluster IP of Service i.
func addressOf(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, byte(16 + i>>8), byte(i)}) }

// udpAddress is the cluster IP of the one that takes datagrams.
var udpAddress = netip.AddrFrom4([4]byte{10, 96, 15, 1})

// makeAll makes all Services from one on, those first that need more of the API
// server than a cluster IP, and one that does not.
func (o *objects) makeAll(ctx context.Context, first int) error {
	var copies []int
	plain := -1
	all, making := errgroup.WithContext(ctx)
	all.SetLimit(writers)
	for i := first; i < len(o.addresses); i++ {
		if service(i).Spec.Type == v1.ServiceTypeClusterIP {
			if plain >= 0 {
				copies = append(copies, i)
				continue
			}
			plain = i
		}
		all.Go(func() error { return o.make(making, i) })
	}
	if err := all.Wait(); err != nil {
		return err
	}
	if err := o.copy(ctx, plain, copies); err != nil {
		return fmt.Errorf("copy Services: %w", err)
	}
	all, making = errgroup.WithContext(ctx)
	all.SetLimit(writers)
	for i := first; i < len(o.addresses); i++ {
		all.Go(func() error {
			_, err := o.client.DiscoveryV1().EndpointSlices(namespace).Create(making, slice(serviceName(i), v1.ProtocolTCP, endpoints(i, 0)), metav1.CreateOptions{})
			return err
		})
	}
	return all.Wait()
}

// service is Service i: of twenty, sixteen have a cluster IP only, three a
// NodePort, and one is a load balancer with traffic policy Local. Beyond those
// withNodePorts the three have a cluster IP only, and the one has no NodePort.
func service(i int) *v1.Service {
	svc := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: serviceName(i)}, Spec: v1.ServiceSpec{
		Type: v1.ServiceTypeClusterIP, ClusterIP: addressOf(i).String(),
		Ports: []v1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(backendPort), Protocol: v1.ProtocolTCP}},
	}}
	ports := i < withNodePorts
	switch i % 20 {
	case 2, 9, 16:
		if ports {
			svc.Spec.Type = v1.ServiceTypeNodePort
		}
	case 5:
		svc.Spec.Type = v1.ServiceTypeLoadBalancer
		svc.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal
		svc.Spec.AllocateLoadBalancerNodePorts = &ports
	}
	return svc
}

// make creates Service i, and gives it the load balancer's address if it has one.
func (o *objects) make(ctx context.Context, i int) error {
	made, err := o.client.CoreV1().Services(namespace).Create(ctx, service(i), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	o.nodePorts[i] = uint16(made.Spec.Ports[0].NodePort)
	if made.Spec.Type == v1.ServiceTypeLoadBalancer {
		made.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: balancer(i).String()}}
		_, err = o.client.CoreV1().Services(namespace).UpdateStatus(ctx, made, metav1.UpdateOptions{})
	}
	return err
}

func (o *objects) makeUDP(ctx context.Context) error {
	_, err := o.client.CoreV1().Services(namespace).Create(ctx, &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: udpService},
		Spec: v1.ServiceSpec{ClusterIP: udpAddress.String(),
			Ports: []v1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(backendPort), Protocol: v1.ProtocolUDP}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = o.client.DiscoveryV1().EndpointSlices(namespace).Create(ctx, slice(udpService, v1.ProtocolUDP,
		[]netip.AddrPort{netip.AddrPortFrom(backendA, backendPort)}), metav1.CreateOptions{})
	return err
}

// slice returns the EndpointSlice of a Service.
func slice(of string, protocol v1.Protocol, endpoints []netip.AddrPort) *discovery.EndpointSlice {
	s := &discovery.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: of, Labels: map[string]string{discovery.LabelServiceName: of}},
		AddressType: discovery.AddressTypeIPv4,
		Ports:       []discovery.EndpointPort{{Name: new(""), Port: new(int32(backendPort)), Protocol: new(protocol)}},
	}
	for _, e := range endpoints {
		s.Endpoints = append(s.Endpoints, discovery.Endpoint{Addresses: []string{e.Addr().String()}, Conditions: discovery.EndpointConditions{Ready: new(true)}})
	}
	return s
}

// anyQuiet is a random Service that does not answer.
func (o *objects) anyQuiet() int {
	for {
		if i := rand.IntN(len(o.addresses)); !answering(i) {
			return i
		}
	}
}

// change gives Service i another first endpoint.
func (o *objects) change(ctx context.Context, i int) error {
	version := int(o.versions[i].Add(1))
	return o.update(ctx, slice(serviceName(i), v1.ProtocolTCP, endpoints(i, version)))
}

// move gives a Service a single endpoint, one of the backends.
func (o *objects) move(ctx context.Context, of string, protocol v1.Protocol, to netip.Addr) error {
	return o.update(ctx, slice(of, protocol, []netip.AddrPort{netip.AddrPortFrom(to, backendPort)}))
}

func (o *objects) update(ctx context.Context, s *discovery.EndpointSlice) error {
	_, err := o.client.DiscoveryV1().EndpointSlices(namespace).Update(ctx, s, metav1.UpdateOptions{})
	return err
}

// targets are where the answering Services are reached: by their cluster IPs, or
// by their NodePorts on the node.
func (o *objects) targets(way string, node netip.Addr) []netip.AddrPort {
	var all []netip.AddrPort
	for i, a := range o.addresses {
		switch {
		case !answering(i):
		case way == clusterIP:
			all = append(all, netip.AddrPortFrom(a, 80))
		case o.nodePorts[i] != 0:
			all = append(all, netip.AddrPortFrom(node, o.nodePorts[i]))
		}
	}
	return all
}

// desired is what a proxy makes of the objects: the content of the node's table.
func (o *objects) desired(node netip.Addr) map[string]*nft.Service {
	all := make(map[string]*nft.Service, len(o.addresses))
	for i := range o.addresses {
		all[serviceName(i)] = o.desiredOf(i, int(o.versions[i].Load()), node)
	}
	return all
}

func (o *objects) desiredOf(i, version int, node netip.Addr) *nft.Service {
	address, pool := o.addresses[i], endpoints(i, version)
	at := func(a netip.Addr, port uint16) nft.Frontend {
		return nft.Frontend{Addr: a, Protocol: nft.TCP, Port: port}
	}
	outside := nft.External
	s := &nft.Service{ClusterIPs: []netip.Addr{address}, Frontends: map[nft.Frontend]nft.Backends{
		at(address, 80): {Policy: nft.Internal, Cluster: pool},
	}}
	if i%20 == 5 {
		outside = nft.ExternalLocal
		s.Frontends[at(balancer(i), 80)] = nft.Backends{Policy: outside, Cluster: pool}
	}
	if port := o.nodePorts[i]; port != 0 {
		s.Frontends[at(node, port)] = nft.Backends{Policy: outside, Cluster: pool}
	}
	return s
}
