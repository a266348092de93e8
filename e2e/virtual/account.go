package virtual

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairway-lb/fairway/providers/aws"
	"github.com/fairway-lb/fairway/providers/fake"
	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/lb"
)

// ClusterName is the cluster's name, in the account and in the configuration of
// the provider.
const ClusterName = "demo"

const (
	region     = "eu-west-1"
	nodesGroup = "sg-0bbbbbbbbbbbbbbbb"
)

// World returns an account in eu-west-1 with a public subnet in each of three
// zones, each with room for sixteen thousand addresses, and no instances. Its
// delays and request limits are realistic, its quotas raised as an operator would
// have AWS raise them for thousands of Services.
func World() fakeaws.World {
	w := fakeaws.World{
		Region: region, AccountID: "123456789012",
		VPC:            fakeaws.VPC{ID: "vpc-0aaaaaaaaaaaaaaaa", CIDR: netip.MustParsePrefix("10.0.0.0/16")},
		PublicPool:     netip.MustParsePrefix("198.18.0.0/16"),
		SecurityGroups: []fakeaws.SecurityGroup{{ID: nodesGroup, Name: "nodes"}},
		Quotas:         fakeaws.Quotas{LoadBalancers: 5000, TargetGroups: 10000, SecurityGroups: 10000},
		Timing: fakeaws.Timing{
			Latency: fake.Duration(80 * time.Millisecond), VisibilityLag: fake.Duration(300 * time.Millisecond),
			Provisioning: fake.Duration(150 * time.Second), Registration: fake.Duration(20 * time.Second),
			InterfaceLinger: fake.Duration(time.Minute), ReleaseLag: fake.Duration(2 * time.Second),
		},
	}
	for zone := range 3 {
		w.Subnets = append(w.Subnets, fakeaws.Subnet{ID: subnetOf(zone), CIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(64 * zone), 0}), 18), Zone: zoneOf(zone), Public: true})
	}
	return w
}

func zoneOf(n int) string     { return region + string("abc"[n%3]) }
func subnetOf(n int) string   { return fmt.Sprintf("subnet-0%016x", n%3) }
func instanceOf(n int) string { return fmt.Sprintf("i-0%016x", n) }

// Instance returns the instance of node n, counted from 0.
func Instance(n int) fakeaws.Instance {
	return fakeaws.Instance{
		ID: instanceOf(n), Subnet: subnetOf(n), SecurityGroups: []string{nodesGroup},
		// At the end of the zone's subnet; load balancers take addresses from its start.
		PrivateIP: netip.AddrFrom4([4]byte{10, 0, byte(64*(n%3) + 48 + n/3/256), byte(n / 3 % 256)}),
	}
}

// Node returns node n, initialised, with the labels and taints of a cloud's node.
func Node(n int) *v1.Node {
	name := fmt.Sprintf("node-%04d", n)
	return &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			v1.LabelHostname: name, v1.LabelTopologyZone: zoneOf(n), v1.LabelTopologyRegion: region,
			v1.LabelInstanceTypeStable: "m7i.large", v1.LabelOSStable: "linux", v1.LabelArchStable: "amd64",
		}},
		Spec: v1.NodeSpec{ProviderID: "aws:///" + zoneOf(n) + "/" + instanceOf(n)},
		Status: v1.NodeStatus{
			Addresses:  []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: Instance(n).PrivateIP.String()}, {Type: v1.NodeHostName, Address: name}},
			Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}},
		},
	}
}

// Account is a fake AWS account that is reached by the real SDK over connections
// in memory. Make one with NewAccount and Close it.
type Account struct {
	*fakeaws.Account
	server    *http.Server
	transport *http.Transport
}

// NewAccount returns an account that holds w, and serves it. An error says what of
// w does not fit together.
func NewAccount(w fakeaws.World) (*Account, error) {
	account, err := fakeaws.New(w)
	if err != nil {
		return nil, err
	}
	pipe := fake.NewPipe()
	a := &Account{
		Account: account,
		server:  &http.Server{Handler: account, ReadHeaderTimeout: time.Minute},
		// The limits of the provider's own HTTP client.
		transport: &http.Transport{DialContext: pipe.Dial, ResponseHeaderTimeout: 20 * time.Second, MaxIdleConnsPerHost: 16},
	}
	go func() { _ = a.server.Serve(pipe) }() // returns when closed
	return a, nil
}

// Close ends the account and its connections.
func (a *Account) Close() {
	a.transport.CloseIdleConnections()
	_ = a.server.Close()
	a.Account.Close()
}

func (a *Account) client() *http.Client {
	return &http.Client{Transport: a.transport, Timeout: 30 * time.Second}
}

// Open makes the real provider on the account, as cloudprovider.Config.Open.
func (a *Account) Open(ctx context.Context, cluster lb.Cluster) (lb.Provider, error) {
	return aws.New(ctx, aws.Config{Cluster: aws.ClusterConfig{Name: ClusterName}}, cluster,
		config.WithRegion(region), config.WithBaseEndpoint("http://aws.test"),
		config.WithHTTPClient(a.client()),
		config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider("AKIDPROVIDER", "secret", "")),
		// Nothing of the machine the tests run on.
		config.WithSharedConfigFiles([]string{}), config.WithSharedCredentialsFiles([]string{}),
		config.WithEC2IMDSClientEnableState(imds.ClientDisabled))
}
