package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/config"
)

// options are what the command line says: the configuration, and what to do.
type options struct {
	config.Config
	file     string
	initOnly bool
	takeover bool
	cleanup  bool
}

// newFlags returns the flags that set the options, in the order of the help.
// Those kube-proxy has too have its names. What the options hold is the default.
func newFlags(o *options) *pflag.FlagSet {
	f := pflag.NewFlagSet("node-proxy", pflag.ContinueOnError)
	f.SortFlags = false
	f.StringVar(&o.file, "config", o.file, "configuration `file`: a NodeProxyConfig, or the KubeProxyConfiguration that kube-proxy ran with; flags override it")
	f.StringVar(&o.Kubeconfig, "kubeconfig", o.Kubeconfig, "`file` that says how to reach the API server; without, the Pod's service account is used")
	f.StringVar(&o.Server, "server", o.Server, "API server as `host:port`; required without --kubeconfig, overrides the kubeconfig's server otherwise")
	f.StringVar(&o.NodeName, "node-name", o.NodeName, "`name` of this node's Node object (default: the environment's NODE_NAME, or else the host name)")
	f.StringVar(&o.DetectLocal.Mode, "detect-local-mode", o.DetectLocal.Mode, "how to tell Pods' packets: `mode` ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix")
	f.StringSliceVar(&o.DetectLocal.ClusterCIDRs, "cluster-cidr", o.DetectLocal.ClusterCIDRs, "address `ranges` of the cluster's Pods, comma-separated; connections from elsewhere to a ClusterIP are masqueraded")
	f.StringVar(&o.DetectLocal.BridgeInterface, "pod-bridge-interface", o.DetectLocal.BridgeInterface, "`device` that all Pods are behind, for the mode BridgeInterface")
	f.StringVar(&o.DetectLocal.InterfaceNamePrefix, "pod-interface-name-prefix", o.DetectLocal.InterfaceNamePrefix, "`beginning` of the names of all Pods' devices, for the mode InterfaceNamePrefix")
	f.StringSliceVar(&o.NodePortAddresses, "nodeport-addresses", o.NodePortAddresses, "`where` to answer NodePorts: primary (the Node's own addresses), all, localhost, or ranges that hold addresses of this node; comma-separated")
	f.BoolVar(&o.MasqueradeAll, "masquerade-all", o.MasqueradeAll, "masquerade all traffic to ClusterIPs")
	f.Int32Var(&o.MasqueradeBit, "masquerade-bit", o.MasqueradeBit, "the `bit` of the packet mark, 0 to 31, to use between prerouting and postrouting")
	f.Int32Var(&o.NATPriorities.Destination, "nat-destination-priority", o.NATPriorities.Destination, "nftables `priority` of our translation of destinations")
	f.Int32Var(&o.NATPriorities.Source, "nat-source-priority", o.NATPriorities.Source, "nftables `priority` of our translation of sources")
	f.Uint32Var(&o.AffinitySize, "affinity-size", o.AffinitySize, "`number` of clients that session affinity remembers, in each family (0: the built-in default)")
	f.BoolVar(&o.SharedTable, "shared-table", o.SharedTable, "leave the table open to other programs' changes, which are put right, also where the kernel could keep them out")
	f.StringVar(&o.IPv6, "ipv6", o.IPv6, "`yes`, no or auto: serve IPv6 besides IPv4 (auto: where the kernel has it)")
	f.StringVar(&o.HealthzBindAddress, "healthz-bind-address", o.HealthzBindAddress, "`address:port` of /healthz and /livez; empty turns them off")
	f.StringVar(&o.MetricsBindAddress, "metrics-bind-address", o.MetricsBindAddress, "`address:port` of /metrics; empty turns it off")
	f.DurationVar(&o.UnhealthyAfter.Duration, "unhealthy-after", o.UnhealthyAfter.Duration, "`time` a change may wait for the kernel before the health checks fail")
	f.DurationVar(&o.MinSyncPeriod.Duration, "min-sync-period", o.MinSyncPeriod.Duration, "least `time` between two transactions, in which changes wait for others")
	c := &o.Conntrack
	f.Int32Var(&c.MaxPerCore, "conntrack-max-per-core", c.MaxPerCore, "connections to track per CPU, as a `number` (0 leaves the limit as it is)")
	f.Int32Var(&c.Min, "conntrack-min", c.Min, "least `number` of connections to track, whatever the CPUs")
	f.DurationVar(&c.TCPEstablishedTimeout.Duration, "conntrack-tcp-timeout-established", c.TCPEstablishedTimeout.Duration, "`time` after which an idle TCP connection is forgotten (0 leaves it as it is)")
	f.DurationVar(&c.TCPCloseWaitTimeout.Duration, "conntrack-tcp-timeout-close-wait", c.TCPCloseWaitTimeout.Duration, "`time` after which a half-closed TCP connection is forgotten (0 leaves it as it is)")
	f.BoolVar(&c.TCPBeLiberal, "conntrack-tcp-be-liberal", c.TCPBeLiberal, "track TCP packets out of the expected window too, which would reset their connection")
	f.DurationVar(&c.UDPTimeout.Duration, "conntrack-udp-timeout", c.UDPTimeout.Duration, "`time` after which an unanswered UDP flow is forgotten (0 leaves it as it is)")
	f.DurationVar(&c.UDPStreamTimeout.Duration, "conntrack-udp-timeout-stream", c.UDPStreamTimeout.Duration, "`time` after which an answered UDP flow is forgotten (0 leaves it as it is)")
	f.BoolVar(&o.initOnly, "init-only", o.initOnly, "set the kernel's settings and exit: for an init container with a writable /proc/sys; the program itself only compares them")
	f.BoolVar(&o.takeover, "takeover", o.takeover, "replace kube-proxy's nftables and iptables-nft rules, without breaking connections, once ours are in place")
	f.BoolVar(&o.cleanup, "cleanup", o.cleanup, "remove the forwarding table and exit")
	logging := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(logging)
	f.AddGoFlag(logging.Lookup("v"))
	return f
}

