package health

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
)

// proxied is a listener whose connections may begin with a header of the proxy
// protocol, version 2. A Network Load Balancer sends one in health checks too, over
// HTTP and to another port than the targets' as well, once its target group has
// the proxy protocol
// (https://docs.aws.amazon.com/elasticloadbalancing/latest/network/edit-target-group-attributes.html,
// https://github.com/kubernetes/ingress-nginx/issues/10982). What it says is of no
// interest here: everyone gets the same answer.
type proxied struct{ net.Listener }

func (l proxied) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &proxiedConn{Conn: conn, buffered: bufio.NewReader(conn)}, nil
}

// proxiedConn passes over the header with its first Read, which is in the
// goroutine of the connection and under the server's deadline.
type proxiedConn struct {
	net.Conn
	buffered *bufio.Reader
	begun    bool
}

func (c *proxiedConn) Read(p []byte) (int, error) {
	if !c.begun {
		c.begun = true
		if err := passHeader(c.buffered); err != nil {
			return 0, err
		}
	}
	return c.buffered.Read(p)
}

// https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt, section 2.2
const (
	signature = "\r\n\r\n\x00\r\nQUIT\n"
	// fixedPart is the signature, version and command, family, and the length of
	// what follows.
	fixedPart = len(signature) + 4
	// longest is more than any extension that is known makes of a header.
	longest = 4 << 10
)

// passHeader discards a header if r begins with one, as no request does.
func passHeader(r *bufio.Reader) error {
	if first, err := r.Peek(1); err != nil || first[0] != signature[0] {
		return err
	}
	if begin, err := r.Peek(len(signature)); err != nil || string(begin) != signature {
		return err
	}
	fixed, err := r.Peek(fixedPart)
	if err != nil {
		return err
	}
	version, rest := fixed[len(signature)]>>4, int(binary.BigEndian.Uint16(fixed[fixedPart-2:]))
	if version != 2 || rest > longest {
		return fmt.Errorf("a header of the proxy protocol of version %d with %d bytes", version, rest)
	}
	_, err = r.Discard(fixedPart + rest)
	return err
}
