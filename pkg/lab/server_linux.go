package lab

// The server that exchanges talk to: it tells each client which source it
// saw, and echoes.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// nonceLength is how much of a datagram its reply repeats, to match them.
const nonceLength = 16

// A Server answers [Host.TCP] and [Host.UDP] on one port, in both families.
type Server struct {
	port   uint16
	cancel context.CancelFunc
	done   chan struct{}
}

// Serve starts a server on the host. It ends with Close, with ctx, and when
// the host goes down.
//
// A TCP client first gets a line with the address and port that the server
// sees it as; then all it sends comes back. A datagram is answered with its
// first 16 bytes, followed by text: the source seen and the datagram's length.
func (h *Host) Serve(ctx context.Context, port uint16) (*Server, error) {
	if port == 0 {
		return nil, fmt.Errorf("serve on %s: port 0", h.name)
	}
	ctx, cancel := context.WithCancel(ctx)
	ctx, done, err := h.begin(ctx)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("serve port %d: %w", port, err)
	}
	s := &Server{port: port, cancel: cancel, done: make(chan struct{})}
	sockets, err := h.listen(ctx, port)
	if err != nil {
		done()
		cancel()
		return nil, fmt.Errorf("serve port %d on %s: %w", port, h.name, err)
	}
	go func() {
		defer close(s.done)
		defer done()
		sockets.serve(ctx)
	}()
	return s, nil
}

// Port returns the server's port.
func (s *Server) Port() uint16 { return s.port }

// Close ends the server and its connections.
func (s *Server) Close() error {
	s.cancel()
	<-s.done
	return nil
}

// sockets are what a server listens on.
type sockets struct {
	tcp []net.Listener
	udp []datagrams
}

// datagrams is a UDP socket that answers from the address it was asked at, in
// either family.
type datagrams interface {
	io.Closer
	read(b []byte) (n int, at net.IP, from net.Addr, err error)
	write(b []byte, at net.IP, to net.Addr) error
}

func (h *Host) listen(ctx context.Context, port uint16) (s sockets, err error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	err = h.Do(func() error {
		for _, family := range []string{"4", "6"} {
			addr := fmt.Sprintf(":%d", port)
			tcp, err := config.Listen(ctx, "tcp"+family, addr)
			if err != nil {
				return err
			}
			s.tcp = append(s.tcp, tcp)
			udp, err := config.ListenPacket(ctx, "udp"+family, addr)
			if err != nil {
				return err
			}
			d, err := newDatagrams(family, udp)
			if err != nil {
				return errors.Join(err, udp.Close())
			}
			s.udp = append(s.udp, d)
		}
		return nil
	})
	if err != nil {
		s.close()
	}
	return s, err
}

func (s sockets) close() {
	for _, l := range s.tcp {
		_ = l.Close()
	}
	for _, d := range s.udp {
		_ = d.Close()
	}
}

// serve runs until ctx ends. The port is free when it returns.
func (s sockets) serve(ctx context.Context) {
	var work sync.WaitGroup
	work.Go(func() {
		<-ctx.Done()
		s.close()
	})
	for _, l := range s.tcp {
		work.Go(func() { accept(ctx, l, &work) })
	}
	for _, d := range s.udp {
		work.Go(func() { answer(ctx, d) })
	}
	work.Wait()
}

func accept(ctx context.Context, l net.Listener, work *sync.WaitGroup) {
	for ctx.Err() == nil {
		conn, err := l.Accept()
		if err != nil {
			pause(ctx, firstRetry) // out of descriptors, or ctx has ended
			continue
		}
		work.Go(func() {
			defer func() { _ = conn.Close() }()
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			if _, err := fmt.Fprintln(conn, source(conn.RemoteAddr())); err == nil {
				_, _ = io.Copy(conn, conn) // the client knows what has come back
			}
		})
	}
}

func answer(ctx context.Context, d datagrams) {
	b := make([]byte, 1<<16)
	for ctx.Err() == nil {
		n, at, from, err := d.read(b)
		if err != nil {
			pause(ctx, firstRetry)
			continue
		}
		reply := fmt.Appendf(b[:min(n, nonceLength):nonceLength], "%s %d", source(from), n)
		_ = d.write(reply, at, from) // a lost answer is the client's to notice
	}
}

func source(a net.Addr) netip.AddrPort {
	var p netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		p = a.AddrPort()
	case *net.UDPAddr:
		p = a.AddrPort()
	}
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

func newDatagrams(family string, conn net.PacketConn) (datagrams, error) {
	if family == "4" {
		d := datagrams4{ipv4.NewPacketConn(conn)}
		return d, d.SetControlMessage(ipv4.FlagDst, true)
	}
	d := datagrams6{ipv6.NewPacketConn(conn)}
	return d, d.SetControlMessage(ipv6.FlagDst, true)
}

type datagrams4 struct{ *ipv4.PacketConn }

func (d datagrams4) read(b []byte) (int, net.IP, net.Addr, error) {
	n, cm, from, err := d.ReadFrom(b)
	if err != nil || cm == nil {
		return n, nil, from, err
	}
	return n, cm.Dst, from, nil
}

func (d datagrams4) write(b []byte, at net.IP, to net.Addr) error {
	_, err := d.WriteTo(b, &ipv4.ControlMessage{Src: at}, to)
	return err
}

type datagrams6 struct{ *ipv6.PacketConn }

func (d datagrams6) read(b []byte) (int, net.IP, net.Addr, error) {
	n, cm, from, err := d.ReadFrom(b)
	if err != nil || cm == nil {
		return n, nil, from, err
	}
	return n, cm.Dst, from, nil
}

func (d datagrams6) write(b []byte, at net.IP, to net.Addr) error {
	_, err := d.WriteTo(b, &ipv6.ControlMessage{Src: at}, to)
	return err
}
