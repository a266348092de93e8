package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/e2e/sandbox"
	"github.com/fairway-lb/fairway/providers/fake"
)

const publicA, publicB, publicC = "203.0.113.1:80", "203.0.113.2:80", "203.0.113.3:80"

// cloud is three nodes in three zones, an internet client, and a load balancer
// over them that anybody may reach.
type cloud struct {
	*account
	fabric *sandbox.NetNS
	client *host
	nodes  []*node
}

var zones = []string{"a", "b", "c"}

func newCloud(t *testing.T, shape func(*fake.Dataplane)) *cloud {
	t.Helper()
	c := &cloud{fabric: newRouter(t)}
	c.client = newHost(t, c.fabric, "client", "198.51.100.10")
	listener := fake.Listener{
		Protocol: fake.TCPUDP, Port: 80, TargetGroup: "group", PreserveClientIP: true,
		HealthCheck: fake.HealthCheck{
			Protocol: "http", Port: healthPort, Path: "/healthz", Codes: "200-399",
			Interval: 50 * time.Millisecond, Timeout: time.Second, HealthyThreshold: 2, UnhealthyThreshold: 2,
		},
	}
	lb := fake.LoadBalancer{ID: "lb", CrossZone: true, Groups: []string{"sg-backend"}}
	var dp fake.Dataplane
	for i, zone := range zones {
		n := newNode(t, c.fabric, fmt.Sprintf("node-%d", i+1), fmt.Sprintf("10.0.%d.11", 16*i))
		c.nodes = append(c.nodes, n)
		listener.Targets = append(listener.Targets, fake.Target{
			ID: n.Name(), Addr: netip.AddrPortFrom(n.addr, nodePort), Zone: zone, State: fake.StateInitial,
		})
		lb.Nodes = append(lb.Nodes, fake.LoadBalancerNode{
			Zone:    zone,
			Public:  netip.AddrFrom4([4]byte{203, 0, 113, byte(i + 1)}),
			Private: netip.AddrFrom4([4]byte{10, 0, byte(16 * i), 100}),
		})
		dp.Interfaces = append(dp.Interfaces, fake.Interface{
			Device: n.device, Addresses: []netip.Prefix{netip.PrefixFrom(n.addr, 32)}, Groups: []string{"sg-node"},
		})
	}
	lb.Listeners = []fake.Listener{listener}
	dp.LoadBalancers = []fake.LoadBalancer{lb}
	if shape != nil {
		shape(&dp)
	}
	c.account = newAccount(t, dp)
	return c
}

func (c *cloud) healthy(t *testing.T) {
	t.Helper()
	c.settled(t, fake.StateHealthy, "node-1", "node-2", "node-3")
}

// tally asks n times, each on a new connection, and counts who answered.
func (c *cloud) tally(t *testing.T, network, to string, n int) map[string]int {
	t.Helper()
	count := map[string]int{}
	for range n {
		a, err := c.client.once(network, to, patience)
		check(t, err)
		count[a.Node]++
	}
	return count
}

func TestSpreadsConnectionsAndPreservesTheClient(t *testing.T) {
	c := newCloud(t, nil)
	c.healthy(t)
	for _, network := range []string{"tcp", "udp"} {
		for _, to := range []string{publicA, "10.0.16.100:80"} {
			const n = 150
			count := c.tally(t, network, to, n)
			for _, node := range c.nodes {
				if got := count[node.Name()]; got < n/6 || got > n/2 {
					t.Errorf("%s %s: %d of %d connections on %s, want about a third: %v", network, to, got, n, node.Name(), count)
				}
			}
			a, err := c.client.once(network, to, patience)
			check(t, err)
			if a.Client.Addr() != c.client.addr {
				t.Errorf("%s %s: node saw client %v, want %v", network, to, a.Client.Addr(), c.client.addr)
			}
		}
	}
}

