package cluster

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// The addresses of the one-machine world. A VPC 10.0.0.0/16 with a public /20
// per zone holds the hosts; the client is on the internet.
const (
	// FabricAddress is the cloud's router inside the VPC, and where its API and
	// DNS are expected.
	FabricAddress = "10.0.0.1"
	// ControlPlaneAddress is where the API server listens, on port 6443.
	ControlPlaneAddress = "10.0.0.10"
	// OutsideAddress is the client's, outside of the VPC.
	OutsideAddress = "198.51.100.10"
	// PodRange holds every node's Pod range.
	PodRange = "10.244.0.0/16"
	// ServiceRange is where ClusterIPs come from.
	ServiceRange = "10.96.0.0/16"
	// DNSAddress is the name server that Pods are given: the ClusterIP of a
	// Service kube-system/kube-dns, once somebody makes one.
	DNSAddress = "10.96.0.10"

	outsideRouter = "198.51.100.1"
	// hostDevice is what a host calls its only cable.
	hostDevice = "eth0"
	// The fabric's ends of the cables bear the names of the hosts: a packet
	// filter in the fabric knows by them which instance a packet comes from.
	controlPlanePort = "control-plane"
	outsidePort      = "client"
)

// network is the fabric with the hosts that are not nodes. No two hosts share a
// link: the fabric routes, and so sees, every packet between them.
type network struct {
	fabric, outside, main *sandbox.NetNS
}

func newNetwork() (*network, error) {
	n := &network{}
	if err := n.make(); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func (n *network) make() (err error) {
	if n.main, err = sandbox.Current(); err != nil {
		return err
	}
	if n.fabric, err = sandbox.NewNetNS("fabric"); err != nil {
		return err
	}
	if n.outside, err = sandbox.NewNetNS("client"); err != nil {
		return err
	}
	if err := forwarding(n.fabric); err != nil {
		return err
	}
	// The router's address lives also where no cable is yet.
	if err := n.fabric.AddAddress("lo", hostPrefix(netip.MustParseAddr(FabricAddress))); err != nil {
		return err
	}
	if err := n.attach(n.main, controlPlanePort, ControlPlaneAddress, FabricAddress); err != nil {
		return err
	}
	return n.attach(n.outside, outsidePort, OutsideAddress, outsideRouter)
}

// attach plugs a host into the fabric: everything it sends goes to the fabric,
// which sends it what is for its address and for the range behind it, if any.
func (n *network) attach(host *sandbox.NetNS, port, address, router string, behind ...netip.Prefix) error {
	self, err := netip.ParseAddr(address)
	if err != nil {
		return fmt.Errorf("address of %s: %w", port, err)
	}
	gateway := netip.MustParseAddr(router)
	routes := []sandbox.Route{{To: hostPrefix(self)}}
	for _, prefix := range behind {
		routes = append(routes, sandbox.Route{To: prefix, Via: self})
	}
	return sandbox.Connect(
		sandbox.End{NetNS: n.fabric, Device: port, Addresses: []netip.Prefix{hostPrefix(gateway)}, Routes: routes},
		sandbox.End{
			NetNS: host, Device: hostDevice, Addresses: []netip.Prefix{hostPrefix(self)},
			Routes: []sandbox.Route{{To: netip.PrefixFrom(gateway, 0).Masked(), Via: gateway}},
		},
	)
}

// forwarding makes a namespace a router. Devices made afterwards take the
// defaults over, so it comes before the first cable.
func forwarding(n *sandbox.NetNS) error {
	for _, setting := range [][2]string{
		{"net.ipv4.ip_forward", "1"},
		// Answers to translated packets may arrive where their destination
		// would not be reached through.
		{"net.ipv4.conf.all.rp_filter", "0"},
		{"net.ipv4.conf.default.rp_filter", "0"},
		// A packet sent back out of the device it came in on is normal here: a
		// node reaching itself through a load balancer.
		{"net.ipv4.conf.all.send_redirects", "0"},
		{"net.ipv4.conf.default.send_redirects", "0"},
	} {
		if err := n.Sysctl(setting[0], setting[1]); err != nil {
			return err
		}
	}
	return nil
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func (n *network) close() error {
	var errs []error
	if n.fabric != nil {
		// The main namespace stays: take our cable out of it.
		_ = n.fabric.DeleteDevice(controlPlanePort)
		errs = append(errs, n.fabric.Close())
	}
	for _, ns := range []*sandbox.NetNS{n.outside, n.main} {
		if ns != nil {
			errs = append(errs, ns.Close())
		}
	}
	return errors.Join(errs...)
}
