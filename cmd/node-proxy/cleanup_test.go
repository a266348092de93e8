package main

import (
	"net/netip"
	"testing"

	"github.com/fairway-lb/fairway/controllers/nodeproxy"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// TestCleanup removes what an earlier run left, and nothing of one that runs.
func TestCleanup(t *testing.T) {
	host, err := sandbox.NewNetNS("host")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	clean := func() error {
		return host.Do(func() error {
			c := newCommand()
			c.SetArgs([]string{"--cleanup"})
			return c.Execute()
		})
	}
	var table *nft.Table
	err = host.Do(func() error {
		if table, err = nft.Open(nft.Config{MasqueradeMark: nodeproxy.MasqueradeMark}); err != nil {
			return err
		}
		_, err = table.Load(map[string]*nft.Service{"ns/web": {ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if table.Owned() {
		if err := clean(); err == nil {
			t.Error("removed the table of a proxy that runs")
		}
		if err := table.Verify(); err != nil {
			t.Errorf("after a refused clean-up: %v", err)
		}
	}
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second has nothing to do
		if err := clean(); err != nil {
			t.Error(err)
		}
	}
	err = host.Do(func() error {
		table, err = nft.Open(nft.Config{MasqueradeMark: nodeproxy.MasqueradeMark})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	if err := table.Verify(); err == nil {
		t.Error("the table is still there")
	}
}
