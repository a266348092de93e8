package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"github.com/fairway-lb/fairway/e2e/sandbox"
	"github.com/fairway-lb/fairway/providers/fake/datapath"
)

// The tests' own network namespace is the one that fakecloud runs in.
func TestMain(m *testing.M) { sandbox.Main(m) }

const (
	example  = "world.example.yaml"
	patience = 30 * time.Second
	nodePort = 30080
	zone     = "elb.eu-west-1.amazonaws.com."
)

// served is a running fakecloud.
type served struct {
	api, dns string
	stop     func() error
}

// start runs fakecloud until the test ends, and returns when it is ready.
func start(t *testing.T, o options) served {
	t.Helper()
	o.listen, o.dns = "127.0.0.1:0", "127.0.0.1:0"
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, o, writer, t.Output())
		writer.Close()
		done <- err
	}()
	var s served
	s.stop = func() error {
		cancel()
		err := <-done
		done <- err
		return err
	}
	t.Cleanup(func() { check(t, s.stop()) })
	for lines := bufio.NewScanner(reader); lines.Scan(); {
		line := lines.Text()
		if _, rest, ok := strings.Cut(line, "AWS_ENDPOINT_URL="); ok {
			s.api, _, _ = strings.Cut(rest, " ")
		}
		if _, rest, ok := strings.Cut(line, "DNS server "); ok {
			s.dns = strings.TrimSuffix(rest, ".")
		}
		if line == "ready" {
			return s
		}
	}
	t.Fatalf("ended before it was ready: %v", s.stop())
	return s
}

