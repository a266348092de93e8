package cloudprovider

import (
	"context"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/node/util"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/providers/lb"
)

// ConditionAmbiguous is the condition of a Node that several machines could be. It
// is there as long as that is so: the Node is not initialised, and nothing happens
// to it.
const ConditionAmbiguous v1.NodeConditionType = "fairway.io/InstanceAmbiguous"

const reasonAmbiguous = "SeveralInstancesMatch"

// tellAmbiguity gives the Node its condition, and one event, when err says that it
// is ambiguous, and takes the condition away when its machine was found. What else
// may be wrong says nothing about that.
func (i instances) tellAmbiguity(ctx context.Context, node *v1.Node, err error) {
	n := slices.IndexFunc(node.Status.Conditions, func(c v1.NodeCondition) bool { return c.Type == ConditionAmbiguous })
	changed := node.DeepCopy()
	switch {
	case lb.KindOf(err) == lb.Conflict:
		if n >= 0 && node.Status.Conditions[n].Message == err.Error() {
			return
		}
		now := metav1.Now()
		condition := v1.NodeCondition{Type: ConditionAmbiguous, Status: v1.ConditionTrue, Reason: reasonAmbiguous, Message: err.Error(),
			LastTransitionTime: now, LastHeartbeatTime: now}
		if n >= 0 {
			condition.LastTransitionTime = node.Status.Conditions[n].LastTransitionTime
			changed.Status.Conditions[n] = condition
		} else {
			changed.Status.Conditions = append(changed.Status.Conditions, condition)
		}
		if i.config.Recorder != nil {
			i.config.Recorder.Event(node, v1.EventTypeWarning, reasonAmbiguous, err.Error())
		}
	case err == nil && n >= 0:
		changed.Status.Conditions = slices.Delete(changed.Status.Conditions, n, n+1)
	default:
		return
	}
	if _, _, err := util.PatchNodeStatus(i.client.CoreV1(), types.NodeName(node.Name), node, changed); err != nil {
		klog.FromContext(ctx).Error(err, "The Node's condition was not written", "node", node.Name, "condition", ConditionAmbiguous)
	}
}
