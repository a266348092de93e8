package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/listeners"
)

// NodePorts answers, for one address family, at the healthCheckNodePorts of
// Services with externalTrafficPolicy Local: whether this node has endpoints of
// the Service, so that load balancers send traffic to no other node. Whether the
// node is about to go is not asked; its endpoints are, and answer for themselves.
// It is safe for concurrent use.
type NodePorts struct {
	health    *Health
	listeners *listeners.Set

	mu        sync.Mutex
	addresses []netip.Addr
	services  map[string]localEndpoints
	owners    map[netip.AddrPort]string // the Service that is answered for
	stale     bool                      // owners may differ from what they should be
}

type localEndpoints struct {
	port  uint16
	count int
}

// NewNodePorts returns the servers of no Service yet.
func NewNodePorts(h *Health, listen listeners.Listen) *NodePorts {
	n := &NodePorts{health: h, services: make(map[string]localEndpoints)}
	n.listeners = listeners.New(listen, n.serve)
	return n
}

// Set tells a Service's (namespace/name) healthCheckNodePort, 0 for none, and
// how many ready endpoints it has on this node.
func (n *NodePorts) Set(service string, port uint16, endpoints int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stale = n.stale || n.services[service].port != port
	if port == 0 {
		delete(n.services, service)
		return
	}
	n.services[service] = localEndpoints{port, endpoints}
}

// SetAddresses tells at which addresses of the node to answer.
func (n *NodePorts) SetAddresses(addresses []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stale = n.stale || !slices.Equal(n.addresses, addresses)
	n.addresses = slices.Clone(addresses)
}

// Reconcile opens the ports that are missing and closes those not wanted any
// more. A port that cannot be opened does not keep others from it; it is tried
// again by a later call. The result has the reason by Service, nil if none failed.
func (n *NodePorts) Reconcile(ctx context.Context, now time.Time) map[string]error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stale {
		n.owners = make(map[netip.AddrPort]string)
		wanted := make(map[netip.AddrPort]struct{})
		for service, e := range n.services {
			for _, a := range n.addresses {
				at := netip.AddrPortFrom(a, e.port)
				n.owners[at], wanted[at] = service, struct{}{}
			}
		}
		n.listeners.Want(wanted)
		n.stale = false
	}
	var failed map[string]error
	for at, err := range n.listeners.Reconcile(ctx, now) {
		if failed == nil {
			failed = make(map[string]error)
		}
		failed[n.owners[at]] = fmt.Errorf("answering at its healthCheckNodePort: %w", err)
	}
	return failed
}

func (n *NodePorts) serve(ctx context.Context, at netip.AddrPort, l net.Listener) {
	if err := Serve(ctx, l, n.handler(at)); err != nil && !errors.Is(err, net.ErrClosed) {
		klog.FromContext(ctx).Error(err, "A healthCheckNodePort is not answered for a moment")
	}
}

// handler answers on any path, as kube-proxy does.
func (n *NodePorts) handler(at netip.AddrPort) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n.mu.Lock()
		service := n.owners[at]
		count := n.services[service].count
		n.mu.Unlock()
		r, _, _ := n.health.report()
		var body struct {
			Service struct {
				Namespace string `json:"namespace"`
				Name      string `json:"name"`
			} `json:"service"`
			LocalEndpoints      int  `json:"localEndpoints"`
			ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
		}
		body.Service.Namespace, body.Service.Name, _ = strings.Cut(service, "/")
		body.LocalEndpoints, body.ServiceProxyHealthy = count, r.Healthy
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(count))
		data, err := json.MarshalIndent(body, "", "\t")
		write(w, count > 0 && r.Healthy, data, err)
	})
}
