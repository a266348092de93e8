package main

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/fairway-lb/fairway/e2e/cluster"
)

// Services that have a cluster IP only are copied in etcd, as the API server
// counts all addresses in use, twice, for every one it gives to a Service
// (pkg/registry/core/service/ipallocator of Kubernetes 1.37): 9,000 Services took
// it three minutes, and 30,000 would take it half an hour.

// Where the API server keeps them.
const (
	servicesPath  = "/registry/services/specs/" + namespace + "/"
	addressesPath = "/registry/ipaddresses/"
)

// storeTime bounds the copying, copiesAtOnce is how many objects a transaction
// has: etcd takes 128.
const (
	storeTime    = 5 * time.Minute
	copiesAtOnce = 100
)

// copy makes Services like Service first, which has a cluster IP only, with the
// numbers. They and their addresses are the same as the API server would have
// made them but for the times of creation.
func (o *objects) copy(ctx context.Context, first int, numbers []int) (err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	service, err := o.client.CoreV1().Services(namespace).Get(ctx, serviceName(first), metav1.GetOptions{})
	if err != nil {
		return err
	}
	address, err := o.client.NetworkingV1().IPAddresses().Get(ctx, o.addresses[first].String(), metav1.GetOptions{})
	if err != nil {
		return err
	}
	service.SetGroupVersionKind(v1.SchemeGroupVersion.WithKind("Service"))
	address.SetGroupVersionKind(networking.SchemeGroupVersion.WithKind("IPAddress"))
	store, err := clientv3.New(clientv3.Config{Endpoints: []string{cluster.StoreAddress}, Context: ctx})
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }() // what was written was confirmed
	// Addresses come first: the API server makes those that it misses.
	for _, object := range []func(i int) (string, runtime.Object){o.addressLike(address), o.serviceLike(service)} {
		if err := put(ctx, store, numbers, object); err != nil {
			return err
		}
	}
	return nil
}

func (o *objects) serviceLike(like *v1.Service) func(i int) (string, runtime.Object) {
	return func(i int) (string, runtime.Object) {
		s := like.DeepCopy()
		s.Name, s.UID, s.ResourceVersion = serviceName(i), uuid.NewUUID(), ""
		s.Spec.ClusterIP, s.Spec.ClusterIPs = o.addresses[i].String(), []string{o.addresses[i].String()}
		return servicesPath + s.Name, s
	}
}

func (o *objects) addressLike(like *networking.IPAddress) func(i int) (string, runtime.Object) {
	return func(i int) (string, runtime.Object) {
		a := like.DeepCopy()
		a.Name, a.UID, a.ResourceVersion = o.addresses[i].String(), uuid.NewUUID(), ""
		a.Spec.ParentRef.Name = serviceName(i)
		return addressesPath + a.Name, a
	}
}

// put writes objects where there are none yet.
func put(ctx context.Context, store *clientv3.Client, numbers []int, object func(i int) (string, runtime.Object)) error {
	encoder := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(writers)
	for len(numbers) > 0 {
		n := min(copiesAtOnce, len(numbers))
		var missing []clientv3.Cmp
		var puts []clientv3.Op
		for _, i := range numbers[:n] {
			key, o := object(i)
			data, err := runtime.Encode(encoder, o)
			if err != nil {
				return fmt.Errorf("encode %s: %w", key, err)
			}
			missing = append(missing, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
			puts = append(puts, clientv3.OpPut(key, string(data)))
		}
		numbers = numbers[n:]
		all.Go(func() error {
			done, err := store.Txn(ctx).If(missing...).Then(puts...).Commit()
			if err == nil && !done.Succeeded {
				err = fmt.Errorf("one of %d objects is there already", len(puts))
			}
			return err
		})
	}
	return all.Wait()
}
