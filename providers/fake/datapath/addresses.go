package datapath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Load balancer addresses are on the loopback device, with a label that tells
// them from everybody else's, also after a crash.
const (
	addressDevice = "lo"
	addressLabel  = "lo:fairway-lb"
)

// setAddresses makes the loopback device carry the data path's addresses want
// (sorted), and no other that carries its label. An address that is there without
// the label is somebody else's: it is an error, and stays.
func setAddresses(routes *netlink.Handle, want []netip.Addr) error {
	link, err := routes.LinkByName(addressDevice)
	if err != nil {
		return fmt.Errorf("finding device %s: %w", addressDevice, err)
	}
	present, err := routes.AddrList(link, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("listing the addresses of %s: %w", addressDevice, err)
	}
	var have []netip.Addr
	var errs []error
	for _, a := range present {
		addr, _ := netip.AddrFromSlice(a.IP.To4())
		if a.Label != addressLabel {
			continue
		}
		if _, wanted := slices.BinarySearchFunc(want, addr, netip.Addr.Compare); wanted {
			have = append(have, addr)
			continue
		}
		if err := routes.AddrDel(link, labelled(addr)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			errs = append(errs, fmt.Errorf("removing address %v: %w", addr, err))
		}
	}
	for _, addr := range want {
		if slices.Contains(have, addr) {
			continue
		}
		if err := routes.AddrAdd(link, labelled(addr)); err != nil {
			errs = append(errs, fmt.Errorf("adding load balancer address %v: %w", addr, err))
		}
	}
	return errors.Join(errs...)
}

func labelled(a netip.Addr) *netlink.Addr {
	mask := net.CIDRMask(a.BitLen(), a.BitLen())
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: mask}, Label: addressLabel}
}
