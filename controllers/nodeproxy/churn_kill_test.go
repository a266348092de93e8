package nodeproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/rest"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/health"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// Variables that make the test binary a proxy of the API server they name.
const (
	serverVariable   = "FAIRWAY_TEST_PROXY_OF"
	priorityVariable = "FAIRWAY_TEST_PROXY_PRIORITY"
)

// runProxy is the program, as far as the node's forwarding goes.
func runProxy(server string) {
	priority, _ := strconv.Atoi(os.Getenv(priorityVariable))
	p, err := New(Config{
		NodeName: "node", API: &rest.Config{Host: server}, PodCIDRs: prefixes("10.244.0.0/16", "fd00:f4::/32"), IPv6: true,
		SharedTable: os.Getenv("FAIRWAY_SHARED_TABLE") == "1", MinSyncPeriod: 5 * time.Millisecond,
		NATPriorities: nft.Priorities{Destination: int32(priority)},
	}, health.New(time.Minute, "IPv4", "IPv6"))
	if err == nil {
		err = p.Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// edition is a Service's endpoints at a time: as many as the edition's number
// says, all at a port that no other edition has.
type edition int

// gone is the edition of a Service that is no more.
const gone edition = -1

func (e edition) count() int   { return 1 + int(e*7)%9 }
func (e edition) port() uint16 { return uint16(10000 + e%50000) }

func (e edition) endpoint(service, n, family int) netip.Addr {
	return netip.MustParseAddr([]string{fmt.Sprintf("10.244.%d.%d", 10+service, n+1), fmt.Sprintf("fd00:f4:%x::%x", 10+service, n+1)}[family])
}

func (e edition) slices(service int) []any {
	out := newTestSlices(fmt.Sprintf("s%d", service))
	for family, o := range out {
		s := o.(*discoveryv1.EndpointSlice)
		for i := range s.Ports {
			s.Ports[i].Port = new(int32(e.port()))
		}
		for n := range e.count() {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{e.endpoint(service, n, family).String()}})
		}
	}
	return out
}

// generations counts the changes of the node's packet filter from now on.
func (w *world) generations(t *testing.T) *atomic.Int64 {
	t.Helper()
	var c *netlink.Conn
	must(t, w.hosts["node"].Do(func() (err error) {
		c, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	}))
	t.Cleanup(func() { c.Close() })
	must(t, c.JoinGroup(unix.NFNLGRP_NFTABLES))
	var n atomic.Int64
	go func() {
		for {
			messages, err := c.Receive()
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			for _, m := range messages {
				if m.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
					n.Add(1)
				}
			}
		}
	}()
	return &n
}

// program starts a proxy as a process of its own.
func (w *world) program(t *testing.T, server string, priority int) (kill func()) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), serverVariable+"="+server, fmt.Sprintf("%s=%d", priorityVariable, priority))
	cmd.Stdout, cmd.Stderr = &log, &log
	must(t, w.hosts["node"].Start(cmd))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait()
	}()
	kill = func() {
		t.Helper()
		select {
		case <-done:
			t.Fatalf("the program ended by itself: %v\n%s", cmd.ProcessState, log.String())
		default:
		}
		_ = cmd.Process.Kill()
		<-done
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		if t.Failed() {
			t.Logf("the program said:\n%s", log.String())
		}
	})
	return kill
}

var (
	frontendPattern = regexp.MustCompile(`([0-9a-f.:]+ \. (?:tcp|udp) \. \d+) comment "default/([a-z0-9]+)" : goto [a-z-]+?-(\d+)`)
	slotPattern     = regexp.MustCompile(`([0-9a-f.:]+ \. (?:tcp|udp) \. \d+) \. (\d+) : ([0-9a-f.:]+) \. (\d+)`)
)

// kernelPool is what the kernel has for one frontend.
type kernelPool struct {
	service string
	size    int                // of its class
	slots   map[int]netip.Addr // endpoints
	ports   map[string]struct{}
}

// whole reads what the kernel has for every frontend. It is an error if that was
// wanted at no time: of each Service one edition, with as many slots as the class
// draws from, of which no more than a quarter are holes.
func (w *world) whole(t *testing.T) (map[string]kernelPool, error) {
	t.Helper()
	all := make(map[string]kernelPool)
	for _, family := range []string{"ip", "ip6"} {
		frontends, endpoints, err := w.inUse(t, family)
		if err != nil {
			return nil, err
		}
		for _, m := range frontendPattern.FindAllStringSubmatch(frontends, -1) {
			size, err := strconv.Atoi(m[3])
			must(t, err)
			all[m[1]] = kernelPool{service: m[2], size: size, slots: make(map[int]netip.Addr), ports: make(map[string]struct{})}
		}
		for _, m := range slotPattern.FindAllStringSubmatch(endpoints, -1) {
			p, ok := all[m[1]]
			if !ok {
				return nil, fmt.Errorf("an endpoint of %s is left, which is no frontend", m[1])
			}
			slot, err := strconv.Atoi(m[2])
			must(t, err)
			p.slots[slot] = netip.MustParseAddr(m[3])
			p.ports[m[4]] = struct{}{}
		}
	}
	editions := make(map[string]string)
	for frontend, p := range all {
		holes := 0
		for slot := range p.size {
			if !p.slots[slot].IsValid() {
				holes++
			}
		}
		if len(p.slots) != p.size-holes || holes > p.size/4 || !p.slots[0].IsValid() {
			return nil, fmt.Errorf("%s of %s draws from %d slots and has %v", frontend, p.service, p.size, p.slots)
		}
		if len(p.ports) != 1 {
			return nil, fmt.Errorf("%s of %s has endpoints of two editions: %v", frontend, p.service, p.ports)
		}
		for port := range p.ports {
			of := p.service + map[bool]string{true: " IPv6", false: " IPv4"}[strings.Contains(frontend, ":")]
			if other, ok := editions[of]; ok && other != port {
				return nil, fmt.Errorf("%s has frontends of the editions %s and %s", of, port, other)
			}
			editions[of] = port
		}
	}
	return all, nil
}

