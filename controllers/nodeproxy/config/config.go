// Package config is what an administrator tells the node proxy: one struct,
// filled from defaults, from a strict YAML file of ours or from the file that
// kube-proxy was configured with, and from flags, in this order.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// The version and kind of our own file.
const (
	APIVersion = "fairway.io/v1alpha1"
	Kind       = "NodeProxyConfig"
)

// Config is the node proxy's configuration. The JSON names are those of the file.
type Config struct {
	metav1.TypeMeta `json:",inline"`

	// Kubeconfig is the file that says how to reach the API server. Empty: the
	// Pod's service account, with Server.
	Kubeconfig string `json:"kubeconfig,omitempty"`
	// Server is the API server as host:port. It overrides the kubeconfig's.
	Server string `json:"server,omitempty"`
	// NodeName names this node's Node object. Empty: the environment's
	// NODE_NAME, or else the host name in lower case.
	NodeName string `json:"nodeName,omitempty"`

	// DetectLocal says which packets come from Pods.
	DetectLocal DetectLocal `json:"detectLocal,omitzero"`
	// MasqueradeAll masquerades all traffic to ClusterIPs.
	MasqueradeAll bool `json:"masqueradeAll,omitempty"`
	// MasqueradeBit is the bit of the packet mark, 0 to 31, that is used between
	// prerouting and postrouting.
	MasqueradeBit int32 `json:"masqueradeBit"`
	// NATPriorities are where our chains stand among others'.
	NATPriorities NATPriorities `json:"natPriorities"`
	// AffinitySize is how many clients session affinity remembers at most, in
	// each family; 0 is the built-in default.
	AffinitySize uint32 `json:"affinitySize,omitempty"`
	// SharedTable leaves the forwarding table open to other programs' changes also
	// where the kernel could keep them out. What they change is put right.
	SharedTable bool `json:"sharedTable,omitempty"`
	// NodePortAddresses are where NodePorts are answered: "primary" (the Node's
	// own addresses), "all", "localhost", or ranges that hold addresses of this
	// node.
	NodePortAddresses []string `json:"nodePortAddresses,omitempty"`
	// IPv6 is "yes", "no" or "auto": where the kernel has it.
	IPv6 string `json:"ipv6"`

	// HealthzBindAddress is the address:port of /healthz and /livez, empty for none.
	HealthzBindAddress string `json:"healthzBindAddress"`
	// MetricsBindAddress is the address:port of /metrics, empty for none.
	MetricsBindAddress string `json:"metricsBindAddress"`
	// UnhealthyAfter is how long a change may wait for the kernel before the
	// health checks fail.
	UnhealthyAfter metav1.Duration `json:"unhealthyAfter"`
	// MinSyncPeriod is the least time between two transactions; changes wait
	// for others that long.
	MinSyncPeriod metav1.Duration `json:"minSyncPeriod"`
	// Conntrack are the settings of connection tracking.
	Conntrack Conntrack `json:"conntrack,omitzero"`

	// Verbosity is the log level where no flag gives one.
	Verbosity int32 `json:"verbosity,omitempty"`
}

// NATPriorities are the nftables priorities of address translation; a chain with
// a lower number comes first, and the first that translates wins.
type NATPriorities struct {
	Destination int32 `json:"destination"`
	Source      int32 `json:"source"`
}

// The modes of DetectLocal, as kube-proxy names them.
const (
	LocalModeClusterCIDR         = "ClusterCIDR"
	LocalModeNodeCIDR            = "NodeCIDR"
	LocalModeBridgeInterface     = "BridgeInterface"
	LocalModeInterfaceNamePrefix = "InterfaceNamePrefix"
)

// DetectLocal says how packets of Pods are told from others: connections from
// elsewhere to a ClusterIP are masqueraded.
type DetectLocal struct {
	// Mode is one of the constants LocalMode….
	Mode string `json:"mode,omitempty"`
	// ClusterCIDRs are the ranges of all Pods, for LocalModeClusterCIDR. Without
	// any, nothing is masqueraded but what MasqueradeAll says.
	ClusterCIDRs []string `json:"clusterCIDRs,omitempty"`
	// BridgeInterface is the device all Pods are behind, for LocalModeBridgeInterface.
	BridgeInterface string `json:"bridgeInterface,omitempty"`
	// InterfaceNamePrefix begins the names of all Pods' devices, for LocalModeInterfaceNamePrefix.
	InterfaceNamePrefix string `json:"interfaceNamePrefix,omitempty"`
}

