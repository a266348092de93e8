package datapath

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
)

// once makes one health check. The error is the reason for failing, in the few
// words that the account shows.
func (p probe) once(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.check.Timeout)
	defer cancel()
	var err error
	switch p.check.Protocol {
	case "tcp":
		err = p.connect(ctx)
	case "http", "https":
		err = p.get(ctx)
	default:
		err = fmt.Errorf("health check protocol %q is unknown", p.check.Protocol)
	}
	return plain(err)
}

func (p probe) connect(ctx context.Context) error {
	conn, err := p.dial(ctx, "tcp", p.target.String())
	if err != nil {
		return err
	}
	return conn.Close()
}

// get asks for the path on a connection of its own. A redirect is an answer like
// any other: it is its status that counts.
func (p probe) get(ctx context.Context) error {
	transport := &http.Transport{
		DialContext:       p.dial,
		DisableKeepAlives: true,
		// Load balancers do not verify the certificates of targets, see
		// https://docs.aws.amazon.com/elasticloadbalancing/latest/network/target-group-health-checks.html
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	defer transport.CloseIdleConnections()
	url := p.check.Protocol + "://" + p.target.String() + p.check.Path
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", "ELB-HealthChecker/2.0")
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, _ = io.CopyN(io.Discard, response.Body, 1<<10)
	matched, err := matches(p.check.Codes, response.StatusCode)
	if err == nil && !matched {
		err = fmt.Errorf("status %d", response.StatusCode)
	}
	return err
}

// dial connects from the load balancer's address, so that the filters of the
// target see who asks.
func (p probe) dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(p.source, 0))}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil || !p.check.ProxyProtocol {
		return conn, err
	}
	if _, err := conn.Write(checkHeader()); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// matches says whether status is among codes: values and ranges separated by
// commas.
func matches(codes string, status int) (bool, error) {
	for part := range strings.SplitSeq(codes, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		low, errLow := strconv.Atoi(first)
		high, errHigh := strconv.Atoi(last)
		if err := errors.Join(errLow, errHigh); err != nil {
			return false, fmt.Errorf("health check codes %q: %w", codes, err)
		}
		if low <= status && status <= high {
			return true, nil
		}
	}
	return false, nil
}

// plain says in a few words why a check failed.
func plain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return errors.New("timed out")
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("connection refused")
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return errors.New("timed out")
	}
	return err
}
