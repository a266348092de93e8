package lb

import (
	"net/netip"
	"time"
)

// Cluster identifies one Kubernetes cluster. The same Name with another UID is
// another cluster, whose resources are foreign to this one.
type Cluster struct {
	// Name is chosen by the operator and readable in the cloud's console.
	Name string
	// UID is the UID of the cluster's kube-system namespace.
	UID string
}

// ServiceRef identifies one Service object for as long as it lives: a Service
// deleted and made again under the same name has another UID.
type ServiceRef struct {
	Namespace, Name, UID string
}

// String returns "namespace/name".
func (r ServiceRef) String() string { return r.Namespace + "/" + r.Name }

// Protocol is a transport protocol, spelled as Kubernetes spells it.
type Protocol string

// The protocols of a Service port (core/v1 Protocol).
const (
	TCP  Protocol = "TCP"
	UDP  Protocol = "UDP"
	SCTP Protocol = "SCTP"
)

// Port is one port of a Service.
type Port struct {
	// Name is empty when the Service has one unnamed port.
	Name     string
	Protocol Protocol
	// Port is the load balancer's port, NodePort the one on every node.
	// NodePort is 0 when the Service allocates none.
	Port, NodePort uint16
	// AppProtocol is "" when the Service names none.
	AppProtocol string
}

// TrafficPolicy says whether traffic may cross from the node that received it
// to an endpoint on another node (core/v1 ServiceExternalTrafficPolicy).
type TrafficPolicy string

// The two traffic policies. The zero value of TrafficPolicy means Cluster.
const (
	PolicyCluster TrafficPolicy = "Cluster"
	PolicyLocal   TrafficPolicy = "Local"
)

// Service is everything a load balancer is made from: the Service object, read
// once, and the nodes that shall receive its traffic. It is immutable once
// built; nothing in this package or in a provider writes to it.
type Service struct {
	ServiceRef
	Annotations map[string]string
	Ports       []Port
	// SourceRanges are the clients that may connect; empty means everyone.
	SourceRanges          []netip.Prefix
	ExternalTrafficPolicy TrafficPolicy
	// HealthCheckNodePort is 0 unless ExternalTrafficPolicy is Local.
	HealthCheckNodePort uint16
	// ClientAffinity asks for the same endpoint for the same client address;
	// 0 means no affinity was asked for.
	ClientAffinity time.Duration
	// LoadBalancerIP is the deprecated spec.loadBalancerIP, "" when unset.
	LoadBalancerIP string
	// IPv6 and IPv4 tell which families the Service has.
	IPv4, IPv6 bool
	// Targets are the nodes chosen for this Service, in order of their name.
	Targets []Target
}

// TargetState says what a load balancer shall do with a node.
type TargetState string

// A node is active (gets new connections), draining (keeps the connections it
// has, gets no new ones) or gone (is no target any more).
const (
	TargetActive   TargetState = "active"
	TargetDraining TargetState = "draining"
	TargetGone     TargetState = "gone"
)

// Target is a node as a load balancer sees it.
type Target struct {
	Node string
	// ProviderID is the node's spec.providerID, the cloud's own name for it.
	// A node without one is never a target.
	ProviderID string
	// Addresses are the node's InternalIPs, primary family first.
	Addresses []netip.Addr
	// Zone is the value of topology.kubernetes.io/zone, "" when unset.
	Zone   string
	Labels map[string]string
	State  TargetState
}
