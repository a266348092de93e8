package agent

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestResolverConfig has what a kubelet writes for each policy.
func TestResolverConfig(t *testing.T) {
	one, none := "1", ""
	for _, c := range []struct {
		name string
		spec corev1.PodSpec
		dns  string
		want string
	}{
		{"ClusterFirst", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst}, "10.96.0.10",
			"search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"},
		{"the cluster has none", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst}, "", ""},
		{"host network", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, HostNetwork: true}, "10.96.0.10", ""},
		{"host network, asked for", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirstWithHostNet, HostNetwork: true}, "10.96.0.10",
			"search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"},
		{"Default", corev1.PodSpec{DNSPolicy: corev1.DNSDefault}, "10.96.0.10", ""},
		{"None", corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.1"}}}, "10.96.0.10",
			"nameserver 192.0.2.1\n"},
		{"more of the Pod's own", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, DNSConfig: &corev1.PodDNSConfig{
			Searches: []string{"example.org"},
			Options:  []corev1.PodDNSConfigOption{{Name: "ndots", Value: &one}, {Name: "use-vc", Value: &none}, {Name: "rotate"}},
		}}, "10.96.0.10",
			"search shop.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.96.0.10\noptions ndots:1 use-vc rotate\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &Agent{}
			if c.dns != "" {
				a.config.ClusterDNS = netip.MustParseAddr(c.dns)
			}
			got := a.resolverConfig(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Spec: c.spec})
			if got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
		})
	}
}
