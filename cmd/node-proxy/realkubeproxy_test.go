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

	"github.com/vishvananda/netlink"
)

// kubeProxyVariable names a kube-proxy to take over from, as `make
// test-kube-proxy` builds it.
const kubeProxyVariable = "FAIRWAY_KUBE_PROXY"

// kubeProxy is the real one, in one of its modes.
type kubeProxy struct {
	cmd *exec.Cmd
	log *lockedBuffer
}

// realKubeProxy returns the kube-proxy to run, or skips the test.
func realKubeProxy(t *testing.T) string {
	t.Helper()
	program := os.Getenv(kubeProxyVariable)
	if program == "" {
		t.Skip("not asked for: make test-kube-proxy builds kube-proxy from its module and takes its place")
	}
	return program
}

// startKubeProxy runs the real kube-proxy on the node. tools, unless empty, is
// the folder of the iptables that it shall use.
func (s *stage) startKubeProxy(mode, tools string) *kubeProxy {
	s.t.Helper()
	kubeconfig := filepath.Join(s.dir, "kube-proxy.kubeconfig")
	must(s.t, os.WriteFile(kubeconfig, []byte(strings.Replace(anyKubeconfig, "https://192.0.2.1:6443", s.api.url, 1)), 0o600))
	k := &kubeProxy{log: &lockedBuffer{}}
	k.cmd = exec.Command(realKubeProxy(s.t), "--kubeconfig="+kubeconfig, "--proxy-mode="+mode, "--hostname-override=node-1", "--cluster-cidr="+clusterCIDR,
		"--nodeport-addresses=primary", "--conntrack-max-per-core=0", "--kube-api-content-type=application/json")
	k.cmd.Env = withTools(tools)
	k.cmd.Stdout, k.cmd.Stderr = k.log, k.log
	must(s.t, s.hosts["node"].Start(k.cmd))
	s.t.Cleanup(func() {
		if k.cmd.ProcessState == nil {
			_ = k.cmd.Process.Kill()
			_ = k.cmd.Wait()
		}
		if s.t.Failed() {
			s.t.Logf("kube-proxy said:\n%s", k.log)
		}
	})
	return k
}

// withTools is the environment with a folder of programs before all others.
func withTools(folder string) []string {
	if folder == "" {
		return os.Environ()
	}
	return append(os.Environ(), "PATH="+folder+":"+os.Getenv("PATH"))
}

// kill ends kube-proxy as a crash does: its rules stay.
func (k *kubeProxy) kill(t *testing.T) {
	t.Helper()
	must(t, k.cmd.Process.Kill())
	if err := k.cmd.Wait(); err == nil {
		t.Error("kube-proxy ended in peace")
	}
}

// iptables returns a folder in which iptables and ip6tables are those of a kind,
// "nft" or "legacy". That kube-proxy was asked for and has none is a failure.
func (s *stage) iptables(kind string) string {
	s.t.Helper()
	multi, err := exec.LookPath("xtables-" + kind + "-multi")
	if err != nil {
		s.t.Fatalf("iptables-%s is missing (apt-get install iptables): kube-proxy's mode iptables was asked for and cannot be tried", kind)
	}
	folder := s.t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		for _, what := range []string{"", "-save", "-restore"} {
			must(s.t, os.Symlink(multi, filepath.Join(folder, name+what)))
		}
	}
	return folder
}

// everybodyElses are the rules of everybody but us, with their handles: a rule
// that was taken out and put back has another.
func (s *stage) everybodyElses() string {
	s.t.Helper()
	var out strings.Builder
	for _, table := range strings.Split(s.nft("--stateless", "--handle", "list", "ruleset"), "\ntable ") {
		if !strings.Contains(table[:strings.Index(table+"\n", "\n")], "fairway") {
			fmt.Fprintln(&out, strings.TrimPrefix(strings.TrimSpace(table), "table "))
		}
	}
	return out.String()
}

