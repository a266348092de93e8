package loadbalancer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	"github.com/fairway-lb/fairway/controllers/servicetest"
	"github.com/fairway-lb/fairway/providers/plan"
)

// world is a cluster, a cloud and our controller between them, in virtual time.
type world struct {
	t      *testing.T
	client *fake.Clientset
	cloud  *memoryCloud
	events *eventLog
	logs   ktesting.Buffer // of the last controller started
	logged int             // lines of them that were seen
	// options are those the next controller starts with.
	options    Options
	controller *Controller // the running one
	stop       func()
	// nodesLater makes the next start leave it to listNodes to list the Nodes.
	nodesLater bool
	listNodes  func()
}

// in runs a test with a started controller and two nodes.
func in(t *testing.T, test func(*world), edits ...func(*world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, client: servicetest.NewClient(), cloud: newMemoryCloud(), events: &eventLog{}}
		w.options.VerifyEvery = 1000 * time.Hour // what a test is about is not drowned in looks
		w.addNode("node-1")
		w.addNode("node-2")
		for _, edit := range edits {
			edit(w)
		}
		w.start()
		test(w)
		w.stop()
	})
}

// start starts a controller that knows nothing, as after a restart.
func (w *world) start() {
	factory := informers.NewSharedInformerFactory(w.client, 12*time.Hour)
	o := w.options
	o.Client = w.client.CoreV1()
	o.Services, o.Nodes = factory.Core().V1().Services(), factory.Core().V1().Nodes()
	o.Recorder = w.events
	o.Engine = plan.NewEngine(w.cloud.asProvider(), plan.Options{OnPlan: LogPlan})
	c, err := New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.controller = c
	log := ktesting.NewLogger(w.t, ktesting.NewConfig(ktesting.BufferLogs(true), ktesting.Verbosity(0)))
	w.logged = 0
	w.logs = log.GetSink().(ktesting.Underlier).GetBuffer()
	ctx, cancel := context.WithCancel(klog.NewContext(w.t.Context(), log))
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	running.Go(func() { o.Services.Informer().RunWithContext(ctx) })
	w.listNodes = func() { running.Go(func() { o.Nodes.Informer().RunWithContext(ctx) }) }
	if !w.nodesLater {
		w.listNodes()
	}
	w.stop = func() {
		cancel()
		running.Wait()
	}
	w.settle()
}

// settle lets everything happen that is due within a second.
func (w *world) settle() { w.pass(time.Second) }

// pass lets d go by. What the test read and wrote before comes before all that the
// cloud and the API server are asked meanwhile, by their locks: between the test
// and the timers that fire stands nothing else.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	w.cloud.set(func() {})
	w.client.Lock()
	w.client.Unlock() //nolint:staticcheck // the order is all there is to it

	time.Sleep(d) // virtual
	synctest.Wait()
}

func (w *world) addNode(name string, edits ...func(*v1.Node)) {
	w.t.Helper()
	n := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1.NodeSpec{ProviderID: "memory:///" + name},
		Status:     v1.NodeStatus{Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "10.0.0.1"}}},
	}
	for _, edit := range edits {
		edit(n)
	}
	w.must(w.client.CoreV1().Nodes().Create(w.t.Context(), n, metav1.CreateOptions{}))
}

// changeNode edits a Node as its kubelet or another controller would.
func (w *world) changeNode(name string, edits ...func(*v1.Node)) {
	w.t.Helper()
	n, err := w.client.CoreV1().Nodes().Get(w.t.Context(), name, metav1.GetOptions{})
	w.check(err)
	for _, edit := range edits {
		edit(n)
	}
	w.must(w.client.CoreV1().Nodes().Update(w.t.Context(), n, metav1.UpdateOptions{}))
}

func inPool(pool string) func(*v1.Node) {
	return func(n *v1.Node) { metav1.SetMetaDataLabel(&n.ObjectMeta, "pool", pool) }
}

func inZone(zone string) func(*v1.Node) {
	return func(n *v1.Node) { metav1.SetMetaDataLabel(&n.ObjectMeta, v1.LabelTopologyZone, zone) }
}

func withTaint(key string) func(*v1.Node) {
	return func(n *v1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, v1.Taint{Key: key, Effect: v1.TaintEffectNoSchedule})
	}
}

// terminate removes a Node whose machine is gone.
func (w *world) terminate(name string) {
	w.t.Helper()
	w.cloud.set(func() {
		if w.cloud.terminated == nil {
			w.cloud.terminated = map[string]bool{}
		}
		w.cloud.terminated[name] = true
	})
	w.removeNode(name)
}

func (w *world) removeNode(name string) {
	w.t.Helper()
	w.check(w.client.CoreV1().Nodes().Delete(w.t.Context(), name, metav1.DeleteOptions{}))
}

