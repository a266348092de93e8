package aws

import (
	"strings"

	"github.com/fairway-lb/fairway/providers/lb"
)

// The owner marks: tags on everything made. A resource of the cluster carries
// the first, second and last, one of a Service all five.
const (
	markPrefix     = "fairway.io/"
	markCluster    = markPrefix + "cluster"
	markClusterUID = markPrefix + "cluster-uid"
	markService    = markPrefix + "service"
	markServiceUID = markPrefix + "service-uid"
	// markResource holds the resource's key.
	markResource = markPrefix + "resource"
	// markAttributes is on load balancers and target groups whose attributes are
	// not all AWS's own.
	markAttributes = markPrefix + "attributes"
	// markTags tells which of a resource's other tags are from us.
	markTags = markPrefix + "tags"
)

// marks writes and reads owner marks.
type marks struct{ cluster lb.Cluster }

// tags returns all tags that r is made with.
func (m marks) tags(r lb.Resource) map[string]string {
	tags := map[string]string{}
	for _, item := range r.Fields["tags"] {
		key, value, _ := strings.Cut(item, "=")
		tags[key] = value
	}
	if len(tags) > 0 {
		tags[markTags] = listed(r.Fields["tags"])
	}
	tags[markCluster] = m.cluster.Name
	tags[markClusterUID] = m.cluster.UID
	tags[markResource] = r.Key
	if len(r.Fields["attributes"]) > 0 {
		tags[markAttributes] = "set"
	}
	for _, o := range r.Owners {
		if o.Kind == lb.OwnedByService {
			tags[markService] = o.Service.String()
			tags[markServiceUID] = o.Service.UID
		}
	}
	return tags
}

// owners returns who owns what carries these tags: none when they are not the
// marks of this very cluster.
func (m marks) owners(tags map[string]string) []lb.Owner {
	if tags[markCluster] != m.cluster.Name || tags[markClusterUID] != m.cluster.UID || tags[markResource] == "" {
		return nil
	}
	uid, isService := tags[markServiceUID]
	if !isService {
		return []lb.Owner{lb.ByCluster()}
	}
	namespace, name, _ := strings.Cut(tags[markService], "/")
	return []lb.Owner{lb.ByService(lb.ServiceRef{Namespace: namespace, Name: name, UID: uid})}
}

// rule is the description of our rules in groups that are not ours: the rule's
// owner mark, as a rule's tags are not returned with its group.
func (m marks) rule() string { return "fairway " + m.cluster.Name + "/" + m.cluster.UID }
