package fake

import (
	"net/netip"
	"time"
)

// Dataplane is what a fake cloud wants carried: pure data, replaced as a
// whole. A receiver may keep it; the sender never changes one it has handed
// out.
type Dataplane struct {
	// Generation rises by at least one with every change. A carrier that sees a
	// lower or equal one than it already carries ignores it.
	Generation uint64
	// LoadBalancers that are in service or being provisioned with an address,
	// sorted by ID.
	LoadBalancers []LoadBalancer
	// Interfaces of the running instances, what their filters protect, sorted by
	// Device.
	Interfaces []Interface
	// Network is the private network with what lies behind its interfaces: the
	// only place from which load balancers' private addresses can be reached,
	// for the internet has no route to them. Empty: they can be from anywhere.
	Network []netip.Prefix
}

// LoadBalancer is one load balancer with its addresses, listeners and filter.
type LoadBalancer struct {
	// ID is stable for the life of the load balancer (AWS: its ARN).
	ID string
	// Nodes are its addresses, one per zone, sorted by Zone.
	Nodes []LoadBalancerNode
	// Listeners are its open ports, sorted by port and protocol.
	Listeners []Listener
	// CrossZone says whether a node sends to targets of every zone or only to
	// those of its own.
	CrossZone bool
	// Filtered says whether Ingress decides who may reach the load balancer.
	// False: everyone may.
	Filtered bool
	// Ingress admits; what no rule admits is dropped.
	Ingress []Rule
	// Groups are the security groups it is a member of. Traffic that it passes on
	// to a target counts as coming from these groups (Rule.SourceGroups), also
	// where the client's own address is preserved.
	Groups []string
}

// LoadBalancerNode is a load balancer's presence in one zone.
type LoadBalancerNode struct {
	Zone string
	// Public is the address clients on the internet use; invalid when the load
	// balancer is internal.
	Public netip.Addr
	// Private is the node's address inside the network: what targets see as the
	// source where client addresses are not preserved, and of health checks.
	Private netip.Addr
}

// Protocol of a listener.
type Protocol string

// The protocols a listener can have. TCPUDP is one listener that takes both on
// the same port and sends both to the same target group.
const (
	TCP    Protocol = "tcp"
	UDP    Protocol = "udp"
	TCPUDP Protocol = "tcp_udp"
)

// Listener is one open port and where its connections go.
type Listener struct {
	Protocol Protocol
	Port     uint16
	// TargetGroup identifies the target group (AWS: its ARN). Two listeners may
	// share one; the health of its targets is then one and the same.
	TargetGroup string
	// Targets of the group, all states included, sorted by ID. New connections go
	// to the healthy ones; when none is healthy, to all that are not draining
	// ("fail open", see
	// https://docs.aws.amazon.com/elasticloadbalancing/latest/network/target-group-health-checks.html).
	Targets     []Target
	HealthCheck HealthCheck
	// PreserveClientIP: targets see the client's own address as the source.
	PreserveClientIP bool
	// ProxyProtocol: TCP connections to targets begin with a header of the proxy
	// protocol, version 2, that names the client.
	ProxyProtocol bool
	// Sticky: new connections of one client go to one target, as long as the
	// targets that get any stay the same.
	Sticky bool
	// DeregistrationDelay is how long established connections to a draining target
	// may go on.
	DeregistrationDelay time.Duration
}

// TargetState is where a target is in its life, as the account sees it.
type TargetState string

// The states of a target. A target enters as StateInitial, moves between
// StateHealthy and StateUnhealthy by what is reported about it, and stays
// StateDraining for its deregistration delay before it disappears.
const (
	StateInitial   TargetState = "initial"
	StateHealthy   TargetState = "healthy"
	StateUnhealthy TargetState = "unhealthy"
	StateDraining  TargetState = "draining"
)

// Target is where connections end: an instance at a port.
type Target struct {
	// ID is the key of health reports: unique over all target groups and stable
	// while the target stays registered.
	ID string
	// Addr is the instance's private address and the port.
	Addr netip.AddrPort
	// Zone the instance is in.
	Zone  string
	State TargetState
}

// HealthCheck is how the targets of a group are probed.
type HealthCheck struct {
	// Protocol is tcp, http or https (certificate not verified).
	Protocol string
	// Port to probe; 0 is the target's own ("traffic port").
	Port uint16
	// Path of the GET request, for http and https.
	Path string
	// Interval between probes of a target, Timeout of one.
	Interval, Timeout time.Duration
	// HealthyThreshold and UnhealthyThreshold are the consecutive results that
	// turn an unhealthy target healthy and the reverse. One success is enough for
	// a target that is still initial.
	HealthyThreshold, UnhealthyThreshold int
	// ProxyProtocol: a check begins with a header of the proxy protocol that says it
	// is about no client.
	ProxyProtocol bool
	// Codes are the HTTP statuses that count as success: values and ranges
	// separated by commas, "200-399".
	Codes string
}

// Interface is an instance's network interface with its filter.
type Interface struct {
	// Device is the network device, in the namespace that plays the cloud's
	// network, through which the instance is reached; empty when there is none and
	// only the addresses matter, as sources of others' rules.
	Device string
	// Addresses reached through it: the instance's own (a single-address prefix)
	// first, then the routed ones (Pod ranges).
	Addresses []netip.Prefix
	// Filtered says whether Ingress decides what may enter the instance. False:
	// everything may.
	Filtered bool
	// Ingress admits; what no rule admits, and is not a reply, is dropped.
	Ingress []Rule
	// Groups are the security groups it is a member of.
	Groups []string
}

// Rule admits traffic of one protocol and port range from some sources.
type Rule struct {
	// Protocol is tcp, udp, icmp or all.
	Protocol string
	// FromPort and ToPort are the destination ports, both included; for icmp and
	// all they are zero and say nothing.
	FromPort, ToPort uint16
	// Sources are address ranges that may send.
	Sources []netip.Prefix
	// SourceGroups are security groups whose members may send: the addresses of
	// every Interface and the private addresses of every LoadBalancer that names
	// the group in Groups, and all traffic such a load balancer passes on.
	SourceGroups []string
}

// Carrier makes a Dataplane real.
type Carrier interface {
	// Carry replaces what is carried. It is called on each change, with the
	// account locked: it must not block and must not call back into the account.
	Carry(Dataplane)
}

// HealthReporter takes the verdict on one target: healthy or not after the
// thresholds of its HealthCheck, and a short reason in words ("connection
// refused", "status 503"). A verdict about a target that is gone is ignored. Only
// changes need reporting; repeating a verdict is harmless.
type HealthReporter func(targetID string, healthy bool, reason string)
