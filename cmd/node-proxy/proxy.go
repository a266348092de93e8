package main

import (
	"net/netip"

	"github.com/fairway-lb/fairway/controllers/nodeproxy"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/config"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// proxy returns what a proxy of this configuration is told.
func (o *options) proxy() (nodeproxy.Config, error) {
	c := nodeproxy.Config{
		NodeName:       o.NodeName,
		MasqueradeAll:  o.MasqueradeAll,
		MasqueradeMark: 1 << o.MasqueradeBit,
		NATPriorities:  nft.Priorities{Destination: o.NATPriorities.Destination, Source: o.NATPriorities.Source},
		AffinitySize:   o.AffinitySize,
		SharedTable:    o.SharedTable,
		MinSyncPeriod:  o.MinSyncPeriod.Duration,
	}
	switch o.DetectLocal.Mode {
	case config.LocalModeNodeCIDR:
		c.DetectLocal = nodeproxy.DetectByNodeCIDR
	case config.LocalModeBridgeInterface:
		c.DetectLocal, c.PodInterface = nodeproxy.DetectByBridge, o.DetectLocal.BridgeInterface
	case config.LocalModeInterfaceNamePrefix:
		c.DetectLocal, c.PodInterface = nodeproxy.DetectByInterfacePrefix, o.DetectLocal.InterfaceNamePrefix
	}
	var err error
	if c.PodCIDRs, err = o.DetectLocal.Prefixes(); err != nil {
		return c, err
	}
	if c.PrimaryNodePorts, c.NodePortAddresses, err = o.NodePorts(); err != nil {
		return c, err
	}
	if at, err := netip.ParseAddrPort(o.HealthzBindAddress); err == nil {
		c.HealthAddress, c.HealthPort = at.Addr(), at.Port()
	}
	switch o.IPv6 {
	case "yes":
		c.IPv6 = true
	case "auto": // by trying, as a kernel may have IPv6 and no packet filter for it
		table, err := nft.Open(nft.Config{IPv6: true, MasqueradeMark: c.MasqueradeMark})
		if c.IPv6 = err == nil; c.IPv6 {
			_ = table.Close()
		}
	}
	return c, nil
}
