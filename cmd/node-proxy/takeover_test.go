package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// traffic is what a node carries while its proxies change: connections that stay
// and talk all the time, and new ones one after the other, in both families,
// through ClusterIP and NodePort.
type traffic struct {
	exchanges [2]atomic.Int64 // on the connections that stay, by family
	requests  [2]atomic.Int64 // new connections
	failure   atomic.Pointer[string]
	stop      func()
}

// standing is how many connections stay.
const standing = 20

func (s *stage) traffic() *traffic {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	f := &traffic{}
	var wg sync.WaitGroup
	fail := func(format string, args ...any) { f.failure.CompareAndSwap(nil, new(fmt.Sprintf(format, args...))) }
	for i := range standing {
		to := families[i/2%2]
		from, at := "client", to.atNode
		if i%2 == 1 {
			from, at = "a", to.clusterIP
		}
		c, err := s.hosts[from].DialContext(ctx, "tcp", at)
		must(s.t, err)
		wg.Go(func() {
			defer c.Close()
			first, err := hear(c)
			for n := 0; err == nil && ctx.Err() == nil; n++ {
				var again string
				if _, err = c.Write([]byte{0}); err == nil {
					again, err = hear(c)
				}
				if err == nil && again != first {
					err = fmt.Errorf("Pod %s answers on a connection to %s", again, first)
				}
				f.exchanges[i/2%2].Add(1)
				time.Sleep(2 * time.Millisecond)
			}
			if err != nil {
				fail("a connection of %s to %s: %v", from, at, err)
			}
		})
	}
	for i, to := range families {
		for _, way := range [][2]string{{"client", to.atNode}, {"a", to.clusterIP}, {"node", to.clusterIP}} {
			wg.Go(func() {
				for ctx.Err() == nil {
					if _, err := s.ask(way[0], way[1]); err != nil {
						fail("a new connection of %s to %s: %v", way[0], way[1], err)
					}
					f.requests[i].Add(1)
				}
			})
		}
	}
	f.stop = func() { cancel(); wg.Wait() }
	s.t.Cleanup(f.stop)
	return f
}

// flows waits for more traffic and fails if any of it ever failed.
func (s *stage) flows(f *traffic, when string) {
	s.t.Helper()
	var more []func() bool
	for i := range families {
		exchanges, requests := f.exchanges[i].Load(), f.requests[i].Load()
		more = append(more, func() bool { return f.exchanges[i].Load() > exchanges+50 && f.requests[i].Load() > requests+15 })
	}
	s.until("traffic flows "+when, func() bool {
		return f.failure.Load() != nil || more[0]() && more[1]()
	})
	if failure := f.failure.Load(); failure != nil {
		s.t.Fatalf("%s: %s", when, *failure)
	}
}

// report says how much traffic there was, none of which failed.
func (f *traffic) report(t *testing.T) {
	t.Helper()
	t.Logf("%d connections that stayed with %d exchanges over IPv4 and %d over IPv6; %d and %d new connections; none failed",
		standing, f.exchanges[0].Load(), f.exchanges[1].Load(), f.requests[0].Load(), f.requests[1].Load())
}

// kubeProxyRules installs what kube-proxy would for the stage's Service.
func (s *stage) kubeProxyRules(backend string) {
	s.t.Helper()
	rules, err := os.ReadFile(filepath.Join("..", "..", "controllers", "nodeproxy", "takeover", "testdata", backend+".nft"))
	must(s.t, err)
	v6 := strings.NewReplacer("table ip ", "table ip6 ", "ip saddr", "ip6 saddr", "ip daddr", "ip6 daddr", "ip addr", "ip6 addr", "ipv4_addr", "ipv6_addr",
		"10.244.0.0/16", "fd00:f4::/32", "127.0.0.0/8", "::1", "10.96.0.10", "fd00:96::10", "10.0.0.11", "fd00:a::11",
		"dnat to 10.244.1.10:", "dnat to [fd00:f4:1::10]:", "dnat to 10.244.1.11:", "dnat to [fd00:f4:1::11]:",
		"10.244.1.10", "fd00:f4:1::10", "10.244.1.11", "fd00:f4:1::11").Replace(string(rules))
	both := filepath.Join(s.t.TempDir(), "rules.nft")
	must(s.t, os.WriteFile(both, append(rules, v6...), 0o600))
	s.nft("-f", both)
}

