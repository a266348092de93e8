package main

import (
	"net/netip"
	"testing"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/config"
)

// TestHealthAddressReachesTheProxy: it must know where its health is told, to let
// load balancers' probes go there or not.
func TestHealthAddressReachesTheProxy(t *testing.T) {
	for _, at := range []string{"0.0.0.0:10256", "[::]:10257", "127.0.0.1:10256", "10.0.0.11:1"} {
		o := options{Config: config.Default()}
		o.IPv6, o.HealthzBindAddress = "no", at
		p, err := o.proxy()
		if got := netip.AddrPortFrom(p.HealthAddress, p.HealthPort).String(); err != nil || got != at {
			t.Errorf("/healthz at %s: the proxy is told %s (%v)", at, got, err)
		}
	}
}
