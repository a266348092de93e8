package lb

import (
	"net/netip"
	"strings"
	"testing"
)

func TestInventoryMatches(t *testing.T) {
	machine := func(id, ip, name string) Instance {
		return Instance{ID: id, Addresses: []InstanceAddress{{InternalIP, ip}, {ExternalIP, "203.0.113.9"}, {InternalDNS, name}, {Hostname, name}}}
	}
	v := NewInventory([]Instance{
		machine("a", "10.0.0.1", "ip-10-0-0-1.eu-west-1.compute.internal"),
		machine("b", "10.0.0.2", "ip-10-0-0-2.eu-west-1.compute.internal"),
		machine("c", "fd00::3", "twin.one.example"),
		machine("d", "10.0.0.4", "twin.two.example"),
	})
	cases := []struct {
		name, addresses, names, want string
	}{
		{"by address", "10.0.0.2", "", "b"},
		{"by IPv6 address", "fd00::3", "", "c"},
		{"by an IPv4 address in IPv6 form", "::ffff:10.0.0.1", "", "a"},
		{"the address comes before the name", "10.0.0.2", "ip-10-0-0-1.eu-west-1.compute.internal", "b"},
		{"by name when no address fits", "192.0.2.1", "ip-10-0-0-1.eu-west-1.compute.internal", "a"},
		{"by name without its domain, whatever its case", "", "IP-10-0-0-2", "b"},
		{"by name with a final dot", "", "twin.two.example.", "d"},
		{"never by an external address", "203.0.113.9", "", ""},
		{"two addresses of one machine are one match", "10.0.0.1", "ip-10-0-0-1", "a"},
		{"two machines by address", "10.0.0.1 10.0.0.4", "", "a d"},
		{"two machines by name", "", "twin", "c d"},
		{"nothing to go by", "", "", ""},
		{"nothing fits", "10.9.9.9", "elsewhere", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var addresses []netip.Addr
			for _, a := range strings.Fields(c.addresses) {
				addresses = append(addresses, netip.MustParseAddr(a))
			}
			var got []string
			for _, i := range v.Match(addresses, strings.Fields(c.names)) {
				got = append(got, i.ID)
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("matches %v, want %q", got, c.want)
			}
		})
	}
	if i, ok := v.Get("d"); !ok || i.ID != "d" {
		t.Errorf("Get(d) = %v, %v", i, ok)
	}
	if _, ok := v.Get("10.0.0.4"); ok || v.Len() != 4 {
		t.Errorf("an address is no ID; Len %d", v.Len())
	}
}
