// Package servicetest is for tests of what writes Services: an API server in
// memory that is as strict about them as a real one.
package servicetest

import (
	"encoding/json"
	"fmt"
	"strconv"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

var servicesResource = v1.SchemeGroupVersion.WithResource("services")

// NewClient returns a fake client that has what the controller relies on of a real API
// server: growing resource versions; patches of the status subresource only,
// which change metadata and status but not the spec, are refused for another
// UID and checked as pkg/apis/core/validation checks a load balancer's status;
// and an object marked as deleted goes with its last finalizer.
func NewClient() *fake.Clientset {
	client := fake.NewSimpleClientset()
	var version atomic.Int64
	next := func() string { return strconv.FormatInt(version.Add(1), 10) }
	stamp := func(a clienttesting.Action) (bool, runtime.Object, error) {
		if created, ok := a.(clienttesting.CreateAction); ok { // updates have the same method
			created.GetObject().(metav1.Object).SetResourceVersion(next())
		}
		return false, nil, nil
	}
	client.PrependReactor("create", "services", stamp)
	client.PrependReactor("update", "services", stamp)
	client.PrependReactor("patch", "services", func(a clienttesting.Action) (bool, runtime.Object, error) {
		patch := a.(clienttesting.PatchAction)
		object, err := client.Tracker().Get(servicesResource, patch.GetNamespace(), patch.GetName())
		if err != nil {
			return true, nil, err
		}
		before := object.(*v1.Service)
		after, err := applied(before, patch)
		if err != nil {
			return true, nil, err
		}
		after.ResourceVersion = next()
		if after.DeletionTimestamp != nil && len(after.Finalizers) == 0 {
			return true, after, client.Tracker().Delete(servicesResource, after.Namespace, after.Name)
		}
		return true, after, client.Tracker().Update(servicesResource, after, after.Namespace)
	})
	return client
}

func applied(before *v1.Service, patch clienttesting.PatchAction) (*v1.Service, error) {
	if patch.GetSubresource() != "status" {
		return nil, apierrors.NewForbidden(servicesResource.GroupResource(), before.Name, fmt.Errorf("the role allows services/status only"))
	}
	old, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	merged, err := strategicpatch.StrategicMergePatch(old, patch.GetPatch(), v1.Service{})
	if err != nil {
		return nil, err
	}
	after := &v1.Service{}
	if err := json.Unmarshal(merged, after); err != nil {
		return nil, err
	}
	if after.UID != before.UID {
		return nil, apierrors.NewConflict(servicesResource.GroupResource(), before.Name, fmt.Errorf("another uid"))
	}
	after.Spec = before.Spec
	for _, i := range after.Status.LoadBalancer.Ingress {
		if (i.IP != "") != (i.IPMode != nil) || after.Spec.Type != v1.ServiceTypeLoadBalancer {
			return nil, apierrors.NewBadRequest("status.loadBalancer.ingress is invalid")
		}
	}
	for _, c := range after.Status.Conditions {
		if c.LastTransitionTime.IsZero() || c.Reason == "" {
			return nil, apierrors.NewBadRequest("status.conditions is invalid")
		}
	}
	return after, nil
}
