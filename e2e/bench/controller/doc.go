// Package controller measures what our Service controller costs, as a function of
// the number of Services and of nodes: calls to the cloud, writes to the API
// server, memory, and the time until Services are ready. All is real but the cloud
// and the API server (package virtual), and the time is virtual.
package controller
