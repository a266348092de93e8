package aws

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairway-lb/fairway/providers/fake"
	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

// withVPC gives the provider a configured network, so that it can list.
func (b *bench) withVPC() { b.restart("demo-uid", func(c *Config) { c.VPC = testVPC }) }

// describes returns how often instances were read since the last reset.
func (b *bench) describes() int { return b.account.Calls().Counts().Of("DescribeInstances") }

func (b *bench) setState(n int, state fakeaws.InstanceState) {
	b.Helper()
	if err := b.account.SetInstanceState(instanceOf(n), state); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) list(maxAge time.Duration) *lb.Inventory {
	b.Helper()
	v, err := b.provider.ListInstances(b.Context(), maxAge)
	if err != nil {
		b.Fatal(err)
	}
	return v
}

// TestInstanceAsTheStockControllerGivesIt: a node looks the same under both.
func TestInstanceAsTheStockControllerGivesIt(t *testing.T) {
	simulate(t, func(b *bench) {
		b.withVPC()
		got, ok := b.list(0).Get(instanceOf(1))
		if !ok {
			b.Fatal("it is not listed")
		}
		const name = "ip-10-0-0-11.eu-west-1.compute.internal"
		want := lb.Instance{
			ID: instanceOf(1), ProviderID: "aws:///eu-west-1a/" + instanceOf(1), State: lb.InstanceRunning,
			Type: "m7i.large", Zone: "eu-west-1a", Region: testRegion,
			Addresses: []lb.InstanceAddress{
				{Type: lb.InternalIP, Address: "10.0.0.11"}, {Type: lb.InternalIP, Address: "2001:db8::11"},
				{Type: lb.ExternalIP, Address: "203.0.113.20"},
				{Type: lb.InternalDNS, Address: name}, {Type: lb.Hostname, Address: name},
				{Type: lb.ExternalDNS, Address: "ec2-203-0-113-20.eu-west-1.compute.amazonaws.com"},
			},
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			b.Errorf("got  %+v\nwant %+v", got, want)
		}
		byID, err := b.provider.GetInstance(b.Context(), instanceOf(1))
		if err != nil || fmt.Sprint(byID) != fmt.Sprint(want) {
			b.Errorf("by ID: %+v, error %v", byID, err)
		}
	}, func(w *fakeaws.World) {
		w.Instances[0].PublicIP = netip.MustParseAddr("203.0.113.20")
		w.Instances[0].IPv6 = []netip.Addr{netip.MustParseAddr("2001:db8::11"), netip.MustParseAddr("2001:db8::12")}
	})
}

// TestInstanceStates: what nodes are judged by.
func TestInstanceStates(t *testing.T) {
	simulate(t, func(b *bench) {
		b.withVPC()
		for _, c := range []struct {
			state fakeaws.InstanceState
			want  lb.InstanceState
		}{
			{fakeaws.Starting, lb.InstanceRunning}, {fakeaws.Running, lb.InstanceRunning}, {fakeaws.Stopping, lb.InstanceRunning},
			{fakeaws.Stopped, lb.InstanceStopped}, {fakeaws.ShuttingDown, lb.InstanceRunning}, {fakeaws.Terminated, lb.InstanceTerminated},
		} {
			b.setState(1, c.state)
			got, err := b.provider.GetInstance(b.Context(), instanceOf(1))
			if err != nil || got.State != c.want {
				b.Errorf("%s by ID: %q, error %v; want %q", c.state, got.State, err, c.want)
			}
			listed, ok := b.list(0).Get(instanceOf(1))
			if ok != (c.want != lb.InstanceTerminated) || listed.State != c.want && ok {
				b.Errorf("%s listed: %v as %q", c.state, ok, listed.State)
			}
		}
		if err := b.account.RemoveInstance(instanceOf(1)); err != nil {
			b.Fatal(err)
		}
		if _, err := b.provider.GetInstance(b.Context(), instanceOf(1)); lb.KindOf(err) != lb.NotFound {
			b.Errorf("gone: %v, want NotFound", err)
		}
	})
}

