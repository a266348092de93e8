package config

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestKubeProxyFiles shows what becomes of kube-proxy's files: the configuration
// and, above it, what was ignored or read otherwise.
func TestKubeProxyFiles(t *testing.T) {
	for _, name := range []string{"kubeadm", "full"} {
		t.Run(name, func(t *testing.T) {
			in, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
			if err != nil {
				t.Fatal(err)
			}
			c, notes, err := Load(in)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Validate(); err != nil {
				t.Error(err)
			}
			text, err := yaml.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for _, n := range notes {
				got.WriteString("# " + n + "\n")
			}
			got.Write(text)
			golden := filepath.Join("testdata", name+".golden.yaml")
			if *update {
				if err := os.WriteFile(golden, []byte(got.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got.String(), want)
			}
			// What it was translated to is a file of ours with the same meaning.
			again, notes, err := Load(text)
			if err != nil || len(notes) > 0 {
				t.Fatalf("%v, notes %v", err, notes)
			}
			if round, _ := yaml.Marshal(again); string(round) != string(text) {
				t.Errorf("read again it is\n%s\nafter\n%s", round, text)
			}
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	const ours, theirs = "apiVersion: fairway.io/v1alpha1\nkind: NodeProxyConfig\n", "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
	for _, c := range []struct{ name, file, want string }{
		{"nothing", "", "0 YAML documents"},
		{"two documents", ours + "---\n" + ours, "2 YAML documents"},
		{"another kind", "apiVersion: v1\nkind: ConfigMap\n", `a "ConfigMap" of "v1"`},
		{"another version", strings.Replace(ours, "alpha1", "beta1", 1), "fairway.io/v1beta1"},
		{"no YAML", "{", "reading the configuration file"},
		{"unknown field", ours + "clusterCIDR: 10.0.0.0/8\n", `unknown field "clusterCIDR"`},
		{"unknown field below", ours + "conntrack: {maxPerCores: 1}\n", `unknown field "maxPerCores"`},
		{"a field twice", ours + "server: a\nserver: b\n", `"server" already set`},
		{"a wrong type", ours + "masqueradeBit: many\n", "masqueradeBit"},
		{"unknown field of theirs", theirs + "clusterCIDRs: [10.0.0.0/8]\n", `unknown field "clusterCIDRs"`},
		{"unknown field of theirs below", theirs + "nftables: {masqueradeBits: 1}\n", `unknown field "nftables.masqueradeBits"`},
		{"a field of another mode", theirs + "nftables: {localhostNodePorts: true}\n", `unknown field "nftables.localhostNodePorts"`},
		{"a wrong type of theirs", theirs + "conntrack: {udpTimeout: 5}\n", "KubeProxyConfiguration"},
		{"a field of theirs twice", theirs + "mode: nftables\nmode: ipvs\n", `"mode" already set`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, _, err := Load([]byte(c.file)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	for _, c := range []struct {
		name string
		edit func(*Config)
		want string // "" when that is fine
	}{
		{"bit", func(c *Config) { c.MasqueradeBit = 32 }, "masqueradeBit: 32"},
		{"an early priority", func(c *Config) { c.NATPriorities.Destination = -200 }, "natPriorities.destination"},
		{"a late priority", func(c *Config) { c.NATPriorities.Source = 300 }, "natPriorities.source"},
		{"other priorities", func(c *Config) { c.NATPriorities = NATPriorities{-110, 90} }, ""},
		{"all bits", func(c *Config) { c.MasqueradeBit = 31 }, ""},
		{"no NodePort addresses", func(c *Config) { c.NodePortAddresses = nil }, "nodePortAddresses: is empty"},
		{"a bad NodePort address", func(c *Config) { c.NodePortAddresses = []string{"primary", "10.0.0.1"} }, `"10.0.0.1"`},
		{"all kinds of NodePort addresses", func(c *Config) {
			c.NodePortAddresses = []string{"primary", "all", "localhost", "10.0.0.0/8", "fd00::/8"}
		}, ""},
		{"IPv6", func(c *Config) { c.IPv6 = "perhaps" }, "ipv6"},
		{"server", func(c *Config) { c.Server = "192.0.2.1" }, "server"},
		{"health address", func(c *Config) { c.HealthzBindAddress = "10256" }, "healthzBindAddress"},
		{"no health address", func(c *Config) { c.HealthzBindAddress = "" }, ""},
		{"metrics address", func(c *Config) { c.MetricsBindAddress = "localhost:10249" }, "metricsBindAddress"},
		{"sync period", func(c *Config) { c.MinSyncPeriod.Duration = c.UnhealthyAfter.Duration }, "minSyncPeriod"},
		{"health timeout", func(c *Config) { c.UnhealthyAfter.Duration = 0 }, "unhealthyAfter"},
		{"cluster range", func(c *Config) { c.DetectLocal.ClusterCIDRs = []string{"10.244.0.0"} }, "detectLocal.clusterCIDRs"},
		{"mode", func(c *Config) { c.DetectLocal.Mode = "Guess" }, "detectLocal.mode"},
		{"no bridge", func(c *Config) { c.DetectLocal.Mode = LocalModeBridgeInterface }, "detectLocal.bridgeInterface"},
		{"long prefix", func(c *Config) {
			c.DetectLocal = DetectLocal{Mode: LocalModeInterfaceNamePrefix, InterfaceNamePrefix: "sixteen-letters!"}
		}, "detectLocal.interfaceNamePrefix"},
		{"conntrack", func(c *Config) { c.Conntrack.Min = -1 }, "conntrack.min"},
		{"conntrack timeout", func(c *Config) { c.Conntrack.UDPTimeout.Duration = -1 }, "conntrack.udpTimeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := Default()
			c.edit(&config)
			err := config.Validate()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
