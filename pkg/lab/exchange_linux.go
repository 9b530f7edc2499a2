package lab

// Exchanges with a Server over TCP and UDP.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An Exchange is what a request to a [Server] has found out.
type Exchange struct {
	// RTT is the round trip time of the data, after any handshake.
	RTT time.Duration
	// Local is the client's own address and port.
	Local netip.AddrPort
	// Source is the address and port that the server saw the client as.
	Source netip.AddrPort
}

// TCP connects to a server, learns the source it sees, and has data echoed.
// Without a deadline in ctx it gives up after five seconds.
func (h *Host) TCP(ctx context.Context, dst netip.AddrPort) (Exchange, error) {
	x, err := h.tcp(ctx, dst)
	if err != nil {
		return Exchange{}, fmt.Errorf("TCP exchange of %s with %s: %w", h.name, dst, err)
	}
	return x, nil
}

func (h *Host) tcp(ctx context.Context, dst netip.AddrPort) (x Exchange, err error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	ctx, done, err := h.begin(ctx)
	if err != nil {
		return x, err
	}
	defer done()
	var conn *net.TCPConn
	err = h.Do(func() (err error) {
		var d net.Dialer
		conn, err = d.DialTCP(ctx, "tcp", netip.AddrPort{}, dst)
		return err
	})
	if err != nil {
		return x, err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()

	x.Local = source(conn.LocalAddr())
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	if err == nil {
		x.Source, err = netip.ParseAddrPort(strings.TrimSuffix(line, "\n"))
	}
	if err == nil {
		x.RTT, err = echo(conn, r)
	}
	if err != nil && ctx.Err() != nil {
		err = ended(ctx, nil)
	}
	return x, err
}

func echo(w io.Writer, r io.Reader) (time.Duration, error) {
	sent := make([]byte, 64)
	rand.Read(sent)
	start := time.Now()
	if _, err := w.Write(sent); err != nil {
		return 0, err
	}
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(r, got); err != nil {
		return 0, err
	}
	if !bytes.Equal(sent, got) {
		return 0, errors.New("echo differs from what was sent")
	}
	return time.Since(start), nil
}

// UDP sends datagrams with size bytes of payload, see [UDPPayload], to a
// server until one is answered. With dontFragment a datagram that doesn't fit
// the path's MTU fails with EMSGSIZE, without it is fragmented. Without a
// deadline in ctx it gives up after five seconds.
func (h *Host) UDP(ctx context.Context, dst netip.AddrPort, size int, dontFragment bool) (Exchange, error) {
	x, err := h.udp(ctx, dst, size, dontFragment)
	if err != nil {
		return Exchange{}, fmt.Errorf("UDP exchange of %s with %s: %w", h.name, dst, err)
	}
	return x, nil
}

func (h *Host) udp(ctx context.Context, dst netip.AddrPort, size int, dontFragment bool) (x Exchange, err error) {
	if size < 0 {
		return x, fmt.Errorf("payload of %d bytes", size)
	}
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	ctx, done, err := h.begin(ctx)
	if err != nil {
		return x, err
	}
	defer done()
	var conn *net.UDPConn
	err = h.Do(func() (err error) {
		d := net.Dialer{Control: discoverMTU(dontFragment)}
		conn, err = d.DialUDP(ctx, "udp", netip.AddrPort{}, dst)
		return err
	})
	if err != nil {
		return x, err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	x, err = ask(ctx, conn, size)
	x.Local = source(conn.LocalAddr())
	return x, err
}

// discoverMTU sets what the kernel does with datagrams above the path's MTU.
func discoverMTU(dontFragment bool) func(network, _ string, raw syscall.RawConn) error {
	return func(network, _ string, raw syscall.RawConn) error {
		var err error
		e := raw.Control(func(fd uintptr) {
			switch {
			case network == "udp4" && dontFragment:
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
			case network == "udp4":
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
			case dontFragment:
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
			default:
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT)
			}
		})
		return errors.Join(e, os.NewSyscallError("setsockopt", err))
	}
}

// ask sends until there is an answer, ctx ends or the datagram is too big.
func ask(ctx context.Context, conn net.Conn, size int) (Exchange, error) {
	request := make([]byte, size)
	var last error
	for wait := firstRetry; ctx.Err() == nil; wait = min(2*wait, lastRetry) {
		rand.Read(request[:min(size, nonceLength)])
		start := time.Now()
		_, err := conn.Write(request)
		if err == nil {
			err = conn.SetReadDeadline(start.Add(wait))
		}
		if err == nil {
			var x Exchange
			if x, err = readAnswer(conn, request); err == nil {
				x.RTT = time.Since(start)
				return x, nil
			}
		}
		switch {
		case errors.Is(err, unix.EMSGSIZE):
			return Exchange{}, err
		case errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil:
		default:
			last = err // refused or unreachable, which may change
			pause(ctx, wait)
		}
	}
	return Exchange{}, ended(ctx, last)
}

// readAnswer reads until the answer to the request has come.
func readAnswer(r io.Reader, request []byte) (Exchange, error) {
	nonce := request[:min(len(request), nonceLength)]
	b := make([]byte, 256)
	for {
		n, err := r.Read(b)
		if err != nil {
			return Exchange{}, err
		}
		text, ok := bytes.CutPrefix(b[:n], nonce)
		if !ok {
			continue // of an earlier request
		}
		seen, length, ok := strings.Cut(string(text), " ")
		if !ok {
			return Exchange{}, fmt.Errorf("answer %q is not of a lab's server", text)
		}
		if length != strconv.Itoa(len(request)) {
			return Exchange{}, fmt.Errorf("server got %s of %d bytes", length, len(request))
		}
		addr, err := netip.ParseAddrPort(seen)
		return Exchange{Source: addr}, err
	}
}