// neighbours installs rules as network plugins do: a table of their own and,
// with a folder of iptables, chains in the tables that kube-proxy uses too.
func (s *stage) neighbours(iptables string) {
	s.t.Helper()
	for _, family := range []string{"ip", "ip6"} {
		s.nft("add table " + family + ` cni { comment "rules of a network plugin"; }
			add chain ` + family + ` cni hostports { type nat hook prerouting priority dstnat - 5; }
			add rule ` + family + ` cni hostports tcp dport 9999 redirect to :9998 comment "CNI"`)
	}
	if iptables == "" {
		return
	}
	for _, tool := range []string{"iptables", "ip6tables"} {
		for _, rule := range []string{
			"-t nat -N CNI-HOSTPORT-DNAT", "-t nat -A CNI-HOSTPORT-DNAT -p tcp --dport 9997 -m comment --comment plugin -j REDIRECT --to-ports 9996",
			"-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT", "-t nat -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
			"-t nat -N CNI-MASQ", "-t nat -A POSTROUTING -m mark --mark 0x2000/0x2000 -j CNI-MASQ", "-t nat -A CNI-MASQ -j MASQUERADE",
			"-t filter -N KUBE-FIREWALL", "-t filter -A INPUT -j KUBE-FIREWALL", "-t filter -A OUTPUT -j KUBE-FIREWALL",
			"-t filter -A KUBE-FIREWALL -m conntrack --ctstate INVALID -p udp -j DROP",
			"-t filter -A FORWARD -m comment --comment cni -j ACCEPT",
			"-t mangle -N KUBE-IPTABLES-HINT", "-t mangle -A PREROUTING -p tcp --dport 9995 -j MARK --set-xmark 0x1/0x1",
		} {
			s.tool(filepath.Join(iptables, tool), append([]string{"-w"}, strings.Fields(rule)...)...)
		}
	}
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
// its: it is replaced, comes back beside us, and is given the node again. Who
// asks for health and metrics notices no difference, and everybody else's rules
// are as they were, to the byte.
func TestRealKubeProxy(t *testing.T) {
	realKubeProxy(t)
	for _, c := range [][2]string{{"nftables", "nftables"}, {"iptables", "iptables-nft"}} {
		mode, backend := c[0], c[1]
		t.Run(mode, func(t *testing.T) {
			s := newStage(t)
			tools := ""
			if mode == "iptables" {
				tools = s.iptables("nft")
			}
			s.neighbours(tools)
			others := s.everybodyElses()

			theirs := s.startKubeProxy(mode, tools)
			s.served()
			f := s.traffic()
			s.flows(f, "through kube-proxy")
			said, names := s.answers(), s.metricNames()
			theirs.kill(t)
			if said, err := s.run(); err == nil || !strings.Contains(said, "("+backend+")") || !strings.Contains(said, "--takeover") {
				t.Errorf("a first start beside kube-proxy's rules: %v, saying %q", err, said)
			}
			p := s.start("run", "--takeover")
			s.until("the takeover is told", func() bool { return s.api.told("TookOver", "connections go on") })
			s.flows(f, "after the takeover")
			if left := s.everybodyElses(); left != others {
				t.Errorf("everybody else's rules were\n%s\nafter the takeover they are\n%s", others, left)
			}
			s.sameFace(mode, said, names)

			back := s.startKubeProxy(mode, tools)
			s.until("kube-proxy is back, and told", func() bool {
				return s.api.told("KubeProxyPresent", "("+backend+")") && s.metric(`fairway_nodeproxy_kube_proxy_present{backend="`+backend+`"} 1`)
			})
			s.flows(f, "with both proxies")
			p = s.upgradeBeside(f, p)

			// Giving back is to stop, and to clean up.
			s.stop(p)
			if said, err := s.run("--cleanup"); err != nil {
				t.Fatalf("%v: %s", err, said)
			}
			s.flows(f, "given back to kube-proxy")
			if rules := s.nft("list", "tables"); strings.Contains(rules, "fairway") {
				t.Errorf("the clean-up left\n%s", rules)
			}
			back.kill(t)
			s.flows(f, "through its rules alone")
			f.stop()
			f.report(t)
		})
	}
}

// served waits until kube-proxy serves. What was sent before is forgotten: it is
// tracked untranslated, for two minutes, and whoever gets the same port would be.
func (s *stage) served() {
	s.t.Helper()
	s.until("kube-proxy serves", s.servesAll)
	must(s.t, s.hosts["node"].Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }))
}

