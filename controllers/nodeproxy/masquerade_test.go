package nodeproxy

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestInternalExternalMasquerade is kube-proxy's matrix of that name: 27 flows in
// four configurations. Pod "a" is the client Pod, "b" the endpoint on this node.
func TestInternalExternalMasquerade(t *testing.T) {
	all, local := []string{"b", "remote"}, []string{"b"}
	cluster := func(n string) target { return target{"cluster-" + n, 80} }
	lb := func(n string) target { return target{"lb-" + n, 80} }
	nodePort := func(n uint16) target { return target{"node", 30000 + n} }
	flows := []namedFlow{
		{"pod to ClusterIP", flow{"a", cluster("1"), all, "a"}},
		{"pod to NodePort", flow{"a", nodePort(1), all, "node"}},
		{"pod to LB", flow{"a", lb("1"), all, "node"}},
		{"node to ClusterIP", flow{"node", cluster("1"), all, "node"}},
		{"node to NodePort", flow{"node", nodePort(1), all, "node"}},
		{"node to LB", flow{"node", lb("1"), all, "node"}},
		{"external to ClusterIP", flow{"client", cluster("1"), all, "node"}},
		{"external to NodePort", flow{"client", nodePort(1), all, "node"}},
		{"external to LB", flow{"client", lb("1"), all, "node"}},
		{"pod to ClusterIP with eTP:Local", flow{"a", cluster("2"), all, "a"}},
		{"pod to NodePort with eTP:Local", flow{"a", nodePort(2), all, "a"}},
		{"pod to LB with eTP:Local", flow{"a", lb("2"), all, "a"}},
		{"node to ClusterIP with eTP:Local", flow{"node", cluster("2"), all, "node"}},
		{"node to NodePort with eTP:Local", flow{"node", nodePort(2), all, "node"}},
		{"node to LB with eTP:Local", flow{"node", lb("2"), all, "node"}},
		{"external to ClusterIP with eTP:Local", flow{"client", cluster("2"), all, "node"}},
		{"external to NodePort with eTP:Local", flow{"client", nodePort(2), local, "client"}},
		{"external to LB with eTP:Local", flow{"client", lb("2"), local, "client"}},
		{"pod to ClusterIP with iTP:Local", flow{"a", cluster("3"), local, "a"}},
		{"pod to NodePort with iTP:Local", flow{"a", nodePort(3), all, "node"}},
		{"pod to LB with iTP:Local", flow{"a", lb("3"), all, "node"}},
		{"node to ClusterIP with iTP:Local", flow{"node", cluster("3"), local, "node"}},
		{"node to NodePort with iTP:Local", flow{"node", nodePort(3), all, "node"}},
		{"node to LB with iTP:Local", flow{"node", lb("3"), all, "node"}},
		{"external to ClusterIP with iTP:Local", flow{"client", cluster("3"), local, "node"}},
		{"external to NodePort with iTP:Local", flow{"client", nodePort(3), all, "node"}},
		{"external to LB with iTP:Local", flow{"client", lb("3"), all, "node"}},
	}
	if len(flows) != 27 {
		t.Fatalf("%d flows", len(flows))
	}
	type override struct {
		pods   []string
		source string
	}
	// Without a way to tell Pods, all traffic to a ClusterIP is taken for a Pod's,
	// and none gets a short cut. The node's own address stays what it is.
	noDetector := map[string]override{
		"external to ClusterIP":                {source: "client"},
		"external to ClusterIP with eTP:Local": {source: "client"},
		"external to ClusterIP with iTP:Local": {source: "client"},
		"pod to NodePort with eTP:Local":       {pods: local},
		"pod to LB with eTP:Local":             {pods: local},
	}
	masqueradeAll := map[string]override{
		"pod to ClusterIP":                {source: "node"},
		"pod to ClusterIP with eTP:Local": {source: "node"},
		"pod to ClusterIP with iTP:Local": {source: "node"},
	}
	for _, c := range []struct {
		name      string
		configure func(*Config)
		overrides map[string]override
	}{
		{"base", func(*Config) {}, nil},
		{"no LocalTrafficDetector", func(c *Config) { c.PodCIDRs = nil }, noDetector},
		{"masqueradeAll", func(c *Config) { c.MasqueradeAll = true }, masqueradeAll},
		{"masqueradeAll, no LocalTrafficDetector", func(c *Config) { c.MasqueradeAll, c.PodCIDRs = true, nil }, map[string]override{
			"pod to ClusterIP":                {source: "node"},
			"pod to ClusterIP with eTP:Local": {source: "node"},
			"pod to ClusterIP with iTP:Local": {source: "node"},
			"pod to NodePort with eTP:Local":  {pods: local},
			"pod to LB with eTP:Local":        {pods: local},
		}},
		// The other ways to tell Pods must come to the same.
		{"NodeCIDR", func(c *Config) { c.PodCIDRs, c.DetectLocal = nil, DetectByNodeCIDR }, nil},
		{"InterfaceNamePrefix", func(c *Config) {
			c.PodCIDRs, c.DetectLocal, c.PodInterface = nil, DetectByInterfacePrefix, "a"
		}, nil},
		{"BridgeInterface", func(c *Config) { c.PodCIDRs, c.DetectLocal, c.PodInterface = nil, DetectByBridge, "a" }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.configure = c.configure
			w.start(t)
			w.replace(t, masqueradeObjects()...)
			n := newTestNode(addr2("node")...)
			n.Spec.PodCIDRs = []string{"10.244.1.0/24", "fd00:f4:1::/64"}
			w.update(t, n)
			applied := 0
			adapted := make([]namedFlow, len(flows))
			for i, f := range flows {
				if o, ok := c.overrides[f.name]; ok {
					applied++
					if o.pods != nil {
						f.pods = o.pods
					}
					if o.source != "" {
						f.source = o.source
					}
				}
				adapted[i] = f
			}
			if applied != len(c.overrides) {
				t.Errorf("%d exceptions match no flow", len(c.overrides)-applied)
			}
			w.conform(t, adapted)
			if text := w.list(t); text != "" && strings.Count(text, "chain pick-") > 8 {
				t.Errorf("three Services with pools of two sizes have more chains to pick than the sizes in each family:\n%s", text)
			}
		})
	}
}

// masqueradeObjects are three Services that differ in their policies.
func masqueradeObjects() []any {
	var out []any
	for n, edit := range map[string]func(*corev1.Service){"1": func(*corev1.Service) {}, "2": externalLocal, "3": internalLocal} {
		out = append(out, newTestService("svc"+n, edit, func(s *corev1.Service) {
			s.Spec.ClusterIP, s.Spec.ClusterIPs = addresses["cluster-"+n][0], addr2("cluster-"+n)
			s.Status.LoadBalancer.Ingress = nil
			for _, ip := range addr2("lb-" + n) {
				s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
			}
			for i := range s.Spec.Ports {
				s.Spec.Ports[i].NodePort = 30000 + int32(n[0]-'0')
			}
		}))
		out = append(out, newTestSlices("svc"+n, pod("b"), pod("remote"))...)
	}
	return out
}