// TestOneListServesManyNodes: 300 nodes that are looked for at the same time cost
// one call, and in the next moment none.
func TestOneListServesManyNodes(t *testing.T) {
	const nodes = 300
	simulate(t, func(b *bench) {
		b.withVPC()
		sweep := func(maxAge time.Duration) int {
			b.account.Calls().Reset()
			var all sync.WaitGroup
			for n := range nodes {
				all.Go(func() {
					v, err := b.provider.ListInstances(b.Context(), maxAge)
					if err != nil {
						b.Error(err)
					} else if _, ok := v.Get(fmt.Sprintf("i-0b%015d", n)); !ok {
						b.Errorf("instance %d is not listed", n)
					}
				})
			}
			all.Wait()
			return b.describes()
		}
		if n := sweep(time.Minute); n != 1 {
			b.Errorf("the first sweep took %d calls, want 1", n)
		}
		time.Sleep(59 * time.Second)
		if n := sweep(time.Minute); n != 0 {
			b.Errorf("a sweep within the age took %d calls, want none", n)
		}
		time.Sleep(2 * time.Second)
		if n := sweep(time.Minute); n != 1 {
			b.Errorf("a sweep after that took %d calls, want 1", n)
		}
	}, func(w *fakeaws.World) {
		w.Timing.Latency = fake.Duration(200 * time.Millisecond)
		for n := range nodes {
			w.Instances = append(w.Instances, fakeaws.Instance{
				ID: fmt.Sprintf("i-0b%015d", n), Subnet: fmt.Sprintf("subnet-0%015da", 0),
				PrivateIP: netip.AddrFrom4([4]byte{10, 0, byte(4 + n/200), byte(1 + n%200)}), SecurityGroups: []string{testNodes},
			})
		}
	})
}

// TestSlowListServesAllWhoWaited: who comes while a list is under way that may be
// too old for him waits for one more, and shares it.
func TestSlowListServesAllWhoWaited(t *testing.T) {
	simulate(t, func(b *bench) {
		b.withVPC()
		var all sync.WaitGroup
		for n := range 50 {
			all.Go(func() {
				time.Sleep(time.Duration(n) * 100 * time.Millisecond)
				if _, err := b.provider.ListInstances(b.Context(), time.Second); err != nil {
					b.Error(err)
				}
			})
		}
		all.Wait()
		if n := b.describes(); n != 2 {
			b.Errorf("%d calls, want 2", n)
		}
	}, func(w *fakeaws.World) { w.Timing.Latency = fake.Duration(10 * time.Second) })
}

// TestListIsWholeOrAnError: a page that fails fails the list, and the failure
// answers for those who ask at the same time; it is not believed for long.
func TestListIsWholeOrAnError(t *testing.T) {
	simulate(t, func(b *bench) {
		b.withVPC()
		if n := b.list(0).Len(); n != 1205 {
			b.Fatalf("%d instances listed, want 1205", n)
		}
		if n := b.describes(); n != 2 {
			b.Errorf("%d calls for two pages", n)
		}
		// The first page is answered, the second is not.
		b.faults(fake.Fault{Operation: "DescribeInstances", Kind: fake.FaultError, Code: "UnauthorizedOperation", Status: 403, Nth: 2})
		b.account.Calls().Reset()
		for range 100 {
			if v, err := b.provider.ListInstances(b.Context(), 0); v != nil || lb.KindOf(err) != lb.Denied {
				b.Fatalf("half a list: %v, error %v; want Denied", v != nil, err)
			}
		}
		if n := b.describes(); n != 2 {
			b.Errorf("100 askers cost %d calls, want 2", n)
		}
		time.Sleep(refusalTTL)
		if n := b.list(0).Len(); n != 1205 {
			b.Errorf("%d instances listed after the failure", n)
		}
	}, func(w *fakeaws.World) {
		for n := range 1200 {
			w.Instances = append(w.Instances, fakeaws.Instance{ID: fmt.Sprintf("i-0b%015d", n), Subnet: fmt.Sprintf("subnet-0%015da", 0),
				PrivateIP: netip.AddrFrom4([4]byte{10, 0, byte(4 + n/200), byte(1 + n%200)}), SecurityGroups: []string{testNodes}})
		}
	})
}

func (b *bench) faults(faults ...fake.Fault) {
	b.Helper()
	if err := b.account.Faults().Set(faults); err != nil {
		b.Fatal(err)
	}
}

