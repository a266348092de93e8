package environment

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/fairway-lb/fairway/e2e/cluster"
	"github.com/fairway-lb/fairway/providers/fake"
	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
)

// The account that the fake cloud plays. The network is the one that
// e2e/cluster lays out.
const (
	region      = "eu-west-1"
	clusterName = "demo"
	nodeGroup   = "sg-0f00d000000000001"
)

// zones are the region's, one public and one private subnet in each.
var zones = []string{region + "a", region + "b", region + "c"}

// seed is the account before Kubernetes asks it for anything: a VPC with a
// public and a private subnet in each zone, the nodes as instances, and one
// security group around them that lets them talk to each other and to the
// control plane, and nothing else.
func seed(nodes []cluster.NodeConfig, controlPlane netip.Addr) fakeaws.World {
	w := fakeaws.World{
		Region:     region,
		AccountID:  "123456789012",
		VPC:        fakeaws.VPC{ID: "vpc-0f00d000000000001", CIDR: netip.MustParsePrefix("10.0.0.0/16")},
		PublicPool: netip.MustParsePrefix("203.0.113.0/24"),
		SecurityGroups: []fakeaws.SecurityGroup{{
			ID: nodeGroup, Name: "nodes", Description: "Kubernetes nodes",
			Tags: map[string]string{"kubernetes.io/cluster/" + clusterName: "owned"},
			Ingress: []fakeaws.IngressRule{
				{Protocol: "all", Groups: []string{nodeGroup}},
				{Protocol: "all", CIDRs: []netip.Prefix{netip.PrefixFrom(controlPlane, 32)}},
			},
		}},
		// A tenth of what AWS takes, so that the demo shows the states without
		// the waiting.
		Timing: fakeaws.Timing{
			Latency:         fake.Duration(20 * time.Millisecond),
			Provisioning:    fake.Duration(3 * time.Second),
			Registration:    fake.Duration(time.Second),
			InterfaceLinger: fake.Duration(3 * time.Second),
			ReleaseLag:      fake.Duration(time.Second),
			MaxDraining:     fake.Duration(5 * time.Second),
		},
	}
	for i, zone := range zones {
		w.Subnets = append(w.Subnets,
			fakeaws.Subnet{ID: subnetID("0ab11c", i), Zone: zone, Public: true,
				CIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(16 * i), 0}), 20),
				Tags: map[string]string{"Name": "public-" + zone, "kubernetes.io/role/elb": "1"}},
			fakeaws.Subnet{ID: subnetID("0a11fe", i), Zone: zone,
				CIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(128 + 16*i), 0}), 20),
				Tags: map[string]string{"Name": "private-" + zone, "kubernetes.io/role/internal-elb": "1"}})
	}
	for _, n := range nodes {
		w.Instances = append(w.Instances, asInstance(n))
	}
	return w
}

// shippedPolicy is the IAM policy that the documentation tells operators to give
// the controller, for the cluster of the environment.
func shippedPolicy(source string) (json.RawMessage, error) {
	document, err := os.ReadFile(filepath.Join(source, "docs", "aws", "iam-policy.json"))
	if err != nil {
		return nil, fmt.Errorf("read the controller's IAM policy: %w", err)
	}
	return json.RawMessage(strings.ReplaceAll(string(document), "${CLUSTER_NAME}", clusterName)), nil
}

func subnetID(middle string, i int) string { return fmt.Sprintf("subnet-%s%011d", middle, i+1) }

// asInstance is a node as the cloud sees it: a virtual machine in the public
// subnet of its zone, through which its Pods are reached too.
func asInstance(n cluster.NodeConfig) fakeaws.Instance {
	return fakeaws.Instance{
		ID:        n.ProviderID[strings.LastIndex(n.ProviderID, "/")+1:],
		Type:      n.InstanceType,
		Subnet:    subnetID("0ab11c", slices.Index(zones, n.Zone)),
		PrivateIP: n.Address, Prefixes: []netip.Prefix{n.PodRange}, Device: n.Name,
		SecurityGroups: []string{nodeGroup},
		Tags:           map[string]string{"Name": n.Name, "kubernetes.io/cluster/" + clusterName: "owned"},
	}
}

// write puts v into path as YAML.
func write(path string, v any) error {
	data, err := yaml.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
