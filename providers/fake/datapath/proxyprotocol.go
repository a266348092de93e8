package datapath

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"slices"
)

// The header of the proxy protocol, version 2, that stands before the first byte of
// a connection.
//
// https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt
const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	proxyLocal     = 0x20 // version 2, about nobody else's connection
	proxyForward   = 0x21 // version 2, on behalf of a client
	proxyTCP4      = 0x11
	proxyCRC32C    = 0x03
	proxyNoOp      = 0x04
	// proxyLength is how many bytes a Network Load Balancer sends after the length,
	// padded, health checks included
	// (https://github.com/kubernetes/kubernetes/issues/57250).
	proxyLength = 84
)

// clientHeader tells a target that client connected to the address at.
func clientHeader(client, at netip.AddrPort) []byte {
	var ports [4]byte
	binary.BigEndian.PutUint16(ports[:2], client.Port())
	binary.BigEndian.PutUint16(ports[2:], at.Port())
	return proxyHeader(proxyForward, slices.Concat(client.Addr().AsSlice(), at.Addr().AsSlice(), ports[:]))
}

// checkHeader begins a health check, which comes from the load balancer itself.
func checkHeader() []byte { return proxyHeader(proxyLocal, nil) }

// proxyHeader adds a checksum and padding to what a header is about.
func proxyHeader(command byte, about []byte) []byte {
	h := append([]byte(proxySignature), command, proxyTCP4, 0, proxyLength)
	h = append(h, about...)
	h = append(h, proxyCRC32C, 0, 4)
	sum := len(h)
	h = append(h, 0, 0, 0, 0)
	padding := len(proxySignature) + 4 + proxyLength - len(h) - 3
	h = append(h, proxyNoOp, 0, byte(padding))
	h = append(h, make([]byte, padding)...)
	// Over the whole header with zeros in the checksum's place.
	binary.BigEndian.PutUint32(h[sum:], crc32.Checksum(h, crc32.MakeTable(crc32.Castagnoli)))
	return h
}
