package datapath

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/providers/fake"
)

// proxied is what a header of the proxy protocol says.
type proxied struct {
	local            bool
	client, balancer netip.AddrPort
}

// readProxied reads a header as strictly as it may be read: every byte must be
// what the specification says.
//
// https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt
func readProxied(from io.Reader) (proxied, error) {
	var p proxied
	head := make([]byte, 16)
	if _, err := io.ReadFull(from, head); err != nil {
		return p, err
	}
	if string(head[:12]) != "\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a" {
		return p, fmt.Errorf("it begins with %q", head[:12])
	}
	rest := make([]byte, binary.BigEndian.Uint16(head[14:]))
	if _, err := io.ReadFull(from, rest); err != nil {
		return p, err
	}
	whole := append(head, rest...)
	at := 16
	switch {
	case head[12] == 0x20:
		p.local = true
	case head[12] == 0x21 && head[13] == 0x11 && len(rest) >= 12:
		p.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte(rest[:4])), binary.BigEndian.Uint16(rest[8:]))
		p.balancer = netip.AddrPortFrom(netip.AddrFrom4([4]byte(rest[4:8])), binary.BigEndian.Uint16(rest[10:]))
		at += 12
	default:
		return p, fmt.Errorf("version, command and family are %x", head[12:14])
	}
	sums := 0
	for at < len(whole) {
		if at+3 > len(whole) {
			return p, errors.New("half an extension")
		}
		kind, n := whole[at], int(binary.BigEndian.Uint16(whole[at+1:]))
		value := whole[at+3:]
		if n > len(value) {
			return p, fmt.Errorf("extension %x is longer than the header", kind)
		}
		value, at = value[:n], at+3+n
		switch kind {
		case 0x03:
			said := binary.BigEndian.Uint32(value)
			clear(value)
			if sum := crc32.Checksum(whole, crc32.MakeTable(crc32.Castagnoli)); sum != said || n != 4 {
				return p, fmt.Errorf("the checksum is %x, not %x", sum, said)
			}
			sums++
		case 0x04:
		default:
			return p, fmt.Errorf("unknown extension %x", kind)
		}
	}
	if sums != 1 {
		return p, fmt.Errorf("%d checksums", sums)
	}
	return p, nil
}

// told is what a server that requires the proxy protocol says about a connection.
type told struct {
	Node         string
	Client, LB   netip.AddrPort
	Peer         netip.Addr
	Got, Problem string
}

// serveProxied answers each connection with what its header and all that the
// client sent until it ended its side say.
func serveProxied(n *node, l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			peer := netip.MustParseAddrPort(conn.RemoteAddr().String())
			t := told{Node: n.Name(), Peer: peer.Addr()}
			p, err := readProxied(conn)
			if err == nil && p.local {
				err = errors.New("it is about no client")
			}
			if err != nil {
				t.Problem = err.Error()
			}
			t.Client, t.LB = p.client, p.balancer
			got, _ := io.ReadAll(conn)
			t.Got = string(got)
			_ = json.NewEncoder(conn).Encode(t)
		}()
	}
}

// localOnly is a listener for health checks that begin with a header.
type localOnly struct{ net.Listener }

func (l localOnly) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		check := conn.SetReadDeadline(time.Now().Add(time.Second))
		if p, err := readProxied(conn); check == nil && err == nil && p.local {
			return conn, conn.SetReadDeadline(time.Time{})
		}
		_ = conn.Close()
	}
}

