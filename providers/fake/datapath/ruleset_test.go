package datapath

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fairway-lb/fairway/providers/fake"
)

func TestVerdict(t *testing.T) {
	// In results, + is a check that passed and - one that failed; in states the
	// state after each.
	check := fake.HealthCheck{HealthyThreshold: 3, UnhealthyThreshold: 2}
	letters := map[fake.TargetState]string{fake.StateInitial: "i", fake.StateHealthy: "h", fake.StateUnhealthy: "u"}
	for _, c := range []struct {
		from            fake.TargetState
		results, states string
	}{
		{fake.StateInitial, "+", "h"},
		{fake.StateInitial, "-+", "ih"},
		{fake.StateInitial, "--+++", "iuuuh"},
		{fake.StateHealthy, "-+-+--", "hhhhhu"},
		{fake.StateUnhealthy, "++-+++", "uuuuuh"},
	} {
		v := verdictOn{check: check, state: c.from}
		var got strings.Builder
		for _, result := range c.results {
			var failure error
			if result == '-' {
				failure = errors.New("status 500")
			}
			v.add(failure)
			got.WriteString(letters[v.state])
			if want := map[bool]string{true: "status 500"}[v.state == fake.StateUnhealthy]; v.reason != want && c.from == fake.StateInitial {
				t.Errorf("%s %q: reason %q in state %s, want %q", c.from, c.results, v.reason, v.state, want)
			}
		}
		if got.String() != c.states {
			t.Errorf("from %s, results %q: states %q, want %q", c.from, c.results, got.String(), c.states)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		codes   string
		status  int
		matched bool
		wrong   bool
	}{
		{"200", 200, true, false},
		{"200", 201, false, false},
		{"200-399", 399, true, false},
		{"200-399", 400, false, false},
		{"200, 202-204", 203, true, false},
		{"", 200, false, true},
		{"2xx", 200, false, true},
	} {
		matched, err := matches(c.codes, c.status)
		if matched != c.matched || (err != nil) != c.wrong {
			t.Errorf("matches(%q, %d) = %v, %v", c.codes, c.status, matched, err)
		}
	}
}

func TestMerge(t *testing.T) {
	for _, c := range []struct {
		prefixes string
		want     []addrRange
	}{
		{"", nil},
		{"0.0.0.0/0", []addrRange{everyone}},
		{"0.0.0.0/1 128.0.0.0/1", []addrRange{everyone}},
		{"10.0.0.7/8 10.1.0.0/16", []addrRange{{0x0a000000, 0x0affffff}}},
		{"10.0.1.0/24 10.0.0.0/24 10.0.3.0/24", []addrRange{{0x0a000000, 0x0a0001ff}, {0x0a000300, 0x0a0003ff}}},
		{"255.255.255.255/32 2001:db8::/32", []addrRange{{1<<32 - 1, 1<<32 - 1}}},
	} {
		var prefixes []netip.Prefix
		for _, p := range strings.Fields(c.prefixes) {
			prefixes = append(prefixes, netip.MustParsePrefix(p))
		}
		if got := merge(prefixes); !slices.Equal(got, c.want) {
			t.Errorf("merge(%s) = %x, want %x", c.prefixes, got, c.want)
		}
	}
}

func TestCommon(t *testing.T) {
	for _, c := range []struct{ a, b, want []addrRange }{
		{nil, []addrRange{everyone}, nil},
		{[]addrRange{everyone}, []addrRange{{5, 9}, {20, 30}}, []addrRange{{5, 9}, {20, 30}}},
		{[]addrRange{{0, 6}, {8, 25}, {40, 50}}, []addrRange{{5, 9}, {20, 30}}, []addrRange{{5, 6}, {8, 9}, {20, 25}}},
		{[]addrRange{{1, 2}}, []addrRange{{3, 4}}, nil},
	} {
		if got := common(c.a, c.b); !slices.Equal(got, c.want) {
			t.Errorf("common(%v, %v) = %v, want %v", c.a, c.b, got, c.want)
		}
		if got := common(c.b, c.a); !slices.Equal(got, c.want) {
			t.Errorf("common(%v, %v) = %v, want %v", c.b, c.a, got, c.want)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	node := []fake.LoadBalancerNode{{Zone: "a", Private: netip.MustParseAddr("10.0.0.100")}}
	for _, c := range []struct {
		dp   fake.Dataplane
		says string
	}{
		{fake.Dataplane{LoadBalancers: []fake.LoadBalancer{{ID: "x", Nodes: []fake.LoadBalancerNode{{Zone: "a"}}}}}, "load balancer x: node in zone"},
		{fake.Dataplane{LoadBalancers: []fake.LoadBalancer{{ID: "x", Nodes: node, Listeners: []fake.Listener{{Protocol: "tls", Port: 443}}}}}, `listener tls/443: unknown protocol`},
		{fake.Dataplane{LoadBalancers: []fake.LoadBalancer{{ID: "x", Nodes: node, Filtered: true, Ingress: []fake.Rule{{Protocol: "esp"}}}}}, `load balancer x: rule with unknown protocol "esp"`},
		{fake.Dataplane{Interfaces: []fake.Interface{{Device: "eth7", Filtered: true, Ingress: []fake.Rule{{}}}}}, `interface eth7: rule with unknown protocol ""`},
		{fake.Dataplane{Interfaces: []fake.Interface{{Filtered: true}}}, `device "" is empty`},
		{fake.Dataplane{Interfaces: []fake.Interface{{Device: "eth7", Filtered: true}, {Device: "eth7", Filtered: true}}}, `device "eth7" is empty or another`},
		{fake.Dataplane{LoadBalancers: []fake.LoadBalancer{{ID: "x", Nodes: node, Listeners: []fake.Listener{{
			Protocol: fake.TCP, Port: 80, Targets: []fake.Target{{Addr: netip.MustParseAddrPort("[2001:db8::1]:80")}}}}}}}, "listener tcp/80: target [2001:db8::1]:80"},
	} {
		if _, err := compile(c.dp, marks{}); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("error %v, want one with %q", err, c.says)
		}
	}
}

// A target in a zone without a node is not in use: it gets neither connections
// nor health checks, cross-zone or not.
func TestZoneWithoutANode(t *testing.T) {
	lb := fake.LoadBalancer{
		ID: "x", CrossZone: true,
		Nodes: []fake.LoadBalancerNode{{Zone: "a", Private: netip.MustParseAddr("10.0.0.100")}},
		Listeners: []fake.Listener{{Protocol: fake.TCP, Port: 80, Targets: []fake.Target{
			{ID: "in-a", Zone: "a", Addr: netip.MustParseAddrPort("10.0.0.11:30080"), State: fake.StateInitial},
			{ID: "in-b", Zone: "b", Addr: netip.MustParseAddrPort("10.0.16.11:30080"), State: fake.StateHealthy},
		}}},
	}
	r, err := compile(fake.Dataplane{LoadBalancers: []fake.LoadBalancer{lb}}, marks{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := r.frontends[0].pool, []netip.AddrPort{netip.MustParseAddrPort("10.0.0.11:30080")}; !slices.Equal(got, want) {
		t.Errorf("pool %v, want %v", got, want)
	}
	if _, ok := r.probes["in-a"]; !ok || len(r.probes) != 1 {
		t.Errorf("health checks of %v, want in-a only", r.probes)
	}
}
