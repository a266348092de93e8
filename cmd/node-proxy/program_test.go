package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// roleVariable makes the test binary the program itself: "confined" without
// privileges first, "run" at once.
const roleVariable = "FAIRWAY_NODE_PROXY_TEST"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "confined":
		confine()
	case "run":
		main()
	default:
		sandbox.Main(m)
	}
}

// confine gives up what the shipped DaemonSet does not grant: everything is
// read-only, no program is found, and of all capabilities NET_ADMIN is left. Then
// it runs the program.
func confine() {
	runtime.LockOSThread()
	check := func(what string, err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, what, err)
			os.Exit(3)
		}
	}
	check("unshare", unix.Unshare(unix.CLONE_NEWNS))
	check("private", unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	check("read-only", readOnly())
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		if c != unix.CAP_NET_ADMIN {
			check("capability", unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0))
		}
	}
	check("no new privileges", unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	check("environment", errors.Join(os.Setenv(roleVariable, "run"), os.Setenv("PATH", "/nowhere")))
	check("exec", syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
}

// readOnly makes all mounts so.
func readOnly() error {
	err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if !errors.Is(err, unix.ENOSYS) {
		return err
	}
	// Before Linux 5.12 it is one at a time.
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if err == nil {
			err = unix.Mount("none", strings.Fields(line)[4], "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}
	return err
}

// Where the Service "web" is, in IPv4.
const (
	clusterIP = "10.96.0.10:80"
	atNode    = "10.0.0.11:30080"
)

// families are the addresses in each: of hosts, and where the Service "web" is.
var families = []struct {
	hosts             map[string]string
	everywhere, pods  string
	router            string // the Pods' and the client's
	clusterIP, atNode string
}{
	{map[string]string{"node": "10.0.0.11", "client": "198.51.100.10", "a": "10.244.1.10", "b": "10.244.1.11"},
		"0.0.0.0/0", "10.244.0.0/16", "10.0.0.11", clusterIP, atNode},
	{map[string]string{"node": "fd00:a::11", "client": "2001:db8:c::10", "a": "fd00:f4:1::10", "b": "fd00:f4:1::11"},
		"::/0", "fd00:f4::/32", "fe80::1", "[fd00:96::10]:80", "[fd00:a::11]:30080"},
}

const clusterCIDR = "10.244.0.0/16,fd00:f4::/32"

// stage is a node with two Pods and a client, and an API server on the node.
type stage struct {
	t     *testing.T
	hosts map[string]*sandbox.NetNS
	api   *apiServer
	dir   string

	mu   sync.Mutex
	seen map[string]netip.Addr // the last client of each Pod, as that saw it
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, hosts: make(map[string]*sandbox.NetNS), dir: t.TempDir(), seen: make(map[string]netip.Addr)}
	for _, name := range []string{"node", "client", "a", "b"} {
		ns, err := sandbox.NewNetNS(fmt.Sprintf("%s-%d", name, time.Now().UnixNano()))
		must(t, err)
		t.Cleanup(func() { ns.Close() })
		s.hosts[name] = ns
	}
	must(t, s.hosts["node"].Sysctl("net.ipv4.ip_forward", "1"))
	must(t, s.hosts["node"].Sysctl("net.ipv6.conf.all.forwarding", "1"))
	for _, name := range []string{"client", "a", "b"} {
		s.connect(name)
	}
	for _, pod := range []string{"a", "b"} {
		s.echo(pod)
	}
	s.api = newAPIServer(t, s.hosts["node"])
	return s
}

// connect hangs a host off the node.
func (s *stage) connect(name string) {
	s.t.Helper()
	down := sandbox.End{NetNS: s.hosts["node"], Device: name}
	up := sandbox.End{NetNS: s.hosts[name], Device: "eth0"}
	for _, f := range families {
		own, node, router := whole(f.hosts[name]), whole(f.hosts["node"]), whole(f.router)
		down.Addresses = append(down.Addresses, node)
		if router != node {
			down.Addresses = append(down.Addresses, netip.PrefixFrom(router.Addr(), 64))
		}
		down.Routes = append(down.Routes, sandbox.Route{To: own})
		if name == "client" { // where the rest of the world is
			down.Routes = append(down.Routes, sandbox.Route{To: netip.MustParsePrefix(f.everywhere), Via: own.Addr(), Source: node.Addr()})
		}
		up.Addresses = append(up.Addresses, own)
		up.Routes = append(up.Routes, sandbox.Route{To: netip.MustParsePrefix(f.everywhere), Via: router.Addr(), Source: own.Addr()})
	}
	must(s.t, sandbox.Connect(down, up))
}

// whole is the prefix of one address.
func whole(address string) netip.Prefix {
	a := netip.MustParseAddr(address)
	return netip.PrefixFrom(a, a.BitLen())
}

// echo says the Pod's name on a connection, and again for each byte it gets.
func (s *stage) echo(pod string) {
	l, err := s.hosts[pod].Listen(s.t.Context(), "tcp", ":8080")
	must(s.t, err)
	s.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.seen[pod] = c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
			s.mu.Unlock()
			go func() {
				defer c.Close()
				for buf := make([]byte, 1); ; {
					if _, err := c.Write([]byte(pod)); err != nil {
						return
					}
					if _, err := c.Read(buf); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// ask connects and returns the name of the Pod that answers.
func (s *stage) ask(from, to string) (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	c, err := s.hosts[from].DialContext(ctx, "tcp", to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return hear(c)
}

// hear reads a Pod's name.
func hear(c net.Conn) (string, error) {
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	buf := make([]byte, 1)
	_, err := io.ReadFull(c, buf)
	return string(buf), err
}

// process is a node-proxy that runs on the node.
type process struct {
	cmd  *exec.Cmd
	log  *lockedBuffer
	done chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs the program on the node with the stage's API server.
func (s *stage) start(role string, args ...string) *process {
	s.t.Helper()
	kubeconfig := filepath.Join(s.dir, "kubeconfig")
	must(s.t, os.WriteFile(kubeconfig, []byte(strings.Replace(anyKubeconfig, "https://192.0.2.1:6443", s.api.url, 1)), 0o600))
	if os.Getenv("FAIRWAY_SHARED_TABLE") == "1" { // as under a kernel before Linux 6.9
		args = append([]string{"--shared-table"}, args...)
	}
	p := &process{log: &lockedBuffer{}, done: make(chan error, 1)}
	p.cmd = exec.Command("/proc/self/exe", append([]string{"--kubeconfig", kubeconfig, "--node-name", "node-1", "--cluster-cidr", clusterCIDR, "--ipv6", "yes"}, args...)...)
	p.cmd.Env = append(os.Environ(), roleVariable+"="+role)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	must(s.t, s.hosts["node"].Start(p.cmd))
	go func() { p.done <- p.cmd.Wait() }()
	s.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		if s.t.Failed() {
			s.t.Logf("node-proxy %v said:\n%s", args, p.log)
		}
	})
	return p
}

// stop ends the process as systemd or the kubelet does.
func (s *stage) stop(p *process) {
	s.t.Helper()
	must(s.t, p.cmd.Process.Signal(syscall.SIGTERM))
	if err := <-p.done; err != nil {
		s.t.Fatalf("node-proxy ended with %v:\n%s", err, p.log)
	}
}

// run waits for a process to end by itself and returns what it said.
func (s *stage) run(args ...string) (string, error) {
	s.t.Helper()
	p := s.start("run", args...)
	err := <-p.done
	return p.log.String(), err
}

// get asks the node-proxy's HTTP servers from the node itself.
func (s *stage) get(address, path string) (int, string) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: s.hosts["node"].DialContext, DisableKeepAlives: true}}
	response, err := client.Get("http://" + address + path)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(body)
}

// metric tells whether the metrics have a line that begins so.
func (s *stage) metric(line string) bool {
	_, body := s.get("127.0.0.1:10249", "/metrics")
	return strings.Contains(body, line)
}

// healthy waits until the program has programmed the node.
func (s *stage) healthy() {
	s.t.Helper()
	s.until("/healthz says 200", func() bool { code, _ := s.get("127.0.0.1:10256", "/healthz"); return code == http.StatusOK })
}

func (s *stage) until(what string, met func() bool) {
	s.t.Helper()
	for end := time.Now().Add(30 * time.Second); !met(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("in vain: waiting until %s", what)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// nft runs the distribution's tool on the node.
func (s *stage) nft(args ...string) string {
	s.t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		if os.Getenv("CI") == "true" || os.Getenv("FAIRWAY_REQUIRE_NFT") == "1" {
			s.t.Fatal("the nft tool is missing (apt-get install nftables)")
		}
		s.t.Skip("NOT CHECKED, for there is no nft tool (apt-get install nftables): how we live with kube-proxy's rules")
	}
	return s.tool("nft", args...)
}

// tool runs a program on the node and returns what it says.
func (s *stage) tool(name string, args ...string) string {
	s.t.Helper()
	var out lockedBuffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	must(s.t, s.hosts["node"].Start(cmd))
	if err := cmd.Wait(); err != nil {
		s.t.Fatalf("%s %v: %v\n%s", name, args, err, out.String())
	}
	return out.String()
}
