package providertest

import (
	"maps"
	"sync"
)

// Meter counts an account's calls and says which of them shall fail. It
// implements that part of Account; embed it. The zero value is ready.
type Meter struct {
	mu    sync.Mutex
	calls Calls
	fault Fault
	since int // calls since the fault was injected that it may hit
	hits  int
}

// Count counts a call of an operation, before it has an effect, and returns the
// fault that hits it; the zero Fault when none does.
func (m *Meter) Count(operation string, write bool) Fault {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls.All++
	if write {
		m.calls.Writes++
	}
	if m.calls.Of == nil {
		m.calls.Of = map[string]int{}
	}
	m.calls.Of[operation]++
	if m.fault.Kind == "" || m.fault.Operation != "" && m.fault.Operation != operation {
		return Fault{}
	}
	m.since++
	last := m.fault.At + max(m.fault.Times, 1) - 1
	if m.since < m.fault.At || m.fault.Times >= 0 && m.since > last {
		return Fault{}
	}
	m.hits++
	return m.fault
}

// Calls implements Account.
func (m *Meter) Calls() Calls {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.calls
	now.Of = maps.Clone(now.Of)
	return now
}

// Inject implements Account.
func (m *Meter) Inject(f Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault, m.since = f, 0
	if f.Kind != "" {
		m.hits = 0
	}
}

// Hits implements Account.
func (m *Meter) Hits() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hits
}