func TestStickyClientsStay(t *testing.T) {
	c := newCloud(t, func(dp *fake.Dataplane) { dp.LoadBalancers[0].Listeners[0].Sticky = true })
	c.healthy(t)
	clients := []*host{c.client}
	for i := range 12 {
		clients = append(clients, newHost(t, c.fabric, fmt.Sprintf("client-%d", i), fmt.Sprintf("198.51.100.%d", 20+i)))
	}
	all, once := map[string]int{}, map[*host]map[string]int{}
	for _, client := range clients {
		nodes := map[string]int{}
		once[client] = nodes
		for _, network := range []string{"tcp", "udp"} {
			for range 10 {
				a, err := client.once(network, publicA, patience)
				check(t, err)
				nodes[a.Node]++
				all[a.Node]++
			}
		}
		if len(nodes) != 1 {
			t.Errorf("%v is sent to %v", client.addr, nodes)
		}
	}
	if len(all) != len(c.nodes) {
		t.Errorf("%d clients are sent to %v, want all nodes", len(clients), all)
	}
	// Whatever else changes, they stay where they are.
	c.change(t, func(dp *fake.Dataplane) {
		other := dp.LoadBalancers[0].Listeners[0]
		other.Port, other.Sticky, other.Targets = 81, false, other.Targets[:2]
		dp.LoadBalancers[0].Listeners = append(dp.LoadBalancers[0].Listeners, other)
	})
	for _, client := range clients {
		a, err := client.once("tcp", publicA, patience)
		check(t, err)
		if once[client][a.Node] == 0 {
			t.Errorf("%v is sent to %s, was to %v", client.addr, a.Node, once[client])
		}
	}
}

func TestHidesTheClientWhereNotPreserved(t *testing.T) {
	c := newCloud(t, func(dp *fake.Dataplane) { dp.LoadBalancers[0].Listeners[0].PreserveClientIP = false })
	c.healthy(t)
	a, err := c.client.once("tcp", publicB, patience)
	check(t, err)
	if want := netip.MustParseAddr("10.0.16.100"); a.Client.Addr() != want {
		t.Errorf("node saw client %v, want the load balancer's %v", a.Client.Addr(), want)
	}
	// With its address hidden a target may be its own client.
	if _, err := c.nodes[0].once("tcp", publicA, patience); err != nil {
		t.Errorf("node to itself through the load balancer: %v", err)
	}
}

func TestTargetIsNotItsOwnClient(t *testing.T) {
	c := newCloud(t, func(dp *fake.Dataplane) { dp.LoadBalancers[0].CrossZone = false })
	c.healthy(t)
	if a, err := c.nodes[0].once("tcp", publicA, silence); !timedOut(err) {
		t.Errorf("node to itself with its address preserved: got %v, %v, want a timeout", a, err)
	}
	a, err := c.nodes[0].once("tcp", publicB, patience)
	if err != nil || a.Client.Addr() != c.nodes[0].addr {
		t.Errorf("node to another node: got %v, %v", a, err)
	}
}

func TestZones(t *testing.T) {
	c := newCloud(t, func(dp *fake.Dataplane) { dp.LoadBalancers[0].CrossZone = false })
	c.healthy(t)
	if got := c.tally(t, "tcp", publicB, 20); got["node-2"] != 20 {
		t.Errorf("zone b answered from %v, want node-2 only", got)
	}
	c.nodes[1].sick.Store(true)
	c.settled(t, fake.StateUnhealthy, "node-2")
	all := []netip.Addr{addrOf(publicA), addrOf(publicB), addrOf(publicC)}
	if got, want := c.carrier.InService(all), []netip.Addr{all[0], all[2]}; !slices.Equal(got, want) {
		t.Errorf("in service with node-2 unhealthy: %v, want %v", got, want)
	}
	if got := c.tally(t, "tcp", publicB, 5); got["node-2"] != 5 {
		t.Errorf("zone b without a healthy target answered from %v, want fail open to node-2", got)
	}
	c.change(t, func(dp *fake.Dataplane) { dp.LoadBalancers[0].CrossZone = true })
	if got := c.tally(t, "tcp", publicB, 30); got["node-2"] != 0 {
		t.Errorf("unhealthy node-2 got connections with cross-zone on: %v", got)
	}
}

func addrOf(addrPort string) netip.Addr { return netip.MustParseAddrPort(addrPort).Addr() }

