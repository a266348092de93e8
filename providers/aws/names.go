package aws

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"

	"github.com/fairway-lb/fairway/providers/lb"
)

// The kinds of resources this provider makes.
const (
	kindSecurityGroup lb.Kind = "security-group"
	kindNodeRules     lb.Kind = "node-rules"
	kindLoadBalancer  lb.Kind = "load-balancer"
	kindTargetGroup   lb.Kind = "target-group"
	kindTargets       lb.Kind = "targets"
	kindListener      lb.Kind = "listener"
)

// namePrefix is what the names of load balancers and target groups begin with.
const namePrefix = "fw-"

// names makes up the keys and the cloud's names of resources. Names of load
// balancers and target groups have at most 32 letters, digits and hyphens
// (https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_CreateLoadBalancer.html).
// All contain a digest of the cluster's name and UID and the Service's UID, so
// that no two clusters and no two lives of a Service ever meet, and all of one
// Service begin the same, so that its leftovers are found in a listing.
type names struct{ cluster lb.Cluster }

// loadBalancerPrefix is what the names of s's load balancers begin with.
func (n names) loadBalancerPrefix(s lb.ServiceRef) string {
	return namePrefix + readable(s.Namespace+"-"+s.Name, 13) + "-" + n.service(s) + "-"
}

// loadBalancer names one: scheme and network cannot be changed in place.
func (n names) loadBalancer(s lb.ServiceRef, scheme, vpc string) string {
	return n.loadBalancerPrefix(s) + digest(4, scheme, vpc)
}

// targetGroupPrefix is what the names of s's target groups begin with.
func (n names) targetGroupPrefix(s lb.ServiceRef) string {
	return namePrefix + n.service(s) + "-"
}

// targetGroup names one: protocol, port and network cannot be changed in place,
// and a target group serves one load balancer only, which the scheme tells.
func (n names) targetGroup(s lb.ServiceRef, scheme, vpc, protocol string, nodePort uint16) string {
	return n.targetGroupPrefix(s) + socket(protocol, nodePort) + "-" + digest(4, scheme, vpc)
}

// frontend names the security group that admits s's clients.
func (n names) frontend(s lb.ServiceRef) string {
	return "fw-" + s.Namespace + "-" + s.Name + "-" + n.service(s)
}

// backend names the security group all load balancers of the cluster are in.
func (n names) backend() string {
	return "fw-" + n.cluster.Name + "-backend-" + digest(10, "cluster", n.cluster.Name, n.cluster.UID)
}

// service is the digest that stands for s in names.
func (n names) service(s lb.ServiceRef) string {
	return digest(10, "service", n.cluster.Name, n.cluster.UID, s.UID)
}

func loadBalancerRef(s lb.ServiceRef, scheme, vpc string) lb.Ref {
	return lb.Ref{Kind: kindLoadBalancer, Key: s.String() + "/" + scheme + "@" + vpc}
}

func listenerRef(balancer lb.Ref, port int) lb.Ref {
	return lb.Ref{Kind: kindListener, Key: fmt.Sprintf("%s:%d", balancer.Key, port)}
}

func targetGroupRef(s lb.ServiceRef, scheme, vpc, protocol string, nodePort uint16) lb.Ref {
	return lb.Ref{Kind: kindTargetGroup, Key: s.String() + "/" + scheme + "/" + socket(protocol, nodePort) + "@" + vpc}
}

func targetsRef(group lb.Ref) lb.Ref { return lb.Ref{Kind: kindTargets, Key: group.Key} }

func frontendRef(s lb.ServiceRef, vpc string) lb.Ref {
	return lb.Ref{Kind: kindSecurityGroup, Key: s.String() + "/frontend@" + vpc}
}

func backendRef(vpc string) lb.Ref {
	return lb.Ref{Kind: kindSecurityGroup, Key: "backend@" + vpc}
}

// nodeGroupRef is a security group somebody else made for the nodes.
func nodeGroupRef(id string) lb.Ref { return lb.Ref{Kind: kindSecurityGroup, Key: id} }

func nodeRulesRef(groupID string) lb.Ref { return lb.Ref{Kind: kindNodeRules, Key: groupID} }

// socket returns "tcp-30080".
func socket(protocol string, port uint16) string {
	return fmt.Sprintf("%s-%d", strings.ReplaceAll(strings.ToLower(protocol), "_", ""), port)
}

// readable returns what of s may stand in a name, in lower case and at most n
// characters, without hyphens at its ends.
func readable(s string, n int) string {
	var b strings.Builder
	for _, r := range strings.ToLower(s) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			b.WriteRune(r)
		} else if b.Len() > 0 && !strings.HasSuffix(b.String(), "-") {
			b.WriteByte('-')
		}
	}
	cut := b.String()
	return strings.Trim(cut[:min(n, len(cut))], "-")
}

// digest returns n characters [a-z2-7] that stand for parts.
func digest(n int, parts ...string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", parts))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:n]
}
