// Package reference is the provider that proves the contract suite: a cloud in
// memory with one plain resource per Service (a pool of nodes), one shared
// document that takes long to write (a balancer with a frontend per Service,
// guarded by an ETag), and one fingerprinted list (the clients admitted to each
// Service). Being as small as a provider can be while it meets every rule of
// package lb, it is also the one to read before writing another.
package reference
