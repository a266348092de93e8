package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fairway-lb/fairway/e2e/cluster/agent"
	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// NodeConfig describes a node: a machine of the cloud.
type NodeConfig struct {
	// Name is the Node's and the instance's host name, and the name of its
	// device in the fabric, so at most 15 bytes.
	Name string
	// Address is its own in the VPC.
	Address netip.Addr
	// PodRange is where its Pods' addresses come from, within PodRange.
	PodRange netip.Prefix
	// ProviderID is what the cloud calls it, "aws:///eu-west-1a/i-0…".
	ProviderID string
	// Region, Zone and InstanceType become the Node's standard labels.
	Region, Zone, InstanceType string
	// Uninitialized lets the node register as a kubelet with
	// --cloud-provider=external does: tainted, without a ProviderID and those
	// labels, for a cloud controller manager to give it.
	Uninitialized bool
}

// DefaultNode is the i-th node, from 1, of the one-machine world: the nodes go
// round three zones of eu-west-1, each with a subnet of its own.
func DefaultNode(i int) NodeConfig {
	zone := (i - 1) % 3
	name := "eu-west-1" + string(rune('a'+zone))
	return NodeConfig{
		Name:         fmt.Sprintf("node-%d", i),
		Address:      netip.AddrFrom4([4]byte{10, 0, byte(16 * zone), byte(11 + (i-1)/3)}),
		PodRange:     netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24),
		ProviderID:   fmt.Sprintf("aws:///%s/i-0%016x", name, i),
		Region:       "eu-west-1",
		Zone:         name,
		InstanceType: "m7i.large",
	}
}

// Node is a running node.
type Node struct {
	NodeConfig
	// NetNS is the node's own network namespace.
	NetNS *sandbox.NetNS

	cluster *Cluster
	agent   atomic.Pointer[agent.Agent]
	proxy   *component
	stop    context.CancelFunc
	stopped chan struct{}
}

// AddNode starts a further node and returns when it is Ready and its node proxy
// healthy.
func (c *Cluster) AddNode(ctx context.Context, config NodeConfig) (*Node, error) {
	ctx, cancel := c.boot(ctx)
	defer cancel()
	node, err := c.newNode(config)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", config.Name, err)
	}
	if err := c.startNode(ctx, node); err != nil {
		return nil, errors.Join(fmt.Errorf("node %s: %w", config.Name, err), c.RemoveNode(config.Name))
	}
	return node, nil
}

// newNode makes the node's machine: its namespace, plugged into the fabric.
func (c *Cluster) newNode(config NodeConfig) (*Node, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, taken := c.nodes[config.Name]; taken {
		return nil, errors.New("there is one of that name already")
	}
	n, err := sandbox.NewNetNS(config.Name)
	if err != nil {
		return nil, err
	}
	err = forwarding(n)
	if err == nil {
		err = c.network.attach(n, config.Name, config.Address.String(), FabricAddress, config.PodRange)
	}
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	node := &Node{NodeConfig: config, NetNS: n, cluster: c}
	c.nodes[config.Name] = node
	return node, nil
}

// startNode starts the node's agent and its node proxy, and waits for both.
func (c *Cluster) startNode(ctx context.Context, node *Node) error {
	config := rest.CopyConfig(c.RESTConfig)
	pair, err := c.authority.client("system:node:"+node.Name, []string{"system:nodes"})
	if err != nil {
		return err
	}
	config.CertData, config.KeyData = pair.certificate, pair.key
	// What the node says to the API server goes over its own cable: pull that,
	// and the cluster notices.
	config.Dial = node.NetNS.DialContext
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	a, err := agent.New(agent.Config{
		Node: node.object(), Client: client, NetNS: node.NetNS, LameDuck: c.config.LameDuck,
		Images: c.config.Images, ClusterDNS: netip.MustParseAddr(DNSAddress),
		Logger: c.logger.With("node", node.Name), LogDir: c.config.LogDir,
	})
	if err != nil {
		return err
	}
	node.agent.Store(a)
	running, stop := context.WithCancel(c.lifetime)
	node.stop, node.stopped = stop, make(chan struct{})
	go func() {
		defer close(node.stopped)
		if err := a.Run(running); err != nil && running.Err() == nil {
			c.fail(err)
		}
	}()
	if err := node.StartProxy(); err != nil {
		return err
	}
	if err := node.waitReady(ctx); err != nil {
		return err
	}
	return node.WaitProxyHealthy(ctx)
}

