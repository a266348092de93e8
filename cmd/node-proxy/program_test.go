package main

import (
	"bytes"
	"context"
	"encoding/json"
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
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"

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
// read-only, and of all capabilities NET_ADMIN is left. Then it runs the program.
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
	check("environment", os.Setenv(roleVariable, "run"))
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

const (
	clusterIP = "10.96.0.10:80"
	atNode    = "10.0.0.11:30080"
)

// stage is a node with two Pods and a client, and an API server on the node.
type stage struct {
	t     *testing.T
	hosts map[string]*sandbox.NetNS
	api   *apiServer
	dir   string
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, hosts: make(map[string]*sandbox.NetNS), dir: t.TempDir()}
	for _, name := range []string{"node", "client", "a", "b"} {
		ns, err := sandbox.NewNetNS(fmt.Sprintf("%s-%d", name, time.Now().UnixNano()))
		must(t, err)
		t.Cleanup(func() { ns.Close() })
		s.hosts[name] = ns
	}
	must(t, s.hosts["node"].Sysctl("net.ipv4.ip_forward", "1"))
	node := netip.MustParseAddr("10.0.0.11")
	for name, address := range map[string]string{"client": "198.51.100.10", "a": "10.244.1.10", "b": "10.244.1.11"} {
		own := netip.PrefixFrom(netip.MustParseAddr(address), 32)
		routes := []sandbox.Route{{To: own}}
		if name == "client" { // where the rest of the world is
			routes = append(routes, sandbox.Route{To: netip.MustParsePrefix("0.0.0.0/0"), Via: own.Addr(), Source: node})
		}
		must(t, sandbox.Connect(
			sandbox.End{NetNS: s.hosts["node"], Device: name, Addresses: []netip.Prefix{netip.PrefixFrom(node, 32)}, Routes: routes},
			sandbox.End{NetNS: s.hosts[name], Device: "eth0", Addresses: []netip.Prefix{own},
				Routes: []sandbox.Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: node, Source: own.Addr()}}}))
	}
	for _, pod := range []string{"a", "b"} {
		s.echo(pod)
	}
	s.api = newAPIServer(t, s.hosts["node"])
	return s
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
	p := &process{log: &lockedBuffer{}, done: make(chan error, 1)}
	p.cmd = exec.Command("/proc/self/exe", append([]string{"--kubeconfig", kubeconfig, "--node-name", "node-1", "--cluster-cidr", "10.244.0.0/16", "--ipv6", "no"}, args...)...)
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
	var out lockedBuffer
	cmd := exec.Command("nft", args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	must(s.t, s.hosts["node"].Start(cmd))
	if err := cmd.Wait(); err != nil {
		s.t.Fatalf("nft %v: %v\n%s", args, err, out.String())
	}
	return out.String()
}

// kubeProxyRules are what kube-proxy would install for the stage's Service.
func kubeProxyRules(backend string) string {
	return filepath.Join("..", "..", "controllers", "nodeproxy", "takeover", "testdata", backend+".nft")
}

// healthCheckNodePort is that of the Service "local".
const healthCheckNodePort = "10.0.0.11:31999"

// apiServer serves what the program reads, notes the events it writes and which
// permissions it used.
type apiServer struct {
	url string

	mu     sync.Mutex
	down   bool
	events []eventsv1.Event
	used   map[string]bool // "verb group/resource"
}

func newAPIServer(t *testing.T, host *sandbox.NetNS) *apiServer {
	t.Helper()
	l, err := host.Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	a := &apiServer{url: "http://" + l.Addr().String(), used: make(map[string]bool)}
	server := &http.Server{Handler: a}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	return a
}

func (a *apiServer) objects(resource string) (gv, kind string, items []any) {
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "default", Name: name, ResourceVersion: "1", UID: "uid-of-web",
			Labels: map[string]string{discoveryv1.LabelServiceName: "web"}}
	}
	switch resource {
	case "services":
		service := corev1.Service{ObjectMeta: meta("web"), Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10"},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, NodePort: 30080}},
		}}
		local := corev1.Service{ObjectMeta: meta("local"), Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.11", ClusterIPs: []string{"10.96.0.11"},
			ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, HealthCheckNodePort: 31999,
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, NodePort: 30081}},
		}}
		return "v1", "Service", []any{service, local}
	case "nodes":
		node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", ResourceVersion: "1"}}
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.11"}}
		return "v1", "Node", []any{node}
	case "endpointslices":
		slice := discoveryv1.EndpointSlice{ObjectMeta: meta("web-1"), AddressType: discoveryv1.AddressTypeIPv4,
			Ports: []discoveryv1.EndpointPort{{Name: new("http"), Protocol: new(corev1.ProtocolTCP), Port: new(int32(8080))}}}
		for _, address := range []string{"10.244.1.10", "10.244.1.11"} {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{address}, NodeName: new("node-1")})
		}
		return "discovery.k8s.io/v1", "EndpointSlice", []any{slice}
	}
	return "networking.k8s.io/v1", "ServiceCIDR", nil
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	group := "core"
	parts = parts[1:]
	if !strings.HasPrefix(r.URL.Path, "/api/") {
		group, parts = parts[0], parts[1:]
	}
	parts = parts[1:] // the version
	if len(parts) > 2 && parts[0] == "namespaces" {
		parts = parts[2:]
	}
	verb := map[string]string{http.MethodPost: "create", http.MethodPatch: "patch", http.MethodGet: "list"}[r.Method]
	if verb == "list" && len(parts) > 1 {
		verb = "get"
	}
	if r.URL.Query().Get("watch") != "" {
		verb = "watch"
	}
	a.mu.Lock()
	down := a.down
	if !down {
		a.used[verb+" "+group+"/"+parts[0]] = true
	}
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if down || r.URL.Query().Get("sendInitialEvents") != "" {
		w.WriteHeader(map[bool]int{true: http.StatusServiceUnavailable, false: http.StatusUnprocessableEntity}[down])
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure})
		return
	}
	gv, kind, items := a.objects(parts[0])
	switch verb {
	case "watch":
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case "list":
		_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": gv, "kind": kind + "List", "metadata": map[string]string{"resourceVersion": "1"}, "items": items})
	case "get":
		service := items[0].(corev1.Service)
		service.TypeMeta = metav1.TypeMeta{APIVersion: gv, Kind: kind}
		_ = json.NewEncoder(w).Encode(service)
	case "create":
		a.event(w, r)
	}
}

func (a *apiServer) event(w http.ResponseWriter, r *http.Request) {
	scheme := k8sruntime.NewScheme()
	_ = eventsv1.AddToScheme(scheme)
	body, err := io.ReadAll(r.Body)
	if err == nil {
		var object k8sruntime.Object
		if object, _, err = serializer.NewCodecFactory(scheme).UniversalDeserializer().Decode(body, nil, nil); err == nil {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.events = append(a.events, *object.(*eventsv1.Event))
			_ = json.NewEncoder(w).Encode(object)
			return
		}
	}
	http.Error(w, err.Error(), http.StatusBadRequest)
}

// told tells whether an event of that reason arrived whose note has the text.
func (a *apiServer) told(reason, text string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.events, func(e eventsv1.Event) bool { return e.Reason == reason && strings.Contains(e.Note, text) })
}

func (a *apiServer) setDown(down bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.down = down
}
