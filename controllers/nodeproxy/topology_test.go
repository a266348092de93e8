package nodeproxy

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// hinted is an endpoint on this node ("!") or another, unready ("-") or
// terminating ("~"), with hints: "10.1.2.3! zone-a,zone-b node-1".
func hinted(text, nodeName string) endpoint {
	fields := strings.Fields(text)
	e := endpoint{ready: true, serving: true, local: strings.Contains(fields[0], "!")}
	if strings.Contains(fields[0], "-") {
		e.ready, e.serving = false, false
	}
	if strings.Contains(fields[0], "~") {
		e.ready, e.terminating = false, true
	}
	e.addr = netip.MustParseAddr(strings.TrimRight(fields[0], "!-~"))
	var h discoveryv1.EndpointHints
	for _, field := range fields[1:] {
		for hint := range strings.SplitSeq(field, ",") {
			if strings.HasPrefix(hint, "zone") {
				h.ForZones = append(h.ForZones, discoveryv1.ForZone{Name: hint})
			} else {
				h.ForNodes = append(h.ForNodes, discoveryv1.ForNode{Name: hint})
			}
		}
	}
	e.hint(&h, nodeName)
	return e
}

// TestCategorizeEndpoints has the cases of kube-proxy's test of that name.
func TestCategorizeEndpoints(t *testing.T) {
	zones := []string{"10.1.2.3 zone-a", "10.1.2.4 zone-b", "10.1.2.5 zone-c", "10.1.2.6 zone-a"}
	localAndZones := []string{"10.1.2.3! zone-a", "10.1.2.4! zone-b", "10.1.2.5 zone-c", "10.1.2.6 zone-a"}
	nodes := []string{"10.1.2.3 zone-a node-1", "10.1.2.4 zone-b node-2", "10.1.2.5 zone-c node-3", "10.1.2.6 zone-a node-4"}
	for _, c := range []struct {
		name           string
		node, zone     string
		endpoints      []string
		cluster, local string
	}{
		{"should use topology since all endpoints have hints, node has a zone label and and there are endpoints for the node's zone", "", "zone-a", zones, "10.1.2.3 10.1.2.6", ""},
		{"Local traffic policy: topology ignored for Local endpoints", "", "zone-a", localAndZones, "10.1.2.3 10.1.2.6", "10.1.2.3 10.1.2.4"},
		{"empty zone label", "", "", zones[:1], "10.1.2.3", ""},
		{"node in different zone, no endpoint filtering", "", "zone-b", zones[:1], "10.1.2.3", ""},
		{"unready endpoint", "", "zone-a", []string{"10.1.2.3 zone-a", "10.1.2.4 zone-b", "10.1.2.5 zone-c", "10.1.2.6- zone-a"}, "10.1.2.3", ""},
		{"only unready endpoints in same zone (should not filter)", "", "zone-a", []string{"10.1.2.3- zone-a", "10.1.2.4 zone-b", "10.1.2.5 zone-c", "10.1.2.6- zone-a"}, "10.1.2.4 10.1.2.5", ""},
		{"missing hints, no filtering applied", "", "zone-a", []string{"10.1.2.3 zone-a", "10.1.2.4 zone-b", "10.1.2.5", "10.1.2.6 zone-a"}, "10.1.2.3 10.1.2.4 10.1.2.5 10.1.2.6", ""},
		{"an unready endpoint needs no hints", "", "zone-a", []string{"10.1.2.3 zone-a", "10.1.2.4 zone-b", "10.1.2.5-"}, "10.1.2.3", ""},
		{"multiple hints per endpoint, filtering includes any endpoint with zone included", "", "zone-c",
			[]string{"10.1.2.3 zone-a,zone-b,zone-c", "10.1.2.4 zone-b,zone-c", "10.1.2.5 zone-b,zone-d", "10.1.2.6 zone-c"}, "10.1.2.3 10.1.2.4 10.1.2.6", ""},
		{"PreferSameNode available", "node-1", "zone-a", nodes, "10.1.2.3", ""},
		{"PreferSameNode without zones", "node-1", "", nodes, "10.1.2.3", ""},
		{"PreferSameNode ignored if some endpoints unhinted", "node-1", "zone-a", []string{"10.1.2.3 zone-a node-1", "10.1.2.4", "10.1.2.5 zone-c node-3", "10.1.2.6 zone-a node-4"}, "10.1.2.3 10.1.2.4 10.1.2.5 10.1.2.6", ""},
		{"PreferSameNode ignored if some endpoints have hints for zones only", "node-1", "zone-a", []string{"10.1.2.3 zone-a node-1", "10.1.2.4 zone-b", "10.1.2.6 zone-a"}, "10.1.2.3 10.1.2.6", ""},
		{"PreferSameNode falls back to PreferSameZone if no endpoint for node", "node-0", "zone-a", nodes, "10.1.2.3 10.1.2.6", ""},
		{"conflicting topology and localness require merging allEndpoints", "", "zone-a", []string{"10.0.0.1! zone-a", "10.0.0.2! zone-b", "10.0.0.3 zone-a", "10.0.0.4 zone-b"}, "10.0.0.1 10.0.0.3", "10.0.0.1 10.0.0.2"},
		{"all endpoints are remote", "", "", []string{"10.0.0.1", "10.0.0.2"}, "10.0.0.1 10.0.0.2", ""},
		{"all endpoints are local", "", "", []string{"10.0.0.1!", "10.0.0.2!"}, "10.0.0.1 10.0.0.2", "10.0.0.1 10.0.0.2"},
		{"some endpoints are local", "", "", []string{"10.0.0.1!", "10.0.0.2"}, "10.0.0.1 10.0.0.2", "10.0.0.1"},
		{"endpoints not Ready", "", "", []string{"10.0.0.1-", "10.0.0.2-"}, "", ""},
		{"some endpoints are Ready", "", "", []string{"10.0.0.1-", "10.0.0.2"}, "10.0.0.2", ""},
		{"all endpoints are terminating", "", "", []string{"10.0.0.1~!", "10.0.0.2~"}, "10.0.0.1 10.0.0.2", "10.0.0.1"},
		{"terminating endpoints with hints", "node-1", "zone-a", []string{"10.0.0.1~! zone-b node-2", "10.0.0.2~ zone-a node-1"}, "10.0.0.1 10.0.0.2", "10.0.0.1"},
		{"all endpoints remote and terminating", "", "", []string{"10.0.0.1~", "10.0.0.2~"}, "10.0.0.1 10.0.0.2", ""},
		{"with terminating endpoints", "", "", []string{"10.0.0.1", "10.0.0.2-!", "10.0.0.3~!", "10.0.0.4~"}, "10.0.0.1", "10.0.0.3"},
		{"single endpoint not ready, not serving, not terminating", "", "zone-a", []string{"10.0.0.1-"}, "", ""},
		{"empty endpoints when no service endpoints exist", "", "zone-a", nil, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := endpointSlice{ports: []slicePort{{protocol: nft.TCP, port: 80}}}
			for _, text := range c.endpoints {
				s.endpoints = append(s.endpoints, hinted(text, c.node))
			}
			got := poolsOf(servicePort{protocol: nft.TCP, port: 80}, []endpointSlice{s}, view{zone: c.zone})
			if text := addresses80(got.cluster); text != c.cluster {
				t.Errorf("cluster pool %q, want %q", text, c.cluster)
			}
			if text := addresses80(got.local); text != c.local {
				t.Errorf("local pool %q, want %q", text, c.local)
			}
		})
	}
}

