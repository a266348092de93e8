package nodeproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func ranges(cidrs ...string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = cidrs }
}

// TestSourceRanges has the flows of kube-proxy's TestLoadBalancer, and more.
func TestSourceRanges(t *testing.T) {
	all := []string{"a", "b", "remote"}
	drop := []string{"timeout"}
	local := func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }
	client, pods, node := []string{"198.51.100.0/24", " 2001:db8:c::/64"}, []string{"10.244.1.8/29", "fd00:f4:1::/112"}, []string{"10.0.0.0/24", "fd00:a::/64"}
	for _, c := range []struct {
		name  string
		edits []func(*corev1.Service)
		pods  []string
		flows []flow
	}{
		{"clients only", []func(*corev1.Service){ranges(client...)}, []string{"b", "remote"}, []flow{
			{"client", vip, []string{"b", "remote"}, "node"},
			{"a", vip, drop, ""},
			{"node", vip, drop, ""},
			{"a", clusterIP, []string{"b", "remote"}, "a"},
			{"client", atNode, []string{"b", "remote"}, "node"},
			{"a", atNode, []string{"b", "remote"}, "node"},
		}},
		{"the node, and with it the addresses themselves", []func(*corev1.Service){ranges(node...)}, all, []flow{
			{"client", vip, drop, ""},
			{"node", vip, all, "node"},
		}},
		{"Pods of the node, policy Local", []func(*corev1.Service){ranges(pods...), local}, []string{"b", "remote"}, []flow{
			{"client", vip, drop, ""},
			{"a", vip, []string{"b", "remote"}, "a"},
			{"client", atNode, []string{"b"}, "client"},
		}},
		{"clients, policy Local", []func(*corev1.Service){ranges(client...), local}, []string{"b", "remote"}, []flow{
			{"client", vip, []string{"b"}, "client"},
			{"a", vip, drop, ""},
		}},
		{"clients, without endpoints", []func(*corev1.Service){ranges(client...)}, nil, []flow{
			{"client", vip, []string{"refused"}, ""},
			{"a", vip, drop, ""},
		}},
		{"everybody", []func(*corev1.Service){ranges("192.0.2.0/24", "0.0.0.0/0", "::/0")}, all, []flow{
			{"client", vip, all, "node"},
			{"a", vip, all, "node"},
		}},
		{"with affinity", []func(*corev1.Service){ranges(client...), sticky(10800)}, []string{"b"}, []flow{
			{"client", vip, []string{"b"}, "node"},
			{"a", vip, drop, ""},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.start(t)
			w.replace(t, newTestService("web"))
			sets := w.objects(t, "set") + w.objects(t, "map")
			w.replace(t, append(newTestSlices("web", podsNamed(c.pods...)...), newTestService("web", c.edits...))...)
			w.check(t, c.flows)
			if now := w.objects(t, "set") + w.objects(t, "map"); now != sets {
				t.Errorf("%d sets and maps, %d in the beginning", now, sets)
			}
		})
	}
}

// TestSourceRangesFromNode: where a load balancer's address is also the node's, as
// some clouds' agents make it, the node chooses it as its source.
func TestSourceRangesFromNode(t *testing.T) {
	for _, c := range []struct {
		name   string
		ranges []string
		want   string
	}{
		{"same node to LB, SNATted to LB (implicitly allowed)", []string{"10.0.0.0/24", "fd00:a::/64"}, "a"},
		{"where the node itself may not", []string{"198.51.100.0/24", "2001:db8:c::/64"}, "timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.start(t)
			w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web", ranges(c.ranges...)))...)
			for family, name := range families {
				own := addr("vip", family)
				must(t, w.hosts["node"].AddAddress("lo", netip.PrefixFrom(own, own.BitLen())))
				// What the kernel has taken up refuses elsewhere.
				until(t, fmt.Sprintf("the node has its %s address", name), func() bool {
					return w.askAs(t, "node", own, "tcp", target{"vip", 9}.at(family), patience/10) == refused
				})
				if got := w.askAs(t, "node", own, "tcp", vip.at(family), patience/10); got.pod != c.want {
					t.Errorf("%s: %v, want %s", name, got, c.want)
				}
			}
		})
	}
}

