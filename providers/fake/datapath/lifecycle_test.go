package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/providers/fake"
)

func TestLeavesNothingBehind(t *testing.T) {
	c := newCloud(t, nil)
	c.healthy(t)
	kept, err := c.client.connect("tcp", publicA, patience)
	check(t, err)
	defer kept.Close()
	_, err = kept.ask(patience)
	check(t, err)

	// Another data path takes over what one that crashed left. The crash: the
	// first one does no more, without cleaning up.
	c.carrier.cancel()
	<-c.carrier.done
	c.carrier.checker.stop()
	if got := leftovers(t); len(got) != 7 {
		t.Errorf("a crash left %v, want a table and six addresses", got)
	}
	second, err := New(c.report, nil)
	check(t, err)
	if got := leftovers(t); len(got) != 0 {
		t.Errorf("a new data path started with %v", got)
	}
	second.Carry(c.snapshot())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	check(t, second.Wait(ctx, c.snapshot().Generation))
	if _, err := c.client.once("tcp", publicA, patience); err != nil {
		t.Errorf("through the second data path: %v", err)
	}
	check(t, second.Close())
	if got := leftovers(t); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
	if a, err := kept.ask(silence); err == nil {
		t.Errorf("connection still answered, by %s", a.Node)
	}
}

// leftovers are the nftables tables and loopback addresses of a data path.
func leftovers(t *testing.T) (list []string) {
	t.Helper()
	tables, err := (&nftables.Conn{}).ListTables()
	check(t, err)
	for _, table := range tables {
		list = append(list, "table "+table.Name)
	}
	lo, err := netlink.LinkByName("lo")
	check(t, err)
	addrs, err := netlink.AddrList(lo, unix.AF_INET)
	check(t, err)
	for _, a := range addrs {
		if !a.IP.IsLoopback() && !a.IP.Equal(router.AsSlice()) {
			list = append(list, "address "+a.IP.String())
		}
	}
	return list
}

func TestKeepsWhatItCarriesWhenItCannotCarryMore(t *testing.T) {
	c := newCloud(t, nil)
	c.healthy(t)
	bad := c.snapshot()
	bad.Generation++
	bad.LoadBalancers = append(slices.Clone(bad.LoadBalancers), fake.LoadBalancer{
		ID: "six", Nodes: []fake.LoadBalancerNode{{Zone: "a", Private: netip.MustParseAddr("2001:db8::1")}},
	})
	c.carrier.Carry(bad)
	ctx, cancel := context.WithTimeout(t.Context(), silence)
	defer cancel()
	if err := c.carrier.Wait(ctx, bad.Generation); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for what cannot be carried: %v", err)
	}
	if _, err := c.client.once("tcp", publicA, patience); err != nil {
		t.Errorf("what was carried before: %v", err)
	}
}

// Fifty load balancers are what AWS allows in a region; here each admits other
// clients, so that no two share a chain.
func TestManyLoadBalancers(t *testing.T) {
	c := newCloud(t, nil)
	for round := range 3 {
		c.change(t, func(dp *fake.Dataplane) {
			first := dp.LoadBalancers[0]
			dp.LoadBalancers = dp.LoadBalancers[:1]
			for i := range 50 {
				lb := first
				lb.ID = fmt.Sprintf("lb-%d", i)
				lb.Nodes = slices.Clone(lb.Nodes)
				for z := range lb.Nodes {
					lb.Nodes[z].Public = netip.AddrFrom4([4]byte{203, 0, 113, byte(10 + i + 60*z)})
					lb.Nodes[z].Private = netip.AddrFrom4([4]byte{10, 0, byte(16 * z), byte(110 + i)})
				}
				lb.Filtered = true
				lb.Ingress = []fake.Rule{
					{Protocol: "tcp", FromPort: 80, ToPort: uint16(80 + round), Sources: []netip.Prefix{netip.PrefixFrom(c.client.addr, 32), netip.PrefixFrom(lb.Nodes[0].Private, 32)}},
					{Protocol: "icmp", Sources: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}},
				}
				dp.LoadBalancers = append(dp.LoadBalancers, lb)
			}
		})
		if _, err := c.client.once("tcp", "203.0.113.59:80", patience); err != nil {
			t.Errorf("round %d, through the last load balancer: %v", round, err)
		}
	}
}
