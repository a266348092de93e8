package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// The version and kind of kube-proxy's file.
const (
	kubeProxyAPIVersion = "kubeproxy.config.k8s.io/v1alpha1"
	kubeProxyKind       = "KubeProxyConfiguration"
)

// kubeProxyFile is what of a KubeProxyConfiguration means the same here. Names
// and meanings: k8s.io/kube-proxy, config/v1alpha1/types.go.
type kubeProxyFile struct {
	metav1.TypeMeta  `json:",inline"`
	ClientConnection struct {
		Kubeconfig string `json:"kubeconfig"`
	} `json:"clientConnection"`
	Logging struct {
		Verbosity int32 `json:"verbosity"`
	} `json:"logging"`
	HostnameOverride   string `json:"hostnameOverride"`
	BindAddress        string `json:"bindAddress"`
	HealthzBindAddress string `json:"healthzBindAddress"`
	MetricsBindAddress string `json:"metricsBindAddress"`
	Mode               string `json:"mode"`
	IPTables           struct {
		kubeProxyNAT       `json:",inline"`
		LocalhostNodePorts *bool `json:"localhostNodePorts"`
	} `json:"iptables"`
	NFTables kubeProxyNAT `json:"nftables"`
	IPVS     struct {
		SyncPeriod    metav1.Duration `json:"syncPeriod"`
		MinSyncPeriod metav1.Duration `json:"minSyncPeriod"`
	} `json:"ipvs"`
	DetectLocalMode string `json:"detectLocalMode"`
	DetectLocal     struct {
		BridgeInterface     string `json:"bridgeInterface"`
		InterfaceNamePrefix string `json:"interfaceNamePrefix"`
	} `json:"detectLocal"`
	ClusterCIDR       string   `json:"clusterCIDR"`
	NodePortAddresses []string `json:"nodePortAddresses"`
	Conntrack         struct {
		MaxPerCore            *int32           `json:"maxPerCore"`
		Min                   *int32           `json:"min"`
		TCPEstablishedTimeout *metav1.Duration `json:"tcpEstablishedTimeout"`
		TCPCloseWaitTimeout   *metav1.Duration `json:"tcpCloseWaitTimeout"`
		TCPBeLiberal          bool             `json:"tcpBeLiberal"`
		UDPTimeout            metav1.Duration  `json:"udpTimeout"`
		UDPStreamTimeout      metav1.Duration  `json:"udpStreamTimeout"`
	} `json:"conntrack"`
}

type kubeProxyNAT struct {
	MasqueradeBit *int32          `json:"masqueradeBit"`
	MasqueradeAll bool            `json:"masqueradeAll"`
	SyncPeriod    metav1.Duration `json:"syncPeriod"`
	MinSyncPeriod metav1.Duration `json:"minSyncPeriod"`
}

// ignored are the other fields of a KubeProxyConfiguration, with the reason.
// A name stands for all below it.
var ignored = map[string]string{
	"bindAddressHardFail":                 "a port that another program holds is tried again and never ends forwarding",
	"clientConnection.acceptContentTypes": "the API server is always asked for protobuf",
	"clientConnection.contentType":        "the API server is always asked for protobuf",
	"clientConnection.qps":                "three watches and a few events need no limit",
	"clientConnection.burst":              "three watches and a few events need no limit",
	"configSyncPeriod":                    "nothing is resynced: watches are followed, and the table is compared with the kernel's generation",
	"enableProfiling":                     "there are no profiling handlers",
	"featureGates":                        "there are none",
	"ipvs.scheduler":                      "endpoints are drawn at random",
	"ipvs.excludeCIDRs":                   "there is no IPVS",
	"ipvs.strictARP":                      "there is no IPVS",
	"ipvs.tcpTimeout":                     "there is no IPVS",
	"ipvs.tcpFinTimeout":                  "there is no IPVS",
	"ipvs.udpTimeout":                     "there is no IPVS",
	"logging":                             "only verbosity is read",
	"oomScoreAdj":                         "it is the container runtime's or the unit's to set",
	"portRange":                           "kube-proxy does not use it either",
	"showHiddenMetricsForVersion":         "there are no hidden metrics",
	"windowsRunAsService":                 "this is not Windows",
	"winkernel":                           "this is not Windows",
}

// fromKubeProxy reads kube-proxy's file.
func fromKubeProxy(data []byte) (Config, []string, error) {
	var fields map[string]any
	if err := yaml.UnmarshalStrict(data, &fields); err != nil {
		return Config{}, nil, fmt.Errorf("reading the %s: %w", kubeProxyKind, err)
	}
	var notes []string
	known := make(map[string]any)
	if err := separate(fields, "", reflect.TypeFor[kubeProxyFile](), known, &notes); err != nil {
		return Config{}, nil, fmt.Errorf("reading the %s: %w", kubeProxyKind, err)
	}
	var f kubeProxyFile
	encoded, err := json.Marshal(known)
	if err == nil {
		err = json.Unmarshal(encoded, &f)
	}
	if err != nil {
		return Config{}, nil, fmt.Errorf("reading the %s: %w", kubeProxyKind, err)
	}
	c, more := f.config()
	return c, append(notes, more...), nil
}