func TestUnhealthyTargetLeavesRotationAndKeepsItsConnections(t *testing.T) {
	c := newCloud(t, nil)
	c.healthy(t)
	kept, err := c.client.connect("tcp", publicA, patience)
	check(t, err)
	defer kept.Close()
	first, err := kept.ask(patience)
	check(t, err)

	i := slices.IndexFunc(c.nodes, func(n *node) bool { return n.Name() == first.Node })
	c.nodes[i].sick.Store(true)
	c.settled(t, fake.StateUnhealthy, first.Node)
	if got := c.reason(first.Node); got != "status 503" {
		t.Errorf("reason %q, want status 503", got)
	}
	if got := c.tally(t, "tcp", publicA, 40); got[first.Node] != 0 {
		t.Errorf("unhealthy %s got new connections: %v", first.Node, got)
	}
	if again, err := kept.ask(patience); err != nil || again.Node != first.Node {
		t.Errorf("established connection: %v, %v, want an answer from %s", again, err, first.Node)
	}
	c.nodes[i].sick.Store(false)
	c.settled(t, fake.StateHealthy, first.Node)
	if got := c.tally(t, "tcp", publicA, 60); got[first.Node] == 0 {
		t.Errorf("%s is healthy again and got no connection: %v", first.Node, got)
	}
}

func (a *account) reason(id string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reasons[id]
}

func TestDrainingThenGone(t *testing.T) {
	c := newCloud(t, nil)
	c.healthy(t)
	for _, network := range []string{"tcp", "udp"} {
		t.Run(network, func(t *testing.T) {
			kept, err := c.client.connect(network, publicA, patience)
			check(t, err)
			defer kept.Close()
			first, err := kept.ask(patience)
			check(t, err)
			before := c.snapshot()
			eachOf := func(f func(fake.Target) bool) func(*fake.Dataplane) {
				return func(dp *fake.Dataplane) {
					l := &dp.LoadBalancers[0].Listeners[0]
					for i := range l.Targets {
						if l.Targets[i].ID == first.Node {
							l.Targets[i].State = fake.StateDraining
						}
					}
					l.Targets = slices.DeleteFunc(l.Targets, f)
				}
			}
			c.change(t, eachOf(func(fake.Target) bool { return false }))
			if got := c.tally(t, network, publicA, 30); got[first.Node] != 0 {
				t.Errorf("draining %s got new connections: %v", first.Node, got)
			}
			if again, err := kept.ask(patience); err != nil || again.Node != first.Node {
				t.Errorf("connection to a draining target: %v, %v, want an answer from %s", again, err, first.Node)
			}

			c.change(t, eachOf(func(t fake.Target) bool { return t.ID == first.Node }))
			again, err := kept.ask(silence)
			if network == "tcp" && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("TCP connection after the deregistration delay: %v, %v, want a reset", again, err)
			}
			if network == "udp" && (err != nil || again.Node == first.Node) {
				t.Errorf("UDP flow after the deregistration delay: %v, %v, want an answer from another node", again, err)
			}
			c.change(t, func(dp *fake.Dataplane) { dp.LoadBalancers = before.LoadBalancers })
			c.healthy(t)
		})
	}
}

func TestNobodyToSendTo(t *testing.T) {
	c := newCloud(t, func(dp *fake.Dataplane) { dp.LoadBalancers[0].Listeners[0].Targets = nil })
	if _, err := c.client.once("tcp", publicA, patience); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("listener without targets: %v, want connection refused", err)
	}
	if _, err := c.client.once("udp", publicA, silence); !timedOut(err) {
		t.Errorf("UDP listener without targets: %v, want silence", err)
	}
	if _, err := c.client.once("tcp", "203.0.113.1:81", silence); !timedOut(err) {
		t.Errorf("port without listener: %v, want silence", err)
	}
}

