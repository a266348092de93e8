package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/controllers/nodeproxy"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/config"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/health"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/metrics"
)

// TestConfigz asks the metrics port for the configuration. What it says, given as
// a file, is that configuration again; of the credentials it says nothing.
func TestConfigz(t *testing.T) {
	dir := t.TempDir()
	kubeconfig, file := filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "config")
	must(t, os.WriteFile(kubeconfig, []byte(strings.ReplaceAll(anyKubeconfig, "token: t", "token: not-to-be-told")), 0o600))
	for name, content := range map[string]string{
		"ours": "apiVersion: fairway.io/v1alpha1\nkind: NodeProxyConfig\nkubeconfig: " + kubeconfig + "\naffinitySize: 7\nminSyncPeriod: 1s\n",
		"kube-proxy's": "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclientConnection: {kubeconfig: " + kubeconfig +
			"}\nclusterCIDR: 10.200.0.0/16\nnodePortAddresses: [10.0.0.0/8]\n",
	} {
		t.Run(name, func(t *testing.T) {
			must(t, os.WriteFile(file, []byte(content), 0o600))
			o := options{Config: config.Default()}
			f := newFlags(&o)
			must(t, f.Parse([]string{"--config=" + file, "--node-name=n1", "--ipv6=no", "--masquerade-bit=3", "--cluster-cidr=10.9.0.0/16", "--v=0"}))
			_, err := o.complete(f)
			must(t, err)
			if o.NodeName != "n1" || o.MasqueradeBit != 3 || o.DetectLocal.ClusterCIDRs[0] != "10.9.0.0/16" {
				t.Fatalf("the flags made %+v", o.Config)
			}
			answer := httptest.NewRecorder()
			for _, s := range o.servers(health.New(time.Minute), metrics.New(), new(nodeproxy.Proxy)) {
				if s.name == "metrics" {
					s.handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/configz", nil))
				}
			}
			if answer.Code != http.StatusOK || answer.Header().Get("Content-Type") != "application/json" || strings.Contains(answer.Body.String(), "not-to-be-told") {
				t.Fatalf("%d, %v: %s", answer.Code, answer.Header(), answer.Body)
			}
			var groups map[string]json.RawMessage
			must(t, json.Unmarshal(answer.Body.Bytes(), &groups))
			again, _, err := config.Load(groups["fairway.io"])
			must(t, err)
			if len(groups) != 1 || !reflect.DeepEqual(again, o.Config) {
				t.Errorf("the configuration is\n%+v\nand told is\n%s", o.Config, answer.Body)
			}
		})
	}
}

// TestConfigzVerbosity: the log level told is that of the log, whoever set it.
func TestConfigzVerbosity(t *testing.T) {
	o := options{Config: config.Default()}
	f := newFlags(&o)
	must(t, f.Parse([]string{"--node-name=n1", "--v=1"}))
	defer func() { must(t, f.Set("v", "0")) }() // there is one log
	_, err := o.complete(f)
	must(t, err)
	if o.Verbosity != 1 {
		t.Errorf("told is %d", o.Verbosity)
	}
}
