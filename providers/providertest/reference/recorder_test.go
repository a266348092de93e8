package reference

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	pt "github.com/fairway-lb/fairway/providers/providertest"
)

// recorder is a providertest.T that remembers which parts failed.
type recorder struct {
	host *testing.T
	part string // the only one that is run
	name string
	log  *failures
}

type failures struct {
	mu    sync.Mutex
	names []string
	first string // what was said first
}

// stopped is what Fatalf panics with.
type stopped struct{}

func (r recorder) Helper()             {}
func (r recorder) Logf(string, ...any) {}

func (r recorder) Errorf(format string, args ...any) {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	if r.log.first == "" {
		r.log.first = r.name + ": " + fmt.Sprintf(format, args...)
	}
	if !slices.Contains(r.log.names, r.name) {
		r.log.names = append(r.log.names, r.name)
	}
}

func (r recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	panic(stopped{})
}

// guard runs f and reports whether it was not stopped.
func guard(f func()) (whole bool) {
	defer func() {
		if p := recover(); p != nil {
			if _, ours := p.(stopped); !ours {
				panic(p)
			}
		}
	}()
	f()
	return true
}

func (r recorder) Run(name string, f func(pt.T)) {
	r.name = strings.TrimPrefix(r.name+"/"+name, "/")
	if strings.HasPrefix(r.part, r.name) || strings.HasPrefix(r.name, r.part) {
		guard(func() { f(r) })
	}
}

func (r recorder) Simulate(f func(pt.T)) {
	synctest.Test(r.host, func(*testing.T) { guard(func() { f(r) }) })
	r.log.mu.Lock()
	failed := slices.Contains(r.log.names, r.name)
	r.log.mu.Unlock()
	if failed {
		panic(stopped{})
	}
}
