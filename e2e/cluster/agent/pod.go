package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// pod is one Pod on this node. One goroutine runs it from its first event to its
// end.
type pod struct {
	agent           *Agent
	uid             types.UID
	namespace, name string
	updates         *mailbox

	// netns is set while the Pod has a network namespace.
	netns atomic.Pointer[sandbox.NetNS]
	ip    netip.Addr
	// files are what programs in the Pod see in place of the machine's, by path;
	// set before netns is.
	files map[string]string

	// What follows is the running goroutine's own.
	server   *server
	programs []*program
	started  metav1.Time
	// containers is what is known about each container of the Pod, by name.
	containers map[string]*containerState
	status     statusHistory
}

// containerState is a container's readiness, and why it is not ready.
type containerState struct {
	ready  bool
	reason string
}

func newPod(a *Agent, object *corev1.Pod) *pod {
	return &pod{
		agent: a, uid: object.UID, namespace: object.Namespace, name: object.Name,
		updates: &mailbox{wake: make(chan struct{}, 1)}, containers: map[string]*containerState{},
	}
}

// run starts the Pod, follows its object and its probes, and ends when the Pod
// is terminated, its object is gone, or the node is.
func (p *pod) run(ctx context.Context) {
	defer p.stop()
	if !p.startRetrying(ctx) {
		return
	}
	object, _ := p.updates.get()
	probing, stopProbing := context.WithCancel(ctx)
	defer stopProbing()
	results := p.probe(probing, object)
	p.report(ctx, object)

	var shutdown <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.updates.wake:
			var gone bool
			if object, gone = p.updates.get(); gone {
				return
			}
			if object.DeletionTimestamp != nil && shutdown == nil {
				p.agent.config.Logger.Info("Pod terminating, still serving", "pod", p.name, "for", p.lameDuck(object))
				p.drain()
				shutdown = time.After(p.lameDuck(object))
			}
		case result := <-results:
			state := p.containers[result.container]
			if state.ready == result.ready && state.reason == result.reason {
				continue
			}
			state.ready, state.reason = result.ready, result.reason
		case <-shutdown:
			stopProbing()
			p.terminate(ctx, object)
			return
		}
		p.report(ctx, object)
	}
}

// lameDuck is how long the Pod serves after it was told to terminate.
func (p *pod) lameDuck(object *corev1.Pod) time.Duration {
	return min(p.agent.config.LameDuck, gracePeriod(object))
}

func gracePeriod(object *corev1.Pod) time.Duration {
	if object.DeletionGracePeriodSeconds == nil {
		return 0
	}
	return time.Duration(*object.DeletionGracePeriodSeconds) * time.Second
}

// startRetrying starts the Pod, as often as it takes. It returns false if the
// Pod ended before it ran.
func (p *pod) startRetrying(ctx context.Context) bool {
	for ctx.Err() == nil {
		object, gone := p.updates.get()
		if gone {
			return false
		}
		if object.DeletionTimestamp != nil {
			p.finish(ctx, object)
			return false
		}
		err := p.start(ctx, object)
		if err == nil {
			p.agent.config.Logger.Info("Pod started", "pod", p.name, "namespace", p.namespace, "ip", p.ip)
			return true
		}
		p.stop()
		p.agent.config.Logger.Error("Pod does not start", "pod", p.name, "namespace", p.namespace, "err", err)
		p.reportWaiting(ctx, object, err)
		pause(ctx, time.Second)
	}
	return false
}

// start gives the Pod its namespace, its server and its programs.
func (p *pod) start(ctx context.Context, object *corev1.Pod) error {
	if err := p.writeFiles(object); err != nil {
		return err
	}
	n, err := p.connect(object)
	if err != nil {
		return err
	}
	p.netns.Store(n)
	p.started = metav1.Now()
	for _, container := range object.Spec.Containers {
		state := &containerState{ready: container.ReadinessProbe == nil}
		if !state.ready {
			state.reason = "the readiness probe has not succeeded yet"
		}
		p.containers[container.Name] = state
	}
	identity := Identity{Pod: p.name, Namespace: p.namespace, Node: p.agent.config.Node.Name, PodIP: p.ip}
	programs, others := p.programsOf(object)
	if p.server, err = serve(ctx, n, identity, others); err != nil {
		return err
	}
	for _, r := range programs {
		r.start()
	}
	p.programs = programs
	return nil
}