// Conntrack are settings of the node's connection tracking, with kube-proxy's
// names, meanings and defaults. A zero leaves the node's setting as it is.
type Conntrack struct {
	// MaxPerCore times the number of CPUs is the size of the table, at least Min.
	MaxPerCore int32 `json:"maxPerCore"`
	Min        int32 `json:"min"`
	// Idle connections are forgotten after these times.
	TCPEstablishedTimeout metav1.Duration `json:"tcpEstablishedTimeout"`
	TCPCloseWaitTimeout   metav1.Duration `json:"tcpCloseWaitTimeout"`
	UDPTimeout            metav1.Duration `json:"udpTimeout,omitzero"`
	UDPStreamTimeout      metav1.Duration `json:"udpStreamTimeout,omitzero"`
	// TCPBeLiberal keeps packets out of the expected window from being taken
	// for invalid: they would pass untranslated and reset their connection.
	TCPBeLiberal bool `json:"tcpBeLiberal"`
}

// Default returns the configuration where nothing is said. It is kube-proxy's
// wherever both have a setting, but for TCPBeLiberal, which prevents resets, and
// for MinSyncPeriod, as a transaction of ours costs next to nothing.
func Default() Config {
	return Config{
		TypeMeta:           metav1.TypeMeta{APIVersion: APIVersion, Kind: Kind},
		DetectLocal:        DetectLocal{Mode: LocalModeClusterCIDR},
		MasqueradeBit:      14,
		NATPriorities:      NATPriorities{Destination: -100, Source: 100},
		NodePortAddresses:  []string{"primary"},
		IPv6:               "auto",
		HealthzBindAddress: "0.0.0.0:10256",
		MetricsBindAddress: "127.0.0.1:10249",
		UnhealthyAfter:     metav1.Duration{Duration: time.Minute},
		MinSyncPeriod:      metav1.Duration{Duration: 5 * time.Millisecond},
		Conntrack: Conntrack{
			MaxPerCore: 32 << 10, Min: 128 << 10,
			TCPEstablishedTimeout: metav1.Duration{Duration: 24 * time.Hour},
			TCPCloseWaitTimeout:   metav1.Duration{Duration: time.Hour},
			TCPBeLiberal:          true,
		},
	}
}

// Load reads a file: one YAML document of our kind, or a KubeProxyConfiguration.
// What it does not mention has the default. A field that does not exist is an
// error that names it. notes tell, one a line, what of a KubeProxyConfiguration
// is ignored or read otherwise. The result is not validated yet: flags may
// complete it.
func Load(data []byte) (c Config, notes []string, err error) {
	if n := documents(data); n != 1 {
		return c, nil, fmt.Errorf("the configuration file holds %d YAML documents, want one", n)
	}
	var meta metav1.TypeMeta
	if err := yaml.Unmarshal(data, &meta); err != nil {
		return c, nil, fmt.Errorf("reading the configuration file: %w", err)
	}
	switch meta {
	case metav1.TypeMeta{APIVersion: APIVersion, Kind: Kind}:
		c = Default()
		if err := yaml.UnmarshalStrict(data, &c); err != nil {
			return c, nil, fmt.Errorf("reading the %s: %w", Kind, err)
		}
		return c, nil, nil
	case metav1.TypeMeta{APIVersion: kubeProxyAPIVersion, Kind: kubeProxyKind}:
		return fromKubeProxy(data)
	}
	return c, nil, fmt.Errorf("the configuration file is a %q of %q, want %s of %s or %s of %s",
		meta.Kind, meta.APIVersion, Kind, APIVersion, kubeProxyKind, kubeProxyAPIVersion)
}

// documents counts the YAML documents that are not empty: the decoder would
// silently take the first.
func documents(data []byte) int {
	n := 0
	for doc := range bytes.SplitSeq(append([]byte("\n"), data...), []byte("\n---")) {
		for line := range bytes.Lines(doc) {
			if text := bytes.TrimSpace(line); len(text) > 0 && text[0] != '#' {
				n++
				break
			}
		}
	}
	return n
}

