package loadbalancer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairway-lb/fairway/controllers/nodes"
	"github.com/fairway-lb/fairway/providers/lb"
)

// nodeLife changes nodes at random, at random moments, and knows which of them
// should be targets.
type nodeLife struct {
	*world
	random *rand.Rand
	names  []string
	made   int
}

func (l *nodeLife) step() {
	if len(l.names) == 0 || l.random.IntN(4) == 0 {
		name := fmt.Sprintf("n-%03d", l.made)
		l.made++
		l.addNode(name, inPool([]string{"a", "b", "c"}[l.random.IntN(3)]))
		l.names = append(l.names, name)
		return
	}
	i := l.random.IntN(len(l.names))
	name := l.names[i]
	switch l.random.IntN(6) {
	case 0:
		l.removeNode(name)
		l.names = slices.Delete(l.names, i, i+1)
	case 1:
		l.changeNode(name, withTaint(nodes.TaintKarpenterDisrupted))
	case 2:
		l.changeNode(name, func(n *v1.Node) { n.Spec.Taints = nil })
	case 3:
		l.changeNode(name, inPool([]string{"a", "b", "c"}[l.random.IntN(3)]))
	case 4:
		l.changeNode(name, func(n *v1.Node) { metav1.SetMetaDataLabel(&n.ObjectMeta, v1.LabelNodeExcludeBalancers, "") })
	case 5:
		l.changeNode(name, func(n *v1.Node) { delete(n.Labels, v1.LabelNodeExcludeBalancers) })
	}
}

// want returns the targets of a Service that selects a pool, "" for all.
func (l *nodeLife) want(pool string) lb.Value {
	list, err := l.client.CoreV1().Nodes().List(l.t.Context(), metav1.ListOptions{})
	l.check(err)
	var names []string
	for i := range list.Items {
		n := &list.Items[i]
		if state, _ := l.options.NodeFilter.Judge(n); state == lb.TargetActive && (pool == "" || n.Labels["pool"] == pool) {
			names = append(names, n.Name)
		}
	}
	return lb.Set(names...)
}

// Whatever becomes of nodes, at whatever moment, while the cloud fails now and
// then and the controller is restarted: once there is peace, each Service has just
// the nodes it should have.
func TestAnyLifeOfNodesEndsInTheRightTargets(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			var broken atomic.Bool
			in(t, func(w *world) {
				l := &nodeLife{world: w, random: rand.New(rand.NewPCG(seed, 1)), names: []string{"node-1", "node-2"}}
				w.createAll(slices.Concat([]*v1.Service{service("all")}, pools("a", "a", 2), pools("b", "b", 2), pools("c", "c", 1))...)
				for i := range 120 {
					l.step()
					w.pass(time.Duration(l.random.Int64N(int64([]time.Duration{time.Millisecond, time.Second, 15 * time.Second}[l.random.IntN(3)]))))
					broken.Store(l.random.IntN(10) == 0)
					if i%50 == 49 {
						w.stop()
						w.start()
					}
				}
				broken.Store(false)
				w.pass(10 * time.Minute)
				for name, pool := range map[string]string{"all": "", "a-000": "a", "a-001": "a", "b-000": "b", "b-001": "b", "c-000": "c"} {
					want := l.want(pool)
					w.expect("targets of "+name, w.cloud.nodes("default/"+name), []string(want))
					condition := "True Ready"
					if len(want) == 0 {
						condition = "False NoTargets"
					}
					w.expect("condition of "+name, w.condition(name), condition)
				}
			}, func(w *world) {
				w.options.SweepEvery = -1
				w.cloud.surveyed = seed%2 == 0
				w.cloud.amnesia = true
				w.cloud.apply = func(context.Context, lb.Change) error {
					if broken.Load() {
						return &lb.Error{Kind: lb.Unavailable, Op: "do it", Message: "try again"}
					}
					return nil
				}
			})
		})
	}
}
