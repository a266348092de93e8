package nft

import (
	"errors"
	"testing"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// openFamily opens a table that anybody may change.
func openFamily(t *testing.T, host *sandbox.NetNS, ipv6 bool) *Table {
	t.Helper()
	var table *Table
	err := host.Do(func() (err error) {
		table, err = Open(Config{IPv6: ipv6, MasqueradeMark: 1 << 14, Shared: true})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return table
}

// TestTrust loads so much into the table of one family that the monitor of the
// other cannot hold all it hears: only of a program that it does not know must it
// think the worst.
func TestTrust(t *testing.T) {
	host := newHost(t)
	four, six := openFamily(t, host, false), openFamily(t, host, true)
	for _, err := range []error{four.Trust(six), six.Trust(four)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	services := many(4000, 4)
	mustLoad(t, six, nil)
	mustLoad(t, four, services)
	if err := six.Verify(); err != nil {
		t.Errorf("after a load of the other family: %v", err)
	}
	if err := four.Verify(); err != nil {
		t.Errorf("after a load of its own: %v", err)
	}
	stranger := openFamily(t, host, false)
	for name := range services {
		mustLoad(t, stranger, map[string]*Service{name: services[name]})
		break
	}
	if err := four.Verify(); !errors.Is(err, ErrLost) {
		t.Errorf("a stranger's change: %v", err)
	}
}