func (n *Node) object() *corev1.Node {
	object := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: map[string]string{
			corev1.LabelHostname:           n.Name,
			corev1.LabelOSStable:           "linux",
			corev1.LabelArchStable:         "amd64",
			corev1.LabelTopologyRegion:     n.Region,
			corev1.LabelTopologyZone:       n.Zone,
			corev1.LabelInstanceTypeStable: n.InstanceType,
		}},
		Spec: corev1.NodeSpec{
			ProviderID: n.ProviderID, PodCIDR: n.PodRange.String(), PodCIDRs: []string{n.PodRange.String()},
		},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: n.Address.String()},
			{Type: corev1.NodeHostName, Address: n.Name},
		}},
	}
	if n.Uninitialized {
		object.Spec.ProviderID = ""
		object.Spec.Taints = []corev1.Taint{{Key: "node.cloudprovider.kubernetes.io/uninitialized", Value: "true", Effect: corev1.TaintEffectNoSchedule}}
		for _, label := range []string{corev1.LabelTopologyRegion, corev1.LabelTopologyZone, corev1.LabelInstanceTypeStable} {
			delete(object.Labels, label)
		}
	}
	return object
}

// waitReady waits until Pods can be scheduled onto the node.
func (n *Node) waitReady(ctx context.Context) error {
	return until(ctx, "node "+n.Name+" to be Ready", func(ctx context.Context) error {
		object, err := n.cluster.Client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, taint := range object.Spec.Taints {
			if taint.Key == corev1.TaintNodeNotReady {
				return errors.New("still has taint " + taint.Key)
			}
		}
		return nil
	})
}

// StartProxy starts the node's node proxy, if the cluster has a binary for it.
// Unless it is stopped by StopProxy, its death is the cluster's.
func (n *Node) StartProxy() error {
	c := n.cluster
	if c.config.NodeProxy == "" {
		return nil
	}
	command := append([]string{
		c.config.NodeProxy, "--kubeconfig=" + c.proxyKubeconfig, "--node-name=" + n.Name, "--cluster-cidr=" + PodRange,
	}, c.config.NodeProxyArgs...)
	var err error
	n.proxy, err = launch{
		name: "node-proxy-" + n.Name, netns: n.NetNS, logDir: c.config.LogDir, command: command, died: c.fail,
	}.start()
	return err
}

// StopProxy ends the node's node proxy with SIGTERM and waits for its end. What
// it installed in the kernel is left to it.
func (n *Node) StopProxy() {
	n.proxy.stop(true)
	n.proxy = nil
}

// WaitProxyHealthy waits for the node proxy's own word that it has programmed
// the node. It returns at once if the cluster has no node proxies.
func (n *Node) WaitProxyHealthy(ctx context.Context) error {
	if n.proxy == nil {
		return nil
	}
	client := http.Client{Transport: &http.Transport{DialContext: n.NetNS.DialContext, DisableKeepAlives: true}}
	return until(ctx, "the node proxy of "+n.Name+" to be healthy", func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.Address.String()+":10256/healthz", nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
			return fmt.Errorf("HTTP status %d: %s", response.StatusCode, text)
		}
		return nil
	})
}

// RemoveNode takes a node away as a cloud takes an instance away: at once, with
// its Pods. Its Node object stays until somebody deletes it, a cloud controller
// manager for instance.
func (c *Cluster) RemoveNode(name string) error {
	c.mu.Lock()
	node, found := c.nodes[name]
	delete(c.nodes, name)
	c.mu.Unlock()
	if !found {
		return fmt.Errorf("there is no node %s", name)
	}
	return node.close()
}

func (n *Node) close() error {
	n.proxy.stop(false)
	if n.stop != nil {
		n.stop()
		<-n.stopped
	}
	// The cable first, so that nothing answers under the node's address while
	// its last sockets close.
	return errors.Join(n.cluster.network.fabric.DeleteDevice(n.Name), n.NetNS.Close())
}

// proxyUser is whom node proxies act as.
const proxyUser = "fairway:node-proxy"

// allowProxies grants node proxies what they need, and no more: what the shipped
// cmd/node-proxy/rbac.yaml does.
func (c *Cluster) allowProxies(ctx context.Context) error {
	follow := []string{"list", "watch"}
	meta := metav1.ObjectMeta{Name: proxyUser}
	role := &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"services"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: follow},
		{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: follow},
		{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"servicecidrs"}, Verbs: follow},
		{APIGroups: []string{"events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}},
	}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: proxyUser},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: proxyUser}},
	}
	_, err := c.Client.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{})
	if err == nil || apierrors.IsAlreadyExists(err) {
		_, err = c.Client.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{})
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("granting the node proxies their permissions: %w", err)
	}
	return nil
}
