package fake

import (
	"context"
	"errors"
	"net"
	"sync"
)

// Pipe is a network of one server in memory: a net.Listener whose connections are
// pipes, and Dial for the client's side. Unlike a socket, testing/synctest can see
// through it, which gives the real bytes of real clients in virtual time. Make one
// with NewPipe; it is safe for concurrent use.
type Pipe struct {
	conns  chan net.Conn
	closed chan struct{}
	close  sync.Once
}

// NewPipe returns an open pipe.
func NewPipe() *Pipe {
	return &Pipe{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Dial connects to the server, whatever the network and address, as
// http.Transport.DialContext. It waits for the server to accept, and fails when
// the pipe is closed or ctx ends first.
func (p *Pipe) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.closed:
		return nil, errors.New("nobody listens any more")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (p *Pipe) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener; connections stay.
func (p *Pipe) Close() error {
	p.close.Do(func() { close(p.closed) })
	return nil
}

// Addr implements net.Listener.
func (p *Pipe) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "memory"} }
