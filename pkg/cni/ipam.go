package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/blocks"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// ipamPlugin gives addresses: ours in the process, others by delegation.
type ipamPlugin interface {
	add(c *call, s *nodestate.State) (allocation, error)
	del(c *call) error
	check(c *call, held []netip.Addr) error
	status(c *call, s *nodestate.State) error
	gc(c *call) error
}

// allocation is what IPAM gives an attachment.
type allocation struct {
	addresses []netip.Addr
	routes    []netip.Prefix // nil: all
	dns       types.DNS
}

// inProcess is overlay-ipam without a process of its own: addresses come from
// the node's blocks by the ledger.
type inProcess struct {
	ledger   string
	cooldown time.Duration
	live     func(context.Context) ([]ipam.Allocation, error) // nil: unknown
}

// ledgerPatience bounds the wait for other processes that use the ledger.
const ledgerPatience = 30 * time.Second

// with opens the ledger for one operation.
func (i *inProcess) with(ctx context.Context, fn func(context.Context, *ipam.Ledger) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
	defer cancel()
	if err := os.MkdirAll(filepath.Dir(i.ledger), 0o755); err != nil {
		return fmt.Errorf("open ledger: %w", err)
	}
	l, err := ipam.OpenLedger(i.ledger, ipam.Options{Live: i.live, Cooldown: i.cooldown})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return fn(ctx, l)
}

func (i *inProcess) add(c *call, s *nodestate.State) (a allocation, err error) {
	request := ipam.Request{
		Attachment: ipamAttachment(c), Sets: blocks.PodRanges(s.Blocks()), Addresses: c.config.Addresses,
	}
	if c.config.Routes != nil { // the network itself is always reached
		a.routes = append(append(a.routes, c.config.Routes...), s.Network.CIDRs...)
	}
	err = i.with(c.ctx, func(ctx context.Context, l *ipam.Ledger) error {
		a.addresses, err = l.Allocate(ctx, request)
		if !errors.Is(err, ipam.ErrHeld) {
			return err
		}
		// The attachment doesn't exist (Prepare said so): what it holds is
		// left of an ADD that was killed.
		if _, err := l.Release(ctx, request.Attachment); err != nil {
			return err
		}
		a.addresses, err = l.Allocate(ctx, request)
		return err
	})
	return a, err
}

func (i *inProcess) del(c *call) error { return i.release(c.ctx, ipamAttachment(c)) }

func (i *inProcess) check(c *call, want []netip.Addr) error {
	return i.held(c.ctx, ipamAttachment(c), want)
}

func (i *inProcess) status(c *call, s *nodestate.State) error {
	return i.free(c.ctx, blocks.PodRanges(s.Blocks()))
}

func (i *inProcess) gc(c *call) error { return i.retain(c.ctx, c.config.ValidAttachments) }

func (i *inProcess) release(ctx context.Context, a ipam.Attachment) error {
	return i.with(ctx, func(ctx context.Context, l *ipam.Ledger) error {
		_, err := l.Release(ctx, a)
		return err
	})
}

// held returns an error when one of the addresses isn't the attachment's.
func (i *inProcess) held(ctx context.Context, a ipam.Attachment, want []netip.Addr) error {
	return i.with(ctx, func(ctx context.Context, l *ipam.Ledger) error {
		held, err := l.Lookup(ctx, a)
		if err != nil {
			return err
		}
		for _, w := range want {
			if !slices.ContainsFunc(held, func(h ipam.Allocation) bool { return h.Address == w }) {
				return coded(fmt.Errorf("address %s isn't held by %s in ledger %s", w, a, i.ledger), CodeDrift)
			}
		}
		return nil
	})
}

// free returns an error when one of the sets has no free address.
func (i *inProcess) free(ctx context.Context, sets []ipam.RangeSet) error {
	return i.with(ctx, func(ctx context.Context, l *ipam.Ledger) error {
		usage, err := l.Usage(ctx, sets)
		if err != nil {
			return err
		}
		return exhaustedSet(sets, usage)
	})
}

// exhaustedSet returns an error when one of the sets has no free address.
func exhaustedSet(sets []ipam.RangeSet, usage []ipam.Usage) error {
	for n, u := range usage {
		if u.Free == 0 {
			return fmt.Errorf("%w: all %d of %v are taken", ipam.ErrFull, u.Total, sets[n])
		}
	}
	return nil
}

// attachments are those that the runtime knows, as IPAM names them.
func attachments(valid []types.GCAttachment) []ipam.Attachment {
	all := make([]ipam.Attachment, 0, len(valid))
	for _, v := range valid {
		all = append(all, ipam.Attachment{ContainerID: v.ContainerID, Interface: v.IfName})
	}
	return all
}

// retain frees what no attachment holds that the runtime knows.
func (i *inProcess) retain(ctx context.Context, valid []types.GCAttachment) error {
	keep := attachments(valid)
	if i.live != nil { // not even GC frees what an interface of ours has
		live, err := i.live(ctx)
		if err != nil {
			return err
		}
		for _, a := range live {
			keep = append(keep, a.Attachment)
		}
	}
	return i.with(ctx, func(ctx context.Context, l *ipam.Ledger) error {
		_, err := l.Retain(ctx, keep)
		return err
	})
}

func ipamAttachment(c *call) ipam.Attachment {
	return ipam.Attachment{ContainerID: c.args.Container, Interface: c.args.Interface}
}
