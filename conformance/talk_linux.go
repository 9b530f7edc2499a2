package conformance

// Traffic between pods, nodes and others.

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

const (
	// port is where all that is talked to listens.
	port = 7000
	// exchangeTimeout bounds one exchange.
	exchangeTimeout = 3 * time.Second
	// defaultConvergence is that of options without any.
	defaultConvergence = 30 * time.Second
	// watched is how long one looks on after something has happened.
	watched = 3 * time.Second
	// largestDatagram is more than any packet's size and less than UDP's limit.
	largestDatagram = 65_000
	// atOnce is how many exchanges run at the same time.
	atOnce = 8
)

// A talk is one exchange from a talker to an address.
type talk func(ctx context.Context, from *talker, to netip.AddrPort) error

// pings, connects and sends want answers; keepsSource wants its peer to have
// seen the pod's own address.
func pings(ctx context.Context, from *talker, to netip.AddrPort) error {
	_, err := from.Ping(ctx, to.Addr())
	return err
}

func connects(ctx context.Context, from *talker, to netip.AddrPort) error {
	_, err := from.TCP(ctx, to)
	return err
}

func sends(ctx context.Context, from *talker, to netip.AddrPort) error {
	const size = 100
	_, err := from.UDP(ctx, to, size, false)
	return err
}

func keepsSource(ctx context.Context, from *talker, to netip.AddrPort) error {
	x, err := from.TCP(ctx, to)
	if err == nil && !slices.Contains(from.all, x.Source.Addr()) {
		err = fmt.Errorf("the peer saw a connection from %s, the pod has %s", x.Source.Addr(), from.all)
	}
	return err
}

// fills sends a datagram that fills the pod's MTU and mustn't be fragmented.
func fills(ctx context.Context, from *talker, to netip.AddrPort) error {
	size := min(lab.UDPPayload(from.mtu, to.Addr()), largestDatagram)
	if _, err := from.UDP(ctx, to, size, true); err != nil {
		return fmt.Errorf("a packet that fills the pod's MTU of %d bytes: %w", from.mtu, err)
	}
	return nil
}

// needsFragments sends a datagram that doesn't fit one packet.
func needsFragments(ctx context.Context, from *talker, to netip.AddrPort) error {
	size := min(2*from.mtu, largestDatagram)
	if _, err := from.UDP(ctx, to, size, false); err != nil {
		return fmt.Errorf("a datagram of %d bytes, in fragments: %w", size, err)
	}
	return nil
}

// A pair is two that talk in a family.
type pair struct {
	from, to *talker
	dst      netip.Addr
}

func (p *pair) String() string { return fmt.Sprintf("%s to %s (%s)", p.from.name, p.to.name, p.dst) }

// violated says how a pair couldn't talk, with the ADD of one of its pods and
// what the daemons of both nodes have said.
func (p *pair) violated(format string, args ...any) error {
	v := &Violation{Text: fmt.Sprintf(format, args...)}
	for _, t := range []*talker{p.from, p.to} {
		if t.added != nil {
			added := *t.added
			v.Exchange = &added
		}
	}
	if v.Exchange != nil {
		v.Exchange.Log = p.logs()
	}
	return v
}

// logs are the ends of the daemons' logs.
func (p *pair) logs() string {
	var said []string
	for _, b := range slices.Compact([]*bench{p.from.on, p.to.on}) {
		if b == nil {
			continue
		}
		if d := b.running.Load(); d != nil {
			said = append(said, fmt.Sprintf("on node %s:\n%s", b.site.name, d.tail()))
		}
	}
	return strings.Join(said, "\n")
}

// pairs are all pairs of some who talk to others, in all families that both
// have.
func pairs(from, to []*talker, choose func(from, to *talker) bool) []pair {
	var all []pair
	for _, f := range from {
		for _, t := range to {
			if f == t || !choose(f, t) {
				continue
			}
			for _, v6 := range []bool{false, true} {
				_, has := f.address(v6)
				if dst, ok := t.address(v6); ok && has {
					all = append(all, pair{from: f, to: t, dst: dst})
				}
			}
		}
	}
	return all
}

// try has all pairs talk, and returns a violation of the first that doesn't
// within the time that nodes have to learn of each other.
func (m *mesh) try(ctx context.Context, all []pair, talks ...talk) error {
	if len(all) == 0 {
		return nothing("no two of them have addresses of one family")
	}
	deadline := time.Now().Add(m.plan.convergence)
	return forAll(ctx, all, talks, func(ctx context.Context, p *pair, t talk) error {
		if err := p.eventually(ctx, t, deadline); err != nil {
			return p.violated("%s, still after %s: %v", p, m.plan.convergence, err)
		}
		return nil
	})
}

// keep has all pairs talk, each of which works already, and is violated by the
// first loss.
func keep(ctx context.Context, all []pair, since string, talks ...talk) error {
	return forAll(ctx, all, talks, func(ctx context.Context, p *pair, t talk) error {
		if err := p.once(ctx, t); err != nil {
			return p.violated("%s, %s: %v", p, since, err)
		}
		return nil
	})
}

// forAll does something for all pairs and talks, up to the first that fails. Of
// one that fails as it was told to end nothing is to be said.
func forAll(ctx context.Context, all []pair, talks []talk, fn func(context.Context, *pair, talk) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i := range all {
		for _, t := range talks {
			g.Go(func() error {
				err := fn(gctx, &all[i], t)
				if gctx.Err() != nil {
					return context.Cause(gctx)
				}
				return err
			})
		}
	}
	return g.Wait()
}

// eventually has a pair talk until it works.
func (p *pair) eventually(ctx context.Context, t talk, deadline time.Time) error {
	const pause = 50 * time.Millisecond // some failures come at once
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		err := p.once(ctx, t)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		<-tick.C
	}
}

// once has a pair talk once.
func (p *pair) once(ctx context.Context, t talk) error {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	return t(ctx, p.from, netip.AddrPortFrom(p.dst, port))
}
