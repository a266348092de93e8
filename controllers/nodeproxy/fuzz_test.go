package nodeproxy

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// What is fuzzed here is made of bytes by choices: one byte each as long as there
// are bytes, so that a changed byte changes one thing of one object.

// choices are the numbers behind a rand.Rand: the bytes of an input and, when they
// are used up, the same numbers for every input.
type choices struct {
	input []byte
	rest  *rand.PCG
}

func (c *choices) Uint64() uint64 {
	if len(c.input) == 0 {
		return c.rest.Uint64()
	}
	b := c.input[0]
	c.input = c.input[1:]
	return uint64(b) * 0x0101010101010101 // any of its bits may be looked at
}

func choose(input []byte) (*rand.Rand, *choices) {
	c := &choices{input, rand.NewPCG(11, 12)}
	return rand.New(c), c
}

// fuzzSeedVariable repeats the inputs of a run that failed.
const fuzzSeedVariable = "FAIRWAY_FUZZ_SEED"

// addInputs gives a fuzz target the inputs that are tried at every run: some that
// are always the same, and some that never were before.
func addInputs(f *testing.F, always, fresh, longest int) {
	f.Helper()
	f.Add([]byte(nil))
	add := func(seed uint64, n int) {
		r := rand.New(rand.NewPCG(seed, 0))
		for range n {
			input := make([]byte, 1+r.IntN(longest))
			for i := range input {
				input[i] = byte(r.Uint32())
			}
			f.Add(input)
		}
	}
	add(0, always)
	if flag.Lookup("test.fuzz").Value.String() != "" {
		return // go test -fuzz finds its own
	}
	seed := rand.Uint64()
	if text := os.Getenv(fuzzSeedVariable); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			f.Fatalf("%s: %v", fuzzSeedVariable, err)
		}
	}
	f.Logf("%s=%d repeats the inputs from seed#%d on", fuzzSeedVariable, seed, 1+always)
	add(seed, fresh)
}

// FuzzDesired has arbitrary objects come, change and go. Whatever they are, what
// becomes of them is decided without a panic, twice alike, and holds together.
func FuzzDesired(f *testing.F) {
	addInputs(f, 100, 3000, 1000)
	f.Fuzz(func(t *testing.T, input []byte) {
		r, rest := choose(input)
		tracker := newTracker("node")
		for more := true; more; more = len(rest.input) > 0 {
			for _, o := range oddObjects(r) {
				handOver(t, tracker, o, r.IntN(5) == 0)
			}
		}
		changes, again := tracker.take(true), tracker.take(true)
		for name := range again.services {
			if !reflect.DeepEqual(changes.slices[name], again.slices[name]) {
				t.Errorf("%s has the slices\n%+v\nand then\n%+v", name, changes.slices[name], again.slices[name])
			}
		}
		for _, ipv6 := range []bool{false, true} {
			v := view{ipv6: ipv6, zone: pick(r, []string{"", "zone-a"}), nodeAddresses: parseAddrs(some(r, 3, oddAddresses)),
				nodePortAddresses: parseAddrs(some(r, 3, oddAddresses)), healthPort: pick(r, []uint16{0, 10256}), loopback: r.IntN(2) == 0}
			for name, s := range changes.services {
				if s == nil {
					continue
				}
				got := desired(*s, changes.slices[name], v)
				if again := desired(*s, changes.slices[name], v); !reflect.DeepEqual(got, again) {
					t.Errorf("%s: decided as\n%+v\nand then as\n%+v", name, got, again)
				}
				expectSound(t, name, got, v)
			}
		}
	})
}

// handOver adds, changes or removes an object.
func handOver(t *testing.T, tr *tracker, object any, remove bool) {
	t.Helper()
	switch o := object.(type) {
	case *corev1.Service:
		if remove {
			must(t, tr.services.Delete(o))
		} else {
			must(t, tr.services.Update(o))
		}
	case *discoveryv1.EndpointSlice:
		if remove {
			must(t, tr.slices.Delete(o))
		} else {
			must(t, tr.slices.Update(o))
		}
	}
}

// expectSound holds what was decided to what the packet filter relies on.
func expectSound(t *testing.T, name string, f forwarding, v view) {
	t.Helper()
	for at, b := range f.service.Frontends {
		if v.loopback && at.Addr == loopbackAddress(v.ipv6) && at.Protocol != nft.TCP && len(b.Cluster) == 0 {
			continue // refused there
		}
		if at.Addr.Is6() != v.ipv6 || at.Port == 0 || at.Addr.IsLoopback() || at.Addr.IsMulticast() || at.Addr.IsUnspecified() || at.Addr.Zone() != "" {
			t.Errorf("%s is answered at %v", name, at)
		}
		for _, e := range slices.Concat(b.Cluster, b.Local) {
			if e.Addr().Is6() != v.ipv6 || e.Port() == 0 {
				t.Errorf("%s at %v has the endpoint %v", name, at, e)
			}
		}
		for _, p := range b.Sources {
			if p.Addr().Is6() != v.ipv6 || p != p.Masked() {
				t.Errorf("%s at %v is for %v", name, at, p)
			}
		}
		for _, e := range b.Local {
			if !slices.Contains(f.service.LocalEndpoints, e.Addr()) {
				t.Errorf("%s at %v has the endpoint %v here, which is not among %v", name, at, e, f.service.LocalEndpoints)
			}
		}
	}
}

// FuzzKernel hands arbitrary objects to a node. The kernel refuses nothing of
// what they become, and whatever they claim, the Service that was there before
// them answers, in both families and over TCP and UDP.
func FuzzKernel(f *testing.F) {
	addInputs(f, 8, 24, 6000)
	f.Fuzz(func(t *testing.T, input []byte) {
		w := newWorld(t)
		w.configure = func(c *Config) { c.HealthPort = 10256 }
		w.start(t)
		// What is no ClusterIP by these is nobody's to claim as one.
		must(t, w.proxy.tracker.ranges.Replace([]any{&networkingv1.ServiceCIDR{Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16", "fd00:96::/64"}}}}, ""))
		steady := append(newTestSlices("web", pod("a")), newTestService("web"))
		w.replace(t, steady...)
		load := w.load(t, tcpUDP, "a")
		r, rest := choose(input)
		for round := 0; round == 0 || len(rest.input) > 0; round++ {
			if objects := oddObjects(r); round%5 == 4 {
				w.replace(t, append(objects, steady...)...)
			} else {
				w.update(t, objects...)
			}
			if refused := w.proxy.Refused(); len(refused) > 0 {
				load.stop()
				t.Fatalf("round %d: the kernel refuses %+v", round, refused)
			}
		}
		load.more(t)
		load.stop()
		w.replace(t, steady...)
		for _, name := range families {
			if n := w.value(t, fmt.Sprintf("kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=%q}", name)); n != 0 {
				t.Errorf("%v rounds of programming %s failed", n, name)
			}
		}
		w.list(t)
	})
}
