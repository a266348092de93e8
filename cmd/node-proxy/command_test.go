package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const kubeconfig = `
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://192.0.2.1:6443"}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`

func TestFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NODE_NAME", "from-environment")
	for _, c := range []struct{ args, want, err string }{
		{args: "--kubeconfig " + file, want: "https://192.0.2.1:6443 from-environment [] [] false"},
		{args: "--kubeconfig " + file + " --server 192.0.2.2:443 --node-name n --ipv6 yes", want: "https://192.0.2.2:443 n [] [] true"},
		{args: "--kubeconfig " + file + " --cluster-cidr 10.244.0.0/16,fd00::1/64 --nodeport-addresses 0.0.0.0/0",
			want: "https://192.0.2.1:6443 from-environment [10.244.0.0/16 fd00::/64] [0.0.0.0/0] false"},
		{args: "", err: "either --kubeconfig or --server is needed"},
		{args: "--kubeconfig /nowhere", err: "reading --kubeconfig"},
		{args: "--server 192.0.2.1:6443", err: "no service account"},
		{args: "--kubeconfig " + file + " --server 192.0.2.1", err: "--server is host:port"},
		{args: "--cluster-cidr 10.244.0.0", err: "--cluster-cidr"},
		{args: "--nodeport-addresses primary,10.0.0.0/8", err: "--nodeport-addresses"},
		{args: "--ipv6 perhaps", err: "--ipv6 is yes, no or auto"},
	} {
		t.Run(c.args, func(t *testing.T) {
			got, err := parse(strings.Fields("--ipv6 no " + c.args))
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
	var o options
	f := newFlags(&o)
	if err := f.Parse(args); err != nil {
		return "", err
	}
	config, err := o.config()
	if err != nil {
		return "", err
	}
	api, err := o.api()
	if err != nil {
		return "", err
	}
	return fmt.Sprint(api.Host, " ", config.NodeName, " ", config.PodCIDRs, " ", config.NodePortAddresses, " ", config.IPv6), nil
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