// separate copies the fields that the type knows into known, and notes those that
// are ignored and say something. What is neither does not exist.
func separate(fields map[string]any, prefix string, known reflect.Type, into map[string]any, notes *[]string) error {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		value, path := fields[name], prefix+name
		below, isObject := value.(map[string]any)
		field, ok := fieldNamed(known, name)
		switch {
		case ok && isObject && field.Type.Kind() == reflect.Struct && field.Type != reflect.TypeFor[metav1.Duration]():
			inner := make(map[string]any)
			into[name] = inner
			if err := separate(below, path+".", field.Type, inner, notes); err != nil {
				return err
			}
		case ok:
			into[name] = value
		case ignored[path] != "":
			if !empty(value) {
				*notes = append(*notes, fmt.Sprintf("%s is ignored: %s", path, ignored[path]))
			}
		case ignored[strings.TrimSuffix(prefix, ".")] != "":
			if !empty(value) {
				*notes = append(*notes, fmt.Sprintf("%s is ignored: %s", path, ignored[strings.TrimSuffix(prefix, ".")]))
			}
		default:
			return fmt.Errorf("unknown field %q", path)
		}
	}
	return nil
}

// fieldNamed finds the field with that JSON name.
func fieldNamed(t reflect.Type, name string) (reflect.StructField, bool) {
	for _, f := range reflect.VisibleFields(t) {
		if tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); tag == name {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

// empty tells whether a value says nothing: generated files spell every field out.
func empty(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case bool:
		return !v
	case float64:
		return v == 0
	case string:
		return v == "" || v == "0" || v == "0s"
	case []any:
		return len(v) == 0
	case map[string]any:
		return !slices.ContainsFunc(slices.Collect(maps.Values(v)), func(v any) bool { return !empty(v) })
	}
	return false
}

// config translates what the file says, with kube-proxy's defaults for its mode.
func (f kubeProxyFile) config() (c Config, notes []string) {
	c = Default()
	nat, syncPeriod, minSyncPeriod := f.IPTables.kubeProxyNAT, f.IPTables.SyncPeriod, f.IPTables.MinSyncPeriod
	switch f.Mode {
	case "nftables":
		nat, syncPeriod, minSyncPeriod = f.NFTables, f.NFTables.SyncPeriod, f.NFTables.MinSyncPeriod
	case "ipvs":
		syncPeriod, minSyncPeriod = f.IPVS.SyncPeriod, f.IPVS.MinSyncPeriod
	}
	if f.Mode != "nftables" {
		notes = append(notes, fmt.Sprintf("mode %q is read as nftables", f.Mode))
		if len(f.NodePortAddresses) == 0 {
			f.NodePortAddresses = []string{"all"}
			if f.Mode != "ipvs" && (f.IPTables.LocalhostNodePorts == nil || *f.IPTables.LocalhostNodePorts) {
				f.NodePortAddresses = append(f.NodePortAddresses, "localhost")
			}
			notes = append(notes, fmt.Sprintf("nodePortAddresses is read as %v, kube-proxy's default in mode %q; [primary] is safer", f.NodePortAddresses, f.Mode))
		}
	}
	c.Kubeconfig = f.ClientConnection.Kubeconfig
	c.Verbosity = f.Logging.Verbosity
	c.NodeName = strings.ToLower(strings.TrimSpace(f.HostnameOverride))
	c.MasqueradeAll = nat.MasqueradeAll
	set(&c.MasqueradeBit, nat.MasqueradeBit)
	if len(f.NodePortAddresses) > 0 {
		c.NodePortAddresses = f.NodePortAddresses
	}
	if f.DetectLocalMode != "" {
		c.DetectLocal.Mode = f.DetectLocalMode
	}
	if f.ClusterCIDR != "" {
		c.DetectLocal.ClusterCIDRs = strings.Split(f.ClusterCIDR, ",")
	}
	c.DetectLocal.BridgeInterface, c.DetectLocal.InterfaceNamePrefix = f.DetectLocal.BridgeInterface, f.DetectLocal.InterfaceNamePrefix

	if a, err := netip.ParseAddr(f.BindAddress); err == nil {
		if a.Is6() {
			c.HealthzBindAddress, c.MetricsBindAddress = "[::]:10256", "[::1]:10249"
		}
		if !a.IsUnspecified() {
			notes = append(notes, "bindAddress only decides the family of the default bind addresses: the node's address is its Node's")
		}
	}
	if f.HealthzBindAddress != "" {
		c.HealthzBindAddress = withPort(f.HealthzBindAddress, 10256)
	}
	if f.MetricsBindAddress != "" {
		c.MetricsBindAddress = withPort(f.MetricsBindAddress, 10249)
	}
	if syncPeriod.Duration != 0 {
		c.UnhealthyAfter = metav1.Duration{Duration: 2 * syncPeriod.Duration}
	}
	if minSyncPeriod.Duration != 0 {
		c.MinSyncPeriod = minSyncPeriod
	}

	set(&c.Conntrack.MaxPerCore, f.Conntrack.MaxPerCore)
	set(&c.Conntrack.Min, f.Conntrack.Min)
	set(&c.Conntrack.TCPEstablishedTimeout, f.Conntrack.TCPEstablishedTimeout)
	set(&c.Conntrack.TCPCloseWaitTimeout, f.Conntrack.TCPCloseWaitTimeout)
	c.Conntrack.UDPTimeout, c.Conntrack.UDPStreamTimeout = f.Conntrack.UDPTimeout, f.Conntrack.UDPStreamTimeout
	if !f.Conntrack.TCPBeLiberal {
		notes = append(notes, "conntrack.tcpBeLiberal is read as true, or packets out of window would reset connections")
	}
	return c, notes
}

// set overwrites a default where the file says something.
func set[T any](field *T, said *T) {
	if said != nil {
		*field = *said
	}
}
