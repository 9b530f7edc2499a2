//go:build linux

package main

// The server's end of the traffic: one thread for each kind, of which only the
// one that is being measured has work.

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// playServer reads its address, says that it listens, and serves until its
// input ends.
func playServer(in io.Reader, out io.Writer) error {
	line, input, err := firstLine(in)
	if err != nil {
		return err
	}
	address, err := netip.ParseAddr(line)
	if err != nil {
		return fmt.Errorf("read address: %w", err)
	}
	runtime.GOMAXPROCS(2)
	failed := make(chan error, 1)
	for port, serve := range map[uint16]func(int) error{
		streamPort: serveStreams, roundTripPort: serveRoundTrips, connectPort: serveConnects, datagramPort: serveDatagrams,
	} {
		kind := unix.SOCK_STREAM
		if port == datagramPort {
			kind = unix.SOCK_DGRAM
		}
		fd, err := listen(netip.AddrPortFrom(address, port), kind)
		if err != nil {
			return fmt.Errorf("listen on %s, port %d: %w", address, port, err)
		}
		go func() { failed <- fmt.Errorf("serve port %d: %w", port, serve(fd)) }()
	}
	fmt.Fprintln(out, "listening")
	go func() {
		_, err := io.Copy(io.Discard, input)
		failed <- err
	}()
	return <-failed
}

// serveEach serves one connection after the other. A client that resets its
// connection has ended as it should.
func serveEach(listener int, serve func(fd int)) error {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err == unix.EINTR || err == unix.ECONNABORTED {
			continue
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		serve(fd)
		if err := unix.Close(fd); err != nil {
			return fmt.Errorf("close: %w", err)
		}
	}
}

// serveStreams answers each block of a stream with a byte.
func serveStreams(listener int) error {
	b := make([]byte, streamWrite)
	return serveEach(listener, func(fd int) {
		for total := 0; ; {
			n, err := read(fd, b)
			if n == 0 || err != nil {
				return
			}
			for total += n; total >= streamBlock; total -= streamBlock {
				if write(fd, b[:1]) != nil {
					return
				}
			}
		}
	})
}

// serveRoundTrips sends back what comes.
func serveRoundTrips(listener int) error {
	b := make([]byte, 1)
	return serveEach(listener, func(fd int) {
		if unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) != nil {
			return
		}
		for {
			n, err := read(fd, b)
			if n == 0 || err != nil || write(fd, b[:n]) != nil {
				return
			}
		}
	})
}

// serveConnects answers the byte of each connection, and waits for its end.
func serveConnects(listener int) error {
	b := make([]byte, 1)
	return serveEach(listener, func(fd int) {
		if n, err := read(fd, b); n == 0 || err != nil || write(fd, b) != nil {
			return
		}
		_, _ = read(fd, b) // a reset
	})
}

// serveDatagrams counts what its first client sends, and answers with the
// count when asked.
func serveDatagrams(fd int) error {
	b := make([]byte, 2*datagramSize)
	_, client, err := unix.Recvfrom(fd, b, unix.MSG_PEEK)
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	if err := unix.Connect(fd, client); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	for count := uint64(0); ; {
		n, err := read(fd, b)
		if err != nil {
			return err
		}
		count++
		if n > 0 && b[0] == askMark {
			if err := write(fd, binary.NativeEndian.AppendUint64(nil, count)); err != nil {
				return err
			}
		}
	}
}

// firstLine reads byte by byte, so that the rest is left.
func firstLine(in io.Reader) (string, io.Reader, error) {
	var line strings.Builder
	b := make([]byte, 1)
	for {
		if _, err := io.ReadFull(in, b); err != nil {
			return "", nil, fmt.Errorf("read first line: %w", err)
		}
		if b[0] == '\n' {
			return line.String(), in, nil
		}
		line.WriteByte(b[0])
	}
}
