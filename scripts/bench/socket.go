//go:build linux

package main

// Sockets of the traffic processes: plain system calls, so that little but the
// kernel's work is measured.

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Kinds of traffic, by the port of the server.
const (
	streamPort = 5201 + iota
	roundTripPort
	connectPort
	datagramPort
)

const (
	// streamBlock is how many bytes of a stream are acknowledged by one.
	streamBlock = 4 << 20
	streamWrite = 256 << 10
	// datagramSize is the payload of small packets, datagramBurst how many
	// are on their way before an answer is waited for.
	datagramSize  = 64
	datagramBurst = 128
	// askMark begins a datagram that is answered with a count.
	askMark = 1
)

func socketAddress(a netip.AddrPort) (unix.Sockaddr, int) {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}, unix.AF_INET
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}, unix.AF_INET6
}

// listen opens a server's socket.
func listen(at netip.AddrPort, kind int) (int, error) {
	address, family := socketAddress(at)
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := os.NewSyscallError("bind", unix.Bind(fd, address)); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	if kind == unix.SOCK_STREAM {
		const backlog = 128
		err = os.NewSyscallError("listen", unix.Listen(fd, backlog))
	} else {
		err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, streamBlock))
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// dial opens a client's socket. No call on it takes longer than some seconds.
func dial(to netip.AddrPort, kind int) (int, error) {
	address, family := socketAddress(to)
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	patience := unix.Timeval{Sec: 5}
	if kind == unix.SOCK_DGRAM {
		patience = unix.Timeval{Usec: 100_000} // then the question is repeated
	}
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience),
	)
	if err == nil && kind == unix.SOCK_STREAM {
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
			// Closing resets, so that no port waits to be used again.
			unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		)
	}
	if err != nil {
		return -1, errors.Join(os.NewSyscallError("setsockopt", err), unix.Close(fd))
	}
	if err := retry(func() error { return unix.Connect(fd, address) }); err != nil {
		return -1, errors.Join(fmt.Errorf("connect to %s: %w", to, err), unix.Close(fd))
	}
	return fd, nil
}

// retry repeats a call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// read reads some bytes; 0 is the end.
func read(fd int, b []byte) (n int, err error) {
	err = retry(func() (err error) {
		n, err = unix.Read(fd, b)
		return err
	})
	return max(n, 0), os.NewSyscallError("read", err)
}

// write writes all.
func write(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		switch {
		case err == nil:
			b = b[n:]
		case !errors.Is(err, unix.EINTR):
			return os.NewSyscallError("write", err)
		}
	}
	return nil
}
