package environment

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/fairway-lb/fairway/e2e/cluster"
	"github.com/fairway-lb/fairway/e2e/cluster/agent"
	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// patience bounds one request of a client; none retries.
const patience = 3 * time.Second

// Client asks Pods who they are, from some place in the world: outside, a node,
// a Pod. Names are resolved by the fake cloud's DNS. Each request is a
// connection of its own, so that a load balancer decides anew.
type Client struct {
	from     *sandbox.NetNS
	resolver *net.Resolver
}

// ClientIn returns a client that sends from the given namespace.
func ClientIn(from *sandbox.NetNS) *Client {
	c := &Client{from: from}
	c.resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return from.DialContext(ctx, "udp", net.JoinHostPort(cluster.FabricAddress, "53"))
	}}
	return c
}

// Resolve returns the IPv4 addresses behind a name; an address is itself.
func (c *Client) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// With the final dot the resolver asks for this name alone and not also
	// below the search domains of the machine it runs on.
	return c.resolver.LookupNetIP(ctx, "ip4", host+".")
}

// Get asks over HTTP who answers at host:port. It also returns the address the
// request was sent to and the one it was sent from.
func (c *Client) Get(ctx context.Context, host string, port int) (Reply, error) {
	conn, err := c.Dial(ctx, "tcp", host, port)
	if err != nil {
		return Reply{}, err
	}
	defer conn.Close()
	reply := Reply{From: addressOf(conn.LocalAddr()), To: addressOf(conn.RemoteAddr())}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/", net.JoinHostPort(host, fmt.Sprint(port))), nil)
	if err != nil {
		return reply, err
	}
	response, err := client.Do(request)
	if err != nil {
		return reply, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return reply, fmt.Errorf("GET %s: %s", request.URL, response.Status)
	}
	return reply, json.NewDecoder(io.LimitReader(response.Body, 1<<16)).Decode(&reply.Answer)
}

// Send asks over UDP, with one datagram.
func (c *Client) Send(ctx context.Context, host string, port int) (Reply, error) {
	conn, err := c.Dial(ctx, "udp", host, port)
	if err != nil {
		return Reply{}, err
	}
	defer conn.Close()
	reply := Reply{From: addressOf(conn.LocalAddr()), To: addressOf(conn.RemoteAddr())}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return reply, err
	}
	if _, err := conn.Write([]byte("who are you?\n")); err != nil {
		return reply, err
	}
	datagram := make([]byte, 1<<16)
	n, err := conn.Read(datagram)
	if err != nil {
		return reply, err
	}
	return reply, json.Unmarshal(datagram[:n], &reply.Answer)
}

// Reply is what a Pod answered and how the client's end looked.
type Reply struct {
	agent.Answer
	From, To netip.AddrPort
}

// Dial connects to one of the addresses behind the host, each as good as any.
func (c *Client) Dial(ctx context.Context, network, host string, port int) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ips, err := c.Resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	ip := ips[rand.IntN(len(ips))]
	return c.from.DialContext(ctx, network, netip.AddrPortFrom(ip, uint16(port)).String())
}

func addressOf(a net.Addr) netip.AddrPort {
	ap, _ := netip.ParseAddrPort(a.String())
	return ap
}
