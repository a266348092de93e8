package aws

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairway-lb/fairway/providers/fake"
)

// What AWS goes on with after its answer can fail in the end: a load balancer is
// never active, and one that is deleted keeps its interfaces, and so its group.
func TestWhatFailsInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t)
		if err := c.Faults().Set([]fake.Fault{{Operation: "*LoadBalancer", Kind: fake.FaultLater, Times: 2}}); err != nil {
			t.Fatal(err)
		}
		group := c.groupNamed("front")
		lb := c.loadBalancerNamed("web", "SecurityGroups.member.1="+group)
		c.listen(lb, c.targetGroupNamed("web", "TCP"), "TCP", "80")
		for _, step := range []struct {
			after time.Duration
			want  string
		}{{0, "provisioning"}, {2 * time.Minute, "failed"}, {time.Hour, "failed"}} {
			time.Sleep(step.after)
			if got := c.must("DescribeLoadBalancers", "Names.member.1=web").text("Code"); got != step.want {
				t.Errorf("%v later it is %s, want %s", step.after, got, step.want)
			}
		}
		c.must("DeleteLoadBalancer", "LoadBalancerArn="+lb)
		time.Sleep(2 * time.Minute)
		c.wants("DependencyViolation", "DeleteSecurityGroup", "GroupId="+group)
		time.Sleep(time.Minute)
		c.must("DeleteSecurityGroup", "GroupId="+group)
	})
}

func TestTimeOfALoadBalancer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t)
		group := c.groupNamed("front")
		lb := c.loadBalancerNamed("web", "SecurityGroups.member.1="+group)
		tg := c.targetGroupNamed("web", "TCP")
		c.must("RegisterTargets", "TargetGroupArn="+tg, "Targets.member.1.Id="+node1, "Targets.member.2.Id="+node3)
		state := func() string {
			return c.must("DescribeLoadBalancers", "Names.member.1=web").text("Code") + ": " + c.states(tg)
		}
		expect := func(after time.Duration, want string) {
			t.Helper()
			time.Sleep(after)
			if got := state(); got != want {
				t.Errorf("after %v more: %q, want %q", after, got, want)
			}
		}
		expect(0, "provisioning: unused unused")
		l := c.listen(lb, tg, "TCP", "80")
		expect(0, "provisioning: initial unused") // node 3's zone is not enabled
		expect(30*time.Second, "provisioning: healthy unused")
		expect(90*time.Second, "active: healthy unused")
		c.must("SetSubnets", join([]string{"LoadBalancerArn=" + lb}, numbered("Subnets.member", subnetA, subnetC))...)
		expect(0, "active: healthy healthy")

		if err := c.SetInstanceState(node1, Stopped); err != nil {
			t.Fatal(err)
		}
		expect(0, "active: unused healthy")
		if err := c.SetInstanceState(node1, Running); err != nil {
			t.Fatal(err)
		}
		expect(0, "active: initial healthy")

		c.must("DeregisterTargets", "TargetGroupArn="+tg, "Targets.member.1.Id="+node3)
		expect(299*time.Second, "active: healthy draining")
		c.must("RegisterTargets", "TargetGroupArn="+tg, "Targets.member.1.Id="+node3) // changed one's mind
		expect(0, "active: healthy initial")
		expect(time.Hour, "active: healthy healthy")
		c.must("DeregisterTargets", "TargetGroupArn="+tg, "Targets.member.1.Id="+node3)
		expect(300*time.Second, "active: healthy")

		c.must("DeleteListener", "ListenerArn="+l)
		c.must("DeleteLoadBalancer", "LoadBalancerArn="+lb)
		c.wants("ResourceInUse", "DeleteTargetGroup", "TargetGroupArn="+tg)
		c.wants("DependencyViolation", "DeleteSecurityGroup", "GroupId="+group)
		time.Sleep(5 * time.Second)
		c.must("DeleteTargetGroup", "TargetGroupArn="+tg)
		c.wants("DependencyViolation", "DeleteSecurityGroup", "GroupId="+group)
		time.Sleep(40 * time.Second)
		c.must("DeleteSecurityGroup", "GroupId="+group)
		if left := c.Leftovers(); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	})
}

func TestNewThingsAreSeenLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, func(w *World) { w.Timing.VisibilityLag = fake.Duration(3 * time.Second) })
		g := c.groupNamed("front")
		allow := join([]string{"GroupId=" + g}, permission("tcp", "80", "80", "IpRanges.1.CidrIp=0.0.0.0/0"))
		c.wants("InvalidGroup.NotFound", "AuthorizeSecurityGroupIngress", allow...)
		c.wants("InvalidSecurityGroup", "CreateLoadBalancer", newLB("web", "SecurityGroups.member.1="+g)...)
		c.wants("InvalidGroup.Duplicate", "CreateSecurityGroup", "GroupName=front", "GroupDescription=test", "VpcId="+vpcID)
		c.loadBalancerNamed("web")
		c.wants("LoadBalancerNotFound", "DescribeLoadBalancers", "Names.member.1=web")
		time.Sleep(3 * time.Second)
		c.must("AuthorizeSecurityGroupIngress", allow...)
		c.must("DescribeLoadBalancers", "Names.member.1=web")
	})
}

func TestPublishedThrottles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t)
		burst := func(operation string, n int) (ok int, last reply) {
			for range n {
				if last = c.ask(operation); last.status == http.StatusOK {
					ok++
				}
			}
			return ok, last
		}
		if ok, last := burst("DescribeLoadBalancers", 50); ok != 40 || last.code != "Throttling" || last.status != 400 {
			t.Errorf("a burst let %d of 50 through, the last was %d %s", ok, last.status, last.code)
		}
		if ok, _ := burst("DescribeTargetGroups", 1); ok != 0 {
			t.Error("describe operations do not share their bucket")
		}
		time.Sleep(time.Second)
		if ok, _ := burst("DescribeTargetGroups", 50); ok != 10 {
			t.Errorf("a second refilled %d, want 10", ok)
		}
		if ok, last := burst("DescribeVpcs", 101); ok != 100 || last.code != "RequestLimitExceeded" || last.status != 503 {
			t.Errorf("EC2 let %d of 101 through, the last was %d %s", ok, last.status, last.code)
		}
		if ok, _ := burst("DescribeSubnets", 100); ok != 100 {
			t.Errorf("EC2's operations share a bucket: %d of 100", ok)
		}
	})
}

// recorder remembers what it was asked to carry.
type recorder struct {
	mu  sync.Mutex
	all []fake.Dataplane
}

func (r *recorder) Carry(d fake.Dataplane) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, d)
}

func (r *recorder) last() fake.Dataplane {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all[len(r.all)-1]
}