// service returns a Service of type LoadBalancer as an API server would store it.
func service(name string, edits ...func(*v1.Service)) *v1.Service {
	s := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), Generation: 1},
		Spec: v1.ServiceSpec{
			Type:       v1.ServiceTypeLoadBalancer,
			IPFamilies: []v1.IPFamily{v1.IPv4Protocol},
			Ports:      []v1.ServicePort{{Port: 80, NodePort: 30080, Protocol: v1.ProtocolTCP}},
		},
	}
	for _, edit := range edits {
		edit(s)
	}
	return s
}

func annotated(key, value string) func(*v1.Service) {
	return func(s *v1.Service) { metav1.SetMetaDataAnnotation(&s.ObjectMeta, key, value) }
}

func (w *world) create(s *v1.Service) {
	w.t.Helper()
	w.must(w.client.CoreV1().Services(s.Namespace).Create(w.t.Context(), s, metav1.CreateOptions{}))
	w.settle()
}

// createAll makes many Services at once.
func (w *world) createAll(services ...*v1.Service) {
	w.t.Helper()
	for i, s := range services {
		if i%50 == 0 {
			synctest.Wait() // a watch of the fake client buffers 100 events
		}
		w.must(w.client.CoreV1().Services(s.Namespace).Create(w.t.Context(), s, metav1.CreateOptions{}))
	}
	w.settle()
}

// quiet forgets what was called, written, said and logged so far.
func (w *world) quiet() {
	w.cloud.since()
	w.writes()
	w.events.since()
	w.lines()
}

// lines returns how many lines were logged since the last time it was asked.
func (w *world) lines() int {
	w.t.Helper()
	n := strings.Count(w.logs.String(), "\n")
	defer func() { w.logged = n }()
	return n - w.logged
}

// get returns the Service, nil when it is gone.
func (w *world) get(name string) *v1.Service {
	w.t.Helper()
	s, err := w.client.CoreV1().Services("default").Get(w.t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	w.check(err)
	return s
}

// change edits a Service as a user would.
func (w *world) change(name string, edit func(*v1.Service)) {
	w.t.Helper()
	s := w.get(name)
	edit(s)
	w.must(w.client.CoreV1().Services("default").Update(w.t.Context(), s, metav1.UpdateOptions{}))
	w.settle()
}

// remove deletes a Service as the API server does: it stays, marked, while a
// finalizer holds it.
func (w *world) remove(name string) {
	w.t.Helper()
	if s := w.get(name); len(s.Finalizers) > 0 {
		w.change(name, func(s *v1.Service) { now := metav1.Now(); s.DeletionTimestamp = &now })
		return
	}
	w.check(w.client.CoreV1().Services("default").Delete(w.t.Context(), name, metav1.DeleteOptions{}))
	w.settle()
}

// condition returns "status reason" of the Service's condition, "" without one.
func (w *world) condition(name string) string {
	w.t.Helper()
	if c := readyCondition(w.get(name)); c != nil {
		return string(c.Status) + " " + c.Reason
	}
	return ""
}

func (w *world) host(name string) string {
	w.t.Helper()
	var hosts []string
	for _, i := range w.get(name).Status.LoadBalancer.Ingress {
		hosts = append(hosts, i.Hostname)
	}
	return strings.Join(hosts, ",")
}

// writes returns and forgets how often the controller wrote to the API server.
func (w *world) writes() int {
	n := 0
	for _, a := range w.client.Actions() {
		if a.GetVerb() == "patch" {
			n++
		}
	}
	w.client.ClearActions()
	return n
}

func (w *world) expect(what string, got, want any) {
	w.t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		w.t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func (w *world) must(_ any, err error) {
	w.t.Helper()
	w.check(err)
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// eventLog keeps events as "object reason: message".
type eventLog struct {
	mu   sync.Mutex
	list []string
}

func (l *eventLog) Event(o runtime.Object, kind, reason, message string) {
	l.Eventf(o, kind, reason, "%s", message)
}

func (l *eventLog) Eventf(o runtime.Object, _, reason, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := ""
	switch o := o.(type) {
	case *v1.Service:
		name = o.Name
	case *v1.ObjectReference:
		name = o.Kind
	}
	l.list = append(l.list, name+" "+reason+": "+fmt.Sprintf(format, args...))
}

func (l *eventLog) AnnotatedEventf(o runtime.Object, _ map[string]string, kind, reason, format string, args ...any) {
	l.Eventf(o, kind, reason, format, args...)
}

// reasons returns "object reason" of the events so far and forgets them.
func (l *eventLog) reasons() []string {
	var reasons []string
	for _, e := range l.since() {
		reason, _, _ := strings.Cut(e, ":")
		reasons = append(reasons, reason)
	}
	return reasons
}

func (l *eventLog) since() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := slices.Clone(l.list)
	l.list = nil
	return list
}
