package ctl

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// ErrDiffers says that an audit found differences, which it has written.
var ErrDiffers = errors.New("ledger and node differ")

// defaultPause is longer than an ADD or DEL usually needs between its address and
// its interface.
const defaultPause = time.Second

// findings is what Audit says of a network.
type findings struct {
	Network   string       `json:"network"`
	Leaked    []allocation `json:"leaked"`
	Orphaned  []allocation `json:"orphaned"`
	Duplicate []conflict   `json:"duplicate"`
	Foreign   []allocation `json:"foreign"`
}

type conflict struct {
	Address string   `json:"address"`
	Held    []holder `json:"held"`
	Live    []holder `json:"live"`
}

type holder struct {
	Container string `json:"container"`
	Interface string `json:"interface"`
}

// Audit compares each network's ledger with the live interfaces and the node's
// blocks, and writes what differs, a line each. It changes nothing. The error wraps
// ErrDiffers when there is a difference.
//
// An ADD or DEL that is on its way makes a difference for a moment, so that one
// counts only when a second look finds it too.
func (c *IPAM) Audit(ctx context.Context) error {
	all := make([]findings, 0, 1)
	err := c.each(func(s *nodestate.State) error {
		r, err := c.lookTwice(ctx, s)
		if err != nil {
			return err
		}
		all = append(all, findingsOf(s.Network.Name, &r))
		if !r.Clean() {
			if c.Format != JSON {
				for line := range strings.Lines(r.String()) {
					fmt.Fprintf(c.Out, "%s: %s\n", s.Network.Name, strings.TrimSpace(line))
				}
			}
			return fmt.Errorf("%w in network %s", ErrDiffers, s.Network.Name)
		}
		return nil
	})
	if c.Format == JSON {
		err = errors.Join(err, writeJSON(c.Out, all))
	}
	return err
}

func (c *IPAM) lookTwice(ctx context.Context, s *nodestate.State) (ipam.Report, error) {
	first, err := c.look(ctx, s.Network.Name, s.Blocks())
	if err != nil || first.Clean() {
		return first, err
	}
	pause := c.Pause
	if pause == 0 {
		pause = defaultPause
	}
	select {
	case <-time.After(pause):
	case <-ctx.Done():
		return ipam.Report{}, context.Cause(ctx)
	}
	second, err := c.look(ctx, s.Network.Name, s.Blocks())
	return inBoth(&first, &second), err
}

func (c *IPAM) look(ctx context.Context, network string, blocks []netip.Prefix) (ipam.Report, error) {
	held, err := c.inspect(ctx, network)
	if err != nil {
		return ipam.Report{}, err
	}
	live, err := c.live(ctx, network)
	if err != nil {
		return ipam.Report{}, err
	}
	return ipam.Audit(held.Held, live, blocks), nil
}

// inBoth is the differences that two looks found.
func inBoth(first, second *ipam.Report) ipam.Report {
	both := func(a, b []ipam.Allocation) []ipam.Allocation {
		return slices.DeleteFunc(slices.Clone(b), func(x ipam.Allocation) bool { return !slices.Contains(a, x) })
	}
	conflicts := slices.DeleteFunc(slices.Clone(second.Duplicate), func(x ipam.Conflict) bool {
		return !slices.ContainsFunc(first.Duplicate, func(y ipam.Conflict) bool { return x.String() == y.String() })
	})
	return ipam.Report{
		Leaked: both(first.Leaked, second.Leaked), Orphaned: both(first.Orphaned, second.Orphaned),
		Duplicate: conflicts, Foreign: both(first.Foreign, second.Foreign),
	}
}

func findingsOf(network string, r *ipam.Report) findings {
	f := findings{
		Network: network, Leaked: shown(r.Leaked), Orphaned: shown(r.Orphaned),
		Duplicate: make([]conflict, 0, len(r.Duplicate)), Foreign: shown(r.Foreign),
	}
	for _, c := range r.Duplicate {
		f.Duplicate = append(f.Duplicate, conflict{c.Address.String(), holders(c.Held), holders(c.Live)})
	}
	return f
}

func holders(all []ipam.Attachment) []holder {
	list := make([]holder, 0, len(all))
	for _, a := range all {
		list = append(list, holder{a.ContainerID, a.Interface})
	}
	return list
}
