package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/config"
)

const anyKubeconfig = `
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://192.0.2.1:6443"}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`

func TestFlags(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	file := write("kubeconfig", anyKubeconfig)
	ours := write("ours.yaml", "apiVersion: fairway.io/v1alpha1\nkind: NodeProxyConfig\nkubeconfig: "+file+
		"\nnodeName: from-file\ndetectLocal: {clusterCIDRs: [10.244.0.0/16]}\nnodePortAddresses: [10.0.0.0/8]\nminSyncPeriod: 1s\nipv6: \"no\"\nmasqueradeBit: 3\n")
	theirs := write("theirs.yaml", "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\nclientConnection: {kubeconfig: "+file+
		"}\nhostnameOverride: from-theirs\nclusterCIDR: 10.200.0.0/16\n")
	t.Setenv("NODE_NAME", "from-environment")
	for _, c := range []struct{ args, want, err string }{
		{args: "--kubeconfig " + file, want: "https://192.0.2.1:6443 from-environment [] [] false 0x4000 5ms"},
		{args: "--kubeconfig " + file + " --server 192.0.2.2:443 --node-name n --ipv6 yes", want: "https://192.0.2.2:443 n [] [] true 0x4000 5ms"},
		{args: "--kubeconfig " + file + " --cluster-cidr 10.244.0.0/16,fd00::1/64 --nodeport-addresses 0.0.0.0/0",
			want: "https://192.0.2.1:6443 from-environment [10.244.0.0/16 fd00::/64] [0.0.0.0/0] false 0x4000 5ms"},
		{args: "--config " + ours, want: "https://192.0.2.1:6443 from-file [10.244.0.0/16] [10.0.0.0/8] false 0x8 1s"},
		{args: "--config " + ours + " --cluster-cidr 10.9.0.0/16 --cluster-cidr fd00::/64 --node-name n --min-sync-period 2s --masquerade-bit 4",
			want: "https://192.0.2.1:6443 n [10.9.0.0/16 fd00::/64] [10.0.0.0/8] false 0x10 2s"},
		{args: "--config " + theirs, want: "https://192.0.2.1:6443 from-theirs [10.200.0.0/16] [] false 0x4000 5ms"},
		{args: "--config " + theirs + " --nodeport-addresses all", want: "https://192.0.2.1:6443 from-theirs [10.200.0.0/16] [0.0.0.0/0 ::/0] false 0x4000 5ms"},
		{args: "", err: "either --kubeconfig or --server is needed"},
		{args: "--config /nowhere", err: "reading --config"},
		{args: "--config " + file, err: "the configuration file is a \"Config\" of \"v1\""},
		{args: "--kubeconfig /nowhere", err: "reading the kubeconfig"},
		{args: "--server 192.0.2.1:6443", err: "no service account"},
		{args: "--kubeconfig " + file + " --server 192.0.2.1", err: "is not host:port"},
		{args: "--cluster-cidr 10.244.0.0", err: "clusterCIDRs"},
		{args: "--nodeport-addresses primary,10.0.0.0", err: "nodePortAddresses"},
		{args: "--ipv6 perhaps", err: "is not yes, no or auto"},
	} {
		t.Run(c.args, func(t *testing.T) {
			args := strings.Fields(c.args)
			if !strings.Contains(c.args, "--config") && !strings.Contains(c.args, "--ipv6") || strings.Contains(c.args, theirs) {
				args = append(args, "--ipv6", "no") // not auto, which depends on the machine
			}
			got, err := parse(args)
			if err != nil {
				if c.err == "" || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want %q", err, c.err)
				}
				return
			}
			if got != c.want {
				t.Errorf("got %s, want %s (or error %q)", got, c.want, c.err)
			}
		})
	}
}

// parse returns what a command line means.
func parse(args []string) (string, error) {
	o := options{Config: config.Default()}
	f := newFlags(&o)
	if err := f.Parse(args); err != nil {
		return "", err
	}
	if _, err := o.complete(f); err != nil {
		return "", err
	}
	c, err := o.proxy()
	if err != nil {
		return "", err
	}
	api, err := o.api()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %s %v %v %v %#x %v", api.Host, c.NodeName, c.PodCIDRs, c.NodePortAddresses, c.IPv6, c.MasqueradeMark, c.MinSyncPeriod), nil
}

