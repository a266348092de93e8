// Package nodes decides which of a cluster's Nodes a load balancer sends
// traffic to, and tells subscribers when that changes. Tracker turns the stream
// of Node events into immutable, numbered snapshots: what takes a node out of
// service, and the first node ever, is published at once; nodes that join are
// collected for a moment, so that fifty of them joining are one change.
package nodes
