package lb

import "context"

// Rechecker is implemented by a Provider that can tell, for far less than an
// Observe, whether what is remembered of a Service is its own still. From memory
// alone, without it, nothing is changed but who is a member of a target set.
type Rechecker interface {
	// StillOwned reports whether each of the resources exists and bears the
	// marks of the owners it is given with, as the cloud says now. It is false
	// for one that is gone as well as for one that bears other marks.
	StillOwned(ctx context.Context, resources []Resource) (bool, error)

	// Residue returns what is left of o after the given resources were deleted,
	// everything that was remembered of it, and the cloud has acknowledged each
	// deletion. Like Observe it reads from the cloud and finds what nobody
	// remembered, but it need not look for what those deletions prove to be
	// absent, and it may leave out what the cluster owns.
	Residue(ctx context.Context, o Owner, deleted []Resource) ([]Resource, error)
}