// complete reads the configuration file, if one is named, puts the flags that
// were given over it and checks the result. notes are for the log.
func (o *options) complete(given *pflag.FlagSet) (notes []string, err error) {
	if o.file != "" {
		data, err := os.ReadFile(o.file)
		if err != nil {
			return nil, fmt.Errorf("reading --config: %w", err)
		}
		from := *o
		if from.Config, notes, err = config.Load(data); err != nil {
			return nil, fmt.Errorf("%s: %w", o.file, err)
		}
		if err := override(newFlags(&from), given); err != nil {
			return nil, err
		}
		o.Config = from.Config
	}
	if v := given.Lookup("v"); o.Verbosity > 0 && !v.Changed {
		if err := v.Value.Set(fmt.Sprint(o.Verbosity)); err != nil {
			return nil, fmt.Errorf("setting the log level: %w", err)
		}
	} else if v.Changed {
		level, err := strconv.ParseInt(v.Value.String(), 10, 32)
		if err != nil {
			return nil, fmt.Errorf("reading the log level: %w", err)
		}
		o.Verbosity = int32(level)
	}
	if o.NodeName, err = nodeName(o.NodeName); err != nil {
		return nil, err
	}
	return notes, o.Validate()
}

// override sets the flags that were given.
func override(flags, given *pflag.FlagSet) error {
	var err error
	given.Visit(func(f *pflag.Flag) {
		to := flags.Lookup(f.Name)
		if to == nil || err != nil {
			return // help and the like
		}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			err = to.Value.(pflag.SliceValue).Replace(list.GetSlice())
		} else {
			err = to.Value.Set(f.Value.String())
		}
	})
	return err
}

func nodeName(configured string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	if name := os.Getenv("NODE_NAME"); name != "" {
		return name, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("no --node-name given: %w", err)
	}
	return strings.ToLower(strings.TrimSpace(name)), nil // as the kubelet does
}