// TestSourceRangesChange changes ranges, and only those, while the table is
// there, and finds them after a restart.
func TestSourceRangesChange(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	objects := func(r ...string) []any {
		return append(newTestSlices("web", pod("a")), newTestService("web", ranges(r...)))
	}
	for _, step := range []struct {
		ranges []string
		client string
	}{
		{[]string{"198.51.100.0/28", "2001:db8:c::/80"}, "a"},
		{[]string{"198.51.100.16/28", "2001:db8:c:1::/64"}, "timeout"},
		{[]string{"198.51.100.16/28", "198.51.100.8/29", "2001:db8:c:1::/64", "2001:db8:c::10/128"}, "a"},
		{[]string{"198.51.100.0/24", "198.51.100.8/29", "2001:db8::/32", "2001:db8:c::/64"}, "a"}, // one in the other
		{[]string{"192.0.2.0/24", "2001:db8:d::/64"}, "timeout"},
		{nil, "a"},
	} {
		w.update(t, objects(step.ranges...)...)
		w.check(t, []flow{{"client", vip, []string{step.client}, "node"}})
		w.stop()
		w.startWith(t, objects(step.ranges...)...)
		w.check(t, []flow{{"client", vip, []string{step.client}, "node"}})
		if after := w.stats(t); after.Elements != 0 {
			t.Errorf("%v: a restart wrote %d elements", step.ranges, after.Elements)
		}
	}
	if text := w.list(t); strings.Contains(text, "192.0.2.0") {
		t.Errorf("ranges are left:\n%s", text)
	}
}

// TestUnallocated asks addresses of the Service range that no Service has, as the
// ranges come and go.
func TestUnallocated(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web"))...)
	addresses["other-range"] = [2]string{"203.0.113.77", "2001:db8:a::77"}
	free, other, wrongPort := target{"unallocated", 80}, target{"other-range", 80}, target{"cluster", 81}
	cidrs := func(name string, cidrs ...string) *networkingv1.ServiceCIDR {
		return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
	}
	// Without a range the packet goes where the routes say: back to the fabric,
	// and to and fro until it dies.
	lost := []string{"unreachable", "timeout"}
	w.expectOneOf(t, "b", free, lost)
	must(t, w.proxy.tracker.ranges.Replace([]any{cidrs("kubernetes", "10.96.0.0/16", "fd00:96::/112")}, ""))
	w.settle(t)
	for _, from := range []string{"b", "node", "client"} {
		w.check(t, []flow{{from, free, []string{"timeout"}, ""}})
	}
	w.check(t, []flow{
		{"b", wrongPort, []string{"refused"}, ""},
		{"node", wrongPort, []string{"refused"}, ""},
		{"b", clusterIP, []string{"a"}, "b"},
	})
	must(t, w.proxy.tracker.ranges.Update(cidrs("more", "203.0.113.0/24", "2001:db8:a::/64")))
	w.settle(t)
	w.check(t, []flow{{"b", other, []string{"timeout"}, ""}, {"b", free, []string{"timeout"}, ""}, {"client", vip, []string{"a"}, "node"}})
	elements := w.stats(t).Elements
	must(t, w.proxy.tracker.ranges.Update(cidrs("more", "203.0.113.0/24", "2001:db8:a::/64")))
	w.settle(t)
	if now := w.stats(t).Elements; now != elements {
		t.Errorf("%d elements were written though nothing changed", now-elements)
	}

	// An address that is the node's is nobody else's business: a DNS cache of the
	// node has its Service's.
	for family := range families {
		must(t, w.hosts["node"].AddAddress("lo", netip.PrefixFrom(addr("unallocated", family), addr("unallocated", family).BitLen())))
	}
	until(t, "the kernel has taken the addresses up", func() bool {
		return w.ask(t, "b", "tcp", free.at(0), patience/10) == refused && w.ask(t, "b", "tcp", free.at(1), patience/10) == refused
	})
	w.check(t, []flow{{"b", free, []string{"refused"}, ""}}) // by the node: nobody listens
	must(t, w.proxy.tracker.ranges.Replace(nil, ""))
	w.settle(t)
	w.expectOneOf(t, "b", other, lost)
}

// expectOneOf asks over TCP in both families.
func (w *world) expectOneOf(t *testing.T, from string, to target, want []string) {
	t.Helper()
	for family := range families {
		if got := w.ask(t, from, "tcp", to.at(family), patience/10); !slices.Contains(want, got.pod) {
			t.Errorf("%s to %s %s: %v, want one of %v", from, to.name, families[family], got, want)
		}
	}
}
