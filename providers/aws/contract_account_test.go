package aws

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairway-lb/fairway/providers/fake"
	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/providertest"
)

// simulated is a fake account for the contract suite, over connections in
// memory.
type simulated struct {
	providertest.Meter
	t          providertest.T
	conditions providertest.Conditions
	account    *fakeaws.Account
	server     *http.Server
	transport  *http.Transport
	// operator looks into the account, and changes it behind the provider's back.
	operator *clients
}

var _ providertest.Account = (*simulated)(nil)

func openSimulated(t providertest.T, c providertest.Conditions) providertest.Account {
	w := world()
	readPolicy(t).bound(&w)
	w.PublicPool = netip.MustParsePrefix("198.18.0.0/16")
	w.Quotas = fakeaws.Quotas{LoadBalancers: 1000}
	w.Timing = fakeaws.Timing{
		Latency: fake.Duration(c.Latency), VisibilityLag: fake.Duration(c.Lag), Provisioning: fake.Duration(c.Slow),
		Registration: fake.Duration(c.Slow / 4), InterfaceLinger: fake.Duration(c.Slow), ReleaseLag: fake.Duration(c.Slow / 60),
	}
	// An account with latency has the published request limits as well.
	w.Throttle = &fakeaws.Throttle{Off: c.Latency == 0}
	account, err := fakeaws.New(w)
	if err != nil {
		t.Fatalf("%v", err)
	}
	pipe := fake.NewPipe()
	a := &simulated{t: t, conditions: c, account: account,
		server:    &http.Server{Handler: account, ReadHeaderTimeout: time.Minute},
		transport: &http.Transport{DialContext: pipe.Dial}}
	go func() { _ = a.server.Serve(pipe) }() // returns when closed
	if a.operator, err = newClients(context.Background(), testRegion, reaching(&http.Client{Transport: a.transport}, operatorKey)); err != nil {
		t.Fatalf("%v", err)
	}
	return a
}

// reaching are the SDK's options for the fake account by way of client, as who has
// the access key.
func reaching(client config.HTTPClient, accessKey string) []func(*config.LoadOptions) error {
	return []func(*config.LoadOptions) error{
		config.WithRegion(testRegion), config.WithHTTPClient(client), config.WithBaseEndpoint("http://aws.test"),
		config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(accessKey, "secret", "")),
	}
}

func (a *simulated) Close() {
	if v := a.account.Violations(); len(v) > 0 {
		a.t.Errorf("requests that AWS would call malformed: %q", v)
	}
	a.transport.CloseIdleConnections()
	_ = a.server.Close()
	a.account.Close()
}

func (a *simulated) Provider(ctx context.Context, cluster lb.Cluster) (providertest.Instance, error) {
	w := &wire{simulated: a}
	p, err := New(ctx, testConfig(), cluster, reaching(w, providerKey)...)
	return providertest.Instance{Provider: p, Kill: func() { w.dead.Store(true) }, Dead: w.dead.Load}, err
}

// FailOperation implements providertest.Account. What AWS goes on with after its
// answer is setting a load balancer up and, after a deletion, letting its network
// interfaces go.
func (a *simulated) FailOperation() func() bool {
	doomed := func() (n int) {
		for _, c := range a.account.Calls().Calls() {
			if c.Fault == fake.FaultLater {
				n++
			}
		}
		return n
	}
	before := doomed()
	if err := a.account.Faults().Set([]fake.Fault{{Operation: "*LoadBalancer", Kind: fake.FaultLater}}); err != nil {
		a.t.Errorf("%v", err)
	}
	return func() bool { return doomed() > before }
}

// wire is one controller's way to the account, as the SDK's HTTP client.
type wire struct {
	*simulated
	dead   atomic.Bool
	asleep atomic.Int64 // until when, in Unix nanoseconds
}

var errDead = errors.New("the controller is gone")

// callTimeout is how long a call waits for its answer.
const callTimeout = 30 * time.Second

