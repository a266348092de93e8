package nodeproxy

import (
	"fmt"
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestNodeAddresses starts without a Node: ClusterIPs need none, NodePorts come
// with the addresses and go when there are others.
func TestNodeAddresses(t *testing.T) {
	w := newWorld(t)
	w.startUntold(t)
	must(t, w.proxy.tracker.nodes.Replace(nil, ""))
	w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web"))...)
	at := func(answered [2]bool) {
		t.Helper()
		for family := range families {
			want := flow{"client", atNode, reject, ""} // by the node itself
			if answered[family] {
				want = flow{"client", atNode, []string{"a"}, "node"}
			}
			for _, network := range tcpUDP {
				w.checkOne(t, flow{"client", clusterIP, []string{"a"}, "node"}, family, network)
				w.checkOne(t, want, family, network)
			}
		}
	}
	at([2]bool{})
	w.update(t, newTestNode())
	at([2]bool{})
	w.update(t, newTestNode(addresses["node"][0]))
	at([2]bool{true, false})
	w.update(t, newTestNode(addresses["node"][1]))
	at([2]bool{false, true})
	w.update(t, newTestNode(addr2("node")...))
	at([2]bool{true, true})
}

// TestNodeGone deletes the Node, and makes it again as a node that registers anew,
// while calls are made: none fails and nothing is written. New connections are to
// go elsewhere, which the health check says all the time.
func TestNodeGone(t *testing.T) {
	w := newWorld(t)
	w.configure = func(c *Config) { c.PodCIDRs, c.DetectLocal, c.HealthPort = nil, DetectByNodeCIDR, 10256 }
	w.start(t)
	node := newTestNode(addr2("node")...)
	node.Spec.PodCIDRs = []string{"10.244.1.0/24", "fd00:f4:1::/64"}
	w.serveEverywhere(t)
	w.update(t, node)
	works := w.hold(t, everyWay()...)
	calls := w.call(t, everyWay()...)
	calls.more(t)
	before := w.transactions(t)
	nodes := w.proxy.tracker.nodes
	for _, step := range []struct {
		name    string
		do      func() error
		healthz int
	}{
		{"deleted", func() error { return nodes.Delete(node) }, http.StatusServiceUnavailable},
		{"made again, without an address", func() error { return nodes.Update(newTestNode()) }, http.StatusOK},
		{"not in the list", func() error { return nodes.Replace(nil, "") }, http.StatusServiceUnavailable},
		{"as it was, its range to come", func() error { return nodes.Update(newTestNode(addr2("node")...)) }, http.StatusOK},
		{"as it was", func() error { return nodes.Update(node) }, http.StatusOK},
	} {
		must(t, step.do())
		w.settle(t)
		calls.more(t)
		calls.more(t)
		works("the Node " + step.name)
		if code := get(w.proxy.health, "/healthz").Code; code != step.healthz {
			t.Errorf("the Node %s: /healthz says %d, want %d", step.name, code, step.healthz)
		}
		if code := get(w.proxy.health, "/livez").Code; code != http.StatusOK {
			t.Errorf("the Node %s: /livez says %d", step.name, code)
		}
		if got := w.transactions(t); got != before {
			t.Errorf("the Node %s: %v transactions, before %v", step.name, got, before)
		}
	}
	t.Logf("%d calls", calls.stop(t))
}

// TestNodeKnown has what a Node says and what of it holds.
func TestNodeKnown(t *testing.T) {
	in := func(zone, cidr string, ips ...string) *corev1.Node {
		n := newTestNode(ips...)
		n.Labels = map[string]string{corev1.LabelTopologyZone: zone}
		n.Spec.PodCIDR = cidr
		return n
	}
	nodes := func(n *corev1.Node) []any {
		if n == nil {
			return nil
		}
		return []any{n}
	}
	tr := newTracker("node")
	for _, step := range []struct {
		name string
		node *corev1.Node
		want string
	}{
		{"none yet", nil, "[]  [] false"},
		{"new", in("", ""), "[]  [] true"},
		{"a range", in("", "10.244.1.0/24"), "[]  [10.244.1.0/24] true"},
		{"complete", in("a", "10.244.1.0/24", "10.0.0.11", "fd00::11"), "[10.0.0.11 fd00::11] a [10.244.1.0/24] true"},
		{"deleted", nil, "[10.0.0.11 fd00::11] a [10.244.1.0/24] false"},
		{"new again", in("", ""), "[10.0.0.11 fd00::11] a [10.244.1.0/24] true"},
		{"another zone", in("b", ""), "[10.0.0.11 fd00::11] b [10.244.1.0/24] true"},
		{"other addresses and no zone", in("", "", "10.0.0.12"), "[10.0.0.12]  [10.244.1.0/24] true"},
		{"another range", in("", "10.244.2.0/24", "10.0.0.12"), "[10.0.0.12]  [10.244.2.0/24] true"},
	} {
		must(t, tr.nodes.Replace(nodes(step.node), ""))
		n := tr.node()
		if got := fmt.Sprint(n.addresses, " ", n.zone, " ", n.podCIDRs, " ", n.eligible); got != step.want {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
}
