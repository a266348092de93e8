package nodeproxy

import (
	"net/netip"
	"slices"
)

// near returns which ready endpoints this node should use by their hints: those
// for this node if every ready endpoint has hints for nodes and one is for this,
// or else those for its zone if every one has hints for zones and one is for
// this, or else all (as kube-proxy's CategorizeEndpoints does). That the hints
// follow the Service's trafficDistribution is the EndpointSlice controller's
// business. Endpoints that are not ready have none to respect.
func near(all map[netip.AddrPort]endpoint, zone string) func(endpoint) bool {
	hintsForNodes, forNode, hintsForZones, forZone := true, false, true, false
	for _, e := range all {
		if !e.ready {
			continue
		}
		hintsForNodes = hintsForNodes && e.nodeHints
		forNode = forNode || e.hintedHere
		hintsForZones = hintsForZones && len(e.zoneHints) > 0
		forZone = forZone || slices.Contains(e.zoneHints, zone)
	}
	switch {
	case hintsForNodes && forNode:
		return func(e endpoint) bool { return !e.ready || e.hintedHere }
	case hintsForZones && forZone && zone != "":
		return func(e endpoint) bool { return !e.ready || slices.Contains(e.zoneHints, zone) }
	}
	return func(endpoint) bool { return true }
}
