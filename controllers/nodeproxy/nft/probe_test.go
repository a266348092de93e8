package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// TestProbe: trying the kernel out leaves nothing behind, also beside a table
// that carries traffic.
func TestProbe(t *testing.T) {
	host := newHost(t)
	for _, running := range []bool{false, true} {
		before, err := nft(t, host, "list", "ruleset")
		if err != nil {
			t.Fatal(err)
		}
		table := open(t, host, true)
		after, err := nft(t, host, "list", "ruleset")
		if err != nil {
			t.Fatal(err)
		}
		if before != after {
			t.Errorf("with a table there %v: before\n%s\nafter\n%s", running, before, after)
		}
		if !running {
			mustLoad(t, table, many(3, 2))
		}
	}
}

// TestProbeHasAll: what a kernel took when it was tried out it takes later too.
func TestProbeHasAll(t *testing.T) {
	kinds := func(into map[string]string, c chainSpec) {
		for _, rule := range c.rules {
			for _, e := range rule {
				into[fmt.Sprintf("%T", e)] = c.name
			}
		}
	}
	for _, ipv6 := range []bool{false, true} {
		l, err := newLayout(Config{IPv6: ipv6, MasqueradeMark: 1 << 14, Pods: Pods{By: PodsByAddress}})
		if err != nil {
			t.Fatal(err)
		}
		tried, used := map[string]string{}, map[string]string{}
		for _, h := range l.hooks() {
			kinds(tried, chainSpec{name: h.name, rules: h.rules})
		}
		chains, needs := append(l.chains(), l.samples()...), []string{
			"internal-3", "internal-local-2", "external-40", "external-local-3-1", "pick-7", "pick-local-1",
			"internal-3-sticky-9", "ranged-external-local-3-1-sticky-9", "ranged-refuse",
		}
		for _, c := range chains {
			kinds(tried, c)
		}
		for _, name := range needs {
			spec, ok := l.rules.spec(name)
			if !ok {
				t.Fatalf("no chain %s", name)
			}
			kinds(used, spec)
			for _, need := range spec.needs {
				kinds(used, need)
			}
		}
		for kind, chain := range used {
			if tried[kind] == "" {
				t.Errorf("%s of chain %s is not tried out", kind, chain)
			}
		}
		if tried[fmt.Sprintf("%T", &expr.Hash{})] == "" {
			t.Error("the hash of affinity is not tried out")
		}
	}
}

// refusing is a kernel that lacks something.
type refusing struct {
	kernel
	err     error
	commits int
}

func (r *refusing) commit(*batch) error { r.commits++; return r.err }

func TestProbeRefused(t *testing.T) {
	l, err := newLayout(Config{MasqueradeMark: 1 << 14, Ranges: Ranges{Pods: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{unix.EPERM, "needs the capability NET_ADMIN"},
		{unix.EOPNOTSUPP, "whether this kernel has what the table is made of"},
	} {
		k := &refusing{err: c.err}
		table := &Table{kernel: k, layout: l}
		if _, err := table.probe(false); !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v became %v, want %q", c.err, err, c.want)
		}
		if k.commits != 2 {
			t.Errorf("%d tries, want one with an owner and one without", k.commits)
		}
	}
}
