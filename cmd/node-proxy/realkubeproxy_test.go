package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// kubeProxyVariable names a kube-proxy to take over from, as `make
// test-kube-proxy` builds it.
const kubeProxyVariable = "FAIRWAY_KUBE_PROXY"

// startKubeProxy runs the real kube-proxy on the node, in its nftables mode.
func (s *stage) startKubeProxy() *exec.Cmd {
	s.t.Helper()
	kubeconfig := filepath.Join(s.dir, "kube-proxy.kubeconfig")
	must(s.t, os.WriteFile(kubeconfig, []byte(strings.Replace(anyKubeconfig, "https://192.0.2.1:6443", s.api.url, 1)), 0o600))
	cmd := exec.Command(os.Getenv(kubeProxyVariable), "--kubeconfig="+kubeconfig, "--proxy-mode=nftables", "--hostname-override=node-1",
		"--cluster-cidr=10.244.0.0/16", "--nodeport-addresses=primary", "--conntrack-max-per-core=0", "--kube-api-content-type=application/json")
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	must(s.t, s.hosts["node"].Start(cmd))
	s.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		if s.t.Failed() {
			s.t.Logf("kube-proxy said:\n%s", out.String())
		}
	})
	return cmd
}

// TestRealKubeProxy is TestTakeover with kube-proxy itself in place of rules like
// its.
func TestRealKubeProxy(t *testing.T) {
	if os.Getenv(kubeProxyVariable) == "" {
		t.Skip("not asked for: make test-kube-proxy builds kube-proxy from its module and takes its place")
	}
	s := newStage(t)
	s.nft("list", "tables") // kube-proxy needs the tool too
	kubeProxy := s.startKubeProxy()
	s.until("kube-proxy serves", func() bool { _, err := s.ask("client", atNode); return err == nil })
	f := s.traffic()
	s.flows(f, "through kube-proxy")
	must(t, kubeProxy.Process.Kill())
	if err := kubeProxy.Wait(); err == nil {
		t.Error("kube-proxy ended in peace")
	}
	if said, err := s.run(); err == nil || !strings.Contains(said, "(nftables)") {
		t.Errorf("a first start beside kube-proxy's rules: %v, saying %q", err, said)
	}
	p := s.start("run", "--takeover")
	s.until("kube-proxy's rules are gone", func() bool { return !strings.Contains(s.nft("list", "tables"), "kube-proxy") })
	s.flows(f, "after the takeover")

	s.startKubeProxy()
	s.until("kube-proxy is back, and told", func() bool {
		return strings.Contains(s.nft("list", "ruleset"), "table ip kube-proxy") && s.api.told("KubeProxyPresent", "(nftables)")
	})
	s.flows(f, "with both proxies")
	s.stop(p)
	if said, err := s.run("--cleanup"); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	s.flows(f, "given back to kube-proxy")
	f.stop()
	t.Logf("%d exchanges on 20 connections and %d new connections, none failed", f.exchanges.Load(), f.requests.Load())
}
