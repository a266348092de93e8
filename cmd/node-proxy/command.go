package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"k8s.io/component-base/version"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/controllers/nodeproxy"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/config"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/health"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/metrics"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/takeover"
)

func newCommand() *cobra.Command {
	o := options{Config: config.Default()}
	c := &cobra.Command{
		Use:   "node-proxy",
		Short: "Carry packets from Services to Pods on this node",
		Long: `Carry packets from Services to Pods on this node, in place of kube-proxy.

node-proxy watches Services, EndpointSlices and its own Node and keeps one
nftables table, named "fairway", per address family. It needs the capability
NET_ADMIN in the node's network namespace. It runs no other program.

When it stops, the table stays and goes on forwarding; the next start takes it
over and changes what differs. "node-proxy --cleanup" removes it.`,
		Example: `  # on a node, as a program
  node-proxy --kubeconfig /etc/fairway/kubeconfig --cluster-cidr 10.244.0.0/16

  # in a Pod, with its service account; the API server by address, as nobody
  # has programmed the "kubernetes" Service yet
  node-proxy --server 10.0.0.10:6443 --cluster-cidr 10.244.0.0/16

  # with the file kube-proxy ran with, in its place
  node-proxy --config /var/lib/kube-proxy/config.conf --takeover`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version.Get().GitVersion,
		RunE:          func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd.Flags()) },
	}
	c.CompletionOptions.DisableDefaultCmd = true
	c.Flags().SortFlags = false
	c.Flags().AddFlagSet(newFlags(&o))
	c.AddCommand(newExplainCommand())
	c.SetHelpCommand(&cobra.Command{Hidden: true}) // --help is enough
	return c
}

func (o *options) run(ctx context.Context, given *pflag.FlagSet) error {
	notes, err := o.complete(given)
	for _, note := range notes {
		klog.FromContext(ctx).Info("Configuration: " + note)
	}
	switch {
	case err != nil:
		return err
	case o.cleanup:
		return o.remove()
	case o.initOnly:
		return o.initialise(ctx)
	}
	return o.forward(ctx)
}

// forward carries packets until the context ends.
func (o *options) forward(ctx context.Context) error {
	c, err := o.proxy()
	if err != nil {
		return err
	}
	if c.API, err = o.api(); err != nil {
		return err
	}
	kubeProxy, err := takeover.Open()
	if err != nil {
		return err
	}
	defer func() { _ = kubeProxy.Close() }()
	if err := o.admit(kubeProxy); err != nil {
		return err
	}
	c.Metrics = metrics.New()
	c.Metrics.CountRequests()
	if c.Events, err = newRecorder(c.API, c.NodeName, c.Metrics); err != nil {
		return err
	}
	logger := klog.FromContext(ctx)
	logger.Info("Starting node-proxy", "version", version.Get().GitVersion, "node", c.NodeName, "server", c.API.Host,
		"podCIDRs", c.PodCIDRs, "families", c.Families())
	h := health.New(o.UnhealthyAfter.Duration, c.Families()...)
	h.CountAnswers(c.Metrics.Healthz, c.Metrics.Livez)
	proxy, err := nodeproxy.New(c, h)
	if err != nil {
		return err
	}
	defer proxy.Close()

	watch := kubeProxyWatch{node: kubeProxy, nodeName: c.NodeName, every: kubeProxyEvery, metrics: c.Metrics, events: c.Events}
	if o.takeover {
		watch.takeOver = proxy.Programmed()
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, s := range o.servers(h, c.Metrics, proxy) {
		wg.Go(func() { s.run(ctx, c.NodeName, c.Metrics, c.Events) })
	}
	wg.Go(func() { c.Events.Run(ctx) })
	wg.Go(func() { watch.run(ctx) })
	wg.Go(func() { o.watchSettings(ctx, c.Metrics) })
	if err := proxy.Run(ctx); err != nil {
		return err
	}
	logger.Info("Stopped; the forwarding table stays")
	return nil
}

// remove takes away the tables of both families.
func (o *options) remove() error {
	for _, ipv6 := range []bool{false, true} {
		table, err := nft.Open(nft.Config{IPv6: ipv6, MasqueradeMark: nodeproxy.MasqueradeMark})
		if err != nil {
			if ipv6 && o.IPv6 != "yes" {
				continue // a kernel without
			}
			return err
		}
		err = table.Remove()
		_ = table.Close()
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("%w: the table belongs to a node-proxy that runs; stop it first", err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