func addresses80(in []netip.AddrPort) string {
	var out []string
	for _, e := range in {
		out = append(out, e.Addr().String())
	}
	return strings.Join(out, " ")
}

// TestTopology sends packets while hints come and go and the node gets a zone and
// another one.
func TestTopology(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	hint := func(name, zone, node string) discoveryv1.Endpoint {
		e := pod(name)
		e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: zone}}}
		if node != "" {
			e.Hints.ForNodes = []discoveryv1.ForNode{{Name: node}}
		}
		return e
	}
	inZone := func(zone string) *corev1.Node {
		n := newTestNode(addr2("node")...)
		n.Labels = map[string]string{corev1.LabelTopologyZone: zone}
		return n
	}
	zoned := newTestSlices("web", hint("a", "zone-a", ""), hint("b", "zone-b", ""), hint("remote", "zone-b", ""))
	for _, step := range []struct {
		name    string
		objects []any
		pods    []string
	}{
		{"no zone yet", append(zoned, newTestService("web")), []string{"a", "b", "remote"}},
		{"the node gets a zone", []any{inZone("zone-b")}, []string{"b", "remote"}},
		{"another zone", []any{inZone("zone-a")}, []string{"a"}},
		{"a zone without endpoints", []any{inZone("zone-c")}, []string{"a", "b", "remote"}},
		{"back, and one endpoint without hint", append(newTestSlices("web", hint("a", "zone-a", ""), pod("b")), inZone("zone-a")), []string{"a", "b"}},
		{"hints for nodes", newTestSlices("web", hint("a", "zone-a", "other"), hint("b", "zone-b", "node"), hint("remote", "zone-a", "other")), []string{"b"}},
		{"none for this node", newTestSlices("web", hint("a", "zone-a", "other"), hint("b", "zone-b", "third"), hint("remote", "zone-a", "other")), []string{"a", "remote"}},
	} {
		t.Run(step.name, func(t *testing.T) {
			w.update(t, step.objects...)
			w.check(t, []flow{{"client", clusterIP, step.pods, "node"}})
		})
	}
	t.Run("externalTrafficPolicy Local does without", func(t *testing.T) {
		w.update(t, append(zoned, inZone("zone-a"), newTestService("web", func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }))...)
		w.check(t, []flow{
			{"client", vip, []string{"a", "b"}, "client"},
			{"a", vip, []string{"a"}, "node"}, // from inside: all in the zone, here itself
			{"client", clusterIP, []string{"a"}, "node"},
		})
	})
}
