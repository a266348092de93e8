package lb

import (
	"context"
	"net/netip"
	"slices"
)

// Provider is one cloud. All methods may be called from several goroutines at
// once; the engine never has two calls in flight for the same Service.
// Every error is, or wraps, an *Error.
type Provider interface {
	// Name is the cloud's short name: "aws", "azure", "gcp".
	Name() string

	// Desired returns the resources a Service shall have. It may read slow
	// changing facts about the account through a cache (subnets, the nodes'
	// security group) but is otherwise a pure function of s. An Invalid error
	// names what the user must change. It changes nothing.
	Desired(ctx context.Context, s Service) (Desired, error)

	// Observe returns what exists for an owner, leftovers of earlier attempts
	// included, read from the cloud and not from a cache. Lists of all there is
	// may serve several who look at about the same time, if none is served a
	// list begun before its own last Apply ended. For a Service that
	// is everything of its own and everything of the cluster; for the cluster
	// it is everything of the cluster. Nothing there is an empty result, not an
	// error; a partial answer is an error.
	Observe(ctx context.Context, o Owner) ([]Resource, error)

	// Apply makes one change and returns the resource as it now is; the zero
	// Resource after a deletion. It is idempotent: creating what already
	// exists under our mark adopts it, deleting what is gone succeeds. It
	// never waits for a long operation but returns a Pending error.
	Apply(ctx context.Context, c Change, known Lookup) (Resource, error)

	// Status says how clients reach the load balancer, given its resources.
	// It is empty while no address is known.
	Status(resources []Resource) Status
}

// Verifier is implemented by a Provider whose resources have a Brake.
type Verifier interface {
	// Gone returns those of a braked field's items that do not exist in the
	// cloud any more, each looked for by its own ID. An item that could not be
	// looked for, for lack of permission or of an answer, is an error and never
	// counts as gone.
	Gone(ctx context.Context, r Resource, items []string) ([]string, error)
}

// Desired is what a Service shall have.
type Desired struct {
	Resources []Resource
	// Notices are things the user should know that stop nothing, such as an
	// annotation that is not honoured yet. Each becomes one event.
	Notices []Notice
}

// Notice is a remark for the Service's owner.
type Notice struct {
	// Reason is an event reason in CamelCase.
	Reason string
	// Message says what was noticed and what to do.
	Message string
}

// Lookup finds a resource by reference among those observed or made so far.
type Lookup func(Ref) (Resource, bool)

// Op is what a Change does.
type Op string

// The operations.
const (
	Create Op = "create"
	Update Op = "update"
	Delete Op = "delete"
)

// Change is one step from what is to what shall be.
type Change struct {
	Op Op
	// Before is the observed resource; zero for Create.
	Before Resource
	// After is the desired resource; zero for Delete. For Update it carries
	// the ID of Before.
	After Resource
	// Fields are the names of the fields that differ, sorted; Update only.
	Fields []string
	// Implied is set on the deletion of a child whose parent is deleted too:
	// the cloud removes it with the parent and no call is made for it.
	Implied bool
}

// Ref returns the reference of the resource that changes.
func (c Change) Ref() Ref {
	if c.Op == Delete {
		return c.Before.Ref
	}
	return c.After.Ref
}

// Changes reports whether the named field differs.
func (c Change) Changes(field string) bool {
	return slices.Contains(c.Fields, field)
}

// AddressMode says who must handle packets sent to a load balancer's IP
// (core/v1 LoadBalancerIPMode).
type AddressMode string

const (
	// ModeVIP says that packets arrive at the node still carrying this address,
	// and that the node proxy may answer for it.
	ModeVIP AddressMode = "VIP"
	// ModeProxy says that the load balancer translates the address: nodes must
	// send packets for it out to the load balancer.
	ModeProxy AddressMode = "Proxy"
)

// Address is one way to reach a load balancer: a hostname or an IP.
type Address struct {
	// Hostname is "" when IP is set.
	Hostname string
	// IP is the zero Addr when Hostname is set.
	IP netip.Addr
	// Mode is set with IP only: the API server refuses it with a hostname.
	Mode AddressMode
}

// Status says how clients reach a load balancer.
type Status struct {
	Addresses []Address
}