func TestDataplane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t)
		r := &recorder{}
		c.SetCarrier(r)
		group := c.groupNamed("front")
		c.must("AuthorizeSecurityGroupIngress", join([]string{"GroupId=" + group}, permission("tcp", "80", "80", "IpRanges.1.CidrIp=198.51.100.0/24", "IpRanges.2.CidrIp=192.0.2.0/24"))...)
		c.must("AuthorizeSecurityGroupIngress", join([]string{"GroupId=" + nodeGroup}, permission("tcp", "30000", "32767", "Groups.1.GroupId="+group))...)
		lb := c.must("CreateLoadBalancer", join([]string{"Name=web", "Type=network", "SecurityGroups.member.1=" + group}, numbered("Subnets.member", subnetA, "subnet-0a0000000000000b2"))...)
		arn, tg := lb.text("LoadBalancerArn"), c.targetGroupNamed("web", "TCP_UDP", "HealthCheckProtocol=HTTP", "HealthCheckPort=10256", "HealthCheckPath=/healthz")
		c.listen(arn, tg, "TCP_UDP", "53")
		c.must("RegisterTargets", "TargetGroupArn="+tg, "Targets.member.1.Id="+node1, "Targets.member.2.Id="+node2)
		if d := r.last(); len(d.LoadBalancers) != 0 {
			t.Errorf("a load balancer is carried before it is active: %+v", d.LoadBalancers)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()

		d := r.last()
		want := fake.LoadBalancer{
			ID: arn,
			// The node in the private subnet has no way to the internet.
			Nodes:    []fake.LoadBalancerNode{{Zone: "eu-west-1a", Public: netAddr("203.0.113.1"), Private: netAddr("10.0.0.4")}},
			Filtered: true, Groups: []string{group},
			Ingress: []fake.Rule{{Protocol: "tcp", FromPort: 80, ToPort: 80, Sources: []netip.Prefix{netPrefix("198.51.100.0/24"), netPrefix("192.0.2.0/24")}}},
			Listeners: []fake.Listener{{
				Protocol: fake.TCPUDP, Port: 53, TargetGroup: tg, PreserveClientIP: true, DeregistrationDelay: 300 * time.Second,
				HealthCheck: fake.HealthCheck{Protocol: "http", Port: 10256, Path: "/healthz", Interval: 30 * time.Second, Timeout: 6 * time.Second,
					HealthyThreshold: 5, UnhealthyThreshold: 2, Codes: "200-399"},
				Targets: []fake.Target{
					{ID: tg + "|" + node1 + ":30080", Addr: netip.MustParseAddrPort("10.0.0.11:30080"), Zone: "eu-west-1a", State: fake.StateInitial},
					{ID: tg + "|" + node2 + ":30080", Addr: netip.MustParseAddrPort("10.0.16.11:30080"), Zone: "eu-west-1b", State: fake.StateInitial},
				},
			}},
		}
		if got := fmt.Sprintf("%+v", d.LoadBalancers); got != fmt.Sprintf("%+v", []fake.LoadBalancer{want}) {
			t.Errorf("carried\n%s\nwant\n%+v", got, want)
		}
		first := d.Interfaces[0]
		if first.Device != "node-1" || !first.Filtered || !slices.Equal(first.Groups, []string{nodeGroup}) ||
			!slices.Equal(first.Addresses, []netip.Prefix{netPrefix("10.0.0.11/32"), netPrefix("10.244.1.0/24")}) {
			t.Errorf("interface %+v", first)
		}
		if rule := first.Ingress[len(first.Ingress)-1]; rule.FromPort != 30000 || !slices.Equal(rule.SourceGroups, []string{group}) {
			t.Errorf("the node's last rule is %+v", rule)
		}

		c.ReportHealth(want.Listeners[0].Targets[0].ID, true, "")
		c.ReportHealth(want.Listeners[0].Targets[1].ID, false, "connection refused")
		c.ReportHealth("nobody|i-0:1", true, "")
		health := c.must("DescribeTargetHealth", "TargetGroupArn="+tg)
		if got := strings.Join(health.texts("State"), " "); got != "healthy unhealthy" || health.text("Description") != "connection refused" {
			t.Errorf("reported health: %s\n%s", got, health.body)
		}
		n := len(r.all)
		c.ReportHealth(want.Listeners[0].Targets[0].ID, true, "")
		if len(r.all) != n {
			t.Error("a repeated report was carried as a change")
		}
		c.must("ModifyTargetGroupAttributes", "TargetGroupArn="+tg, "Attributes.member.1.Key="+tgProxyProtocol, "Attributes.member.1.Value=true")
		if l := r.last().LoadBalancers[0].Listeners[0]; !l.ProxyProtocol || !l.HealthCheck.ProxyProtocol {
			t.Errorf("the proxy protocol is not carried: %+v", l)
		}
		if err := c.RemoveInstance(node1); err != nil {
			t.Fatal(err)
		}
		if targets := r.last().LoadBalancers[0].Listeners[0].Targets; len(targets) != 1 || len(r.last().Interfaces) != 2 {
			t.Errorf("an instance that is gone is still carried: %+v", targets)
		}
		for i := 1; i < len(r.all); i++ {
			if r.all[i].Generation <= r.all[i-1].Generation {
				t.Errorf("generation %d follows %d", r.all[i].Generation, r.all[i-1].Generation)
			}
		}
		c.must("DeleteLoadBalancer", "LoadBalancerArn="+arn)
		if d := r.last(); len(d.LoadBalancers) != 0 {
			t.Errorf("a deleted load balancer is carried: %+v", d.LoadBalancers)
		}
	})
}

