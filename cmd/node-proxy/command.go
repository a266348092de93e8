package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/version"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/controllers/nodeproxy"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/health"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// unhealthyAfter is how long a change may wait for the kernel before the health
// check fails: twice kube-proxy's default sync period, as there.
const unhealthyAfter = time.Minute

// Where Kubernetes mounts a Pod's credentials.
const (
	serviceAccountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	serviceAccountCA    = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
)

// options are the command line's values.
type options struct {
	kubeconfig        string
	server            string
	nodeName          string
	clusterCIDRs      []string
	nodePortAddresses []string
	healthz           string
	ipv6              string
	cleanup           bool
}

func newCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "node-proxy",
		Short: "Carry packets from Services to Pods on this node",
		Long: `Carry packets from Services to Pods on this node, in place of kube-proxy.

node-proxy watches Services, EndpointSlices and its own Node and keeps one
nftables table, named "fairway", per address family. It needs the capability
NET_ADMIN in the node's network namespace. It runs no other program.

When it stops, the table stays and goes on forwarding; the next start replaces
it in one transaction. "node-proxy --cleanup" removes it.`,
		Example: `  # on a node, as a program
  node-proxy --kubeconfig /etc/fairway/kubeconfig --cluster-cidr 10.244.0.0/16

  # in a Pod, with its service account; the API server by address, as nobody
  # has programmed the "kubernetes" Service yet
  node-proxy --server 10.0.0.10:6443 --cluster-cidr 10.244.0.0/16`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version.Get().GitVersion,
		RunE:          func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	c.Flags().SortFlags = false
	c.Flags().AddFlagSet(newFlags(&o))
	return c
}

// newFlags returns the flags that set the options, in the order of the help.
func newFlags(o *options) *pflag.FlagSet {
	f := pflag.NewFlagSet("node-proxy", pflag.ContinueOnError)
	f.SortFlags = false
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "`file` that says how to reach the API server; without, the Pod's service account is used")
	f.StringVar(&o.server, "server", "", "API server as `host:port`; required without --kubeconfig, overrides the kubeconfig's server otherwise")
	f.StringVar(&o.nodeName, "node-name", "", "`name` of this node's Node object (default: the environment's NODE_NAME, or else the host name)")
	f.StringSliceVar(&o.clusterCIDRs, "cluster-cidr", nil, "address `ranges` of the cluster's Pods, comma-separated; connections from elsewhere to a ClusterIP are masqueraded")
	f.StringSliceVar(&o.nodePortAddresses, "nodeport-addresses", []string{"primary"}, "where to answer NodePorts: \"primary\", the Node's own addresses, or `ranges` that hold addresses of this node")
	f.StringVar(&o.healthz, "healthz-bind-address", "0.0.0.0:10256", "`address:port` of /healthz and /livez; empty turns them off")
	f.StringVar(&o.ipv6, "ipv6", "auto", "`yes`, no or auto: serve IPv6 besides IPv4 (auto: where the kernel has it)")
	f.BoolVar(&o.cleanup, "cleanup", false, "remove the forwarding table and exit")
	logging := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(logging)
	f.AddGoFlag(logging.Lookup("v"))
	return f
}

func (o *options) run(ctx context.Context) error {
	config, err := o.config()
	if err != nil {
		return err
	}
	if o.cleanup {
		return cleanup(config)
	}
	if config.API, err = o.api(); err != nil {
		return err
	}
	logger := klog.FromContext(ctx)
	logger.Info("Starting node-proxy", "version", version.Get().GitVersion, "node", config.NodeName, "server", config.API.Host,
		"podCIDRs", config.PodCIDRs, "families", config.Families())
	h := health.New(unhealthyAfter, config.Families()...)
	proxy, err := nodeproxy.New(config, h)
	if err != nil {
		return err
	}
	defer proxy.Close()
	if o.healthz != "" {
		go serveHealth(ctx, o.healthz, h)
	}
	if err := proxy.Run(ctx); err != nil {
		return err
	}
	logger.Info("Stopped; the forwarding table stays")
	return nil
}

// serveHealth keeps trying: the port may still be held by who was here before,
// and forwarding matters more.
func serveHealth(ctx context.Context, address string, h *health.Health) {
	for ctx.Err() == nil {
		l, err := net.Listen("tcp", address)
		if err == nil {
			err = health.Serve(ctx, l, h.Handler())
		}
		if err != nil {
			klog.FromContext(ctx).Error(err, "Cannot answer health checks, trying again")
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Second):
			}
		}
	}
}

// cleanup removes the tables of both families.
func cleanup(c nodeproxy.Config) error {
	for _, ipv6 := range []bool{false, true} {
		if ipv6 && !c.IPv6 {
			continue
		}
		table, err := nft.Open(nft.Config{IPv6: ipv6, MasqueradeMark: nodeproxy.MasqueradeMark})
		if err != nil {
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

// config checks the flags that are about forwarding.
func (o *options) config() (nodeproxy.Config, error) {
	c := nodeproxy.Config{NodeName: o.nodeName}
	var err error
	if c.NodeName == "" {
		c.NodeName = os.Getenv("NODE_NAME")
	}
	if c.NodeName == "" {
		if c.NodeName, err = os.Hostname(); err != nil {
			return c, fmt.Errorf("no --node-name given: %w", err)
		}
		c.NodeName = strings.ToLower(strings.TrimSpace(c.NodeName)) // as the kubelet does
	}
	if c.PodCIDRs, err = parsePrefixes("--cluster-cidr", o.clusterCIDRs); err != nil {
		return c, err
	}
	if len(o.nodePortAddresses) != 1 || o.nodePortAddresses[0] != "primary" {
		if c.NodePortAddresses, err = parsePrefixes("--nodeport-addresses", o.nodePortAddresses); err != nil {
			return c, err
		}
	}
	switch o.ipv6 {
	case "yes":
		c.IPv6 = true
	case "no":
	case "auto": // by trying, as a kernel may have IPv6 and no packet filter for it
		table, err := nft.Open(nft.Config{IPv6: true, MasqueradeMark: nodeproxy.MasqueradeMark})
		if c.IPv6 = err == nil; c.IPv6 {
			_ = table.Close()
		}
	default:
		return c, fmt.Errorf("--ipv6 is yes, no or auto, not %q", o.ipv6)
	}
	return c, nil
}

// api returns how to reach the API server.
func (o *options) api() (*rest.Config, error) {
	if o.kubeconfig == "" && o.server == "" {
		return nil, errors.New("either --kubeconfig or --server is needed to reach the API server")
	}
	var config *rest.Config
	if o.kubeconfig != "" {
		var err error
		if config, err = clientcmd.BuildConfigFromFlags("", o.kubeconfig); err != nil {
			return nil, fmt.Errorf("reading --kubeconfig: %w", err)
		}
	} else {
		config = &rest.Config{
			BearerTokenFile: serviceAccountToken,
			TLSClientConfig: rest.TLSClientConfig{CAFile: serviceAccountCA},
		}
		if _, err := os.Stat(serviceAccountToken); err != nil {
			return nil, fmt.Errorf("no --kubeconfig given and no service account: %w", err)
		}
	}
	if o.server != "" {
		if _, _, err := net.SplitHostPort(o.server); err != nil {
			return nil, fmt.Errorf("--server is host:port: %w", err)
		}
		config.Host = "https://" + o.server
	}
	config.UserAgent = "fairway-node-proxy/" + version.Get().GitVersion
	return config, nil
}

func parsePrefixes(flag string, in []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range in {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