// TestOverrideEveryFlag gives each flag another value than its default and sees
// it arrive over a file.
func TestOverrideEveryFlag(t *testing.T) {
	from := options{Config: config.Default()}
	to := options{Config: config.Default()}
	given, target := newFlags(&from), newFlags(&to)
	given.VisitAll(func(f *pflag.Flag) {
		if f.Name == "v" {
			return // the log's, of which there is one
		}
		value := map[string]string{"string": "x", "int32": "7", "uint32": "8", "duration": "9s", "stringSlice": "x,y", "bool": "true"}[f.Value.Type()]
		if f.DefValue == value {
			value = "false"
		}
		if err := given.Set(f.Name, value); err != nil {
			t.Fatal(err)
		}
	})
	if err := override(target, given); err != nil {
		t.Fatal(err)
	}
	target.VisitAll(func(f *pflag.Flag) {
		if want := given.Lookup(f.Name).Value.String(); f.Value.String() != want {
			t.Errorf("--%s is %s, want %s", f.Name, f.Value, want)
		}
	})
}

// TestSettingsReachTheProxy looks at all that the proxy itself is told.
func TestSettingsReachTheProxy(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"", "mark 0x4000, all false, detect 0 \"\" [], NodePorts true [], priorities {-100 100}, affinity 0, shared false, health 10256"},
		{"--masquerade-all --masquerade-bit 15 --nat-destination-priority -101 --nat-source-priority 99 --affinity-size 5 --shared-table --healthz-bind-address [::]:10257",
			"mark 0x8000, all true, detect 0 \"\" [], NodePorts true [], priorities {-101 99}, affinity 5, shared true, health 10257"},
		{"--detect-local-mode BridgeInterface --pod-bridge-interface cni0 --healthz-bind-address=",
			"mark 0x4000, all false, detect 2 \"cni0\" [], NodePorts true [], priorities {-100 100}, affinity 0, shared false, health 0"},
		{"--detect-local-mode InterfaceNamePrefix --pod-interface-name-prefix veth --nodeport-addresses primary,10.0.0.0/8",
			"mark 0x4000, all false, detect 3 \"veth\" [], NodePorts true [10.0.0.0/8], priorities {-100 100}, affinity 0, shared false, health 10256"},
		{"--detect-local-mode NodeCIDR --nodeport-addresses 10.0.0.0/8",
			"mark 0x4000, all false, detect 1 \"\" [], NodePorts false [10.0.0.0/8], priorities {-100 100}, affinity 0, shared false, health 10256"},
	} {
		o := options{Config: config.Default()}
		f := newFlags(&o)
		if err := f.Parse(append(strings.Fields(c.args), "--ipv6=no")); err != nil {
			t.Fatal(err)
		}
		if _, err := o.complete(f); err != nil {
			t.Fatal(err)
		}
		p, err := o.proxy()
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprintf("mark %#x, all %v, detect %d %q %v, NodePorts %v %v, priorities %v, affinity %d, shared %v, health %d", p.MasqueradeMark, p.MasqueradeAll,
			p.DetectLocal, p.PodInterface, p.PodCIDRs, p.PrimaryNodePorts, p.NodePortAddresses, p.NATPriorities, p.AffinitySize, p.SharedTable, p.HealthPort)
		if got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.args, got, c.want)
		}
	}
}

func TestHelp(t *testing.T) {
	var out bytes.Buffer
	c := newCommand()
	c.SetArgs([]string{"--help"})
	c.SetOut(&out)
	if err := c.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"in place of kube-proxy", "--kubeconfig", "--cleanup", "10256"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the help does not mention %q", want)
		}
	}
	c = newCommand()
	c.SetArgs([]string{"stray"})
	c.SetOut(io.Discard)
	if err := c.Execute(); err == nil {
		t.Error("a stray argument was accepted")
	}
}