// Validate returns all that is wrong with the configuration, by field.
func (c Config) Validate() error {
	var errs []error
	wrong := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf(field+": "+format, args...))
	}
	if c.MasqueradeBit < 0 || c.MasqueradeBit > 31 {
		wrong("masqueradeBit", "%d is not a bit, 0 to 31", c.MasqueradeBit)
	}
	if d := c.NATPriorities.Destination; d <= -200 || d >= 0 {
		wrong("natPriorities.destination", "%d is not between -200 (connection tracking) and 0 (filters)", d)
	}
	if s := c.NATPriorities.Source; s <= 0 || s >= 300 {
		wrong("natPriorities.source", "%d is not between 0 (filters) and 300 (the end of connection tracking)", s)
	}
	if _, _, err := c.NodePorts(); err != nil {
		errs = append(errs, err)
	}
	if !slices.Contains([]string{"yes", "no", "auto"}, c.IPv6) {
		wrong("ipv6", "%q is not yes, no or auto", c.IPv6)
	}
	if c.Server != "" {
		if _, _, err := net.SplitHostPort(c.Server); err != nil {
			wrong("server", "%q is not host:port", c.Server)
		}
	}
	for field, address := range map[string]string{"healthzBindAddress": c.HealthzBindAddress, "metricsBindAddress": c.MetricsBindAddress} {
		if address == "" {
			continue
		}
		if _, err := netip.ParseAddrPort(address); err != nil {
			wrong(field, "%q is not address:port", address)
		}
	}
	if c.UnhealthyAfter.Duration <= 0 {
		wrong("unhealthyAfter", "%v is not positive", c.UnhealthyAfter.Duration)
	}
	if d := c.MinSyncPeriod.Duration; d < 0 || d >= c.UnhealthyAfter.Duration {
		wrong("minSyncPeriod", "%v is not between 0 and unhealthyAfter (%v)", d, c.UnhealthyAfter.Duration)
	}
	errs = append(errs, c.DetectLocal.validate(), c.Conntrack.validate())
	return errors.Join(errs...)
}

func (d DetectLocal) validate() error {
	if _, err := d.Prefixes(); err != nil {
		return err
	}
	switch d.Mode {
	case LocalModeClusterCIDR, LocalModeNodeCIDR:
	case LocalModeBridgeInterface:
		return deviceName("detectLocal.bridgeInterface", d.BridgeInterface)
	case LocalModeInterfaceNamePrefix:
		return deviceName("detectLocal.interfaceNamePrefix", d.InterfaceNamePrefix)
	default:
		return fmt.Errorf("detectLocal.mode: %q is not one of %s, %s, %s, %s", d.Mode,
			LocalModeClusterCIDR, LocalModeNodeCIDR, LocalModeBridgeInterface, LocalModeInterfaceNamePrefix)
	}
	return nil
}

// deviceName checks a network device's name, or its beginning, against what the
// kernel allows.
func deviceName(field, name string) error {
	const longest = 15
	if name == "" || len(name) > longest || strings.ContainsAny(name, "/ \t\n") {
		return fmt.Errorf("%s: %q is not the name of a network device", field, name)
	}
	return nil
}

// Prefixes returns the ClusterCIDRs.
func (d DetectLocal) Prefixes() ([]netip.Prefix, error) {
	return prefixes("detectLocal.clusterCIDRs", d.ClusterCIDRs)
}

func (c Conntrack) validate() error {
	var errs []error
	for field, v := range map[string]int64{
		"maxPerCore": int64(c.MaxPerCore), "min": int64(c.Min),
		"tcpEstablishedTimeout": int64(c.TCPEstablishedTimeout.Duration), "tcpCloseWaitTimeout": int64(c.TCPCloseWaitTimeout.Duration),
		"udpTimeout": int64(c.UDPTimeout.Duration), "udpStreamTimeout": int64(c.UDPStreamTimeout.Duration),
	} {
		if v < 0 {
			errs = append(errs, fmt.Errorf("conntrack.%s: is negative", field))
		}
	}
	return errors.Join(errs...)
}

// The ranges behind the keywords of NodePortAddresses.
var nodePortKeywords = map[string][]netip.Prefix{
	"all":       {netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
	"localhost": {netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
}

// NodePorts returns NodePortAddresses taken apart: whether the Node's own
// addresses are among them, and the ranges.
func (c Config) NodePorts() (primary bool, ranges []netip.Prefix, err error) {
	if len(c.NodePortAddresses) == 0 {
		return false, nil, errors.New(`nodePortAddresses: is empty, want "primary", "all", "localhost" or ranges`)
	}
	for _, s := range c.NodePortAddresses {
		if s == "primary" {
			primary = true
			continue
		}
		if known, ok := nodePortKeywords[s]; ok {
			ranges = append(ranges, known...)
			continue
		}
		more, err := prefixes("nodePortAddresses", []string{s})
		if err != nil {
			return false, nil, fmt.Errorf(`%w, nor "primary", "all" or "localhost"`, err)
		}
		ranges = append(ranges, more...)
	}
	return primary, ranges, nil
}

func prefixes(field string, in []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range in {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("%s: %q is not an address range such as 10.244.0.0/16", field, s)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// withPort appends the port where an address goes without one, as kube-proxy does.
func withPort(address string, port int) string {
	if _, err := netip.ParseAddrPort(address); err == nil {
		return address
	}
	if a, err := netip.ParseAddr(strings.Trim(address, "[]")); err == nil {
		return net.JoinHostPort(a.String(), strconv.Itoa(port))
	}
	return address
}
