package main

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// Connections are made with bare system calls on a thread that stays in its
// network namespace: what Go's network poller and the change of namespaces cost
// would be a large part of what is measured.

// connect returns a connected socket, from the network namespace of the calling
// thread, and how long connect() took. Closing it resets the connection, so that
// no port stays taken. Reading and writing are bounded as well.
func connect(to netip.AddrPort, within time.Duration) (fd int, took time.Duration, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, 0, err
	}
	limit := unix.NsecToTimeval(within.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	if err == nil {
		address := &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
		began := time.Now()
		err = unix.Connect(fd, address)
		if errors.Is(err, unix.EINTR) {
			err = connected(fd, within)
		}
		took = time.Since(began)
	}
	if err != nil {
		return -1, took, errors.Join(err, unix.Close(fd))
	}
	return fd, took, nil
}

// connected waits for a connection whose connect() a signal interrupted.
func connected(fd int, within time.Duration) error {
	for end := time.Now().Add(within); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(time.Until(end).Milliseconds())+1)
		switch {
		case errors.Is(err, unix.EINTR) && time.Now().Before(end):
		case err != nil:
			return err
		case n == 0:
			return unix.ETIMEDOUT
		default:
			code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
			if err == nil && code != 0 {
				err = unix.Errno(code)
			}
			return err
		}
	}
}

// ask connects, and returns the letter of who answered.
func ask(to netip.AddrPort, within time.Duration) (letter byte, err error) {
	fd, _, err := connect(to, within)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	text := []byte{'?'}
	if _, err := unix.Write(fd, text); err != nil {
		return 0, err
	}
	for {
		n, err := unix.Read(fd, text)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = errors.New("closed without an answer")
		}
		return text[0], err
	}
}

// answer lets address answer TCP connections, on backendPort in the namespace,
// with a letter. A backend hears of a connection only when there is a byte to
// read (TCP_DEFER_ACCEPT): those that are only made and reset are the kernel's
// business, and no program takes part in what they cost. It ends with the program.
func answer(ns *sandbox.NetNS, address netip.Addr, letter byte) error {
	var fd int
	err := ns.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1),
			unix.Bind(fd, &unix.SockaddrInet4{Port: backendPort, Addr: address.As4()}),
			unix.Listen(fd, 4096))
	})
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if err != nil {
				continue
			}
			_ = unix.Sendto(conn, []byte{letter}, unix.MSG_NOSIGNAL, nil) // a client that is gone needs no answer
			_ = unix.Close(conn)                                          // it was only written to
		}
	}()
	return nil
}