// inUse lists the two maps of the table that carries packets: the one with hooks.
func (w *world) inUse(t *testing.T, family string) (frontends, endpoints string, err error) {
	t.Helper()
	for _, table := range []string{nft.TableName, nft.TableName + "-bridge"} {
		if text, err := w.tryNFT(t, "list", "table", family, table); err == nil && strings.Contains(text, "chain nat-prerouting") {
			frontends, endpoints, _ = strings.Cut(text, "map endpoints")
			return frontends, endpoints, nil
		}
	}
	return "", "", fmt.Errorf("no table of %s carries packets", family)
}

// TestKilledAnywhere kills a proxy again and again, just behind a change of the
// kernel or somewhere in the next, while endpoints change all the time: at the
// start, while it takes a table over or replaces one of another layout, and at
// work. The table that stays is whole each time, Services that nobody changed
// carry on, and the last start comes to what is wanted and leaves nothing else.
func TestKilledAnywhere(t *testing.T) {
	requireTool(t)
	w := newWorld(t)
	c := newCluster()
	l, err := w.hosts["node"].Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	server := &http.Server{Handler: c}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	url := "http://" + l.Addr().String()

	const services = 100
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	c.apply(newTestNode(addr2("node")...), newTestService("web"))
	for _, host := range []string{"a", "b", "remote"} {
		c.apply(w.backend(t, host, 9000).slices("web")...)
	}
	now := make([]edition, services)
	for i := range now {
		c.apply(newClusterIPService(fmt.Sprintf("s%d", i), i))
		c.apply(now[i].slices(i)...)
	}
	generations := w.generations(t)
	kill := w.program(t, url, 0)
	for _, from := range everyWay() {
		until(t, "the first start programs the node", func() bool { return w.converse(from, 0) == nil })
	}
	calls := w.call(t, everyWay()...)
	works := w.hold(t, everyWay()...)

	var changes atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	still := sync.OnceFunc(func() { close(stop); <-stopped })
	t.Cleanup(still)
	churn := rand.New(rand.NewPCG(r.Uint64(), 1))
	go func() {
		defer close(stopped)
		tick := time.NewTicker(sandbox.Patience(2 * time.Millisecond))
		defer tick.Stop()
		for next := edition(1); ; next++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			var objects []any
			for range 1 + churn.IntN(3)*churn.IntN(8) {
				i := churn.IntN(services)
				now[i] = next
				objects = append(objects, now[i].slices(i)...)
			}
			c.apply(objects...)
			changes.Add(int64(len(objects) / 2))
		}
	}()
	const kills = 14
	for round := range kills {
		// How far it gets: to the trial of the kernel's features, to the table,
		// or to some changes.
		after := generations.Load() + int64(1+r.IntN([]int{4, 12, 40}[round%3]))
		until(t, "the packet filter changes", func() bool { return generations.Load() >= after })
		time.Sleep(time.Duration(r.IntN(3000)) * time.Microsecond)
		kill()
		otherLayout := round%4 == 3
		if _, err := w.whole(t); err != nil {
			t.Fatalf("after round %d: %v", round, err)
		}
		calls.more(t)
		kill = w.program(t, url, map[bool]int{false: 0, true: -101 - round}[otherLayout])
	}
	still()
	kill()
	// Services go while no program is there, and one that was killed while it
	// replaced a table may leave the other.
	for i := range now[:5] {
		name := fmt.Sprintf("s%d", i)
		c.remove(append(newTestSlices(name), newClusterIPService(name, i))...)
		now[i] = gone
	}
	if !strings.Contains(w.nft(t, "list", "tables"), "fairway-bridge") {
		w.nft(t, "add table ip fairway-bridge")
	}
	w.program(t, url, 0)
	until(t, "the last start comes to what is wanted, and nothing else", func() bool { return w.has(t, now) && w.tidy(t) })
	works("after all")
	t.Logf("%d calls while the program was killed %d times in %d changes", calls.stop(t), kills, changes.Load())
}

// tidy tells whether there is one table of each family.
func (w *world) tidy(t *testing.T) bool {
	t.Helper()
	tables := strings.Split(strings.TrimSpace(w.nft(t, "list", "tables")), "\n")
	slices.Sort(tables)
	return slices.Equal(tables, []string{"table ip fairway", "table ip6 fairway"})
}

// has tells whether the kernel has exactly these editions, beside the Service "web".
func (w *world) has(t *testing.T, editions []edition) bool {
	t.Helper()
	all, err := w.whole(t)
	if err != nil {
		return false // read while it was changed
	}
	for i, e := range editions {
		if e == gone {
			continue
		}
		for family := range families {
			ip := newClusterIPService("s", i).Spec.ClusterIPs[family]
			for _, protocol := range []string{"tcp", "udp"} {
				key := fmt.Sprintf("%s . %s . 80", ip, protocol)
				p := all[key]
				delete(all, key)
				var want []netip.Addr
				for n := range e.count() {
					want = append(want, e.endpoint(i, n, family))
				}
				var got []netip.Addr
				for _, a := range p.slots {
					got = append(got, a)
				}
				slices.SortFunc(got, netip.Addr.Compare)
				if _, of := p.ports[strconv.Itoa(int(e.port()))]; !of || !slices.Equal(got, want) {
					return false
				}
			}
		}
	}
	return len(all) == 12 // "web": ClusterIP, load balancer's and Node's address, two protocols and families
}
