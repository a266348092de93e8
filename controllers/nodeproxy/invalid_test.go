package nodeproxy

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestInvalidPackets sends, from a Pod, a packet far out of the window of a
// connection. Connection tracking calls it invalid and leaves it untranslated, so
// that its receiver knows no such connection and resets the Pod's: unless the
// setting that --init-only makes is on.
func TestInvalidPackets(t *testing.T) {
	for family, familyName := range families {
		for value, survives := range map[string]bool{"1": true, "0": false} {
			t.Run(familyName+" tcp_be_liberal="+value, func(t *testing.T) {
				w := newWorld(t)
				w.sysctl(t, "node", "net.netfilter.nf_conntrack_tcp_be_liberal", value)
				w.start(t)
				w.replace(t, append(newTestSlices("web", pod("a")), newTestService("web"))...)
				c := w.connection(t, "client", "a", atNode.at(family), family)
				c.strayPacket(t)
				if got := c.alive(); got != survives {
					t.Errorf("the connection goes on: %v, want %v", got, survives)
				}
			})
		}
	}
}

// connection is one that a Pod's server of its own accepted.
type connection struct {
	client, server net.Conn
	raw            net.PacketConn // of the Pod, at its address
	local, peer    netip.AddrPort // as the Pod sees them
	segments       chan segment   // that the Pod received
}

// segment is what of a TCP header matters here.
type segment struct{ sequence, acknowledged, payload uint32 }

var tcpNetworks = []string{"ip4:tcp", "ip6:tcp"}

// connection makes one to a Service whose only endpoint is the Pod, in place of
// the server that answers there.
func (w *world) connection(t *testing.T, from, pod string, to netip.AddrPort, family int) *connection {
	t.Helper()
	c := &connection{segments: make(chan segment, 100)}
	var err error
	c.raw, err = w.hosts[pod].ListenPacket(t.Context(), tcpNetworks[family], addr(pod, family).String())
	must(t, err)
	t.Cleanup(func() { c.raw.Close() })
	// The Pod's server hangs up after its answer; one at a port of its own does not.
	const port = podPort + 1
	l, err := w.hosts[pod].Listen(t.Context(), "tcp", netip.AddrPortFrom(addr(pod, family), port).String())
	must(t, err)
	defer l.Close()
	w.update(t, withTargetPort(newTestSlices("web", podsNamed(pod)...), port)...)
	c.client, err = w.hosts[from].DialContext(t.Context(), "tcp", to.String())
	must(t, err)
	t.Cleanup(func() { c.client.Close() })
	c.server, err = l.Accept()
	must(t, err)
	t.Cleanup(func() { c.server.Close() })
	c.local, c.peer = c.server.LocalAddr().(*net.TCPAddr).AddrPort(), c.server.RemoteAddr().(*net.TCPAddr).AddrPort()
	go c.listen()
	return c
}

// listen notes the segments that reach the Pod on this connection.
func (c *connection) listen() {
	buf := make([]byte, 1500)
	for {
		n, _, err := c.raw.ReadFrom(buf)
		if err != nil {
			return
		}
		p := buf[:n]
		if n >= 20 && binary.BigEndian.Uint16(p) == c.peer.Port() && binary.BigEndian.Uint16(p[2:]) == c.local.Port() {
			header := int(p[12]>>4) * 4
			c.segments <- segment{binary.BigEndian.Uint32(p[4:]), binary.BigEndian.Uint32(p[8:]), uint32(n - header)}
		}
	}
}

// exchange carries a byte there and back.
func (c *connection) exchange() error {
	buf := make([]byte, 1)
	for _, way := range [][2]net.Conn{{c.client, c.server}, {c.server, c.client}} {
		if _, err := way[0].Write(buf); err != nil {
			return err
		}
		if err := way[1].SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := way[1].Read(buf); err != nil {
			return err
		}
	}
	return nil
}

func (c *connection) alive() bool { return c.exchange() == nil }

// strayPacket sends one from the Pod, in order but for its sequence number.
func (c *connection) strayPacket(t *testing.T) {
	t.Helper()
	must(t, c.exchange())
	var last segment
	for last.payload == 0 { // the client's byte
		select {
		case last = <-c.segments:
		case <-time.After(patience):
			t.Fatal("the Pod saw no segment of the connection")
		}
	}
	p := binary.BigEndian.AppendUint16(nil, c.local.Port())
	p = binary.BigEndian.AppendUint16(p, c.peer.Port())
	p = binary.BigEndian.AppendUint32(p, last.acknowledged+1<<30)
	p = binary.BigEndian.AppendUint32(p, last.sequence+last.payload)
	p = append(p, 5<<4, 0x18, 0xff, 0xff, 0, 0, 0, 0) // length, PSH and ACK, window, checksum, no urgent data
	p = append(p, "stray"...)
	binary.BigEndian.PutUint16(p[16:], tcpChecksum(c.local.Addr(), c.peer.Addr(), p))
	_, err := c.raw.WriteTo(p, &net.IPAddr{IP: c.peer.Addr().AsSlice()})
	must(t, err)
	// Whatever comes of it has come when a later packet has been there and back.
	_ = c.exchange()
}

// tcpChecksum is that of RFC 9293, section 3.1.
func tcpChecksum(from, to netip.Addr, p []byte) uint16 {
	pseudo := append(from.AsSlice(), to.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(p)))
	pseudo = append(binary.BigEndian.AppendUint32(pseudo, 6), p...)
	var sum uint32
	for i := 0; i+1 < len(pseudo); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(pseudo[i:]))
	}
	if len(pseudo)%2 == 1 {
		sum += uint32(pseudo[len(pseudo)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
