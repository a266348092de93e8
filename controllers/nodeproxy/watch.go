package nodeproxy

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/metrics"
)

// LabelServiceProxyName marks a Service that another proxy serves
// (https://kubernetes.io/docs/reference/labels-annotations-taints/).
const LabelServiceProxyName = "service.kubernetes.io/service-proxy-name"

// tracker holds the records of what the API server knows and the names of the
// Services that changed since they were last taken.
type tracker struct {
	mu       sync.Mutex
	services *store[*corev1.Service, service]
	slices   *store[*discoveryv1.EndpointSlice, endpointSlice]
	nodes    *store[*corev1.Node, node]
	ranges   *store[*networkingv1.ServiceCIDR, []netip.Prefix]

	known    node                           // what this node's Node said last, which holds also when it is gone
	slicesOf map[string]map[string]struct{} // Service → its slices' keys
	dirty    map[string]struct{}            // Services
	signal   chan struct{}                  // there is something to take
	queued   func()                         // called for each change
	triggers []trigger                      // of the changes to endpoints, as far as they say
	started  int64                          // changes before, in nanoseconds since 1970, tell nothing about our speed
	metrics  *metrics.Metrics
}

func newTracker(nodeName string) *tracker {
	t := &tracker{
		slicesOf: make(map[string]map[string]struct{}),
		dirty:    make(map[string]struct{}),
		signal:   make(chan struct{}, 1),
		queued:   func() {},
		metrics:  metrics.New(),
		started:  time.Now().UnixNano(),
	}
	t.services = &store[*corev1.Service, service]{
		mu: &t.mu, wake: t.wake, records: make(map[string]service), convert: newService,
		changed: func(key string, before, after *service) {
			if before != nil || after != nil {
				t.metrics.ServiceChanges.Inc()
				t.metrics.ServiceChangesPending.Inc()
			}
			t.mark(key)
		},
	}
	t.slices = &store[*discoveryv1.EndpointSlice, endpointSlice]{
		mu: &t.mu, wake: t.wake, records: make(map[string]endpointSlice),
		convert: func(s *discoveryv1.EndpointSlice) (endpointSlice, bool) { return newEndpointSlice(s, nodeName) },
		changed: t.sliceChanged,
	}
	t.nodes = &store[*corev1.Node, node]{
		mu: &t.mu, wake: t.wake, records: make(map[string]node),
		convert: func(n *corev1.Node) (node, bool) { return newNode(n), n.Name == nodeName },
		changed: func(_ string, _, now *node) {
			if now != nil {
				t.known = now.after(t.known)
			}
		},
	}
	t.ranges = &store[*networkingv1.ServiceCIDR, []netip.Prefix]{
		mu: &t.mu, wake: t.wake, records: make(map[string][]netip.Prefix),
		convert: func(c *networkingv1.ServiceCIDR) ([]netip.Prefix, bool) { return parsePrefixes(c.Spec.CIDRs), true },
		changed: func(string, *[]netip.Prefix, *[]netip.Prefix) {},
	}
	return t
}

func (t *tracker) sliceChanged(key string, before, after *endpointSlice) {
	if before != nil || after != nil {
		t.metrics.EndpointChanges.Inc()
		t.metrics.EndpointChangesPending.Inc()
	}
	if after != nil && after.triggered > t.started && (before == nil || before.triggered != after.triggered) {
		t.triggers = append(t.triggers, trigger{time.Unix(0, after.triggered), after.ipv6})
	}
	if before != nil {
		delete(t.slicesOf[before.service], key)
		if len(t.slicesOf[before.service]) == 0 {
			delete(t.slicesOf, before.service)
		}
		t.mark(before.service)
	}
	if after != nil {
		of := t.slicesOf[after.service]
		if of == nil {
			of = make(map[string]struct{})
			t.slicesOf[after.service] = of
		}
		of[key] = struct{}{}
		t.mark(after.service)
	}
}

func (t *tracker) mark(service string) {
	if service != "" {
		t.dirty[service] = struct{}{}
		t.queued()
	}
}

func (t *tracker) wake() {
	select {
	case t.signal <- struct{}{}:
	default:
	}
}

// synced tells whether all that decides about forwarding was listed once.
func (t *tracker) synced() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.services.synced && t.slices.synced && t.nodes.synced
}

// node returns what is known of this node: nothing before its first Node. Whether
// it is eligible is what the Node says now; without one it is not. All else stays
// until the Node says otherwise: who deletes it means that no new connections
// should come, not that those on their way be refused.
func (t *tracker) node() node {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.known
	out.eligible = false
	for _, n := range t.nodes.records {
		out.eligible = n.eligible
	}
	return out
}