// TestTakeover takes kube-proxy's place while traffic flows, and gives it back.
func TestTakeover(t *testing.T) {
	for _, backend := range []string{"kube-proxy", "iptables-nft"} {
		t.Run(backend, func(t *testing.T) {
			s := newStage(t)
			s.kubeProxyRules(backend)
			f := s.traffic()
			s.flows(f, "through kube-proxy's rules")

			said, err := s.run()
			if err == nil || !strings.Contains(said, "--takeover") {
				t.Errorf("a first start beside kube-proxy: %v, saying %q", err, said)
			}
			if rules := s.nft("list", "tables"); strings.Contains(rules, "fairway") {
				t.Errorf("a refused start left\n%s", rules)
			}
			s.flows(f, "after a refused start")

			p := s.start("run", "--takeover")
			s.until("kube-proxy's rules are gone", func() bool {
				rules := s.nft("list", "ruleset")
				return !strings.Contains(rules, "KUBE-SERVICES") && !strings.Contains(rules, "kube-proxy {")
			})
			s.flows(f, "after the takeover")
			s.until("the takeover is told", func() bool { return s.api.told("TookOver", "connections go on") })

			// kube-proxy comes back, beside us.
			s.kubeProxyRules(backend)
			s.flows(f, "with both proxies")
			// Giving back is to stop, and to clean up.
			s.stop(p)
			s.flows(f, "with the table alone")
			if said, err := s.run("--cleanup"); err != nil {
				t.Fatalf("%v: %s", err, said)
			}
			s.flows(f, "given back to kube-proxy")
			if rules := s.nft("list", "tables"); strings.Contains(rules, "fairway") {
				t.Errorf("the clean-up left\n%s", rules)
			}
			f.stop()
			f.report(t)
		})
	}
}

// TestRefusesWhatItCannotReplace meets kube-proxy's IPVS mode, with --takeover too:
// it says what does remove it, and changes nothing. (TestRealKubeProxyLegacy has
// legacy iptables.)
func TestRefusesWhatItCannotReplace(t *testing.T) {
	s := newStage(t)
	device := netlink.NewLinkAttrs()
	device.Name = "kube-ipvs0"
	// kube-proxy's is a dummy device, which not every kernel has.
	must(t, s.hosts["node"].Netlink().LinkAdd(&netlink.Veth{LinkAttrs: device, PeerName: "peer"}))
	for _, args := range [][]string{nil, {"--takeover"}} {
		said, err := s.run(args...)
		if err == nil || !strings.Contains(said, "(ipvs)") || !strings.Contains(said, `run "kube-proxy --cleanup" here, then start node-proxy`) {
			t.Errorf("a first start with %q beside IPVS: %v, saying %q", args, err, said)
		}
	}
	if rules := s.nft("list", "tables"); strings.Contains(rules, "fairway") {
		t.Errorf("a refused start left\n%s", rules)
	}
}

// TestKubeProxyComesBack restarts beside kube-proxy's rules, where ours are
// already: it serves and tells, by an event and a metric.
func TestKubeProxyComesBack(t *testing.T) {
	s := newStage(t)
	s.stop(func() *process { p := s.start("run"); s.healthy(); return p }())
	s.kubeProxyRules("kube-proxy")
	f := s.traffic()
	s.start("run")
	s.healthy()
	s.until("kube-proxy's presence is told", func() bool {
		return s.api.told("KubeProxyPresent", "(nftables)") && s.metric(`fairway_nodeproxy_kube_proxy_present{backend="nftables"} 1`)
	})
	s.flows(f, "with both proxies")
	if rules := s.nft("list", "tables"); !strings.Contains(rules, "kube-proxy") || !strings.Contains(rules, "fairway") {
		t.Errorf("not both are there:\n%s", rules)
	}
}

// TestLastInstalledDecides: of two tables that translate at the same priority it
// is the later one, for kube-proxy as for anybody.
func TestLastInstalledDecides(t *testing.T) {
	s := newStage(t)
	p := s.start("run")
	s.healthy()
	s.nft(`add table ip late; add chain ip late c { type nat hook prerouting priority dstnat; }
		add rule ip late c ip daddr 10.96.0.10 tcp dport 80 dnat to 10.244.1.10:8080`)
	onlyA := func(when string) {
		t.Helper()
		for range 20 {
			if pod, err := s.ask("b", clusterIP); pod != "a" || err != nil {
				t.Fatalf("%s: answered by %q, %v", when, pod, err)
			}
		}
	}
	onlyA("another table came")
	s.stop(p)
	s.start("run")
	s.healthy()
	onlyA("after a restart, which leaves our hooks where they are")
}