// servesAll tells whether the Service is answered everywhere.
func (s *stage) servesAll() bool {
	for _, f := range families {
		for from, at := range map[string]string{"client": f.atNode, "a": f.clusterIP, "node": f.clusterIP} {
			if _, err := s.ask(from, at); err != nil {
				return false
			}
		}
	}
	return true
}

// sameFace compares what health checks and dashboards get with what kube-proxy
// gave them. The metrics of its iptables mode that count rules have no
// counterpart.
func (s *stage) sameFace(mode, said string, names map[string]bool) {
	s.t.Helper()
	now := s.answers()
	if mode == "iptables" {
		said = strings.Replace(said, "\niptables\n", "\nnftables\n", 1)
	}
	if now != said {
		s.t.Errorf("kube-proxy answers\n%s\nnode-proxy answers\n%s", said, now)
	}
	has := s.metricNames()
	for name := range names {
		if !has[name] && !strings.HasPrefix(name, "kubeproxy_sync_proxy_rules_iptables_") && !strings.HasPrefix(name, "kubeproxy_iptables_") {
			s.t.Errorf("kube-proxy has the metric %s, node-proxy has not", name)
		}
	}
}

// upgradeBeside restarts the program while kube-proxy runs and has taken the
// port of /healthz, as a cluster upgrade leaves it: the table is there, so it
// serves, and tells. It returns the new process.
func (s *stage) upgradeBeside(f *traffic, p *process) *process {
	s.t.Helper()
	s.stop(p)
	s.flows(f, "with our table and kube-proxy")
	s.until("kube-proxy has the port", func() bool { code, _ := s.get("127.0.0.1:10256", "/healthz"); return code == http.StatusOK })
	p = s.start("run", "--metrics-bind-address=127.0.0.1:10349")
	s.until("the held port is told", func() bool {
		_, metrics := s.get("127.0.0.1:10349", "/metrics")
		return strings.Contains(metrics, `fairway_nodeproxy_port_held{server="healthz"} 1`) && strings.Contains(metrics, `fairway_nodeproxy_kube_proxy_present{backend=`) &&
			s.api.told("FailedToStartProxierHealthcheck", "address already in use")
	})
	s.flows(f, "restarted beside kube-proxy, which holds the port")
	return p
}

// TestRealKubeProxyLegacy has kube-proxy use legacy iptables: only its own
// clean-up gets its rules out.
func TestRealKubeProxyLegacy(t *testing.T) {
	realKubeProxy(t)
	s := newStage(t)
	tools := s.iptables("legacy")
	theirs := s.startKubeProxy("iptables", tools)
	s.served()
	theirs.kill(t)
	for _, args := range [][]string{nil, {"--takeover"}} {
		said, err := s.run(args...)
		if err == nil || !strings.Contains(said, "(iptables-legacy)") || !strings.Contains(said, `"kube-proxy --cleanup"`) {
			t.Errorf("a first start with %q beside legacy rules: %v, saying %q", args, err, said)
		}
	}
	if rules := s.nft("list", "tables"); strings.Contains(rules, "fairway") {
		t.Errorf("a refused start left\n%s", rules)
	}
	if !s.servesAll() {
		t.Error("the refused starts broke kube-proxy's rules")
	}

	// What the advice says works.
	cmd := exec.Command(realKubeProxy(t), "--cleanup")
	var said lockedBuffer
	cmd.Env, cmd.Stdout, cmd.Stderr = withTools(tools), &said, &said
	must(t, s.hosts["node"].Start(cmd))
	if err := cmd.Wait(); err != nil {
		t.Fatalf("kube-proxy --cleanup: %v\n%s", err, said.String())
	}
	s.start("run")
	s.until("the Service is served", s.servesAll)
}
