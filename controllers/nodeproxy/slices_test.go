package nodeproxy

import (
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// TestSlicesTogether has the endpoints of a Service in several slices, each with
// its own number for the port of that name, and an endpoint that moves from one to
// another.
func TestSlicesTogether(t *testing.T) {
	const otherPort = podPort + 1
	w := newWorld(t)
	w.serveAt(t, "b", "b", otherPort)
	w.start(t)
	second := func(endpoints ...discoveryv1.Endpoint) []any {
		out := withTargetPort(newTestSlices("web", endpoints...), otherPort)
		for _, o := range out {
			o.(*discoveryv1.EndpointSlice).Name += "-second"
		}
		return out
	}
	w.replace(t, append(append(newTestSlices("web", pod("a"), pod("remote")), second(pod("b"))...), newTestService("web"))...)
	w.check(t, []flow{{"node", clusterIP, []string{"a", "b", "remote"}, "node"}, {"client", atNode, []string{"a", "b", "remote"}, "node"}})

	w.serveAt(t, "a", "a", otherPort)
	w.update(t, second(pod("a"), pod("b"))...) // in both for a moment
	w.check(t, []flow{{"client", vip, []string{"a", "b", "remote"}, "node"}})
	w.update(t, newTestSlices("web", pod("remote"))...)
	w.check(t, []flow{{"client", vip, []string{"a", "b", "remote"}, "node"}})
	w.update(t, newTestSlices("web")...)
	w.check(t, []flow{{"client", vip, []string{"a", "b"}, "node"}})
}