// TestPortsHeld has another program at the ports of /healthz and of a Service's
// health check.
func TestPortsHeld(t *testing.T) {
	s := newStage(t)
	var held []net.Listener
	for _, address := range []string{"0.0.0.0:10256", healthCheckNodePort} {
		l, err := s.hosts["node"].Listen(t.Context(), "tcp", address)
		must(t, err)
		defer l.Close()
		held = append(held, l)
	}
	s.start("run")
	s.until("packets are carried", func() bool { _, err := s.ask("client", atNode); return err == nil })
	s.until("the held port is told", func() bool {
		return s.api.told("FailedToStartProxierHealthcheck", "address already in use") && s.metric(`fairway_nodeproxy_port_held{server="healthz"} 1`)
	})
	s.until("the health check port is told", func() bool {
		return s.api.told("FailedToStartServiceHealthcheck", `failed to start healthcheck "default/local"`)
	})
	s.permissions()
	for _, l := range held {
		l.Close()
	}
	s.healthy()
	s.until("the health check port is answered", func() bool {
		code, body := s.get(healthCheckNodePort, "/")
		return code == 503 && strings.Contains(body, `"localEndpoints": 0`)
	})
	if !s.metric(`fairway_nodeproxy_port_held{server="healthz"} 0`) {
		t.Error("the metric still says that the port is held")
	}
	if !s.metric(`kubeproxy_proxy_healthz_total{code="200"}`) {
		t.Error("answers at /healthz are not counted")
	}
}

// TestServerAwayAtStart restarts the program while the API server is away: the
// table that is there stays and carries packets.
func TestServerAwayAtStart(t *testing.T) {
	s := newStage(t)
	p := s.start("run")
	s.healthy()
	must(t, p.cmd.Process.Signal(syscall.SIGKILL))
	if err := <-p.done; err == nil {
		t.Fatal("it ended in peace")
	}
	f := s.traffic()
	s.api.setDown(true)
	p = s.start("run")
	s.until("the program asks in vain", func() bool { return strings.Contains(p.log.String(), "Failed to watch") })
	s.flows(f, "without an API server")
	if code, _ := s.get("127.0.0.1:10256", "/livez"); code != 200 {
		t.Errorf("/livez says %d", code)
	}
	s.api.setDown(false)
	s.healthy()
	s.flows(f, "with the API server back")
}

// TestConfined runs the program the way the shipped DaemonSet does: nothing can
// be written, NET_ADMIN is the only capability, and there is no other program. It
// runs none.
func TestConfined(t *testing.T) {
	s := newStage(t)
	must(t, s.hosts["node"].Sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "0"))
	p := s.start("confined")
	s.healthy()
	for _, way := range [][2]string{{"client", atNode}, {"a", clusterIP}} {
		if _, err := s.ask(way[0], way[1]); err != nil {
			t.Errorf("%s to %s: %v", way[0], way[1], err)
		}
	}
	// It cannot set, only tell; --init-only with more rights sets.
	differs := `fairway_nodeproxy_sysctl_differs{sysctl="net.netfilter.nf_conntrack_tcp_be_liberal"} 1`
	s.until("a setting is told", func() bool {
		return s.metric(differs) && strings.Contains(p.log.String(), "nf_conntrack_tcp_be_liberal is 0, it should be 1")
	})
	confined := s.start("confined", "--init-only", "--conntrack-max-per-core=0")
	if err := <-confined.done; err == nil || !strings.Contains(confined.log.String(), "read-only file system") {
		t.Errorf("--init-only without a writable /proc/sys: %v, saying %s", err, confined.log)
	}
	if said, err := s.run("--init-only", "--conntrack-max-per-core=0"); err != nil {
		t.Fatalf("--init-only: %v, saying %s", err, said)
	}
	var liberal []byte
	must(t, s.hosts["node"].Do(func() (err error) {
		liberal, err = os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal")
		return err
	}))
	if strings.TrimSpace(string(liberal)) != "1" {
		t.Errorf("after --init-only the setting is %s", liberal)
	}
	p.ranNothing(t)
	s.stop(p)
}

// ranNothing fails if the process ever had a child that it waited for, or has one:
// a child that only begins has page faults, which the parent is told of.
func (p *process) ranNothing(t *testing.T) {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	must(t, err)
	_, rest, _ := strings.Cut(string(stat), ") ") // the name may contain spaces
	fields := strings.Fields(rest)
	if faults := fields[8]; faults != "0" { // proc(5): cminflt
		t.Errorf("it ran other programs, which had %s page faults", faults)
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.cmd.Process.Pid))
	must(t, err)
	for _, file := range tasks {
		if children, err := os.ReadFile(file); err == nil && len(children) > 0 {
			t.Errorf("it runs other programs: %s", children)
		}
	}
}
