package nodeproxy

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/health"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// TestWaitingIsToldOnce has two Services want the same load balancer address, and
// change again and again: one is told to wait, once until it waits for something
// else.
func TestWaitingIsToldOnce(t *testing.T) {
	w := newWorld(t)
	must(t, w.hosts["node"].Do(func() (err error) {
		w.proxy, err = New(Config{NodeName: "node"}, health.New(time.Minute, "IPv4"))
		return err
	}))
	defer w.proxy.Close()
	var log bytes.Buffer
	ctx := klog.NewContext(t.Context(), textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&log))))
	plane := w.proxy.planes[0]
	service := func(endpoint uint16, ports ...uint16) *forwarding {
		s := &nft.Service{Frontends: make(map[nft.Frontend]nft.Backends)}
		for _, port := range ports {
			s.Frontends[nft.Frontend{Addr: addr("vip", 0), Protocol: nft.TCP, Port: port}] = nft.Backends{
				Policy: nft.External, Cluster: []netip.AddrPort{netip.AddrPortFrom(addr("a", 0), endpoint)},
			}
		}
		// Both have the node answer probes there.
		s.Frontends[nft.Frontend{Addr: addr("vip", 0), Protocol: nft.TCP, Port: 10256}] = nft.Backends{
			Policy: nft.Direct, Cluster: []netip.AddrPort{netip.AddrPortFrom(addr("node", 0), 10256)},
		}
		return &forwarding{service: s}
	}
	step := func(name, changes string, f *forwarding, told int) {
		t.Helper()
		plane.want(changes, f)
		must(t, plane.sync(ctx, time.Now()))
		if n := strings.Count(log.String(), "Another Service has"); n != told {
			t.Errorf("%s: told %d times, want %d:\n%s", name, n, told, log.String())
		}
	}
	step("the first", "ns/first", service(1, 80, 81), 0)
	step("another shares the address", "ns/second", service(1, 8080), 0)
	step("and wants a port too", "ns/second", service(1, 8080, 80), 1)
	for endpoint := range uint16(5) {
		step("its endpoints change", "ns/second", service(2+endpoint, 8080, 80), 1)
	}
	step("it wants both", "ns/second", service(1, 8080, 80, 81), 2)
	step("it wants one", "ns/second", service(1, 8080, 80), 3)
	step("it gives up", "ns/second", service(1, 8080), 3)
	step("and wants it again", "ns/second", service(1, 8080, 80), 4)
	step("it is gone", "ns/second", nil, 4)
	step("and comes back", "ns/second", service(1, 80), 5)
	step("the first is gone", "ns/first", nil, 5)
	step("the other has it all", "ns/second", service(2, 80), 5)
}