func TestResolve(t *testing.T) {
	c := newClient(t, atOnce)
	public := c.must("CreateLoadBalancer", "Name=web", "Type=network", "SubnetMappings.member.1.SubnetId="+subnetA, "SubnetMappings.member.1.AllocationId="+eip).text("DNSName")
	internal := c.must("CreateLoadBalancer", newLB("inner", "Scheme=internal", "Subnets.member.2="+subnetB)...).text("DNSName")
	for name, want := range map[string]string{
		public:                        "[203.0.113.200]",
		strings.ToUpper(public) + ".": "[203.0.113.200]",
		internal:                      "[10.0.0.5 10.0.16.4]",
		"elb.eu-west-1.amazonaws.com": "[]",
		"x-1." + internal:             "[]",
	} {
		if got := fmt.Sprint(c.Resolve(name)); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	c.wants("ResourceInUse", "CreateLoadBalancer", "Name=other", "Type=network", "SubnetMappings.member.1.SubnetId="+subnetB, "SubnetMappings.member.1.AllocationId="+eip)
}

// TestFaultsOnTheWire uses connections: what a client sees of a lost answer is
// their end.
func TestFaultsOnTheWire(t *testing.T) {
	tests := []struct {
		fault  fake.Fault
		code   string // "" success, "-" no answer
		effect bool
	}{
		{fake.Fault{Kind: fake.FaultError}, "InternalFailure", false},
		{fake.Fault{Kind: fake.FaultError, Code: "TooManyLoadBalancers"}, "TooManyLoadBalancers", false},
		{fake.Fault{Kind: fake.FaultError, AfterEffect: true}, "InternalFailure", true},
		{fake.Fault{Kind: fake.FaultThrottle}, "Throttling", false},
		{fake.Fault{Kind: fake.FaultLost}, "-", true},
		{fake.Fault{Kind: fake.FaultHang}, "-", false},
		{fake.Fault{Kind: fake.FaultHang, AfterEffect: true}, "-", true},
		{fake.Fault{Kind: fake.FaultLost, Operation: "DeleteLoadBalancer"}, "", true},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %s %v", tt.fault.Operation, tt.fault.Kind, tt.fault.AfterEffect), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClient(t, atOnce)
				send := overPipe(t, c.Account)
				if err := c.Faults().Set([]fake.Fault{tt.fault}); err != nil {
					t.Fatal(err)
				}
				if code := send(elbService, "Action=CreateLoadBalancer&Version=2015-12-01&Name=web&Type=network&Subnets.member.1="+subnetA); code != tt.code {
					t.Errorf("answered %q, want %q", code, tt.code)
				}
				synctest.Wait()
				if effect := len(c.Leftovers()) == 1; effect != tt.effect {
					t.Errorf("effect %v, want %v", effect, tt.effect)
				}
				want := tt.fault.Kind
				if tt.code == "" {
					want = ""
				}
				if calls := c.Calls().Calls(); len(calls) != 1 || calls[0].Fault != want || calls[0].Resource != "web" || !calls[0].Write {
					t.Errorf("logged as %+v", calls)
				}
			})
		})
	}
}

// overPipe serves an account over in-memory connections and returns a function
// that sends it a form and returns the error code: "-" for no answer.
func overPipe(t *testing.T, h http.Handler) func(s *service, form string) string {
	conns := make(chan net.Conn)
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	l := pipeListener{conns: conns, closed: make(chan struct{})}
	go server.Serve(l) //nolint:errcheck // always ErrServerClosed
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		conns <- theirs
		return ours, nil
	}}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		server.Close()
	})
	return func(s *service, form string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://fake/", strings.NewReader(form))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", authorization(ownKey, s.name, "eu-west-1"))
		response, err := transport.RoundTrip(r)
		if err != nil {
			return "-"
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return "-"
		}
		if response.StatusCode == http.StatusOK {
			return ""
		}
		return reply{body: string(body)}.text("Code")
	}
}

type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l pipeListener) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "fake", Net: "unix"} }

