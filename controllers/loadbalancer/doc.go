// Package loadbalancer is the controller between Services of type LoadBalancer
// and the engine that keeps a cloud as they want it. It decides which Services
// are its own, turns each with its target nodes into an lb.Service, runs the
// engine with a deadline, one Service in one worker at a time, and writes back
// what users see: the finalizer, the addresses, a condition that says what to
// do, and an event when something changed. It knows no cloud.
package loadbalancer
