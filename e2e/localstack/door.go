package localstack

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// door leads from a socket in the file system, which a sandbox sees, to a
// LocalStack on the machine or beyond, which it does not.
type door struct {
	// Path is the socket's.
	Path string

	dir    string
	server *http.Server
}

// openDoor opens one to the LocalStack at the URL. Close must be called.
func openDoor(endpoint string) (*door, error) {
	to, err := url.Parse(endpoint)
	if err != nil || to.Host == "" || to.Scheme != "http" && to.Scheme != "https" {
		return nil, fmt.Errorf("%q is not the URL of a LocalStack such as http://localhost:4566", endpoint)
	}
	dir, err := os.MkdirTemp("", "fairway-localstack-")
	if err != nil {
		return nil, err
	}
	d := &door{Path: filepath.Join(dir, "socket"), dir: dir}
	listener, err := net.Listen("unix", d.Path)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	d.server = &http.Server{
		Handler: &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) },
			// A connection that the other end is just closing would fail a
			// request that nobody may simply send again.
			Transport: &http.Transport{DisableKeepAlives: true},
		},
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, WriteTimeout: time.Minute,
	}
	go func() { _ = d.server.Serve(listener) }() // returns when closed
	return d, nil
}

// Close closes the door and removes the socket.
func (d *door) Close() error { return errors.Join(d.server.Close(), os.RemoveAll(d.dir)) }

// passOn sends what connects to the listener through a door's socket.
func passOn(listener net.Listener, socket string) {
	for {
		from, err := listener.Accept()
		if err != nil {
			return // closed
		}
		go func() {
			defer from.Close()
			to, err := net.Dial("unix", socket)
			if err != nil {
				return // the client sees its connection end
			}
			defer to.Close()
			go func() {
				_, _ = io.Copy(to, from)
				to.Close()
			}()
			_, _ = io.Copy(from, to)
		}()
	}
}