func TestSecurityGroups(t *testing.T) {
	anybody := netip.MustParsePrefix("0.0.0.0/0")
	c := newCloud(t, func(dp *fake.Dataplane) {
		lb := &dp.LoadBalancers[0]
		lb.Filtered = true
		lb.Ingress = []fake.Rule{{Protocol: "tcp", FromPort: 80, ToPort: 80, Sources: []netip.Prefix{anybody}}}
		for i := range dp.Interfaces {
			dp.Interfaces[i].Filtered = true
			dp.Interfaces[i].Ingress = []fake.Rule{
				{Protocol: "tcp", FromPort: 30000, ToPort: 32767, SourceGroups: []string{"sg-backend"}},
				{Protocol: "udp", FromPort: 30000, ToPort: 32767, SourceGroups: []string{"sg-backend"}},
				{Protocol: "tcp", FromPort: healthPort, ToPort: healthPort, SourceGroups: []string{"sg-backend"}},
			}
		}
	})
	c.healthy(t) // so the health checks passed the nodes' filters

	reach := func(network, to string, want bool) {
		t.Helper()
		a, err := c.client.once(network, to, map[bool]time.Duration{true: patience, false: silence}[want])
		if want && err != nil || !want && !timedOut(err) {
			t.Errorf("%s %s: got %v, %v, want it reached: %v", network, to, a, err, want)
		}
	}
	direct := netip.AddrPortFrom(c.nodes[0].addr, nodePort).String()
	reach("tcp", publicA, true)
	reach("udp", publicA, false) // not in the load balancer's rules
	reach("tcp", direct, false)  // only the load balancer may
	reach("tcp", netip.AddrPortFrom(c.nodes[0].addr, healthPort).String(), false)

	sources := func(p ...string) func(*fake.Dataplane) {
		var prefixes []netip.Prefix
		for _, p := range p {
			prefixes = append(prefixes, netip.MustParsePrefix(p))
		}
		return func(dp *fake.Dataplane) {
			dp.LoadBalancers[0].Ingress = []fake.Rule{{Protocol: "all", Sources: prefixes}}
		}
	}
	kept, err := c.client.connect("tcp", publicA, patience)
	check(t, err)
	defer kept.Close()
	c.change(t, sources("192.0.2.0/24", "198.51.100.11/32", "2001:db8::/32"))
	reach("tcp", publicA, false)
	if _, err := kept.ask(patience); err != nil {
		t.Errorf("established connection after its client was shut out: %v", err)
	}
	// Prefixes that overlap and touch.
	c.change(t, sources("198.51.100.0/24", "198.51.100.8/29", "198.51.101.0/24", "255.255.255.0/24"))
	reach("tcp", publicA, true)
	reach("udp", publicA, true)
	c.change(t, sources())
	reach("tcp", publicA, false)

	// The nodes' own members, and a rule by the client's address.
	c.change(t, func(dp *fake.Dataplane) {
		sources("0.0.0.0/0")(dp)
		dp.Interfaces[0].Ingress = []fake.Rule{{Protocol: "all", SourceGroups: []string{"sg-node"}}}
		dp.Interfaces[1].Filtered = false
	})
	reach("tcp", direct, false)
	if _, err := c.nodes[2].once("tcp", direct, patience); err != nil {
		t.Errorf("node to node within a group: %v", err)
	}
	reach("udp", netip.AddrPortFrom(c.nodes[1].addr, nodePort).String(), true)
	c.settled(t, fake.StateUnhealthy, "node-1") // its health port is shut now
	if got := c.reason("node-1"); got != "timed out" {
		t.Errorf("reason %q, want timed out", got)
	}
	if got := c.tally(t, "tcp", publicA, 30); got["node-1"] != 0 {
		t.Errorf("node-1 got connections: %v", got)
	}
}

// The internet has no route to private addresses.
func TestPrivateAddresses(t *testing.T) {
	var private string
	c := newCloud(t, func(dp *fake.Dataplane) {
		dp.Network = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
		// A node that reaches itself through the load balancer must be answered.
		dp.LoadBalancers[0].Listeners[0].PreserveClientIP = false
		private = netip.AddrPortFrom(dp.LoadBalancers[0].Nodes[0].Private, 80).String()
	})
	c.healthy(t)
	for _, filtered := range []bool{false, true} {
		c.change(t, func(dp *fake.Dataplane) {
			dp.LoadBalancers[0].Filtered = filtered
			dp.LoadBalancers[0].Ingress = []fake.Rule{{Protocol: "all", Sources: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}}
		})
		if a, err := c.client.once("tcp", private, silence); !timedOut(err) {
			t.Errorf("filtered %v: the client outside was answered at a private address: %v, %v", filtered, a, err)
		}
		if _, err := c.client.once("tcp", publicA, patience); err != nil {
			t.Errorf("filtered %v: at the public address: %v", filtered, err)
		}
		if _, err := c.nodes[1].once("tcp", private, patience); err != nil {
			t.Errorf("filtered %v: from within the network: %v", filtered, err)
		}
	}
}

