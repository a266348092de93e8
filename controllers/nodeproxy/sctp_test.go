package nodeproxy

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// SCTP is tried with crafted packets, as not every kernel has sockets for it: an
// INIT goes out, and a Pod answers with an INIT ACK that carries, in a parameter
// nobody knows, who it is and whom it saw.

const (
	protocolSCTP  = 132
	chunkInit     = 1
	chunkInitAck  = 2
	parameterName = 0xc0de // its highest bits say: skip it silently
)

// sctpPacket returns a packet with one INIT or INIT ACK chunk.
func sctpPacket(from, to uint16, tag uint32, chunk byte, initiate uint32, text string) []byte {
	p := binary.BigEndian.AppendUint16(nil, from)
	p = binary.BigEndian.AppendUint16(p, to)
	p = binary.BigEndian.AppendUint32(p, tag)
	p = append(p, 0, 0, 0, 0) // checksum
	body := binary.BigEndian.AppendUint32(nil, initiate)
	body = binary.BigEndian.AppendUint32(body, 1<<16) // window
	body = append(body, 0, 1, 0, 1)                   // streams
	body = binary.BigEndian.AppendUint32(body, 1)     // sequence number
	if text != "" {
		body = binary.BigEndian.AppendUint16(body, parameterName)
		body = binary.BigEndian.AppendUint16(body, uint16(4+len(text)))
		body = append(body, text...)
	}
	p = append(p, chunk, 0)
	p = binary.BigEndian.AppendUint16(p, uint16(4+len(body)))
	p = append(p, body...)
	p = append(p, make([]byte, -len(p)&3)...)
	binary.LittleEndian.PutUint32(p[8:], crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)))
	return p
}

// sctpText checks a packet and returns the text in its parameter.
func sctpText(p []byte) (string, error) {
	if len(p) < 36 {
		return "", fmt.Errorf("%d bytes", len(p))
	}
	want := binary.LittleEndian.Uint32(p[8:])
	sum := slices.Clone(p)
	clear(sum[8:12])
	if got := crc32.Checksum(sum, crc32.MakeTable(crc32.Castagnoli)); got != want {
		return "", fmt.Errorf("checksum %#x, want %#x", got, want)
	}
	n := int(binary.BigEndian.Uint16(p[34:]))
	if n < 4 || 32+n > len(p) {
		return "", fmt.Errorf("a parameter of %d bytes", n)
	}
	return string(p[36 : 32+n]), nil
}

var sctpNetworks = []string{"ip4:132", "ip6:132"}

// serveSCTP answers INITs on the Pods' port.
func (w *world) serveSCTP(t *testing.T, pod string) {
	t.Helper()
	for family, network := range sctpNetworks {
		c, err := w.hosts[pod].ListenPacket(t.Context(), network, addr(pod, family).String())
		must(t, err)
		t.Cleanup(func() { c.Close() })
		go func() {
			buf := make([]byte, 1500)
			for {
				n, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				p := buf[:n]
				if n < 20 || p[12] != chunkInit || binary.BigEndian.Uint16(p[2:]) != podPort {
					continue
				}
				source, _ := netip.AddrFromSlice(from.(*net.IPAddr).IP)
				answer := sctpPacket(podPort, binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[16:]), chunkInitAck, 7, pod+" "+source.Unmap().String())
				_, _ = c.WriteTo(answer, from)
			}
		}()
	}
}

// askSCTP begins an association and returns who answered.
func (w *world) askSCTP(t *testing.T, from string, family int, to netip.AddrPort, wait time.Duration) answer {
	t.Helper()
	return w.askSCTPAs(t, from, netip.Addr{}, family, to, wait)
}

// askSCTPAs is askSCTP with a source address chosen among the host's, unless it is
// the zero Addr.
func (w *world) askSCTPAs(t *testing.T, from string, source netip.Addr, family int, to netip.AddrPort, wait time.Duration) answer {
	t.Helper()
	var d net.Dialer
	if source.IsValid() {
		d.LocalAddr = &net.IPAddr{IP: source.AsSlice()}
	}
	var c net.Conn
	err := w.hosts[from].Do(func() (err error) {
		c, err = d.DialContext(t.Context(), sctpNetworks[family], to.Addr().String())
		return err
	})
	must(t, err)
	defer c.Close()
	port, tag := uint16(1024+rand.IntN(60000)), rand.Uint32()
	must(t, c.SetDeadline(time.Now().Add(wait)))
	if _, err := c.Write(sctpPacket(port, to.Port(), 0, chunkInit, tag, "")); err != nil {
		return w.failure(t, err)
	}
	buf := make([]byte, 1500)
	for {
		n, _, err := c.(*net.IPConn).ReadFrom(buf) // Read would leave the IPv4 header in
		if err != nil {
			return w.failure(t, err)
		}
		p := buf[:n]
		if n < 20 || binary.BigEndian.Uint16(p[2:]) != port || binary.BigEndian.Uint16(p) != to.Port() || p[12] != chunkInitAck {
			continue // another association's
		}
		text, err := sctpText(p)
		must(t, err)
		pod, source, _ := strings.Cut(text, " ")
		return answer{pod, source}
	}
}