// Do counts the request and sends it, with the fault that is planned for it.
func (w *wire) Do(r *http.Request) (*http.Response, error) {
	form, err := readForm(r)
	if err != nil {
		return nil, err
	}
	action := form.Get("Action")
	if w.dead.Load() {
		return nil, errDead
	}
	if err := providertest.Arrive(r.Context(), form.Encode()); err != nil {
		return nil, err
	}
	f := w.Count(action, !strings.HasPrefix(action, "Describe"))
	if f.Kind == providertest.Pause {
		w.asleep.Store(time.Now().Add(f.For).UnixNano())
	}
	if rest := time.Until(time.Unix(0, w.asleep.Load())); rest > 0 {
		time.Sleep(rest)
		r = r.WithContext(context.WithoutCancel(r.Context()))
	}
	if w.dead.Load() {
		return nil, errDead
	}
	if f.Kind == providertest.Timeout {
		select {
		case <-time.After(callTimeout):
			return nil, context.DeadlineExceeded
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if f.Kind == providertest.Meanwhile {
		f.Do()
	}
	if planned, ok := serverFault(f, form); ok {
		if err := w.account.Faults().Set([]fake.Fault{planned}); err != nil {
			return nil, err
		}
	}
	w.shortenPages(form)
	body := form.Encode()
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	answer, err := w.transport.RoundTrip(r)
	if f.Kind == providertest.Gone {
		w.dead.Store(true)
		if err == nil {
			err = errors.Join(errDead, answer.Body.Close())
		}
		return nil, err
	}
	return answer, err
}

// readForm takes the request's form; the body is read then.
func readForm(r *http.Request) (url.Values, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	return url.ParseQuery(string(bytes.TrimSpace(body)))
}

// serverFault is the fault as the fake account plays it, when it does.
func serverFault(f providertest.Fault, form url.Values) (fake.Fault, bool) {
	planned := fake.Fault{Operation: form.Get("Action")}
	switch f.Kind {
	case providertest.ErrorBefore:
		planned.Kind = fake.FaultError
	case providertest.ErrorAfter:
		planned.Kind, planned.AfterEffect = fake.FaultError, true
	case providertest.Lost:
		planned.Kind = fake.FaultLost
	case providertest.Throttle:
		planned.Kind = fake.FaultThrottle
	case providertest.Denied:
		planned.Kind, planned.Code, planned.Status = fake.FaultError, "AccessDenied", http.StatusForbidden
		if form.Get("Version") == "2016-11-15" {
			planned.Code = "UnauthorizedOperation"
		}
	default:
		return fake.Fault{}, false
	}
	return planned, true
}

// shortenPages asks for pages as short as the account shall have them.
func (w *wire) shortenPages(form url.Values) {
	if w.conditions.PageSize == 0 {
		return
	}
	switch form.Get("Action") {
	case "DescribeLoadBalancers", "DescribeTargetGroups", "DescribeListeners":
		if !form.Has("Names.member.1") && !form.Has("LoadBalancerArns.member.1") && !form.Has("TargetGroupArns.member.1") {
			form.Set("PageSize", fmt.Sprint(w.conditions.PageSize))
		}
	case "DescribeSecurityGroups":
		if !form.Has("GroupId.1") {
			form.Set("MaxResults", fmt.Sprint(max(w.conditions.PageSize, 5)))
		}
	}
}

// Snapshot implements providertest.Account.
func (a *simulated) Snapshot() []string { return a.lines(false) }

// Raw implements providertest.Account.
func (a *simulated) Raw() []string { return a.lines(true) }

func (a *simulated) lines(raw bool) []string {
	// The operator, too, waits until what is there can be seen.
	time.Sleep(a.conditions.Lag)
	for tries := 1; ; tries++ {
		s := &survey{clients: a.operator, raw: raw, names: map[string]string{}}
		err := s.take(context.Background())
		if err == nil {
			slices.Sort(s.lines)
			return s.lines
		}
		// Something was deleted while the operator looked.
		if tries == 5 || lb.KindOf(failed("survey", lb.Ref{}, err)) != lb.NotFound {
			a.t.Errorf("look into the account: %v", err)
			return nil
		}
	}
}

// survey writes down what is in the account.
type survey struct {
	*clients
	raw   bool
	names map[string]string // by ARN or id
	lines []string
}

// called returns what identifies a thing: its name, or byte for byte its id.
func (s *survey) called(id string) string {
	if name, ok := s.names[id]; ok && !s.raw {
		return name
	}
	return id
}

func (s *survey) add(format string, args ...any) {
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

func (s *survey) take(ctx context.Context) error {
	groups, err := s.listSecurityGroups(ctx)
	if err != nil {
		return err
	}
	targets, err := s.listTargetGroups(ctx)
	if err != nil {
		return err
	}
	balancers, err := s.listLoadBalancers(ctx)
	if err != nil {
		return err
	}
	var arns []string
	for _, g := range groups {
		s.names[aws.ToString(g.GroupId)] = aws.ToString(g.GroupName)
	}
	for _, g := range targets {
		s.names[aws.ToString(g.TargetGroupArn)] = aws.ToString(g.TargetGroupName)
		arns = append(arns, aws.ToString(g.TargetGroupArn))
	}
	listeners := map[string][]elbtypes.Listener{}
	for _, b := range balancers {
		arn := aws.ToString(b.LoadBalancerArn)
		s.names[arn] = aws.ToString(b.LoadBalancerName)
		if listeners[arn], err = s.listListeners(ctx, arn); err != nil {
			return err
		}
		arns = append(arns, arn)
		for _, l := range listeners[arn] {
			s.names[aws.ToString(l.ListenerArn)] = fmt.Sprintf("%s:%d", s.names[arn], aws.ToInt32(l.Port))
			arns = append(arns, aws.ToString(l.ListenerArn))
		}
	}
	tags, err := s.tagsOf(ctx, arns)
	if err != nil {
		return err
	}
	for _, g := range groups {
		s.securityGroup(g)
	}
	for _, b := range balancers {
		if err := s.loadBalancer(ctx, b, listeners[aws.ToString(b.LoadBalancerArn)], tags); err != nil {
			return err
		}
	}
	for _, g := range targets {
		if err := s.targetGroup(ctx, g, tags); err != nil {
			return err
		}
	}
	return nil
}

func (s *survey) securityGroup(g ec2types.SecurityGroup) {
	id := s.called(aws.ToString(g.GroupId))
	s.add("security-group %s %s %q %v", id, aws.ToString(g.GroupName), aws.ToString(g.Description), ec2Tags(g.Tags))
	for _, p := range g.IpPermissions {
		rule := fmt.Sprintf("rule of %s %s %d-%d from", id, aws.ToString(p.IpProtocol), aws.ToInt32(p.FromPort), aws.ToInt32(p.ToPort))
		for _, source := range p.IpRanges {
			s.add("%s %s %q", rule, aws.ToString(source.CidrIp), aws.ToString(source.Description))
		}
		for _, source := range p.Ipv6Ranges {
			s.add("%s %s %q", rule, aws.ToString(source.CidrIpv6), aws.ToString(source.Description))
		}
		for _, source := range p.PrefixListIds {
			s.add("%s %s %q", rule, aws.ToString(source.PrefixListId), aws.ToString(source.Description))
		}
		for _, source := range p.UserIdGroupPairs {
			s.add("%s %s %q", rule, s.called(aws.ToString(source.GroupId)), aws.ToString(source.Description))
		}
	}
}

func (s *survey) loadBalancer(ctx context.Context, b elbtypes.LoadBalancer, listeners []elbtypes.Listener, tags map[string]map[string]string) error {
	arn := aws.ToString(b.LoadBalancerArn)
	var groups []string
	for _, id := range b.SecurityGroups {
		groups = append(groups, s.called(id))
	}
	attributes, err := s.balancerSettings().read(ctx, arn)
	if err != nil {
		return err
	}
	failed := ""
	if b.State.Code == elbtypes.LoadBalancerStateEnumFailed {
		failed = " failed"
	}
	s.add("load-balancer %s %s %s %s%s subnets %v groups %v %v %v", s.called(arn), aws.ToString(b.LoadBalancerName), b.Scheme, b.IpAddressType, failed,
		lb.Set(subnetsOf(b)...), lb.Set(groups...), attributes, tags[arn])
	for _, l := range listeners {
		arn := aws.ToString(l.ListenerArn)
		s.add("listener %s %d %s to %s %v", s.called(arn), aws.ToInt32(l.Port), l.Protocol, s.called(forwardsTo(l)), tags[arn])
	}
	return nil
}

func (s *survey) targetGroup(ctx context.Context, g elbtypes.TargetGroup, tags map[string]map[string]string) error {
	arn := aws.ToString(g.TargetGroupArn)
	attributes, err := s.groupSettings().read(ctx, arn)
	if err != nil {
		return err
	}
	s.add("target-group %s %s %v %v %v", s.called(arn), aws.ToString(g.TargetGroupName), targetGroupResource(g).Fields, attributes, tags[arn])
	out, err := s.elb.DescribeTargetHealth(ctx, &elb.DescribeTargetHealthInput{TargetGroupArn: &arn})
	if err != nil {
		return err
	}
	for _, h := range out.TargetHealthDescriptions {
		if h.TargetHealth.State != elbtypes.TargetHealthStateEnumDraining {
			s.add("target of %s %s %d", s.called(arn), aws.ToString(h.Target.Id), aws.ToInt32(h.Target.Port))
		}
	}
	return nil
}
