// Package virtual holds a cluster's API server and its AWS account in memory, for
// tests that run the real controllers, the real clients of both and their real
// delays in virtual time (testing/synctest): hours of a thousand Services in
// seconds, with every call counted.
package virtual
