package providertest

import (
	"testing"
	"testing/synctest"
)

// T is what the suite needs of a test. It is smaller than testing.TB so that a
// test of the suite itself can record what it says about a broken provider.
type T interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	// Fatalf reports a failure and ends the function that Run or Simulate was
	// given. Only the goroutine that runs it may call it.
	Fatalf(format string, args ...any)
	// Run runs f as a named part. It may be called from several goroutines at once
	// where time is virtual.
	Run(name string, f func(T))
	// Simulate runs f in virtual time and returns when all its goroutines have
	// ended. If it failed, the caller ends as well. It does not nest, f does not
	// call Run, and several may run at once.
	Simulate(f func(T))
}

// testingT is a T that is a part of `go test`.
type testingT struct{ *testing.T }

func (t testingT) Run(name string, f func(T)) {
	t.T.Run(name, func(t *testing.T) { f(testingT{t}) })
}

func (t testingT) Simulate(f func(T)) {
	t.T.Helper()
	synctest.Test(t.T, func(t *testing.T) { f(testingT{t}) })
}
