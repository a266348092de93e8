package health

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// listenRetry is the pause after a port could not be opened: mostly because
// another program still has it.
const listenRetry = 10 * time.Second

// NodePorts answers, for one address family, at the healthCheckNodePorts of
// Services with externalTrafficPolicy Local: whether this node has endpoints of
// the Service, so that load balancers send traffic to no other node. Whether the
// node is about to go is not asked; its endpoints are, and answer for themselves.
// It is safe for concurrent use.
type NodePorts struct {
	health *Health
	listen Listen

	mu        sync.Mutex
	addresses []netip.Addr
	services  map[string]localEndpoints
	servers   map[netip.AddrPort]*portServer
	stale     bool      // servers may differ from what they should be
	retry     time.Time // not before
}

// Listen opens a listener, as the method of net.ListenConfig does.
type Listen func(ctx context.Context, network, address string) (net.Listener, error)

type localEndpoints struct {
	port  uint16
	count int
}

type portServer struct {
	service string
	stop    context.CancelFunc
}

// NewNodePorts returns the servers of no Service yet.
func NewNodePorts(h *Health, listen Listen) *NodePorts {
	return &NodePorts{health: h, listen: listen, services: make(map[string]localEndpoints), servers: make(map[netip.AddrPort]*portServer)}
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
// again by a later call. The result has the reason by Service, nil if all are open.
func (n *NodePorts) Reconcile(ctx context.Context, now time.Time) map[string]error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.stale || now.Before(n.retry) {
		return nil
	}
	wanted := make(map[netip.AddrPort]string)
	for service, e := range n.services {
		for _, a := range n.addresses {
			wanted[netip.AddrPortFrom(a, e.port)] = service
		}
	}
	for at, s := range n.servers {
		if wanted[at] != s.service {
			s.stop()
			delete(n.servers, at)
		}
	}
	var failed map[string]error
	for at, service := range wanted {
		if _, ok := n.servers[at]; ok {
			continue
		}
		if err := n.open(ctx, at, service); err != nil {
			if failed == nil {
				failed = make(map[string]error)
			}
			failed[service] = fmt.Errorf("answering at its healthCheckNodePort: %w", err)
		}
	}
	n.stale = len(failed) > 0
	if n.stale {
		n.retry = now.Add(listenRetry)
	}
	return failed
}

// open starts a server that lives until ctx ends, or it is stopped.
func (n *NodePorts) open(ctx context.Context, at netip.AddrPort, service string) error {
	l, err := n.listen(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &portServer{service: service}
	// The port must be free when this returns: another Service may get it.
	s.stop = func() { cancel(); _ = l.Close() }
	n.servers[at] = s
	go func() {
		defer s.stop()
		if Serve(ctx, l, n.handler(service)) != nil {
			n.gone(at, s)
		}
	}()
	return nil
}

// gone notes that a server ended by itself, unless it was stopped meanwhile.
func (n *NodePorts) gone(at netip.AddrPort, s *portServer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.servers[at] == s {
		delete(n.servers, at)
		n.stale = true
	}
}

// handler answers on any path, as kube-proxy does.
func (n *NodePorts) handler(service string) http.Handler {
	namespace, name, _ := strings.Cut(service, "/")
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n.mu.Lock()
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
		body.Service.Namespace, body.Service.Name = namespace, name
		body.LocalEndpoints, body.ServiceProxyHealthy = count, r.Healthy
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(count))
		data, err := json.MarshalIndent(body, "", "\t")
		write(w, count > 0 && r.Healthy, data, err)
	})
}