func (s served) get(t *testing.T, path string, into any) string {
	t.Helper()
	response, err := http.Get(s.api + path)
	check(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	check(t, err)
	if into != nil && response.StatusCode == http.StatusOK {
		check(t, json.Unmarshal(body, into))
	}
	return fmt.Sprintf("%d %s", response.StatusCode, bytes.TrimSpace(body))
}

// ask asks DNS over UDP and TCP, and wants both to say the same.
func (s served) ask(t *testing.T, name string, kind uint16) (rcode string, addrs []string) {
	t.Helper()
	for i, network := range []string{"udp", "tcp"} {
		question := new(dns.Msg)
		question.SetQuestion(name, kind)
		answer, _, err := (&dns.Client{Net: network, Timeout: patience}).Exchange(question, s.dns)
		check(t, err)
		var got []string
		for _, rr := range answer.Answer {
			switch rr := rr.(type) {
			case *dns.A:
				got = append(got, rr.A.String())
			case *dns.AAAA:
				got = append(got, rr.AAAA.String())
			}
		}
		slices.Sort(got)
		if i > 0 && (dns.RcodeToString[answer.Rcode] != rcode || !slices.Equal(got, addrs)) {
			t.Errorf("%s: TCP says %s %v, UDP %s %v", name, dns.RcodeToString[answer.Rcode], got, rcode, addrs)
		}
		rcode, addrs = dns.RcodeToString[answer.Rcode], got
	}
	return rcode, addrs
}

func (s served) client() *elb.Client {
	return elb.New(elb.Options{
		Region: "eu-west-1", BaseEndpoint: aws.String(s.api),
		Credentials: credentials.NewStaticCredentialsProvider("any", "any", ""),
	})
}

// loadBalancer is one over the three instances of the example.
type loadBalancer struct{ arn, group, name string }

func create(t *testing.T, c *elb.Client) loadBalancer {
	t.Helper()
	ctx := t.Context()
	lb, err := c.CreateLoadBalancer(ctx, &elb.CreateLoadBalancerInput{
		Name: aws.String("shop"), Type: types.LoadBalancerTypeEnumNetwork,
		Subnets: []string{"subnet-0ab11c0000000000a", "subnet-0ab11c0000000000b", "subnet-0ab11c0000000000c"},
	})
	check(t, err)
	group, err := c.CreateTargetGroup(ctx, &elb.CreateTargetGroupInput{
		Name: aws.String("shop-80"), Protocol: types.ProtocolEnumTcp, Port: aws.Int32(nodePort),
		VpcId: aws.String("vpc-0f00d000000000001"), TargetType: types.TargetTypeEnumInstance,
		HealthCheckIntervalSeconds: aws.Int32(5), HealthCheckTimeoutSeconds: aws.Int32(2),
	})
	check(t, err)
	made := loadBalancer{*lb.LoadBalancers[0].LoadBalancerArn, *group.TargetGroups[0].TargetGroupArn, *lb.LoadBalancers[0].DNSName + "."}
	_, err = c.CreateListener(ctx, &elb.CreateListenerInput{
		LoadBalancerArn: &made.arn, Protocol: types.ProtocolEnumTcp, Port: aws.Int32(80),
		DefaultActions: []types.Action{{Type: types.ActionTypeEnumForward, TargetGroupArn: &made.group}},
	})
	check(t, err)
	var targets []types.TargetDescription
	for i := range 3 {
		targets = append(targets, types.TargetDescription{Id: aws.String(fmt.Sprintf("i-0f00d00000000000%d", i+1))})
	}
	_, err = c.RegisterTargets(ctx, &elb.RegisterTargetsInput{TargetGroupArn: &made.group, Targets: targets})
	check(t, err)
	return made
}

func TestWithoutDataPath(t *testing.T) {
	s := start(t, options{world: example, datapath: "off"})
	if got := s.get(t, "/_fake/healthz", nil); got != "200 ok" {
		t.Errorf("healthz: %s", got)
	}
	if got := s.get(t, "/_fake/flows", nil); !strings.HasPrefix(got, "404 there is no data path") {
		t.Errorf("flows: %s", got)
	}
	c := s.client()
	lb := create(t, c)

	for _, q := range []struct {
		name  string
		kind  uint16
		rcode string
		addrs []string
	}{
		{lb.name, dns.TypeA, "NOERROR", []string{"203.0.113.1", "203.0.113.2", "203.0.113.3"}},
		{strings.ToUpper(lb.name), dns.TypeA, "NOERROR", []string{"203.0.113.1", "203.0.113.2", "203.0.113.3"}},
		{lb.name, dns.TypeAAAA, "NOERROR", nil},
		{"other." + zone, dns.TypeA, "NXDOMAIN", nil},
		{zone, dns.TypeA, "NOERROR", nil},
		{"example.com.", dns.TypeA, "REFUSED", nil},
		{"x-elb.eu-west-1.amazonaws.com.", dns.TypeA, "REFUSED", nil},
	} {
		if rcode, addrs := s.ask(t, q.name, q.kind); rcode != q.rcode || !slices.Equal(addrs, q.addrs) {
			t.Errorf("%s %s: %s %v, want %s %v", q.name, dns.TypeToString[q.kind], rcode, addrs, q.rcode, q.addrs)
		}
	}
	_, err := c.DeleteLoadBalancer(t.Context(), &elb.DeleteLoadBalancerInput{LoadBalancerArn: &lb.arn})
	check(t, err)
	if rcode, addrs := s.ask(t, lb.name, dns.TypeA); rcode != "NXDOMAIN" {
		t.Errorf("deleted load balancer: %s %v, want NXDOMAIN", rcode, addrs)
	}
	check(t, s.stop())
	if conn, err := net.Dial("tcp", strings.TrimPrefix(s.api, "http://")); err == nil {
		conn.Close()
		t.Error("still answers after it was stopped")
	}
}

func TestCarriesPackets(t *testing.T) {
	internet := fabric(t)
	s := start(t, options{world: example, datapath: "on"})
	c := s.client()
	lb := create(t, c)
	// The example lets nobody but the nodes reach the nodes, and the load
	// balancer has no group to be let in by.
	eventually(t, func() error {
		health, err := c.DescribeTargetHealth(t.Context(), &elb.DescribeTargetHealthInput{TargetGroupArn: &lb.group})
		if err != nil {
			return err
		}
		for _, d := range health.TargetHealthDescriptions {
			if d.TargetHealth.State != types.TargetHealthStateEnumUnhealthy {
				return fmt.Errorf("target %s is %s, want unhealthy", *d.Target.Id, d.TargetHealth.State)
			}
		}
		return nil
	})
	check(t, s.stop())
	if left := addresses(t); len(left) != 0 {
		t.Errorf("left behind on lo: %v", left)
	}

	// Once more, in a world whose nodes let everybody in.
	s = start(t, options{world: open(t), datapath: "on"})
	c = s.client()
	lb = create(t, c)
	var answered []string
	eventually(t, func() error {
		rcode, addrs := s.ask(t, lb.name, dns.TypeA)
		if len(addrs) == 0 {
			return fmt.Errorf("%s: %s", lb.name, rcode)
		}
		answer, err := get(internet, "http://"+addrs[0])
		if err != nil {
			return err
		}
		answered = strings.Fields(answer)
		return nil
	})
	if node, client := answered[0], netip.MustParseAddrPort(answered[1]); !strings.HasPrefix(node, "node-") || client.Addr().String() != "198.51.100.10" {
		t.Errorf("%s saw client %v, want one of the nodes to see 198.51.100.10", node, client)
	}
	var flows []datapath.Flow
	if got := s.get(t, "/_fake/flows", &flows); !slices.ContainsFunc(flows, func(f datapath.Flow) bool {
		return f.Client.String() == answered[1] && f.Target.Port() == nodePort && f.Name == lb.arn
	}) {
		t.Errorf("connection %s is not among the flows: %s", answered[1], got)
	}
}

func TestRefuses(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "world.yaml")
	check(t, os.WriteFile(broken, []byte("region: eu-west-1\ncolour: blue\n"), 0o600))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer taken.Close()
	for _, c := range []struct {
		o    options
		says string
	}{
		{options{world: "absent.yaml", datapath: "off"}, "absent.yaml: no such file"},
		{options{world: broken, datapath: "off"}, `unknown field "colour"`},
		{options{world: example, datapath: "maybe"}, "--datapath"},
		{options{world: example, datapath: "off", listen: taken.Addr().String()}, "address already in use"},
		{options{world: example, datapath: "off", listen: "127.0.0.1:0", dns: taken.Addr().String()}, "listening for DNS"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if err := run(ctx, c.o, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: error %v, want one with %q", c.o, err, c.says)
		}
		cancel()
	}
}

// fabric makes the hosts of the example: three nodes with a web server that says
// who it is and whom it saw, and a client on the internet, which it returns.
func fabric(t *testing.T) *sandbox.NetNS {
	t.Helper()
	here, err := sandbox.Current()
	check(t, err)
	t.Cleanup(func() { check(t, here.Close()) })
	check(t, here.Sysctl("net.ipv4.ip_forward", "1"))
	router := netip.MustParseAddr("10.0.0.1")
	check(t, here.AddAddress("lo", netip.PrefixFrom(router, 32)))
	var last *sandbox.NetNS
	for name, addr := range map[string]string{
		"node-1": "10.0.0.11/32", "node-2": "10.0.16.11/32", "node-3": "10.0.32.11/32", "client": "198.51.100.10/32",
	} {
		host, err := sandbox.NewNetNS(name)
		check(t, err)
		t.Cleanup(func() { check(t, host.Close()) })
		prefix := netip.MustParsePrefix(addr)
		check(t, sandbox.Connect(
			sandbox.End{NetNS: here, Device: name, Routes: []sandbox.Route{{To: prefix}}},
			sandbox.End{NetNS: host, Device: "eth0", Addresses: []netip.Prefix{prefix},
				Routes: []sandbox.Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: router}}},
		))
		if name == "client" {
			last = host
			continue
		}
		l, err := host.Listen(t.Context(), "tcp", fmt.Sprintf(":%d", nodePort))
		check(t, err)
		server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, name, r.RemoteAddr)
		})}
		t.Cleanup(func() { server.Close() })
		go func() { _ = server.Serve(l) }()
	}
	return last
}