// TestProxyProtocol: targets learn the client from the header, whether or not its
// address is preserved, every byte arrives in both directions, and connections end
// when their target goes.
func TestProxyProtocol(t *testing.T) {
	const port, checkPort = 30443, 10257
	c := newCloud(t, func(dp *fake.Dataplane) {
		l := &dp.LoadBalancers[0].Listeners[0]
		l.ProxyProtocol, l.HealthCheck.ProxyProtocol, l.HealthCheck.Port = true, true, checkPort
		for i := range l.Targets {
			l.Targets[i].Addr = netip.AddrPortFrom(l.Targets[i].Addr.Addr(), port)
		}
		dp.Interfaces[0].Filtered = true
		dp.Interfaces[0].Ingress = []fake.Rule{{Protocol: "all", SourceGroups: []string{"sg-backend"}}}
	})
	for _, n := range c.nodes {
		l, err := n.Listen(t.Context(), "tcp", fmt.Sprintf(":%d", port))
		check(t, err)
		health, err := n.Listen(t.Context(), "tcp", fmt.Sprintf(":%d", checkPort))
		check(t, err)
		server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
		go serveProxied(n, l)
		go func() { _ = server.Serve(localOnly{health}) }()
		t.Cleanup(func() { l.Close(); server.Close() })
	}
	c.healthy(t)

	nodes, backends := map[string]bool{}, map[netip.Addr]bool{}
	for _, n := range c.snapshot().LoadBalancers[0].Nodes {
		backends[n.Private] = true
	}
	long := strings.Repeat("the whole of it ", 1<<14)
	for range 30 {
		conn, err := c.client.connect("tcp", publicA, patience)
		check(t, err)
		check(t, conn.SetDeadline(time.Now().Add(patience)))
		_, err = io.WriteString(conn, long)
		check(t, err)
		check(t, conn.Conn.(*net.TCPConn).CloseWrite())
		var a told
		check(t, json.NewDecoder(conn).Decode(&a))
		mine := netip.MustParseAddrPort(conn.LocalAddr().String())
		if a.Problem != "" || a.Client != mine || a.LB.String() != publicA || a.Got != long || !backends[a.Peer] {
			t.Fatalf("%s was told of %v at %v by %v (%s), with %d bytes; want %v at %s with %d", a.Node, a.Client, a.LB, a.Peer, a.Problem, len(a.Got), mine, publicA, len(long))
		}
		nodes[a.Node] = true
		conn.Close()
	}
	if len(nodes) != len(c.nodes) {
		t.Errorf("30 connections went to %v, want all three nodes", nodes)
	}

	kept, err := c.client.connect("tcp", publicB, patience)
	check(t, err)
	defer kept.Close()
	var flow Flow
	eventually(t, func() error {
		flows, err := c.carrier.Flows()
		for _, flow = range flows {
			if flow.Client.String() == kept.LocalAddr().String() {
				return err
			}
		}
		return fmt.Errorf("flows %v", flows)
	})
	if flow.LoadBalancer.String() != publicB || flow.Name != "lb" || !backends[flow.Source.Addr()] {
		t.Errorf("the flow is shown as %+v", flow)
	}
	c.change(t, func(dp *fake.Dataplane) {
		l := &dp.LoadBalancers[0].Listeners[0]
		for i, target := range l.Targets {
			if target.Addr == flow.Target {
				l.Targets = append(l.Targets[:i:i], l.Targets[i+1:]...)
				return
			}
		}
	})
	check(t, kept.SetDeadline(time.Now().Add(patience)))
	if _, err := bufio.NewReader(kept).ReadByte(); err == nil || timedOut(err) {
		t.Errorf("with its target gone, the connection says %v", err)
	}
	c.change(t, func(dp *fake.Dataplane) { dp.LoadBalancers[0].Listeners[0].Targets = nil })
	if _, err := c.client.connect("tcp", publicA, patience); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("without targets, a connection says %v", err)
	}
}

func TestProxyHeader(t *testing.T) {
	client, at := netip.MustParseAddrPort("198.51.100.7:54321"), netip.MustParseAddrPort("203.0.113.1:443")
	p, err := readProxied(strings.NewReader(string(clientHeader(client, at))))
	if err != nil || p.client != client || p.balancer != at || len(clientHeader(client, at)) != 100 {
		t.Errorf("a client's header says %+v: %v", p, err)
	}
	if p, err = readProxied(strings.NewReader(string(checkHeader()))); err != nil || !p.local || len(checkHeader()) != 100 {
		t.Errorf("a check's header says %+v: %v", p, err)
	}
}