func TestHealthCheckKinds(t *testing.T) {
	c := newCloud(t, nil)
	for _, k := range []struct {
		name   string
		check  fake.HealthCheck
		state  fake.TargetState
		reason string
	}{
		{"tcp on the traffic port", fake.HealthCheck{Protocol: "tcp"}, fake.StateHealthy, ""},
		{"tcp on a closed port", fake.HealthCheck{Protocol: "tcp", Port: 9}, fake.StateUnhealthy, "connection refused"},
		{"http, other codes", fake.HealthCheck{Protocol: "http", Port: healthPort, Path: "/", Codes: "201,404-410"}, fake.StateUnhealthy, "status 200"},
		{"http", fake.HealthCheck{Protocol: "http", Port: healthPort, Path: "/", Codes: "200"}, fake.StateHealthy, ""},
	} {
		t.Run(k.name, func(t *testing.T) {
			h := k.check
			h.Interval, h.Timeout, h.HealthyThreshold, h.UnhealthyThreshold = 20*time.Millisecond, time.Second, 2, 2
			c.change(t, func(dp *fake.Dataplane) {
				l := &dp.LoadBalancers[0].Listeners[0]
				l.HealthCheck = h
				for i := range l.Targets {
					l.Targets[i].ID = fmt.Sprintf("%s-%d", k.name, i)
					l.Targets[i].State = fake.StateInitial
				}
			})
			c.settled(t, k.state, k.name+"-0", k.name+"-1", k.name+"-2")
			if got := c.reason(k.name + "-0"); got != k.reason {
				t.Errorf("reason %q, want %q", got, k.reason)
			}
		})
	}
}

func TestChangesUnderTraffic(t *testing.T) {
	c := newCloud(t, nil)
	c.healthy(t)
	stop := make(chan struct{})
	failed := make(chan error, 1)
	asked := 0
	go func() {
		defer close(failed)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := c.client.once("tcp", publicA, patience); err != nil {
				failed <- err
				return
			}
			asked++
		}
	}()
	for i := range 100 {
		c.change(t, func(dp *fake.Dataplane) {
			state := fake.StateHealthy
			if i%2 == 0 {
				state = fake.StateDraining
			}
			dp.LoadBalancers[0].Listeners[0].Targets[i%3].State = state
		})
	}
	close(stop)
	if err := <-failed; err != nil {
		t.Errorf("request failed during changes: %v", err)
	}
	if asked < 50 {
		t.Errorf("only %d requests were made during 100 changes", asked)
	}
}

func TestFlows(t *testing.T) {
	c := newCloud(t, nil)
	c.healthy(t)
	kept, err := c.client.connect("tcp", publicB, patience)
	check(t, err)
	defer kept.Close()
	a, err := kept.ask(patience)
	check(t, err)
	flows, err := c.carrier.Flows()
	check(t, err)
	client := netip.MustParseAddrPort(kept.LocalAddr().String())
	i := slices.IndexFunc(flows, func(f Flow) bool { return f.Client == client })
	if i < 0 {
		t.Fatalf("connection %v is not among the flows %v", client, flows)
	}
	node := slices.IndexFunc(c.nodes, func(n *node) bool { return n.Name() == a.Node })
	want := Flow{
		Protocol: "tcp", Client: client, Source: client, LoadBalancer: netip.MustParseAddrPort(publicB),
		Target: netip.AddrPortFrom(c.nodes[node].addr, nodePort), Name: "lb", Zone: "b",
	}
	if flows[i] != want {
		t.Errorf("flow %+v, want %+v", flows[i], want)
	}
}