// serviceCIDRs returns where ClusterIPs come from, sorted; nothing where the API
// server does not say.
func (t *tracker) serviceCIDRs() []netip.Prefix {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []netip.Prefix
	for _, r := range t.ranges.records {
		out = append(out, r...)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

// changes is what a tracker hands over: every named Service, nil if it is gone,
// with its endpoints.
type changes struct {
	services map[string]*service
	slices   map[string][]endpointSlice
	triggers []trigger
}

// trigger is when something happened that made endpoints change.
type trigger struct {
	at   time.Time
	ipv6 bool
}

// take returns what changed since the last call or, if all is asked for, every
// Service there is or was.
func (t *tracker) take(all bool) changes {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := changes{services: make(map[string]*service), slices: make(map[string][]endpointSlice), triggers: t.triggers}
	t.triggers = nil
	names := t.dirty
	if all {
		for name := range t.services.records {
			names[name] = struct{}{}
		}
	}
	for name := range names {
		c.services[name] = nil
		s, ok := t.services.records[name]
		if !ok {
			continue
		}
		c.services[name] = &s
		// Always in the same order: where two slices contradict each other, nothing
		// else that changes must make the other one count.
		for _, key := range slices.Sorted(maps.Keys(t.slicesOf[name])) {
			c.slices[name] = append(c.slices[name], t.slices.records[key])
		}
	}
	t.dirty = make(map[string]struct{})
	t.metrics.ServiceChangesPending.Set(0)
	t.metrics.EndpointChangesPending.Set(0)
	return c
}

// watch follows the API server until the context ends. It returns at once.
func (t *tracker) watch(ctx context.Context, config *rest.Config, nodeName string, wg *sync.WaitGroup) error {
	core, err := NewClient(config, "/api", corev1.SchemeGroupVersion, corev1.AddToScheme)
	if err != nil {
		return err
	}
	discovery, err := NewClient(config, "/apis", discoveryv1.SchemeGroupVersion, discoveryv1.AddToScheme)
	if err != nil {
		return err
	}
	networking, err := NewClient(config, "/apis", networkingv1.SchemeGroupVersion, networkingv1.AddToScheme)
	if err != nil {
		return err
	}
	servedByUs, err := without(LabelServiceProxyName)
	if err != nil {
		return err
	}
	notHeadless, err := without(corev1.IsHeadlessService)
	if err != nil {
		return err
	}
	withIP := fields.OneTermNotEqualSelector("spec.clusterIP", corev1.ClusterIPNone)
	own := fields.OneTermEqualSelector(metav1.ObjectNameField, nodeName)
	for _, r := range []*cache.Reflector{
		newReflector(ctx, core, "services", servedByUs, withIP, &corev1.Service{}, t.services),
		newReflector(ctx, discovery, "endpointslices", notHeadless, fields.Everything(), &discoveryv1.EndpointSlice{}, t.slices),
		newReflector(ctx, core, "nodes", labels.Everything(), own, &corev1.Node{}, t.nodes),
		newReflector(ctx, networking, "servicecidrs", labels.Everything(), fields.Everything(), &networkingv1.ServiceCIDR{}, t.ranges),
	} {
		wg.Go(func() { r.RunWithContext(ctx) })
	}
	return nil
}

// NewClient returns a client for one group at a path, "/api" for the core's or
// "/apis", which speaks protobuf. A clientset would link every group Kubernetes has.
func NewClient(config *rest.Config, path string, gv schema.GroupVersion, add func(*runtime.Scheme) error) (*rest.RESTClient, error) {
	scheme := runtime.NewScheme()
	if err := add(scheme); err != nil {
		return nil, fmt.Errorf("registering %v: %w", gv, err)
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	c := rest.CopyConfig(config)
	c.GroupVersion, c.APIPath = &gv, path
	c.ContentType, c.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("making a client for %v: %w", gv, err)
	}
	return client, nil
}

func newReflector(ctx context.Context, client cache.Getter, resource string, l labels.Selector, f fields.Selector, expected runtime.Object, into cache.ReflectorStore) *cache.Reflector {
	lw := cache.NewFilteredListWatchFromClient(client, resource, metav1.NamespaceAll, func(o *metav1.ListOptions) {
		o.LabelSelector, o.FieldSelector = l.String(), f.String()
	})
	logger := klog.FromContext(ctx)
	return cache.NewReflectorWithOptions(lw, expected, into, cache.ReflectorOptions{Name: resource, Logger: &logger})
}

func without(label string) (labels.Selector, error) {
	r, err := labels.NewRequirement(label, selection.DoesNotExist, nil)
	if err != nil {
		return nil, fmt.Errorf("selecting by label %s: %w", label, err)
	}
	return labels.NewSelector().Add(*r), nil
}
