package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	etcdPeer   = "http://127.0.0.1:2380"
	apiAddress = "https://" + ControlPlaneAddress + ":6443"
	// apiServiceIP is the ClusterIP of Service default/kubernetes: the first of
	// ServiceRange.
	apiServiceIP = "10.96.0.1"
	// pollInterval is the pause between two looks at something that shall come.
	pollInterval = 50 * time.Millisecond
)

// StoreAddress is where etcd answers, in the network namespace of the caller of
// [Start]: for who must see or change what the API server keeps.
const StoreAddress = "http://127.0.0.1:2379"

// programs are the binaries that a control plane consists of, and kubectl.
var programs = [...]string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"}

// checkBinaries finds out before anything is started if a program is missing.
func checkBinaries(dir string) error {
	if dir == "" {
		return errors.New("no directory with the Kubernetes binaries given")
	}
	for _, program := range programs {
		info, err := os.Stat(filepath.Join(dir, program))
		if err == nil && info.Mode()&0o111 == 0 {
			err = errors.New("not executable")
		}
		if err != nil {
			return fmt.Errorf("looking for the Kubernetes binary %s: %w", program, err)
		}
	}
	return nil
}

// startControlPlane returns when the API server is ready and everything else of
// the control plane is started.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	if err := c.authority.writeCertificates(c.dir); err != nil {
		return err
	}
	file := func(name string) string { return filepath.Join(c.dir, name) }
	if err := c.startProgram("etcd",
		"--data-dir="+file("etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+StoreAddress, "--advertise-client-urls="+StoreAddress,
		"--listen-peer-urls="+etcdPeer, "--initial-advertise-peer-urls="+etcdPeer, "--initial-cluster=default="+etcdPeer,
	); err != nil {
		return err
	}
	if err := c.startProgram("kube-apiserver",
		"--etcd-servers="+StoreAddress,
		"--bind-address="+ControlPlaneAddress, "--advertise-address="+ControlPlaneAddress, "--secure-port=6443",
		"--service-cluster-ip-range="+ServiceRange,
		"--authorization-mode=Node,RBAC", "--allow-privileged=true", "--profiling=false",
		"--client-ca-file="+file("ca.crt"), "--tls-cert-file="+file("apiserver.crt"), "--tls-private-key-file="+file("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+file("service-account.pub"), "--service-account-signing-key-file="+file("service-account.key"),
	); err != nil {
		return err
	}
	if err := c.waitForAPI(ctx); err != nil {
		return err
	}
	return c.startControllers(file)
}

func (c *Cluster) startControllers(file func(string) string) error {
	manager, err := c.KubeconfigFor("system:kube-controller-manager")
	if err != nil {
		return err
	}
	scheduler, err := c.KubeconfigFor("system:kube-scheduler")
	if err != nil {
		return err
	}
	// With the default rate limits a new cluster's service accounts take ten
	// seconds to come.
	common := []string{"--leader-elect=false", "--bind-address=127.0.0.1", "--kube-api-qps=300", "--kube-api-burst=600"}
	if err := c.startProgram("kube-controller-manager", append([]string{
		"--kubeconfig=" + manager, "--root-ca-file=" + file("ca.crt"),
		// The default roles are one per controller, not one for them all.
		"--service-account-private-key-file=" + file("service-account.key"), "--use-service-account-credentials=true",
		"--service-cluster-ip-range=" + ServiceRange,
		// Our nodes report twice as often as kubelets do.
		"--node-monitor-grace-period=20s", "--node-monitor-period=2s",
		"--flex-volume-plugin-dir=" + file("flex"),
	}, common...)...); err != nil {
		return err
	}
	return c.startProgram("kube-scheduler", append([]string{"--kubeconfig=" + scheduler}, common...)...)
}

// startProgram starts one of the Kubernetes programs in the control plane's
// namespace. Its death is the cluster's.
func (c *Cluster) startProgram(name string, args ...string) error {
	_, err := c.Run(c.network.main, name, nil, append([]string{filepath.Join(c.config.Binaries, name)}, args...)...)
	return err
}

func (c *Cluster) waitForAPI(ctx context.Context) error {
	return until(ctx, "the API server to be ready", func(ctx context.Context) error {
		status := 0
		err := c.Client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).StatusCode(&status).Error()
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("HTTP status %d", status)
		}
		return err
	})
}

// waitForServiceAccount waits for what a Pod in namespace default needs first.
func (c *Cluster) waitForServiceAccount(ctx context.Context) error {
	return until(ctx, "the default service account", func(ctx context.Context) error {
		_, err := c.Client.CoreV1().ServiceAccounts(corev1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// until calls f, with short pauses, until it returns nil. When the context ends
// before that, the error says what was awaited, why the context ended, and the
// last answer.
func until(ctx context.Context, awaited string, f func(context.Context) error) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		last := f(attempt)
		cancel()
		if last == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w; last answer: %w", awaited, context.Cause(ctx), last)
		}
	}
}
