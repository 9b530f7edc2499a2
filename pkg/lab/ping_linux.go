package lab

// ICMP echo over raw sockets, in both families.

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// An echoer sends echo requests of one Ping and knows their replies.
type echoer struct {
	conn   *icmp.PacketConn
	dst    netip.Addr
	id     int
	nonce  []byte
	sent   []time.Time // by sequence number
	buffer []byte
}

// Ping sends echo requests to dst until one is answered, and returns that
// one's round trip time. Without a deadline in ctx it gives up after five
// seconds.
func (h *Host) Ping(ctx context.Context, dst netip.Addr) (time.Duration, error) {
	rtt, err := h.ping(ctx, dst.Unmap())
	if err != nil {
		return 0, fmt.Errorf("ping %s from %s: %w", dst, h.name, err)
	}
	return rtt, nil
}

func (h *Host) ping(ctx context.Context, dst netip.Addr) (time.Duration, error) {
	if !dst.IsValid() || dst.Zone() != "" {
		return 0, errors.New("address is invalid or has a zone")
	}
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	ctx, done, err := h.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	e, err := h.newEchoer(dst)
	if err != nil {
		return 0, err
	}
	defer func() { _ = e.conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = e.conn.Close() })()

	var last error
	for wait := firstRetry; ctx.Err() == nil; wait = min(2*wait, lastRetry) {
		if err := e.send(); err != nil && ctx.Err() == nil {
			last = err
		}
		rtt, err := e.await(wait)
		if err == nil {
			return rtt, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			return 0, err
		}
	}
	return 0, ended(ctx, last)
}

func (h *Host) newEchoer(dst netip.Addr) (*echoer, error) {
	e := &echoer{dst: dst, nonce: make([]byte, 16), buffer: make([]byte, 1500)}
	rand.Read(e.nonce)
	e.id = int(binary.BigEndian.Uint16(e.nonce))
	network, local := "ip4:1", "0.0.0.0"
	if dst.Is6() {
		network, local = "ip6:58", "::"
	}
	err := h.Do(func() (err error) {
		e.conn, err = icmp.ListenPacket(network, local)
		return err
	})
	return e, err
}

func (e *echoer) send() error {
	m := icmp.Message{
		Type: ipv4.ICMPTypeEcho,
		Body: &icmp.Echo{ID: e.id, Seq: len(e.sent) & 0xffff, Data: e.nonce},
	}
	if e.dst.Is6() {
		m.Type = ipv6.ICMPTypeEchoRequest // the kernel fills in its checksum
	}
	packet, err := m.Marshal(nil)
	if err != nil {
		return err
	}
	e.sent = append(e.sent, time.Now())
	_, err = e.conn.WriteTo(packet, &net.IPAddr{IP: e.dst.AsSlice()})
	return err
}

// await reads replies for some time. A late reply to an earlier request counts
// as well.
func (e *echoer) await(wait time.Duration) (time.Duration, error) {
	if err := e.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return 0, err
	}
	for {
		n, peer, err := e.conn.ReadFrom(e.buffer)
		now := time.Now()
		if err != nil {
			return 0, err
		}
		if from, ok := peer.(*net.IPAddr); ok && from.IP.Equal(e.dst.AsSlice()) {
			if seq, ok := e.reply(e.buffer[:n]); ok {
				return now.Sub(e.sent[seq]), nil
			}
		}
	}
}

// reply returns the sequence number of the request that a message answers.
func (e *echoer) reply(raw []byte) (int, bool) {
	protocol := 1
	if e.dst.Is6() {
		protocol = 58
	}
	m, err := icmp.ParseMessage(protocol, raw)
	if err != nil || m.Type != ipv4.ICMPTypeEchoReply && m.Type != ipv6.ICMPTypeEchoReply {
		return 0, false
	}
	echo, ok := m.Body.(*icmp.Echo)
	if !ok || echo.ID != e.id || !bytes.Equal(echo.Data, e.nonce) || echo.Seq >= len(e.sent) {
		return 0, false
	}
	return echo.Seq, true
}
