package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const namespace = "default"

// objects are the Services of one size and where they are.
type objects struct {
	client kubernetes.Interface
	n      int
	// addresses are the cluster IPs by index.
	addresses []netip.Addr
}

// writers is how many requests load the API server at a time.
const writers = 16

// manyNodePorts is how many Services have a NodePort at most: the API server's
// range has 2,768.
const manyNodePorts = 1800

func serviceName(i int) string { return fmt.Sprintf("bench-%05d", i) }

// answering reports whether Service i has the one backend that answers; the
// endpoints of the others are addresses that nobody has.
func answering(i, n int) bool { return i%10 == 7 || i == 0 || i == n/2 || i == n-1 }

// endpointsOf is how many endpoints Service i has: half of the Services have 1,
// one in twenty has 32, the rest 4; on average 4.
func endpointsOf(i int) int {
	switch {
	case i%20 == 10:
		return 32
	case i%2 == 1:
		return 1
	default:
		return 4
	}
}

// load makes n Services, in place of those of an earlier size, and waits until
// all can be read.
func (w *world) load(ctx context.Context, n int) error {
	config := rest.CopyConfig(w.RESTConfig)
	config.ContentType = runtime.ContentTypeProtobuf
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	before := w.objects.n
	w.objects = objects{client: client, n: n, addresses: make([]netip.Addr, n)}
	for i := range before {
		if err := client.CoreV1().Services(namespace).Delete(ctx, serviceName(i), metav1.DeleteOptions{}); err != nil {
			return err
		}
		if err := client.DiscoveryV1().EndpointSlices(namespace).Delete(ctx, serviceName(i), metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(writers)
	for i := range n {
		all.Go(func() error { return w.objects.make(ctx, i) })
	}
	return all.Wait()
}

// make creates Service i: of twenty, sixteen have a cluster IP only, three a
// NodePort, and one is a load balancer with traffic policy Local.
func (o *objects) make(ctx context.Context, i int) error {
	svc := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: serviceName(i)}, Spec: v1.ServiceSpec{
		Ports: []v1.ServicePort{{Port: 80, Protocol: v1.ProtocolTCP}},
	}}
	switch i % 20 {
	case 2, 9, 16:
		if i/20*4 < manyNodePorts {
			svc.Spec.Type = v1.ServiceTypeNodePort
		}
	case 5:
		svc.Spec.Type = v1.ServiceTypeLoadBalancer
		svc.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal
		allocate := i/20*4 < manyNodePorts
		svc.Spec.AllocateLoadBalancerNodePorts = &allocate
	}
	made, err := o.client.CoreV1().Services(namespace).Create(ctx, svc, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if o.addresses[i], err = netip.ParseAddr(made.Spec.ClusterIP); err != nil {
		return err
	}
	_, err = o.client.DiscoveryV1().EndpointSlices(namespace).Create(ctx, o.slice(i, 0, backendA), metav1.CreateOptions{})
	return err
}

// slice returns the EndpointSlice of Service i in its given version, of which
// each has other endpoints. Those that answer have the given backend.
func (o *objects) slice(i, version int, backend netip.Addr) *discovery.EndpointSlice {
	s := &discovery.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: serviceName(i), Labels: map[string]string{discovery.LabelServiceName: serviceName(i)}},
		AddressType: discovery.AddressTypeIPv4,
		Ports:       []discovery.EndpointPort{{Name: new(""), Port: new(int32(backendPort)), Protocol: new(v1.ProtocolTCP)}},
	}
	addresses := []string{backend.String()}
	if !answering(i, o.n) {
		addresses = nil
		for e := range endpointsOf(i) {
			k := i*32 + e
			addresses = append(addresses, netip.AddrFrom4([4]byte{10, 246 + byte(version%2), byte(k >> 8), byte(k)}).String())
		}
	}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, discovery.Endpoint{Addresses: []string{a}, Conditions: discovery.EndpointConditions{Ready: new(true)}})
	}
	return s
}

// change gives Service i other endpoints.
func (o *objects) change(ctx context.Context, i, version int, backend netip.Addr) error {
	_, err := o.client.DiscoveryV1().EndpointSlices(namespace).Update(ctx, o.slice(i, version, backend), metav1.UpdateOptions{})
	return err
}

// bareInformer returns how long two informers of client-go, which do nothing
// else, take to read all Services and EndpointSlices.
func (w *world) bareInformer(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	began := time.Now()
	factory := informers.NewSharedInformerFactory(w.objects.client, 0)
	synced := []cache.InformerSynced{
		factory.Core().V1().Services().Informer().HasSynced, factory.Discovery().V1().EndpointSlices().Informer().HasSynced,
	}
	factory.Start(ctx.Done())
	for _, s := range synced {
		if err := poll(ctx, time.Millisecond, func() bool { return s() }); err != nil {
			return 0, fmt.Errorf("wait for the informers: %w", err)
		}
	}
	return time.Since(began), nil
}

// poll calls f until it is true or the context ends.
func poll(ctx context.Context, every time.Duration, f func() bool) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !f() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}
