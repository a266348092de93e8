package loadbalancer

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// ConditionReady is the condition on a Service that says whether its load
// balancer is as the Service wants it, and if not, why and what to do. It is
// also how the controller knows its Services again after a restart.
const ConditionReady = "fairway.io/LoadBalancerReady"

// Reasons of ConditionReady. An error's reason is its lb.ErrorKind.
const (
	reasonReady           = "Ready"
	reasonNoTargets       = "NoTargets"
	reasonServedElsewhere = "ServedByAnotherController"
)

// readyCondition returns the Service's ConditionReady, nil without one.
func readyCondition(svc *v1.Service) *metav1.Condition {
	return meta.FindStatusCondition(svc.Status.Conditions, ConditionReady)
}

// condition returns a ConditionReady for svc as it is now.
func condition(svc *v1.Service, status metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{
		Type:               ConditionReady,
		Status:             status,
		Reason:             reason,
		Message:            message,
		ObservedGeneration: svc.Generation,
	}
}

// edit changes a copy of a Service before it is patched.
type edit func(*v1.Service)

func withFinalizer(name string) edit {
	return func(svc *v1.Service) {
		if !slices.Contains(svc.Finalizers, name) {
			svc.Finalizers = append(svc.Finalizers, name)
		}
	}
}

func withoutFinalizer(name string) edit {
	return func(svc *v1.Service) {
		svc.Finalizers = slices.DeleteFunc(svc.Finalizers, func(f string) bool { return f == name })
	}
}

func withIngress(ingress []v1.LoadBalancerIngress) edit {
	return func(svc *v1.Service) { svc.Status.LoadBalancer.Ingress = ingress }
}

// withoutIngress takes our addresses away. Those of a Service that is of another
// class by now are another controller's: the API server lets the class change
// only through another type, and clears the addresses on the way.
func withoutIngress(svc *v1.Service) {
	if svc.Spec.Type != v1.ServiceTypeLoadBalancer || svc.DeletionTimestamp != nil {
		svc.Status.LoadBalancer.Ingress = nil
	}
}

func withCheckpoint(hash string) edit {
	return func(svc *v1.Service) {
		if svc.Annotations == nil {
			svc.Annotations = map[string]string{}
		}
		svc.Annotations[CheckpointAnnotation] = hash
	}
}

func withoutCheckpoint(svc *v1.Service) { delete(svc.Annotations, CheckpointAnnotation) }

func withCondition(c metav1.Condition) edit {
	return func(svc *v1.Service) { meta.SetStatusCondition(&svc.Status.Conditions, c) }
}

func withoutCondition(svc *v1.Service) {
	meta.RemoveStatusCondition(&svc.Status.Conditions, ConditionReady)
}

// patch makes the edits to svc in one write of its status subresource, which
// takes finalizers as well, so that services/status is all the controller may
// write. It returns the Service as it now is: svc itself, without a write, when
// the edits change nothing. A Service made again under the same name is refused
// by the API server as a conflict.
func (c *Controller) patch(ctx context.Context, svc *v1.Service, edits ...edit) (*v1.Service, error) {
	next := svc.DeepCopy()
	for _, e := range edits {
		e(next)
	}
	if equality.Semantic.DeepEqual(svc, next) {
		return svc, nil
	}
	data, err := patchBytes(svc, next)
	if err != nil {
		return svc, fmt.Errorf("patch service %s: %w", keyOf(svc), err)
	}
	const limit = 15 * time.Second // the work itself may have used up its time
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	patched, err := c.Client.Services(svc.Namespace).
		Patch(ctx, svc.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
	if err != nil {
		return svc, fmt.Errorf("patch service %s: %w", keyOf(svc), err)
	}
	return patched, nil
}

func patchBytes(before, after *v1.Service) ([]byte, error) {
	old, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	now, err := json.Marshal(after)
	if err != nil {
		return nil, err
	}
	data, err := strategicpatch.CreateTwoWayMergePatch(old, now, v1.Service{})
	if err != nil {
		return nil, err
	}
	var tree map[string]any
	if err := json.Unmarshal(data, &tree); err != nil {
		return nil, err
	}
	metadata, _ := tree["metadata"].(map[string]any)
	if metadata == nil {
		metadata = map[string]any{}
	}
	metadata["uid"] = string(before.UID)
	tree["metadata"] = metadata
	return json.Marshal(tree)
}
