package providertest

import (
	"context"
	"hash/crc32"
	"slices"
	"sync"
	"time"
)

// Meter counts an account's calls and says which of them shall fail. It
// implements that part of Account; embed it. The zero value is ready.
type Meter struct {
	mu    sync.Mutex
	calls Calls
	fault Fault
	from  int   // how many calls there were when the fault was injected
	since int   // calls since then that it may hit
	hits  []int // calls since then that it did hit
}

// Arrive lets a call take a moment to arrive in virtual time: each its own, by
// what it says. So calls made at the same time arrive one after the other, in the
// same order in each run, and a fault meets the same call in each run. It comes
// before Count. A call that is given up meanwhile never arrives; then the error of
// its context is returned.
func Arrive(ctx context.Context, call string) error {
	time.Sleep(time.Duration(crc32.ChecksumIEEE([]byte(call))) % time.Millisecond)
	return ctx.Err()
}

// Count counts a call of an operation, before it has an effect, and returns the
// fault that hits it; the zero Fault when none does.
func (m *Meter) Count(operation string, write bool) Fault {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls.Operations = append(m.calls.Operations, operation)
	if write {
		m.calls.Writes++
	}
	if m.fault.Kind == "" || m.fault.Operation != "" && m.fault.Operation != operation {
		return Fault{}
	}
	m.since++
	last := m.fault.At + max(m.fault.Times, 1) - 1
	if m.since < m.fault.At || m.fault.Times >= 0 && m.since > last {
		return Fault{}
	}
	m.hits = append(m.hits, m.calls.All()-m.from)
	return m.fault
}

// Calls implements Account.
func (m *Meter) Calls() Calls {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Calls{Writes: m.calls.Writes, Operations: slices.Clip(m.calls.Operations)}
}

// Inject implements Account.
func (m *Meter) Inject(f Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault, m.from, m.since = f, m.calls.All(), 0
	if f.Kind != "" {
		m.hits = nil
	}
}

// Hits implements Account.
func (m *Meter) Hits() []int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.hits)
}
