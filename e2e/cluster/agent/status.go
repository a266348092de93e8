package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// statusHistory remembers when each condition last changed, and what was
// reported last.
type statusHistory struct {
	conditions map[corev1.PodConditionType]corev1.PodCondition
	last       *corev1.PodStatus
}

// condition makes a condition whose transition time is that of its last change.
func (h *statusHistory) condition(kind corev1.PodConditionType, met bool, reason, message string) corev1.PodCondition {
	c := corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue}
	if !met {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, reason, message
	}
	if before, known := h.conditions[kind]; known && before.Status == c.Status {
		c.LastTransitionTime = before.LastTransitionTime
	} else {
		c.LastTransitionTime = metav1.Now()
	}
	if h.conditions == nil {
		h.conditions = map[corev1.PodConditionType]corev1.PodCondition{}
	}
	h.conditions[kind] = c
	return c
}

// report writes the status of a running Pod.
func (p *pod) report(ctx context.Context, object *corev1.Pod) {
	status := p.frame(object, corev1.PodRunning)
	for _, container := range object.Spec.Containers {
		state := p.containers[container.Name]
		s := containerStatus(p.uid, container)
		s.Ready, s.Started = state.ready, ptr.To(true)
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: p.started}
		status.ContainerStatuses = append(status.ContainerStatuses, s)
	}
	p.write(ctx, p.withReadiness(status, "ContainersNotReady"))
}

// reportWaiting writes why a Pod does not start.
func (p *pod) reportWaiting(ctx context.Context, object *corev1.Pod, cause error) {
	status := p.frame(object, corev1.PodPending)
	for _, container := range object.Spec.Containers {
		s := containerStatus(p.uid, container)
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: "CreateContainerError", Message: cause.Error()}
		status.ContainerStatuses = append(status.ContainerStatuses, s)
	}
	p.write(ctx, p.withReadiness(status, "ContainersNotReady"))
}

// reportTerminated writes that all containers have ended well.
func (p *pod) reportTerminated(ctx context.Context, object *corev1.Pod) {
	status := p.frame(object, corev1.PodSucceeded)
	for _, container := range object.Spec.Containers {
		s := containerStatus(p.uid, container)
		s.State.Terminated = &corev1.ContainerStateTerminated{
			Reason: "Completed", StartedAt: p.started, FinishedAt: metav1.Now(), ContainerID: s.ContainerID,
		}
		status.ContainerStatuses = append(status.ContainerStatuses, s)
	}
	p.write(ctx, p.withReadiness(status, "PodCompleted"))
}

// frame is the part of a status that does not depend on the containers.
func (p *pod) frame(object *corev1.Pod, phase corev1.PodPhase) *corev1.PodStatus {
	status := &corev1.PodStatus{
		Phase:              phase,
		ObservedGeneration: object.Generation,
		HostIP:             p.agent.nodeIP.String(),
		HostIPs:            []corev1.HostIP{{IP: p.agent.nodeIP.String()}},
		QOSClass:           object.Status.QOSClass,
	}
	if !p.started.IsZero() {
		status.StartTime = &p.started
	}
	if p.ip.IsValid() {
		status.PodIP = p.ip.String()
		status.PodIPs = []corev1.PodIP{{IP: p.ip.String()}}
	}
	for _, container := range object.Spec.InitContainers {
		s := containerStatus(p.uid, container)
		s.Ready = true
		s.State.Terminated = &corev1.ContainerStateTerminated{Reason: "Completed", ContainerID: s.ContainerID}
		status.InitContainerStatuses = append(status.InitContainerStatuses, s)
	}
	return status
}

// withReadiness derives the Pod's conditions from its containers' states.
func (p *pod) withReadiness(status *corev1.PodStatus, reason string) *corev1.PodStatus {
	var unready []string
	for _, c := range status.ContainerStatuses {
		if !c.Ready {
			text := c.Name
			if state := p.containers[c.Name]; state != nil && state.reason != "" {
				text += " (" + state.reason + ")"
			}
			unready = append(unready, text)
		}
	}
	slices.Sort(unready)
	ready, message := len(unready) == 0, "containers with unready status: "+strings.Join(unready, ", ")
	hasNetwork := status.PodIP != ""
	status.Conditions = []corev1.PodCondition{
		p.status.condition(corev1.PodReadyToStartContainers, hasNetwork, "", ""),
		p.status.condition(corev1.PodInitialized, true, "", ""),
		p.status.condition(corev1.ContainersReady, ready, reason, message),
		p.status.condition(corev1.PodReady, ready, reason, message),
	}
	return status
}

func containerStatus(uid types.UID, container corev1.Container) corev1.ContainerStatus {
	return corev1.ContainerStatus{
		Name: container.Name, Image: container.Image, ImageID: container.Image,
		ContainerID: fmt.Sprintf("fairway://%s/%s", uid, container.Name),
	}
}

// write patches the status, if it differs from what was written last. Conditions
// that others keep, PodScheduled for one, stay.
func (p *pod) write(ctx context.Context, status *corev1.PodStatus) {
	if p.status.last != nil && reflect.DeepEqual(p.status.last, status) {
		return
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.uid}, "status": status})
	if err == nil {
		err = p.call(ctx, func(ctx context.Context) error {
			_, err := p.agent.config.Client.CoreV1().Pods(p.namespace).Patch(
				ctx, p.name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
			return err
		})
	}
	if err != nil {
		p.agent.config.Logger.Error("writing a Pod's status", "pod", p.name, "namespace", p.namespace, "err", err)
		return
	}
	p.status.last = status
}
