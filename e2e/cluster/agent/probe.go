package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// probeResult is what a readiness probe found out about a container.
type probeResult struct {
	container string
	ready     bool
	reason    string
}

// probe makes the Pod's readiness probes until the context ends. Each result is
// sent that a container's readiness follows from, thresholds taken into account.
func (p *pod) probe(ctx context.Context, object *corev1.Pod) <-chan probeResult {
	results := make(chan probeResult)
	for _, container := range object.Spec.Containers {
		if container.ReadinessProbe != nil {
			ip := p.ip
			p.agent.running.Go(func() { probeContainer(ctx, p.agent.config.NetNS, ip, container, results) })
		}
	}
	return results
}

func probeContainer(ctx context.Context, from *sandbox.NetNS, ip netip.Addr, container corev1.Container, results chan<- probeResult) {
	probe := container.ReadinessProbe
	pause(ctx, seconds(probe.InitialDelaySeconds))
	ticker := time.NewTicker(max(seconds(probe.PeriodSeconds), time.Second))
	defer ticker.Stop()
	succeeded, failed := int32(0), int32(0)
	for ctx.Err() == nil {
		attempt, cancel := context.WithTimeout(ctx, max(seconds(probe.TimeoutSeconds), time.Second))
		err := probeOnce(attempt, from, ip, container)
		cancel()
		result := probeResult{container: container.Name, ready: err == nil}
		if err == nil {
			succeeded, failed = succeeded+1, 0
		} else {
			succeeded, failed = 0, failed+1
			result.reason = "readiness probe failed: " + err.Error()
		}
		if succeeded >= max(probe.SuccessThreshold, 1) || failed >= max(probe.FailureThreshold, 1) {
			select {
			case results <- result:
			case <-ctx.Done():
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

// probeOnce makes one probe, from the node as a kubelet does.
func probeOnce(ctx context.Context, from *sandbox.NetNS, ip netip.Addr, container corev1.Container) error {
	probe := container.ReadinessProbe
	switch {
	case probe.HTTPGet != nil:
		return probeHTTP(ctx, from, ip, container, probe.HTTPGet)
	case probe.TCPSocket != nil:
		address, err := probeAddress(probe.TCPSocket.Host, probe.TCPSocket.Port, ip, container)
		if err != nil {
			return err
		}
		conn, err := from.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	return errors.New("this test node makes only httpGet and tcpSocket probes")
}

func probeHTTP(ctx context.Context, from *sandbox.NetNS, ip netip.Addr, container corev1.Container, get *corev1.HTTPGetAction) error {
	address, err := probeAddress(get.Host, get.Port, ip, container)
	if err != nil {
		return err
	}
	target, err := url.Parse(get.Path)
	if err != nil {
		return fmt.Errorf("path: %w", err)
	}
	target.Scheme, target.Host = strings.ToLower(string(get.Scheme)), address
	if target.Scheme == "" {
		target.Scheme = "http"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return err
	}
	for _, header := range get.HTTPHeaders {
		if strings.EqualFold(header.Name, "Host") {
			request.Host = header.Value
		} else {
			request.Header.Add(header.Name, header.Value)
		}
	}
	client := http.Client{Transport: &http.Transport{
		DialContext:       from.DialContext,
		DisableKeepAlives: true,
		// A kubelet does not verify the certificate of what it probes either.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 10<<10))
	if response.StatusCode < 200 || response.StatusCode >= 400 {
		return fmt.Errorf("HTTP status %d", response.StatusCode)
	}
	return nil
}

// probeAddress finds where to probe: a port may be named as in the container,
// the host is the Pod unless it is given.
func probeAddress(host string, port intstr.IntOrString, ip netip.Addr, container corev1.Container) (string, error) {
	number := port.IntValue()
	if port.Type == intstr.String {
		for _, p := range container.Ports {
			if p.Name == port.StrVal {
				number = int(p.ContainerPort)
			}
		}
	}
	if number < 1 || number > 65535 {
		return "", fmt.Errorf("container %s has no port %s", container.Name, port.String())
	}
	if host == "" {
		host = ip.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(number)), nil
}
