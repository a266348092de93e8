package explain

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/controllers/nodeproxy"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var (
	at       = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	frontend = nft.Frontend{Addr: netip.MustParseAddr("10.96.0.10"), Protocol: nft.TCP, Port: 80}
	podRange = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
	podA     = netip.MustParseAddrPort("10.244.1.10:8080")
	remote   = netip.MustParseAddrPort("10.244.2.10:8080")
	client   = netip.MustParseAddr("198.51.100.10")
)

// kernel is what a table says about a Service, with edits.
func kernel(target string, edit func(*nft.Inspection)) nft.Inspection {
	k := nft.Inspection{Table: "fairway layout 2", Owned: true, Target: target, Service: "default/web", Pods: podRange}
	edit(&k)
	return k
}

func threeOfFour(k *nft.Inspection) {
	k.Slots = []nft.Slot{{Number: 0, Endpoint: podA, OnNode: true}, {Number: 1, Endpoint: remote}, {Number: 2}, {Number: 3, Endpoint: netip.MustParseAddrPort("10.244.3.10:8080")}}
}

func TestText(t *testing.T) {
	for name, a := range map[string]Answer{
		"no-table": {},
		"stranger": {Kernel: nft.Inspection{Table: "fairway layout 2"}},
		"wrong-port": {Kernel: nft.Inspection{Table: "fairway layout 2", ClusterIP: true, InServiceCIDR: true, Neighbours: map[nft.Frontend]string{
			{Addr: frontend.Addr, Protocol: nft.TCP, Port: 443}: "default/web", {Addr: frontend.Addr, Protocol: nft.UDP, Port: 53}: "",
		}}},
		"unallocated": {Kernel: nft.Inspection{Table: "fairway layout 2", InServiceCIDR: true}},
		"cluster-ip": {Kernel: kernel("internal-4", threeOfFour), Flows: []Flow{
			{Client: netip.AddrPortFrom(client, 40000), Endpoint: podA, Seen: netip.MustParseAddrPort("10.0.0.11:1234"), State: "ESTABLISHED", Expires: 24 * time.Hour},
			{Client: netip.MustParseAddrPort("10.244.1.11:40001"), Endpoint: remote, Seen: netip.MustParseAddrPort("10.244.1.11:40001"), State: "TIME_WAIT", Expires: time.Minute},
		}},
		"from-outside": {Question: Question{From: client}, Kernel: kernel("internal-4", threeOfFour)},
		"sticky": {Question: Question{From: podA.Addr()}, Kernel: kernel("internal-2-sticky-10800", func(k *nft.Inspection) {
			k.Affinity = 10800
			k.Slots = []nft.Slot{{Number: 0, Endpoint: podA, OnNode: true}, {Number: 1, Endpoint: remote}, {Number: 1<<30 - 1, Spare: true, Endpoint: podA, OnNode: true}, {Number: 5, Retired: true, Endpoint: remote}}
			k.Clients = []nft.Client{{Source: podA.Addr(), Slot: 5, Expires: 3 * time.Hour}}
		})},
		"external-local": {Kernel: kernel("external-local-2-1", func(k *nft.Inspection) {
			k.Policy = nft.ExternalLocal
			k.Slots = []nft.Slot{{Number: 0, Endpoint: podA, OnNode: true}, {Number: 1, Endpoint: remote}, {Number: 0, Local: true, Endpoint: podA, OnNode: true}}
		})},
		"external-local-without": {Kernel: kernel("external-local-1-0", func(k *nft.Inspection) {
			k.Policy = nft.ExternalLocal
			k.Slots = []nft.Slot{{Number: 0, Endpoint: remote}}
		})},
		"ranged": {Question: Question{From: client}, Kernel: kernel("ranged-external-1", func(k *nft.Inspection) {
			k.Policy, k.Ranged, k.Sources = nft.External, true, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
			k.Slots = []nft.Slot{{Number: 0, Endpoint: remote}}
		})},
		"refused": {Kernel: kernel("refuse", func(k *nft.Inspection) { k.Refused = true }), Flows: []Flow{
			{Client: netip.AddrPortFrom(client, 40000), Endpoint: netip.AddrPortFrom(frontend.Addr, 80), Seen: netip.AddrPortFrom(client, 40000), Expires: 30 * time.Second},
		}},
		"dropped": {Kernel: kernel("drop", func(*nft.Inspection) {}), FlowsErr: errors.New("operation not permitted")},
		"quarantined": {Kernel: kernel("internal-1", func(k *nft.Inspection) { k.Slots = []nft.Slot{{Endpoint: podA}} }),
			Refused: []nodeproxy.Refusal{{Service: "default/web", Family: "IPv4", Reason: "numerical result out of range", RetryAt: at.Add(90 * time.Second)}}},
		"stranger-quarantined": {Kernel: nft.Inspection{Table: "fairway layout 2"},
			Refused: []nodeproxy.Refusal{{Service: "default/bad", Family: "IPv4", Reason: "numerical result out of range"}}},
		"program-away": {Kernel: kernel("internal-1", func(k *nft.Inspection) { k.Slots = []nft.Slot{{Endpoint: podA}} }), RefusedErr: errors.New("connection refused")},
		"many":         {Kernel: kernel("internal-1", func(k *nft.Inspection) { k.Slots = []nft.Slot{{Endpoint: podA}} }), Flows: many(25)},
	} {
		t.Run(name, func(t *testing.T) {
			a.Frontend, a.At = frontend, at
			var got strings.Builder
			if err := a.Write(&got); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got.String(), want)
			}
		})
	}
}

func many(n int) []Flow {
	var out []Flow
	for i := range n {
		from := netip.AddrPortFrom(client, uint16(40000+i))
		out = append(out, Flow{Client: from, Endpoint: podA, Seen: from, Expires: time.Minute})
	}
	return out
}
