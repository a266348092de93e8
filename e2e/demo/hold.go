package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/fairway-lb/fairway/e2e/cluster"
	"github.com/fairway-lb/fairway/e2e/environment"
	"github.com/fairway-lb/fairway/e2e/manifests"
)

// hold applies the Service again, opens the doors handed in from outside and
// waits for the signal that ends the demo: one leads to the API server, one
// through the load balancer, from the client on the internet.
func (s *story) hold(ctx context.Context, doors []*os.File) error {
	if _, err := s.env.Kubectl(ctx, manifests.LoadBalancer, "apply", "-f", "-"); err != nil {
		return err
	}
	if err := s.until(ctx, "an answer through the load balancer", func(ctx context.Context) error {
		host, err := s.env.Address(ctx, "default", service)
		if err == nil {
			_, err = s.outside.Get(ctx, host, 80)
		}
		return err
	}); err != nil {
		return err
	}
	addresses := make([]string, len(doors))
	for i, open := range []func(context.Context) (net.Conn, error){s.toAPI, s.toBalancer} {
		listener, err := net.FileListener(doors[i])
		if err != nil {
			return err
		}
		defer listener.Close()
		addresses[i] = listener.Addr().String()
		go relay(ctx, listener, open)
	}
	programs := os.Getenv(environment.ProgramsVariable)
	kubeconfig := filepath.Join(programs, "demo.kubeconfig")
	content, err := s.env.KubeconfigAt("https://"+addresses[0], "admin", "system:masters")
	if err != nil {
		return err
	}
	if err := os.WriteFile(kubeconfig, content, 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(kubeconfig) }()
	kubectl := filepath.Join(os.Getenv(environment.KubernetesVariable), "kubectl")
	fmt.Fprintln(s.out, "\nIt stays up until Ctrl-C, with the LoadBalancer Service applied again. In another terminal:")
	s.say("\nexport KUBECONFIG=%s\n%s get nodes,pods,services\n%s describe service %s\n", kubeconfig, kubectl, kubectl, service)
	s.say("curl http://%s/    # from the client on the internet, through the load balancer\n", addresses[1])
	select {
	case <-ctx.Done():
		return nil
	case <-s.env.Done():
		return s.env.Err()
	}
}

func (s *story) toAPI(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", net.JoinHostPort(cluster.ControlPlaneAddress, "6443"))
}

func (s *story) toBalancer(ctx context.Context) (net.Conn, error) {
	host, err := s.env.Address(ctx, "default", service)
	if err != nil {
		return nil, err
	}
	return s.outside.Dial(ctx, "tcp", host, 80)
}

// relay passes each connection it accepts on to one that open makes, until the
// listener is closed.
func relay(ctx context.Context, listener net.Listener, open func(context.Context) (net.Conn, error)) {
	for {
		from, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer from.Close()
			to, err := open(ctx)
			if err != nil {
				fmt.Fprintln(os.Stderr, "demo:", err)
				return
			}
			defer to.Close()
			pipe(from.(*net.TCPConn), to.(*net.TCPConn))
		}()
	}
}

// pipe copies both ways until both sides are done.
func pipe(a, b *net.TCPConn) {
	var both sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{a, b}, {b, a}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_ = way[0].CloseWrite()
		})
	}
	both.Wait()
}