// TestWhoeverGivesUpFailsNobodyElse: the list of one whose context ends is made
// again for the next.
func TestWhoeverGivesUpFailsNobodyElse(t *testing.T) {
	simulate(t, func(b *bench) {
		b.withVPC()
		ctx, cancel := context.WithTimeout(b.Context(), 100*time.Millisecond)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := b.provider.ListInstances(ctx, 0); lb.KindOf(err) != lb.Unavailable {
				b.Errorf("who gave up got %v", err)
			}
		})
		synctest.Wait()
		all.Go(func() {
			if _, err := b.provider.ListInstances(b.Context(), 0); err != nil {
				b.Errorf("who waited got %v", err)
			}
		})
		all.Wait()
	}, func(w *fakeaws.World) { w.Timing.Latency = fake.Duration(time.Second) })
}

// TestNetworkIsLearnedFromAnInstance: without a configured VPC nothing is listed,
// for the same address may be another machine's in another network, until one
// node's instance tells which network it is.
func TestNetworkIsLearnedFromAnInstance(t *testing.T) {
	simulate(t, func(b *bench) {
		if _, err := b.provider.ListInstances(b.Context(), 0); lb.KindOf(err) != lb.Pending || !strings.Contains(err.Error(), "set vpc") {
			b.Errorf("got %v, want Pending and what to do", err)
		}
		if n := b.describes(); n != 0 {
			b.Errorf("%d instances were read", n)
		}
		if _, err := b.provider.GetInstance(b.Context(), instanceOf(1)); err != nil {
			b.Fatal(err)
		}
		if n := b.list(0).Len(); n != 5 {
			b.Errorf("%d instances, want 5", n)
		}
	})
}

func TestProviderIDsOfOthersAreForeign(t *testing.T) {
	simulate(t, func(b *bench) {
		for providerID, want := range map[string]string{
			"aws:///eu-west-1a/i-0123456789abcdef0":       "i-0123456789abcdef0",
			"aws:////i-0123456789abcdef0":                 "i-0123456789abcdef0",
			"aws:///i-0123456789abcdef0":                  "i-0123456789abcdef0",
			"aws:///eu-west-1-lhr-1a/i-01234567":          "i-01234567",
			"aws:///eu-central-1a/i-0123456789abcdef0":    "",
			"aws:///eu-west-1a/fargate-ip-10-0-0-9":       "",
			"eks-hybrid:///eu-west-1/demo/mi-0123456789a": "",
			"azure:///subscriptions/s/vm":                 "",
			"gce://project/europe-west1-b/node":           "",
			"kind://docker/demo/node":                     "",
			"":                                            "",
		} {
			if id, ok := b.provider.InstanceID(providerID); id != want && ok || ok != (want != "") {
				b.Errorf("%q: %q, %v; want %q", providerID, id, ok, want)
			}
		}
	})
}

// TestNodeCostsTheLoadBalancersNoDescribe: where the node controllers have seen a
// node, its load balancers ask nothing more of EC2, also when it is in several
// groups.
func TestNodeCostsTheLoadBalancersNoDescribe(t *testing.T) {
	const other = "sg-0dddddddddddddddd"
	simulate(t, func(b *bench) {
		b.engine = plan.NewEngine(b.provider, plan.Options{Trust: time.Hour})
		s := service()
		b.reconcile(s)
		time.Sleep(factsTTL / 2)
		b.list(time.Minute) // as the node controllers do at least that often
		time.Sleep(factsTTL / 2)
		b.list(time.Minute)
		b.account.Calls().Reset()
		s.Targets = append(s.Targets, node(4))
		b.reconcile(s)
		if counts := b.account.Calls().Counts(); counts.Of("DescribeInstances")+counts.Of("DescribeSecurityGroups") > 0 || counts.Writes() != 1 {
			b.Errorf("a new node costs\n%s", counts)
		}
	}, func(w *fakeaws.World) {
		w.SecurityGroups[0].Tags = map[string]string{"kubernetes.io/cluster/demo": "owned"}
		w.SecurityGroups = append(w.SecurityGroups, fakeaws.SecurityGroup{ID: other, Name: "other"})
		for n := range w.Instances {
			w.Instances[n].SecurityGroups = []string{testNodes, other}
		}
	})
}