// drain tells the Pod's server and programs that the Pod is being deleted.
func (p *pod) drain() {
	p.server.drain()
	for _, r := range p.programs {
		r.drain()
	}
}

// connect makes the Pod's network namespace with one cable to the node: the
// node's packet filter sees all its packets, also those to a Pod of the same
// node. A Pod of the host's network is in the node's namespace.
func (p *pod) connect(object *corev1.Pod) (*sandbox.NetNS, error) {
	if object.Spec.HostNetwork {
		p.ip = p.agent.nodeIP
		return p.agent.config.NetNS, nil
	}
	ip, err := p.agent.addresses.take()
	if err != nil {
		return nil, err
	}
	p.ip = ip
	// The name tells a person whose it is; the UID keeps apart a Pod and its
	// successor of the same name.
	n, err := sandbox.NewNetNS(fmt.Sprintf("%s_%s_%.8s", p.namespace, p.name, p.uid))
	if err != nil {
		return nil, err
	}
	self, gateway := netip.PrefixFrom(ip, ip.BitLen()), p.agent.addresses.gateway()
	all := netip.PrefixFrom(gateway, 0).Masked()
	err = sandbox.Connect(
		sandbox.End{
			NetNS: p.agent.config.NetNS, Device: p.device(),
			Addresses: []netip.Prefix{netip.PrefixFrom(gateway, gateway.BitLen())},
			Routes:    []sandbox.Route{{To: self}},
		},
		sandbox.End{
			NetNS: n, Device: "eth0",
			Addresses: []netip.Prefix{self},
			Routes:    []sandbox.Route{{To: all, Via: gateway}},
		},
	)
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// device is the Pod's cable, as the node sees it.
func (p *pod) device() string { return fmt.Sprintf("pod-%.8s", p.uid) }

// stop takes away what start made, all or only a part of it.
func (p *pod) stop() {
	if p.server != nil {
		p.server.close()
		p.server = nil
	}
	for _, r := range p.programs {
		r.close()
	}
	p.programs = nil
	n := p.netns.Swap(nil)
	if n != nil && n != p.agent.config.NetNS {
		// The cable first: a namespace lives on for as long as a socket in it
		// does, and its address shall not.
		if err := errors.Join(p.agent.config.NetNS.DeleteDevice(p.device()), n.Close()); err != nil {
			p.agent.config.Logger.Error("removing a Pod's network", "pod", p.name, "err", err)
		}
	}
	if p.ip.IsValid() && p.ip != p.agent.nodeIP {
		p.agent.addresses.giveBack(p.ip)
	}
	p.ip = netip.Addr{}
	p.removeFiles()
}

// terminate lets requests under way finish, within the grace period, and ends
// the Pod.
func (p *pod) terminate(ctx context.Context, object *corev1.Pod) {
	left := gracePeriod(object) - p.lameDuck(object)
	closing, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	go func() {
		// Deleted by force meanwhile: no more waiting.
		for closing.Err() == nil {
			select {
			case <-p.updates.wake:
				if _, gone := p.updates.get(); gone {
					cancel()
				}
			case <-closing.Done():
			}
		}
	}()
	p.server.shutdown(closing)
	for _, r := range p.programs {
		r.shutdown(closing)
	}
	p.stop()
	p.finish(ctx, object)
}

// finish reports the containers as ended and removes the Pod's object.
func (p *pod) finish(ctx context.Context, object *corev1.Pod) {
	p.reportTerminated(ctx, object)
	err := p.call(ctx, func(ctx context.Context) error {
		return p.agent.config.Client.CoreV1().Pods(p.namespace).Delete(ctx, p.name, metav1.DeleteOptions{
			GracePeriodSeconds: new(int64), Preconditions: metav1.NewUIDPreconditions(string(p.uid)),
		})
	})
	p.agent.config.Logger.Info("Pod ended", "pod", p.name, "namespace", p.namespace, "err", err)
}

// call makes one call to the API server until it succeeds, the context ends, or
// the Pod's object turns out to be gone.
func (p *pod) call(ctx context.Context, f func(context.Context) error) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, callTimeout)
		err := f(attempt)
		cancel()
		_, gone := p.updates.get()
		if err == nil || gone || ctx.Err() != nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsInvalid(err) {
			return err
		}
		pause(ctx, retryInterval)
	}
}
