package main

import (
	"context"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcoordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"

	"github.com/fairway-lb/fairway/controllers/loadbalancer"
)

// lease is the leader's lease while we hold it. The framework renews it until
// the process ends and never gives it back, so that a standby would wait for it
// to run out after each orderly stop.
type lease struct {
	client       typedcoordination.LeaseInterface
	name, holder string
	// paused is whether it bore the pause annotation when it was taken.
	paused bool
}

// heldLease returns the lease of that name, which the caller knows to hold: the
// framework starts controllers only once it leads.
func heldLease(ctx context.Context, client typedcoordination.LeaseInterface, name string) (*lease, error) {
	now, err := client.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read the leader's lease: %w", err)
	}
	return &lease{client: client, name: name, holder: ptr.Deref(now.Spec.HolderIdentity, ""), paused: loadbalancer.Paused(now.Annotations)}, nil
}

// leaseReference names the lease as the object of events about the controller as
// a whole: it is what stands for it in the cluster, whichever Pod leads.
func leaseReference(namespace, name string) *v1.ObjectReference {
	return &v1.ObjectReference{APIVersion: coordinationv1.SchemeGroupVersion.String(), Kind: "Lease", Namespace: namespace, Name: name}
}

// watchPause tells every few seconds whether the lease bears the pause
// annotation, until ctx ends. Without an answer it stays as it is.
func (l *lease) watchPause(ctx context.Context, tell func(paused bool)) {
	const every = 10 * time.Second // a watch would wake at each renewal, every 2 s
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
		if now, err := l.client.Get(ctx, l.name, metav1.GetOptions{}); err == nil {
			tell(loadbalancer.Paused(now.Annotations))
		}
	}
}

// release gives the lease back for a standby to take at once. Nothing is
// written when another holds it meanwhile. The framework would take it again
// after a while, so the process must end next.
func (l *lease) release(ctx context.Context) error {
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		now, err := l.client.Get(ctx, l.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if holder := ptr.Deref(now.Spec.HolderIdentity, ""); holder == "" || holder != l.holder {
			return nil
		}
		// As client-go's elector does when it releases.
		moment := metav1.NewMicroTime(time.Now())
		now.Spec = coordinationv1.LeaseSpec{
			HolderIdentity:       ptr.To(""),
			LeaseDurationSeconds: ptr.To[int32](1),
			LeaseTransitions:     now.Spec.LeaseTransitions,
			AcquireTime:          &moment,
			RenewTime:            &moment,
		}
		_, err = l.client.Update(ctx, now, metav1.UpdateOptions{})
		return err
	})
}
