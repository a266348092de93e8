package agent

import (
	"context"
	"fmt"
	"runtime"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const (
	// heartbeatInterval is half of what kubelets use, so that the cluster can
	// notice a dead node sooner than a real one would.
	heartbeatInterval = 5 * time.Second
	// retryInterval is the pause after a failed call to the API server.
	retryInterval = 200 * time.Millisecond
	// callTimeout bounds one call to the API server.
	callTimeout = 10 * time.Second
)

// register makes the Node object, or brings the one that is there up to date.
func (a *Agent) register(ctx context.Context) error {
	node := a.config.Node.DeepCopy()
	a.fillStatus(node)
	var err error
	for ctx.Err() == nil {
		if err = a.registerOnce(ctx, node); err == nil {
			a.config.Logger.Info("node registered", "node", node.Name)
			return nil
		}
		if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) {
			break
		}
		pause(ctx, retryInterval)
	}
	return fmt.Errorf("registering node %s: %w", node.Name, err)
}

func (a *Agent) registerOnce(ctx context.Context, node *corev1.Node) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	nodes := a.config.Client.CoreV1().Nodes()
	_, err := nodes.Create(ctx, node, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	existing, err := nodes.Get(ctx, node.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	existing.Status = node.Status
	_, err = nodes.UpdateStatus(ctx, existing, metav1.UpdateOptions{})
	return err
}

func (a *Agent) fillStatus(node *corev1.Node) {
	room := corev1.ResourceList{
		corev1.ResourceCPU:              resource.MustParse("4"),
		corev1.ResourceMemory:           resource.MustParse("16Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"),
		corev1.ResourcePods:             resource.MustParse("110"),
	}
	node.Status.Capacity, node.Status.Allocatable = room, room
	node.Status.NodeInfo = corev1.NodeSystemInfo{
		Architecture: runtime.GOARCH, OperatingSystem: runtime.GOOS, KubeletVersion: "fairway-test-agent",
	}
	now := metav1.Now()
	condition := func(kind corev1.NodeConditionType, status corev1.ConditionStatus, reason string) corev1.NodeCondition {
		return corev1.NodeCondition{
			Type: kind, Status: status, Reason: reason, LastHeartbeatTime: now, LastTransitionTime: now,
		}
	}
	node.Status.Conditions = []corev1.NodeCondition{
		condition(corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory"),
		condition(corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure"),
		condition(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID"),
		condition(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady"),
	}
}

// heartbeat renews the node's lease, and says Ready again when the cluster had
// given the node up for a while.
func (a *Agent) heartbeat(ctx context.Context) {
	ticker := time.NewTicker(heartbeatInterval)
	defer ticker.Stop()
	failing := false
	for {
		err := a.beat(ctx)
		if ctx.Err() != nil {
			return
		}
		if (err != nil) != failing {
			failing = err != nil
			a.config.Logger.Info("node heartbeat", "node", a.config.Node.Name, "failing", failing, "err", err)
		}
		wait := ticker.C
		if failing {
			pause(ctx, retryInterval)
			continue
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return
		}
	}
}

func (a *Agent) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := a.renewLease(ctx); err != nil {
		return fmt.Errorf("renewing the lease: %w", err)
	}
	nodes := a.config.Client.CoreV1().Nodes()
	node, err := nodes.Get(ctx, a.config.Node.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			return nil
		}
	}
	addresses := node.Status.Addresses
	a.fillStatus(node)
	node.Status.Addresses = addresses
	_, err = nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return err
}

func (a *Agent) renewLease(ctx context.Context) error {
	leases := a.config.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	lease, err := leases.Get(ctx, a.config.Node.Name, metav1.GetOptions{})
	spec := coordinationv1.LeaseSpec{
		HolderIdentity:       &a.config.Node.Name,
		LeaseDurationSeconds: ptr.To[int32](40),
		RenewTime:            ptr.To(metav1.NowMicro()),
	}
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: a.config.Node.Name}, Spec: spec,
		}, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	lease.Spec = spec
	_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	return err
}

// pause waits, or returns early when the context ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