// TestManyAtOnce is for the race detector: everything at the same time, and the
// account is as before in the end.
func TestManyAtOnce(t *testing.T) {
	c := newClient(t, atOnce)
	c.SetCarrier(&recorder{})
	admin := c.Admin()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := fmt.Sprintf("lb-%d", i)
			g := c.ask("CreateSecurityGroup", "GroupName="+name, "GroupDescription=d", "VpcId="+vpcID).text("groupId")
			lb := c.ask("CreateLoadBalancer", newLB(name, "SecurityGroups.member.1="+g)...).text("LoadBalancerArn")
			tg := c.ask("CreateTargetGroup", newTG(name)...).text("TargetGroupArn")
			c.ask("CreateListener", forward(lb, tg, "TCP", "80")...)
			c.ask("RegisterTargets", "TargetGroupArn="+tg, "Targets.member.1.Id="+node1)
			c.ReportHealth(tg+"|"+node1+":30080", i%2 == 0, "")
			r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "/_fake/dataplane", nil)
			admin.ServeHTTP(discard{}, r)
			c.ask("DescribeTargetHealth", "TargetGroupArn="+tg)
			c.ask("DeleteLoadBalancer", "LoadBalancerArn="+lb)
			c.ask("DeleteTargetGroup", "TargetGroupArn="+tg)
			c.ask("DeleteSecurityGroup", "GroupId="+g)
		})
	}
	wg.Wait()
	for _, call := range c.Calls().Calls() {
		if call.Code != "" {
			t.Errorf("%s", call)
		}
	}
	if left := c.Leftovers(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

func TestLeftoversAndForeignThings(t *testing.T) {
	c := newClient(t, atOnce)
	lb, tg := c.loadBalancerNamed("web"), c.targetGroupNamed("web", "TCP")
	c.listen(lb, tg, "TCP", "80")
	c.groupNamed("front")
	c.must("AuthorizeSecurityGroupIngress", join([]string{"GroupId=" + nodeGroup}, permission("tcp", "80", "80", "IpRanges.1.CidrIp=0.0.0.0/0"))...)
	c.must("CreateTags", "ResourceId.1="+nodeGroup, "Tag.1.Key=kubernetes.io/cluster/demo", "Tag.1.Value=shared", "Tag.2.Key=new", "Tag.2.Value=1")
	var kinds []string
	for _, r := range c.Leftovers() {
		kinds = append(kinds, r.Kind+" "+r.Name)
	}
	want := []string{"load-balancer web", "listener web TCP:80", "target-group web", "security-group-rule nodes: tcp 80-80 from 0.0.0.0/0",
		"security-group front", "tag kubernetes.io/cluster/demo=shared", "tag new=1"}
	slices.Sort(kinds)
	slices.Sort(want)
	if !slices.Equal(kinds, want) {
		t.Errorf("left\n%s\nwant\n%s", strings.Join(kinds, "\n"), strings.Join(want, "\n"))
	}
}

func TestInstancesComeAndGo(t *testing.T) {
	c := newClient(t, atOnce)
	fresh := Instance{ID: "i-0a000000000000009", Subnet: subnetA, PrivateIP: netAddr("10.0.0.19"), Tags: map[string]string{"Name": "new"}}
	if err := c.AddInstance(fresh); err != nil {
		t.Fatal(err)
	}
	if left := c.Leftovers(); len(left) != 0 {
		t.Errorf("an instance that the API's client did not make counts as left: %v", left)
	}
	for name, wrong := range map[string]Instance{
		"the same again":    fresh,
		"address taken":     {ID: "i-0a00000000000000a", Subnet: subnetA, PrivateIP: netAddr("10.0.0.19")},
		"address elsewhere": {ID: "i-0a00000000000000a", Subnet: subnetA, PrivateIP: netAddr("10.0.16.19")},
		"no such subnet":    {ID: "i-0a00000000000000a", Subnet: "subnet-0", PrivateIP: netAddr("10.0.0.20")},
		"no such group":     {ID: "i-0a00000000000000a", Subnet: subnetA, PrivateIP: netAddr("10.0.0.20"), SecurityGroups: []string{"sg-0"}},
		"no instance id":    {ID: "node-9", Subnet: subnetA, PrivateIP: netAddr("10.0.0.20")},
		"no such state":     {ID: "i-0a00000000000000a", Subnet: subnetA, PrivateIP: netAddr("10.0.0.20"), State: "asleep"},
	} {
		if err := c.AddInstance(wrong); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := c.SetInstanceState(fresh.ID, Terminated); err != nil {
		t.Fatal(err)
	}
	if err := c.SetInstanceState(fresh.ID, Running); err == nil {
		t.Error("a terminated instance runs again")
	}
	if got := c.must("DescribeInstances", "InstanceId.1="+fresh.ID); got.text("name") != "terminated" || got.text("privateIpAddress") != "" {
		t.Errorf("a terminated instance:\n%s", got.body)
	}
	if err := errors.Join(c.RemoveInstance(fresh.ID), c.AddInstance(fresh)); err != nil {
		t.Errorf("the same machine again after it was gone: %v", err)
	}
}

func TestFormsThatRepeatAreRefused(t *testing.T) {
	form := url.Values{"Name": {"a", "b"}}
	var in struct {
		Name string `query:"Name"`
	}
	if _, err := decodeForm(form, &in); err == nil {
		t.Errorf("took %q", in.Name)
	}
}
