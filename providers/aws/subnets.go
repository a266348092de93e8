package aws

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// subnet is what matters of one for the choice.
type subnet struct {
	id, zone string
	tags     map[string]string
	// public: its route table leads to an internet gateway.
	public bool
	// outpost: it lies on an Outpost, where no Network Load Balancer can be.
	outpost bool
	free    int
}

// The tags that say what a subnet is for.
// https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/deploy/subnet_discovery/
const (
	rolePublic      = "kubernetes.io/role/elb"
	roleInternal    = "kubernetes.io/role/internal-elb"
	clusterTagStart = "kubernetes.io/cluster/"
)

// minFree is how many free addresses a subnet must have for a load balancer.
// https://docs.aws.amazon.com/elasticloadbalancing/latest/network/network-load-balancers.html
const minFree = 8

// retryDiscovery is when to look again after a problem that only a change in
// the account cures, which no watch will tell of.
const retryDiscovery = 5 * time.Minute

// chooser picks a load balancer's subnets, one per zone.
type chooser struct {
	facts   facts
	cluster string // name
	scheme  string
	// balancer is the load balancer's name: subnets it is in already stay.
	balancer string
}

// named returns the subnets an annotation lists by id or Name tag.
func (c chooser) named(list []string) ([]subnet, error) {
	refuse := func(item, format string, args ...any) error {
		return lb.InvalidField(annotationPrefix+"subnets", item, fmt.Sprintf(format, args...))
	}
	var chosen []subnet
	for _, item := range list {
		var found []subnet
		for _, s := range c.facts.subnets {
			if s.id == item || s.tags["Name"] == item {
				found = append(found, s)
			}
		}
		if len(found) == 0 {
			return nil, refuse(item, "no subnet of %s has this id or Name tag", c.facts.vpc)
		}
		if len(found) > 1 {
			return nil, refuse(item, "%d subnets of %s have this Name tag; use the id", len(found), c.facts.vpc)
		}
		for _, other := range chosen {
			if other.zone == found[0].zone {
				return nil, refuse(item, "it is in zone %s like %s; want one subnet per zone", other.zone, other.id)
			}
		}
		chosen = append(chosen, found[0])
	}
	return chosen, nil
}

// discover chooses among all subnets of the network: those in ordinary zones
// that are not another cluster's and have room; of these, when any carries the
// scheme's role tag, the tagged ones, else those whose route table fits the
// scheme. Of several in a zone it takes the one that the load balancer is in
// already, then a tagged one, then the one with the lowest id, so that the choice
// does not move by itself.
func (c chooser) discover() ([]subnet, error) {
	var candidates []subnet
	why := map[string]int{}
	for _, s := range c.facts.subnets {
		if reason := c.unfit(s); reason != "" {
			why[reason]++
			continue
		}
		candidates = append(candidates, s)
	}
	if slices.ContainsFunc(candidates, c.hasRole) {
		candidates = slices.DeleteFunc(candidates, func(s subnet) bool { return !c.hasRole(s) })
	} else if c.scheme == schemeInternet {
		candidates = slices.DeleteFunc(candidates, func(s subnet) bool {
			if !s.public {
				why["without a route to an internet gateway"]++
			}
			return !s.public
		})
	}
	if len(candidates) == 0 {
		return nil, c.noneLeft(why)
	}
	slices.SortFunc(candidates, func(a, b subnet) int {
		return cmp.Or(cmp.Compare(a.zone, b.zone), cmp.Compare(c.rank(a), c.rank(b)), cmp.Compare(a.id, b.id))
	})
	return slices.CompactFunc(candidates, func(a, b subnet) bool { return a.zone == b.zone }), nil
}

// unfit says in words why s cannot be used, "" when it can.
func (c chooser) unfit(s subnet) string {
	switch {
	case s.outpost || !c.ordinaryZone(s.zone):
		return "in a local, wavelength or outpost zone"
	case c.othersOnly(s):
		return "tagged for another cluster"
	case s.free < minFree && !c.inUse(s):
		return fmt.Sprintf("with less than %d free addresses", minFree)
	default:
		return ""
	}
}

// ordinaryZone reports whether the zone's name is the region's and one letter;
// those of local and wavelength zones are longer.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-regions-availability-zones.html
func (c chooser) ordinaryZone(zone string) bool {
	letter, ok := strings.CutPrefix(zone, c.facts.region)
	return ok && len(letter) == 1
}

func (c chooser) ownTag(s subnet) bool {
	_, ok := s.tags[clusterTagStart+c.cluster]
	return ok
}

func (c chooser) othersOnly(s subnet) bool {
	if c.ownTag(s) {
		return false
	}
	for key := range s.tags {
		if strings.HasPrefix(key, clusterTagStart) {
			return true
		}
	}
	return false
}

func (c chooser) hasRole(s subnet) bool {
	role := rolePublic
	if c.scheme == schemeInternal {
		role = roleInternal
	}
	value, ok := s.tags[role]
	return ok && (value == "" || value == "1")
}

func (c chooser) inUse(s subnet) bool {
	return slices.Contains(c.facts.placed[c.balancer], s.id)
}

// rank is lower for what is better.
func (c chooser) rank(s subnet) int {
	rank := 0
	for _, good := range []bool{c.inUse(s), c.scheme == schemeInternet || !s.public, c.ownTag(s)} {
		rank *= 2
		if !good {
			rank++
		}
	}
	return rank
}

func (c chooser) noneLeft(why map[string]int) error {
	role := rolePublic
	if c.scheme == schemeInternal {
		role = roleInternal
	}
	seen := "it has none"
	if len(c.facts.subnets) > 0 {
		seen = fmt.Sprintf("of its %d", len(c.facts.subnets))
		for _, reason := range slices.Sorted(maps.Keys(why)) {
			seen += fmt.Sprintf(", %d %s", why[reason], reason)
		}
	}
	return &lb.Error{Kind: lb.Invalid, Op: "find subnets", RetryAfter: retryDiscovery,
		Message: fmt.Sprintf("%s has no subnet for an %s load balancer (%s); tag one per zone with %s=1, or list them in the annotation %ssubnets",
			c.facts.vpc, c.scheme, seen, role, annotationPrefix)}
}
