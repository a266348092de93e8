package aws

import (
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairway-lb/fairway/providers/fake"
	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s (run with -update after reading it)\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

const (
	testVPC    = "vpc-0aaaaaaaaaaaaaaaa"
	testNodes  = "sg-0bbbbbbbbbbbbbbbb"
	testRegion = "eu-west-1"
)

// instanceOf returns the id of node n's instance.
func instanceOf(n int) string { return fmt.Sprintf("i-%017x", 0xa0+n) }

func zoneOf(n int) string { return testRegion + string("abc"[(n-1)%3]) }

// world is an account with three zones, a public and a private subnet in each,
// and five nodes in one security group.
func world() fakeaws.World {
	w := fakeaws.World{
		Region: testRegion, AccountID: "123456789012",
		VPC:        fakeaws.VPC{ID: testVPC, CIDR: netip.MustParsePrefix("10.0.0.0/16")},
		PublicPool: netip.MustParsePrefix("203.0.113.0/24"),
		SecurityGroups: []fakeaws.SecurityGroup{{ID: testNodes, Name: "nodes", Ingress: []fakeaws.IngressRule{
			{Protocol: "tcp", FromPort: 22, ToPort: 22, CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
		}}},
	}
	for i := range 3 {
		zone := zoneOf(i + 1)
		w.Subnets = append(w.Subnets,
			fakeaws.Subnet{ID: fmt.Sprintf("subnet-0%015da", i), CIDR: netip.MustParsePrefix(fmt.Sprintf("10.0.%d.0/20", 16*i)), Zone: zone, Public: true},
			fakeaws.Subnet{ID: fmt.Sprintf("subnet-0%015db", i), CIDR: netip.MustParsePrefix(fmt.Sprintf("10.0.%d.0/20", 128+16*i)), Zone: zone})
	}
	for n := 1; n <= 5; n++ {
		w.Instances = append(w.Instances, fakeaws.Instance{
			ID: instanceOf(n), Subnet: fmt.Sprintf("subnet-0%015da", (n-1)%3),
			PrivateIP: netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", 16*((n-1)%3), 10+n)), SecurityGroups: []string{testNodes},
		})
	}
	return w
}

// node returns node n as a target.
func node(n int) lb.Target {
	return lb.Target{Node: fmt.Sprintf("node-%d", n), ProviderID: "aws:///" + zoneOf(n) + "/" + instanceOf(n), Zone: zoneOf(n), State: lb.TargetActive}
}

// service returns default/web with port 80 and three nodes.
func service(edits ...func(*lb.Service)) lb.Service {
	s := lb.Service{
		ServiceRef: lb.ServiceRef{Namespace: "default", Name: "web", UID: "0b9a4b6e-web"},
		Ports:      []lb.Port{{Name: "http", Protocol: lb.TCP, Port: 80, NodePort: 30080}},
		IPv4:       true, Targets: []lb.Target{node(1), node(2), node(3)},
	}
	for _, edit := range edits {
		edit(&s)
	}
	return s
}

func annotate(kv ...string) func(*lb.Service) {
	return func(s *lb.Service) {
		s.Annotations = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			key := kv[i]
			if !strings.Contains(key, "/") {
				key = annotationPrefix + key
			}
			s.Annotations[key] = kv[i+1]
		}
	}
}

func testConfig() Config {
	c := Config{Cluster: ClusterConfig{Name: "demo"}}
	c.setDefaults()
	return c
}

// bench is a provider with a real SDK against a fake account, over connections
// in memory, and an engine on it.
type bench struct {
	*testing.T
	account  *fakeaws.Account
	client   *http.Client
	provider *Provider
	engine   *plan.Engine
	// operator changes the account behind the provider's back.
	operator *clients
}

// simulate runs test in virtual time, with the provider under the IAM policy that
// the documentation ships.
func simulate(t *testing.T, test func(*bench), edits ...func(*fakeaws.World)) {
	t.Helper()
	for _, name := range []string{"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"} {
		t.Setenv(name, os.DevNull)
	}
	t.Setenv("AWS_CA_BUNDLE", "")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	synctest.Test(t, func(t *testing.T) {
		w := world()
		readPolicy(t).bound(&w)
		for _, edit := range edits {
			edit(&w)
		}
		account, err := fakeaws.New(w)
		if err != nil {
			t.Fatal(err)
		}
		defer account.Close()
		pipe := fake.NewPipe()
		server := &http.Server{Handler: account, ReadHeaderTimeout: time.Minute}
		go func() { _ = server.Serve(pipe) }() // returns when closed
		defer server.Close()
		transport := &http.Transport{DialContext: pipe.Dial}
		defer transport.CloseIdleConnections()
		b := &bench{T: t, account: account, client: &http.Client{Transport: transport, Timeout: 30 * time.Second}}
		b.restart("demo-uid")
		if b.operator, err = newClients(t.Context(), testRegion, reaching(b.client, operatorKey)); err != nil {
			t.Fatal(err)
		}
		test(b)
		if v := account.Violations(); len(v) > 0 {
			t.Errorf("requests that AWS would call malformed: %q", v)
		}
	})
}

// Access keys: the provider's, which the policy binds, and the operator's.
const providerKey, operatorKey = "AKIDPROVIDER", "AKIDOPERATOR"

// restart replaces the provider by a new one that remembers nothing, of a
// cluster with the given UID.
func (b *bench) restart(uid string, edits ...func(*Config)) {
	b.Helper()
	cfg := testConfig()
	for _, edit := range edits {
		edit(&cfg)
	}
	p, err := New(b.Context(), cfg, lb.Cluster{Name: "demo", UID: uid}, reaching(b.client, providerKey)...)
	if err != nil {
		b.Fatal(err)
	}
	b.provider, b.engine = p, plan.NewEngine(p, plan.Options{})
}

// reconcile brings s about and expects that to work.
func (b *bench) reconcile(s lb.Service) plan.Result {
	b.Helper()
	r, err := b.engine.Reconcile(b.Context(), s)
	if err != nil {
		b.Fatalf("reconcile: %v\n%s", err, r.Plan)
	}
	return r
}

// settle calls do again, as a queue would, as long as it asks for patience.
func (b *bench) settle(do func() (plan.Result, error)) plan.Result {
	b.Helper()
	deadline := time.Now().Add(10 * time.Minute)
	for {
		r, err := do()
		if err == nil {
			return r
		}
		if kind := lb.KindOf(err); time.Now().After(deadline) || kind != lb.Pending && kind != lb.Throttled && kind != lb.Unavailable {
			b.Fatalf("does not settle: %v\n%s", err, b.log())
		}
		time.Sleep(max(lb.RetryAfterOf(err), time.Second)) // in virtual time: this is the queue's own wait
	}
}

// remove deletes s and expects the account to be as it was at first.
func (b *bench) remove(s lb.Service) {
	b.Helper()
	b.settle(func() (plan.Result, error) { return b.engine.Delete(b.Context(), s.ServiceRef) })
	b.expectLeft()
}

// expectLeft compares what is left in the account, by kind and name, with the
// given items.
func (b *bench) expectLeft(want ...string) {
	b.Helper()
	var got []string
	for _, r := range b.account.Leftovers() {
		got = append(got, r.Kind+" "+r.Name)
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		b.Errorf("left in the account:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// perform returns the plan and the calls that write that reconciling s takes.
func (b *bench) perform(s lb.Service) (plan.Result, []string) {
	b.Helper()
	b.account.Calls().Reset()
	r := b.reconcile(s)
	return r, b.writes()
}

// writes returns the operations called since the log was reset that write, in
// order.
func (b *bench) writes() []string {
	var ops []string
	for _, c := range b.account.Calls().Calls() {
		if c.Write {
			ops = append(ops, c.Operation)
		}
	}
	return ops
}

// expectWrites compares operations, in any order.
func (b *bench) expectWrites(got []string, want ...string) {
	b.Helper()
	if !lb.Value(sorted(got)).Equal(sorted(want)) {
		b.Errorf("writes %v, want %v", got, want)
	}
}

func sorted(items []string) []string { return slices.Sorted(slices.Values(items)) }

// settled checks that nothing is left to do for s and that finding that out
// writes nothing.
func (b *bench) settled(s lb.Service) {
	b.Helper()
	b.account.Calls().Reset()
	if r := b.settle(func() (plan.Result, error) { return b.engine.Reconcile(b.Context(), s) }); !r.Plan.Empty() {
		b.Errorf("a second run finds something to do:\n%s", r.Plan)
	}
	if n := b.account.Calls().Counts().Writes(); n > 0 {
		b.Errorf("a second run writes:\n%s", b.account.Calls().Counts())
	}
}

// find returns the only resource of the kind that s has.
func (b *bench) find(s lb.Service, kind lb.Kind) lb.Resource {
	b.Helper()
	var found []lb.Resource
	for _, r := range b.observe(s) {
		if r.Kind == kind && r.OwnedBy(lb.ByService(s.ServiceRef)) {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		b.Fatalf("%s has %d of kind %s", s.ServiceRef, len(found), kind)
	}
	return found[0]
}

// failFrom makes all calls from the nth on fail, the nth after its effect; 0 ends
// that.
func (b *bench) failFrom(n int) {
	b.Helper()
	var faults []fake.Fault
	if n > 0 {
		faults = []fake.Fault{{Kind: fake.FaultError, Nth: n, AfterEffect: true}, {Kind: fake.FaultError, Nth: n, Times: -1}}
	}
	if err := b.account.Faults().Set(faults); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) log() string {
	var text strings.Builder
	for _, c := range b.account.Calls().Calls() {
		fmt.Fprintln(&text, c)
	}
	return text.String()
}
