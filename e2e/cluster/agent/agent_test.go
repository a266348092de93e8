package agent

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestAddresses takes a small range to its end: each free address once, none of
// the node's own, and one given back only after all others.
func TestAddresses(t *testing.T) {
	a, err := newAddresses(netip.MustParsePrefix("10.244.7.0/29"))
	if err != nil {
		t.Fatal(err)
	}
	if got := a.gateway().String(); got != "10.244.7.1" {
		t.Errorf("gateway %s", got)
	}
	take := func() string {
		t.Helper()
		address, err := a.take()
		if err != nil {
			return err.Error()
		}
		return address.String()
	}
	for i, want := range []string{"10.244.7.2", "10.244.7.3", "10.244.7.4"} {
		if got := take(); got != want {
			t.Errorf("address %d: %s, want %s", i, got, want)
		}
	}
	a.giveBack(netip.MustParseAddr("10.244.7.3"))
	for i, want := range []string{"10.244.7.5", "10.244.7.6", "10.244.7.3", "no free address in Pod range 10.244.7.0/29"} {
		if got := take(); got != want {
			t.Errorf("address %d after one came back: %s, want %s", i, got, want)
		}
	}
	if _, err := newAddresses(netip.MustParsePrefix("10.244.7.0/31")); err == nil {
		t.Error("a range without room for a Pod was accepted")
	}
}

func TestProbeAddress(t *testing.T) {
	container := corev1.Container{Name: "web", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}
	for name, test := range map[string]struct {
		host string
		port intstr.IntOrString
		want string
	}{
		"number":       {port: intstr.FromInt32(81), want: "10.244.1.2:81"},
		"name":         {port: intstr.FromString("http"), want: "10.244.1.2:8080"},
		"unknown name": {port: intstr.FromString("https"), want: "container web has no port https"},
		"zero":         {port: intstr.FromInt32(0), want: "container web has no port 0"},
		"other host":   {host: "127.0.0.1", port: intstr.FromInt32(81), want: "127.0.0.1:81"},
	} {
		got, err := probeAddress(test.host, test.port, netip.MustParseAddr("10.244.1.2"), container)
		if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

// TestTransitionTimes checks that a condition's time says when its status last
// changed, not when it was last written.
func TestTransitionTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h statusHistory
		start := time.Now()
		at := func(met bool) time.Duration {
			time.Sleep(time.Minute)
			return h.condition(corev1.PodReady, met, "Reason", "message").LastTransitionTime.Sub(start)
		}
		for i, step := range []struct {
			met  bool
			want time.Duration
		}{{false, time.Minute}, {false, time.Minute}, {true, 3 * time.Minute}, {true, 3 * time.Minute}, {false, 5 * time.Minute}} {
			if got := at(step.met); got != step.want {
				t.Errorf("step %d: changed at %v, want %v", i, got, step.want)
			}
		}
	})
}

func TestNewRejectsIncompleteNodes(t *testing.T) {
	complete := func() *corev1.Node {
		n := &corev1.Node{}
		n.Name = "node-1"
		n.Spec.PodCIDR = "10.244.1.0/24"
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.11"}}
		return n
	}
	for want, spoil := range map[string]func(*corev1.Node){
		"no name":             func(n *corev1.Node) { n.Name = "" },
		"Pod range":           func(n *corev1.Node) { n.Spec.PodCIDR = "" },
		"no internal address": func(n *corev1.Node) { n.Status.Addresses = nil },
		"internal address":    func(n *corev1.Node) { n.Status.Addresses[0].Address = "node-1" },
	} {
		node := complete()
		spoil(node)
		if _, err := New(Config{Node: node}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error about %q", err, want)
		}
	}
	if _, err := New(Config{Node: complete()}); err != nil {
		t.Error(err)
	}
}
