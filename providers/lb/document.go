package lb

import "context"

// Documents is implemented by a Provider for whose cloud some resources are
// documents: written as a whole, guarded by a version, with entries of many
// Services in them (an Azure load balancer or security group, a Google instance
// group). Their children are fragments. The engine hands changes of fragments
// to one committer per document instead of to Apply.
type Documents interface {
	// IsDocument reports whether resources of the kind are documents.
	IsDocument(k Kind) bool

	// ReadDocument returns a document as it is now, foreign entries included. A
	// document that does not exist is a NotFound error.
	ReadDocument(ctx context.Context, ref Ref, known Lookup) (Document, error)

	// WriteDocument merges changes of fragments into d and writes the result,
	// on condition that the cloud still has d's version. It returns the
	// document as written and, for each change in the order given, the fragment
	// as it now is (the zero Resource after a deletion). The kind of an error
	// says how to go on: Conflict, the version was another; Invalid, the cloud
	// rejects the whole for what one of the changes brings; Pending, accepted
	// and under way. What d holds of others is written back byte for byte. It
	// writes even when the changes leave d as it is: d may be older than the
	// observation they came from, and only the cloud can tell.
	WriteDocument(ctx context.Context, d Document, changes []Change, known Lookup) (Document, []Resource, error)
}

// Document is a document as it was last seen.
type Document struct {
	Ref
	// Version is the cloud's guard against lost updates: an ETag, a fingerprint.
	Version string
	// Content is the provider's own form of it. The engine never looks inside.
	Content any
}
