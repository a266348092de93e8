package aws

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairway-lb/fairway/providers/fake"
)

// TestInstanceIsDescribedByItsState: what an instance has no more is neither
// described nor found by a filter.
func TestInstanceIsDescribedByItsState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, atOnce, func(w *World) {
			w.Timing.InstanceLinger = fake.Duration(time.Hour)
			w.Instances[0].PublicIP = netip.MustParseAddr("203.0.113.20")
			w.Instances[0].IPv6 = []netip.Addr{netip.MustParseAddr("2001:db8::11")}
		})
		inVPC := func() []string {
			return c.must("DescribeInstances", "Filter.1.Name=vpc-id", "Filter.1.Value.1="+vpcID).texts("instanceId")
		}
		public := func() string { return c.must("DescribeInstances", "InstanceId.1="+node1).text("ipAddress") }
		set := func(state InstanceState) {
			t.Helper()
			if err := c.SetInstanceState(node1, state); err != nil {
				t.Fatal(err)
			}
		}
		r := c.must("DescribeInstances", "InstanceId.1="+node1)
		for element, want := range map[string]string{"dnsName": "ec2-203-0-113-20.eu-west-1.compute.amazonaws.com",
			"privateDnsName": "ip-10-0-0-11.eu-west-1.compute.internal", "ipv6Address": "2001:db8::11"} {
			if !slices.Contains(r.texts(element), want) {
				t.Errorf("%s is %q, want %q", element, r.texts(element), want)
			}
		}
		set(Stopping)
		if public() != "203.0.113.20" {
			t.Error("the public address went before the instance had stopped")
		}
		set(Stopped)
		if public() != "" || !slices.Contains(inVPC(), node1) {
			t.Errorf("stopped: public address %q, in its VPC %v", public(), inVPC())
		}
		set(Starting)
		set(Running)
		if now := public(); now == "" || now == "203.0.113.20" {
			t.Errorf("the public address after a stop is %q, want another", now)
		}
		set(ShuttingDown)
		if err := c.SetInstanceState(node1, Running); err == nil {
			t.Error("an instance that shuts down runs again")
		}
		if !slices.Contains(inVPC(), node1) {
			t.Error("it left its VPC before it was terminated")
		}
		set(Terminated)
		if slices.Contains(inVPC(), node1) {
			t.Error("a terminated instance is still in its VPC")
		}
		if r := c.must("DescribeInstances"); !slices.Contains(r.texts("instanceId"), node1) {
			t.Error("a terminated instance is not listed any more")
		}
		time.Sleep(time.Hour)
		c.wants("InvalidInstanceID.NotFound", "DescribeInstances", "InstanceId.1="+node1)
	})
}

func TestInstancesComeInPages(t *testing.T) {
	c := newClient(t, atOnce)
	for n := range 9 {
		if err := c.AddInstance(Instance{ID: fmt.Sprintf("i-0b%015d", n), Subnet: subnetA, PrivateIP: netip.AddrFrom4([4]byte{10, 0, 0, byte(50 + n)})}); err != nil {
			t.Fatal(err)
		}
	}
	var all []string
	pages := []string{"MaxResults=5"}
	for calls := 1; ; calls++ {
		r := c.must("DescribeInstances", pages...)
		all = append(all, r.texts("instanceId")...)
		if r.text("nextToken") == "" {
			if calls != 3 || len(all) != 12 || !slices.IsSorted(all) {
				t.Errorf("%d pages of %s", calls, strings.Join(all, " "))
			}
			return
		}
		pages = []string{"MaxResults=5", "NextToken=" + r.text("nextToken")}
	}
}

func TestInstanceMustFitTheAccount(t *testing.T) {
	c := newClient(t, atOnce)
	for name, edit := range map[string]func(*Instance){
		"a public address from elsewhere": func(i *Instance) { i.PublicIP = netip.MustParseAddr("198.51.100.1") },
		"a public address that is taken":  func(i *Instance) { i.PublicIP = netip.MustParseAddr("203.0.113.200") },
		"an IPv4 address as IPv6":         func(i *Instance) { i.IPv6 = []netip.Addr{netip.MustParseAddr("10.0.0.9")} },
	} {
		i := Instance{ID: "i-0c000000000000001", Subnet: subnetA, PrivateIP: netip.MustParseAddr("10.0.0.60")}
		edit(&i)
		if err := c.AddInstance(i); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
