// Package fake is the kernel of the simulated clouds: what every one of them
// needs and none of them is about. It has the clock-driven delays, identifiers,
// token buckets, planned faults and the call log that the packages below it
// (one per cloud, each speaking that cloud's own wire protocol) are built on,
// and Dataplane, the neutral description of what a fake cloud wants carried by
// a data path. Everything takes its time from package time, so that a simulation
// inside a testing/synctest bubble runs in virtual time. It imports no cloud
// SDK: a wire mistake in a driver must not be mirrored in the fake that should
// catch it.
package fake
