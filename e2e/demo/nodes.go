package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/fairway-lb/fairway/e2e/cluster"
	"github.com/fairway-lb/fairway/providers/fake/datapath"
)

// exchange adds a node and drains another under traffic, as an autoscaler that
// replaces a machine does, and counts requests and calls.
func (s *story) exchange(ctx context.Context) error {
	before, err := s.env.Cloud.Counts(ctx)
	if err != nil {
		return err
	}
	stop := s.traffic(ctx)
	err = s.join(ctx, cluster.DefaultNode(len(s.env.Nodes())+1))
	if err == nil {
		err = s.drain(ctx, s.env.Nodes()[0].NodeConfig)
	}
	result := stop()
	if err == nil {
		err = result.failed()
	}
	if err != nil {
		return err
	}
	after, err := s.env.Cloud.Counts(ctx)
	if err != nil {
		return err
	}
	s.say("\n%d requests meanwhile, none failed.", result.requests)
	for _, operation := range []string{"RegisterTargets", "DeregisterTargets"} {
		s.say("  %d × %s", after.Of(operation)-before.Of(operation), operation)
	}
	return nil
}

// join adds a node and waits until it carries traffic.
func (s *story) join(ctx context.Context, node cluster.NodeConfig) error {
	if err := s.env.Cloud.AddInstance(ctx, node); err != nil {
		return err
	}
	if _, err := s.env.AddNode(ctx, node); err != nil {
		return err
	}
	var first datapath.Flow
	if err := s.until(ctx, "traffic through the new node", func(ctx context.Context) error {
		through, err := s.through(ctx, node.Address)
		if err == nil && len(through) == 0 {
			err = errors.New("none yet")
		}
		if err == nil {
			first = through[0]
		}
		return err
	}); err != nil {
		return err
	}
	s.say("%s has joined, is a target, and carries the connection from %s.\n", node.Name, first.Client)
	return nil
}

// drain takes a node out of service as the Cluster Autoscaler does (a taint, then
// its Pods are evicted), and then the machine away.
func (s *story) drain(ctx context.Context, node cluster.NodeConfig) error {
	if err := s.kubectl(ctx, "", "", "taint", "node", node.Name, "ToBeDeletedByClusterAutoscaler=now:NoSchedule"); err != nil {
		return err
	}
	if err := s.kubectl(ctx, "", "", "drain", node.Name, "--ignore-daemonsets", "--force"); err != nil {
		return err
	}
	seen := map[netip.AddrPort]bool{}
	if err := s.until(ctx, "connections to go elsewhere", func(ctx context.Context) error {
		through, err := s.through(ctx, node.Address)
		fresh := 0
		for _, f := range through {
			if !seen[f.Client] {
				seen[f.Client] = true
				fresh++
			}
		}
		if err == nil && fresh > 0 {
			err = fmt.Errorf("%d new ones through %s", fresh, node.Name)
		}
		return err
	}); err != nil {
		return err
	}
	if err := s.kubectl(ctx, "", "", "delete", "node", node.Name); err != nil {
		return err
	}
	return errors.Join(s.env.RemoveNode(node.Name), s.env.Cloud.RemoveInstance(ctx, node))
}

// through returns the connections, ended a moment ago or open, that the load
// balancer sends to a node.
func (s *story) through(ctx context.Context, node netip.Addr) ([]datapath.Flow, error) {
	flows, err := s.env.Cloud.Flows(ctx)
	var through []datapath.Flow
	for _, f := range flows {
		if f.Target.Addr() == node {
			through = append(through, f)
		}
	}
	return through, err
}
