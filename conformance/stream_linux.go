package conformance

// Connections that stand, and data in bulk.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// A stream is a connection that stands.
type stream struct {
	net.Conn
	back *bufio.Reader
}

// open connects, and reads what the peer says first.
func open(ctx context.Context, from *talker, to netip.AddrPort) (*stream, error) {
	s := &stream{}
	err := from.Do(func() (err error) {
		var d net.Dialer
		s.Conn, err = d.DialContext(ctx, "tcp", to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	s.back = bufio.NewReader(s)
	s.bound(ctx)
	if _, err := s.back.ReadString('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("greeting of %s: %w", to, err), s.Close())
	}
	return s, nil
}

// bound has reads and writes fail when the context's time is over.
func (s *stream) bound(ctx context.Context) {
	if deadline, ok := ctx.Deadline(); ok {
		_ = s.SetDeadline(deadline) // fails when closed, as does what follows
	}
}

// echo sends a number of bytes and wants the same back.
func (s *stream) echo(ctx context.Context, size int) error {
	s.bound(ctx)
	sent := bytes.Repeat([]byte{'a', 'b', 'c'}, size/3+1)[:size]
	written := make(chan error, 1)
	go func() {
		_, err := s.Write(sent)
		written <- err
	}()
	got := make([]byte, size)
	n, err := io.ReadFull(s.back, got)
	switch {
	case err != nil:
		err = fmt.Errorf("%d of %d bytes came back: %w", n, size, err)
		_ = s.SetDeadline(time.Now()) // the writer shall end, too
	case !bytes.Equal(sent, got):
		err = errors.New("other bytes came back than were sent")
	}
	return errors.Join(err, <-written)
}

// carries sends much, and wants it back.
func carries(ctx context.Context, from *talker, to netip.AddrPort) (err error) {
	const size = 256 << 10
	s, err := open(ctx, from, to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return s.echo(ctx, size)
}

// streams are the connections of pairs.
type streams map[*pair]*stream

// openStreams opens a connection of each pair.
func openStreams(ctx context.Context, all []pair) (streams, error) {
	s := streams{}
	for i := range all {
		p := &all[i]
		err := p.once(ctx, func(ctx context.Context, from *talker, to netip.AddrPort) (err error) {
			s[p], err = open(ctx, from, to)
			return err
		})
		if err != nil {
			delete(s, p)
			return s, p.violated("%s: %v", p, err)
		}
	}
	return s, nil
}

// goOn has all connections carry something.
func (s streams) goOn(ctx context.Context, since string) error {
	for p, one := range s {
		err := p.once(ctx, func(ctx context.Context, _ *talker, _ netip.AddrPort) error { return one.echo(ctx, 1000) })
		if err != nil {
			return p.violated("the connection of %s, %s: %v", p, since, err)
		}
	}
	return nil
}

func (s streams) close() {
	for _, one := range s {
		_ = one.Close()
	}
}
