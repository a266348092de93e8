package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
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

// times are what differs between any two answers.
var times = regexp.MustCompile(`"\d{4}-\d\d-\d\dT[^"]+"`)

// answers returns what the program of the node says to who checks its health:
// codes, headers and bodies.
func (s *stage) answers() string {
	s.t.Helper()
	s.healthy()
	// kube-proxy says so before it has programmed anything.
	s.until("all is programmed", func() bool {
		code, _ := s.get(healthCheckNodePort, "/")
		_, body := s.get("127.0.0.1:10256", "/livez")
		return code != 0 && strings.Contains(body, "IPv4") && strings.Contains(body, "IPv6")
	})
	var out strings.Builder
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: s.hosts["node"].DialContext, DisableKeepAlives: true}}
	for _, url := range []string{"http://127.0.0.1:10256/healthz", "http://127.0.0.1:10256/livez", "http://" + healthCheckNodePort + "/any", "http://127.0.0.1:10249/proxyMode"} {
		response, err := client.Get(url)
		must(s.t, err)
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		must(s.t, err)
		response.Header.Del("Date")
		response.Header.Del("Content-Length") // of times with more or fewer digits
		fmt.Fprintf(&out, "%s\n%d %v\n%s\n", url, response.StatusCode, response.Header, times.ReplaceAll(body, []byte(`"time"`)))
	}
	return out.String()
}

// metricNames returns the kube-proxy metrics that the program of the node has,
// each with its labels' names.
func (s *stage) metricNames() map[string]bool {
	_, text := s.get("127.0.0.1:10249", "/metrics")
	label := regexp.MustCompile(`(\w+)="[^"]*"`)
	names := make(map[string]bool)
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "kubeproxy_") {
			continue
		}
		name, _, _ := strings.Cut(line, " ")
		names[label.ReplaceAllString(name, "$1")] = true
	}
	return names
}

// TestRealKubeProxy is TestTakeover with kube-proxy itself in place of rules like
// its. Who asks for health and metrics notices no difference.
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
	said1, names1 := s.answers(), s.metricNames()
	must(t, kubeProxy.Process.Kill())
	if err := kubeProxy.Wait(); err == nil {
		t.Error("kube-proxy ended in peace")
	}
	if said, err := s.run(); err == nil || !strings.Contains(said, "(nftables)") {
		t.Errorf("a first start beside kube-proxy's rules: %v, saying %q", err, said)
	}
	p := s.start("run", "--takeover", "--ipv6=yes")
	s.until("kube-proxy's rules are gone", func() bool { return !strings.Contains(s.nft("list", "tables"), "kube-proxy") })
	s.flows(f, "after the takeover")
	if said2 := s.answers(); said2 != said1 {
		t.Errorf("kube-proxy answers\n%s\nnode-proxy answers\n%s", said1, said2)
	}
	names2 := s.metricNames()
	for name := range names1 {
		if !names2[name] {
			t.Errorf("kube-proxy has the metric %s, node-proxy has not", name)
		}
	}

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
