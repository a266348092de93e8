package health

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestProxyProtocolBeforeARequest: with a header or without, in one piece or byte
// by byte, a health check gets its answer; what only looks like a header does not.
func TestProxyProtocolBeforeARequest(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := New(time.Minute)
	h.SetEligible(true)
	ended := make(chan error, 1)
	go func() { ended <- Serve(t.Context(), l, h.Handler()) }()

	const request = "GET /healthz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"
	header := func(command byte, rest string) string {
		return signature + string([]byte{command, 0x11, byte(len(rest) >> 8), byte(len(rest))}) + rest
	}
	client := "\xc6\x33\x64\x07\xcb\x00\x71\x01\xd4\x31\x01\xbb"
	for _, c := range []struct {
		name, sent string
		slowly     bool
		status     int
	}{
		{"no header", request, false, 200},
		{"a check's header", header(0x20, "\x04\x00\x51"+strings.Repeat("\x00", 81)) + request, false, 200},
		{"a client's header", header(0x21, client) + request, false, 200},
		{"byte by byte", header(0x21, client) + request, true, 200},
		{"nothing but the fixed part", header(0x20, "") + request, false, 200},
		{"another version", header(0x11, client) + request, false, 400},
		{"too long", header(0x21, strings.Repeat("x", longest+1)) + request, false, 400},
		{"half a signature", signature[:7] + request, false, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			sent := []string{c.sent}
			if c.slowly {
				sent = strings.Split(c.sent, "")
			}
			for _, piece := range sent {
				if _, err := io.WriteString(conn, piece); err != nil {
					break // it may have been refused by now
				}
			}
			got := 0
			if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
				got = response.StatusCode
				response.Body.Close()
			}
			if got != c.status {
				t.Errorf("status %d, want %d", got, c.status)
			}
		})
	}
}
