package localstack

import (
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/fairway-lb/fairway/providers/providertest"
)

// part is a providertest.T in real time. It leaves out what the emulator cannot
// do and knows what is expected to fail.
type part struct {
	*testing.T
	name string // of the suite's part, "" for the suite itself
	met  *met
}

var _ providertest.T = part{}

// met are the names in ownFake and faulty that have come up.
type met map[string]bool

// Run implements providertest.T.
func (p part) Run(name string, f func(providertest.T)) {
	name = path.Join(p.name, name)
	if _, left := ownFake[path.Base(name)]; left {
		(*p.met)[path.Base(name)] = true
		return
	}
	if p.name == faultAtEveryCall && !slices.Contains(faultsIn, path.Base(name)) {
		p.Logf("not run here: %q: takes minutes in real time", name)
		return
	}
	p.T.Run(path.Base(name), func(t *testing.T) {
		inner := part{T: t, name: name, met: p.met}
		why, fails := faulty[name]
		if !fails {
			f(inner)
			return
		}
		(*p.met)[name] = true
		inner.expectFailure(why, f)
	})
}

// expectFailure runs a part that cannot pass because of what is wrong with the
// emulator. It must fail, and for that reason.
func (p part) expectFailure(why fault, f func(providertest.T)) {
	r := &record{T: p.T}
	r.do(f)
	said := strings.Join(r.said, "\n")
	switch {
	case len(r.said) == 0:
		p.Errorf("it passes, although %s: take it off the list in cases_test.go and out of docs/aws/localstack.md", why.reason)
	case !strings.Contains(said, why.says):
		p.Errorf("it fails, but not because %s (which would say %q):\n%s", why.reason, why.says, said)
	default:
		p.Logf("fails as expected: %s", why.reason)
	}
}

// Simulate implements providertest.T, but that time is real.
func (p part) Simulate(f func(providertest.T)) {
	r := &realtime{part: p}
	f(r)
	if r.failed {
		p.FailNow()
	}
}

// realtime is a part in time that is not simulated.
type realtime struct {
	part
	failed bool // not what was run before
}

func (r *realtime) Errorf(format string, args ...any) {
	r.Helper()
	r.failed = true
	r.T.Errorf(format, args...)
}

// record is a providertest.T that keeps what is said about a failure.
type record struct {
	*testing.T
	said []string
}

func (r *record) do(f func(providertest.T)) {
	done := make(chan struct{})
	go func() {
		defer close(done) // also when Fatalf ends it
		f(r)
	}()
	<-done
}

func (r *record) Errorf(format string, args ...any) {
	r.said = append(r.said, fmt.Sprintf(format, args...))
}

func (r *record) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *record) Run(_ string, f func(providertest.T)) { r.do(f) }

func (r *record) Simulate(f func(providertest.T)) {
	f(r)
	if len(r.said) > 0 {
		runtime.Goexit()
	}
}