// open writes the example with a rule that lets everybody in, and returns the path.
func open(t *testing.T) string {
	t.Helper()
	world, err := os.ReadFile(example)
	check(t, err)
	const rule = "      - {protocol: all, groups: [sg-0f00d000000000001]}\n"
	if !bytes.Contains(world, []byte(rule)) {
		t.Fatalf("the example has no rule %q to replace", rule)
	}
	world = bytes.Replace(world, []byte(rule), []byte("      - {protocol: all, cidrs: [0.0.0.0/0]}\n"), 1)
	path := filepath.Join(t.TempDir(), "world.yaml")
	check(t, os.WriteFile(path, world, 0o600))
	return path
}

func get(from *sandbox.NetNS, url string) (string, error) {
	transport := &http.Transport{DialContext: from.DialContext, DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport, Timeout: time.Second}).Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// addresses are those on the loopback device beside its own and the router's.
func addresses(t *testing.T) (list []string) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	check(t, err)
	all, err := netlink.AddrList(lo, netlink.FAMILY_V4)
	check(t, err)
	for _, a := range all {
		if !a.IP.IsLoopback() && a.IP.String() != "10.0.0.1" {
			list = append(list, a.IP.String())
		}
	}
	return list
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %v", patience, err)
		}
		<-time.After(20 * time.Millisecond)
	}
}
