package sandbox

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// End is one end of a cable between two network namespaces.
type End struct {
	NetNS *NetNS
	// Device is the name of the network device at this end, at most 15 bytes.
	Device string
	// Addresses are the device's own, with the length of the on-link prefix:
	// /32 for a host that reaches everybody through a router.
	Addresses []netip.Prefix
	// Routes are those that leave through the device.
	Routes []Route
}

// Route sends packets for some addresses out of a device.
type Route struct {
	// To are the addresses meant, 0.0.0.0/0 for all of IPv4.
	To netip.Prefix
	// Via is the router on the other side, which need not be within an on-link
	// prefix. The zero value: the addresses are themselves on the other side.
	Via netip.Addr
	// Source is the address that this host's own packets get. The zero value:
	// the kernel chooses.
	Source netip.Addr
}

// Connect makes a cable, a pair of veth devices, and brings both ends up with
// their addresses and routes. On an error it leaves none of it behind.
func Connect(a, b End) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.Device
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: b.Device, PeerNamespace: netlink.NsFd(b.NetNS.file.Fd())}
	if err := a.NetNS.handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("connecting %s in %s with %s in %s: %w", a.Device, a.NetNS.name, b.Device, b.NetNS.name, err)
	}
	// Both ends first: a route needs a carrier, which takes two devices up.
	for _, step := range []func() error{a.addressed, b.addressed, a.routed, b.routed} {
		if err := step(); err != nil {
			return errors.Join(err, a.NetNS.DeleteDevice(a.Device))
		}
	}
	return nil
}

func (e End) addressed() error {
	for _, address := range e.Addresses {
		if err := e.NetNS.AddAddress(e.Device, address); err != nil {
			return err
		}
	}
	return e.NetNS.up(e.Device)
}

func (e End) routed() error {
	for _, route := range e.Routes {
		if err := e.NetNS.AddRoute(e.Device, route); err != nil {
			return err
		}
	}
	return nil
}

// up brings a device up.
func (n *NetNS) up(device string) error {
	return n.onDevice(device, "bringing up", n.handle.LinkSetUp)
}

// AddAddress gives a device one more address, usable at once. Adding one that
// it has is no error.
func (n *NetNS) AddAddress(device string, address netip.Prefix) error {
	return n.onDevice(device, fmt.Sprintf("adding address %v to", address), func(link netlink.Link) error {
		// No duplicate address detection: it would keep an IPv6 address
		// unusable for a second.
		return n.handle.AddrReplace(link, &netlink.Addr{IPNet: ipNet(address), Flags: unix.IFA_F_NODAD})
	})
}

// RemoveAddress takes an address from a device. It fails if it is not there.
func (n *NetNS) RemoveAddress(device string, address netip.Prefix) error {
	return n.onDevice(device, fmt.Sprintf("removing address %v from", address), func(link netlink.Link) error {
		return n.handle.AddrDel(link, &netlink.Addr{IPNet: ipNet(address)})
	})
}

// AddRoute adds a route that leaves through a device, or replaces the one to
// the same addresses.
func (n *NetNS) AddRoute(device string, route Route) error {
	return n.onDevice(device, fmt.Sprintf("adding route to %v through", route.To), func(link netlink.Link) error {
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(route.To.Masked()), Scope: netlink.SCOPE_LINK}
		if route.Via.IsValid() {
			r.Gw, r.Scope, r.Flags = route.Via.AsSlice(), netlink.SCOPE_UNIVERSE, int(netlink.FLAG_ONLINK)
		}
		if route.Source.IsValid() {
			r.Src = route.Source.AsSlice()
		}
		return n.handle.RouteReplace(r)
	})
}

// DeleteDevice removes a device and, if it is one end of a cable, the other end
// with it. It fails if there is none of that name.
func (n *NetNS) DeleteDevice(device string) error {
	return n.onDevice(device, "deleting", n.handle.LinkDel)
}

func (n *NetNS) onDevice(device, what string, f func(netlink.Link) error) error {
	link, err := n.handle.LinkByName(device)
	if err == nil {
		err = f(link)
	}
	if err != nil {
		return fmt.Errorf("%s device %s in %s: %w", what, device, n.name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
