package ctl

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// underway is longer than any ADD takes from its address to its interface. What
// was taken less than that ago isn't missed among what lives.
const underway = time.Minute

// Rebuild replaces each network's ledger by one that is made from the live
// interfaces, and says what is in it. While it looks at them nobody takes or frees
// an address.
//
// The interfaces of other main plugins can't be looked at. What they hold is kept
// as far as the old ledger can be read; where that isn't so, Rebuild says it.
func (c *IPAM) Rebuild(ctx context.Context) error {
	if c.Network == "" {
		return c.each(func(s *nodestate.State) error { return c.rebuild(ctx, s.Network.Name) })
	}
	if err := c.known(); err != nil {
		return err
	}
	return c.rebuild(ctx, c.Network)
}

// known says whether the node has anything of the network: a name that was
// mistyped would make a ledger that nobody reads. The state isn't needed otherwise.
func (c *IPAM) known() error {
	_, stateErr := nodestate.Read(c.Node.RunDir, c.Network)
	if stateErr == nil {
		return nil
	}
	if _, err := os.Stat(c.Node.LedgerPath(c.Network)); err != nil {
		return errors.Join(stateErr, fmt.Errorf("look for ledger of network %s: %w", c.Network, err))
	}
	return nil
}

func (c *IPAM) rebuild(ctx context.Context, network string) error {
	path := c.Node.LedgerPath(network)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("rebuild ledger: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil && !isMissing(err) {
		return fmt.Errorf("rebuild ledger: %w", err)
	}
	lost := err != nil || info.Size() == 0
	now := c.Ledger.Now
	if now == nil {
		now = time.Now
	}
	var p plan
	var damage error
	err = ipam.RebuildFrom(ctx, path, c.Ledger, func(ctx context.Context, old ipam.Snapshot, d error) ([]ipam.Allocation, error) {
		live, err := c.live(ctx, network)
		if err != nil {
			return nil, err
		}
		p, damage = planRebuild(old.Held, live, now()), d
		return p.all(), nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "%s: %s is rebuilt: %d addresses of live interfaces", network, path, len(p.live))
	fmt.Fprintf(c.Out, ", %d kept for other main plugins, %d kept that may still be being attached, %d dropped\n",
		len(p.elsewhere), len(p.recent), len(p.dropped))
	for _, a := range p.dropped {
		fmt.Fprintf(c.Out, "%s: dropped %s of %s\n", network, a.Address, a.Attachment)
	}
	if lost {
		damage = errors.New("there was none")
	}
	if damage != nil {
		fmt.Fprintf(c.Out, "%s: the old ledger couldn't be read in full (%v), so that addresses which it held for attachments of other main plugins"+
			" (ptp, bridge, macvlan with overlay-ipam) may be missing and be given again: recreate these pods\n", network, damage)
	}
	return nil
}

// plan is what a rebuilt ledger holds, and why.
type plan struct {
	live      []ipam.Allocation // live interfaces have it
	elsewhere []ipam.Allocation // the old ledger held it for somebody whose interfaces aren't ours
	recent    []ipam.Allocation // the old ledger held it, and an ADD may be about to use it
	dropped   []ipam.Allocation // the old ledger held it, and nobody has it, or another
}

func (p *plan) all() []ipam.Allocation {
	all := append([]ipam.Allocation(nil), p.live...)
	return append(append(all, p.elsewhere...), p.recent...)
}

// planRebuild judges what the old ledger held by what lives. What an audit would
// call leaked is dropped, unless it is too young for that.
func planRebuild(held, live []ipam.Allocation, now time.Time) plan {
	var p plan
	before := make(map[netip.Addr]ipam.Allocation, len(held))
	for _, h := range held {
		before[h.Address] = h
	}
	taken := make(map[netip.Addr]bool, len(live))
	for _, l := range live {
		if !l.Address.IsValid() {
			continue // it is being made
		}
		l.Address = l.Address.Unmap()
		if h, ok := before[l.Address]; ok && h.Attachment == l.Attachment {
			l.Since = h.Since
		} else if ok && !h.Truncated {
			p.dropped = append(p.dropped, h)
		}
		taken[l.Address] = true
		p.live = append(p.live, l)
	}
	leaked := make(map[netip.Addr]bool)
	for _, l := range ipam.Audit(held, live, nil).Leaked {
		leaked[l.Address] = true
	}
	for _, h := range held {
		switch {
		case taken[h.Address]:
		case h.Elsewhere:
			p.elsewhere = append(p.elsewhere, h)
		case leaked[h.Address] && now.Sub(h.Since) >= underway:
			p.dropped = append(p.dropped, h)
		default:
			p.recent = append(p.recent, h)
		}
	}
	return p
}
