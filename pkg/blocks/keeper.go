// Package blocks keeps the blocks that a node has of a network: what the ledger
// says of them, and what comes of package demand's decisions, in the ledger and
// among the leases. It needs nothing of the operating system.
package blocks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/demand"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

const (
	// refusedPause is how long a claim that got nothing isn't made again just
	// because an address was taken.
	refusedPause = 5 * time.Second
	// withdrawnTime is how long after a block was given back an ADD might
	// still name it: more than any ADD's patience.
	withdrawnTime = 10 * time.Minute
)

// Keeper keeps a node's blocks of one network.
type Keeper struct {
	Registry *lease.Registry
	// Open opens the network's ledger.
	Open func() (*ipam.Ledger, error)
	// Live lists the addresses in use, whatever the ledger says; nil: nobody
	// knows.
	Live func(ctx context.Context) ([]ipam.Allocation, error)
	// Pooled: blocks come and go; else the node has those that it has.
	Pooled bool
	// Grace is how long a block stays after its last address was freed.
	Grace time.Duration
	Log   *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time

	mu      sync.Mutex
	own     []netip.Prefix             // in the order in which they were claimed
	empty   map[netip.Prefix]time.Time // since when
	refused time.Time                  // the last claim that got nothing
	gone    map[netip.Addr]time.Time   // withdrawn and not ours, by the first address: since when
}

// Own are the blocks that the node had when they were last balanced, in the
// order in which they were claimed.
func (k *Keeper) Own() []netip.Prefix {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.own)
}

func (k *Keeper) now() time.Time {
	if k.Now != nil {
		return k.Now()
	}
	return time.Now()
}

// Balance claims another block where the node's are nearly full, and gives back
// what is empty. It returns the leases that the node then has, and what kept it
// from getting what it needs: that is no reason to leave the rest undone.
func (k *Keeper) Balance(ctx context.Context, c *lease.Claim, own []lease.Lease) ([]lease.Lease, string) {
	balanced, err := k.rebalance(ctx, c, own)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.own = blocksOf(balanced)
	k.refused = time.Time{}
	if err == nil {
		return balanced, ""
	}
	k.refused = k.now()
	k.Log.Warn("the node lacks blocks", "error", err)
	return balanced, err.Error()
}

func (k *Keeper) rebalance(ctx context.Context, c *lease.Claim, own []lease.Lease) (balanced []lease.Lease, err error) {
	l, err := k.Open()
	if err != nil {
		return own, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	d, err := k.decide(ctx, l, blocksOf(own))
	if err != nil {
		return own, err
	}
	for _, block := range d.Admit {
		if err := l.Admit(ctx, PodRange(block)); err != nil {
			return own, err
		}
	}
	var errs []error
	for _, block := range d.Return {
		own, err = k.giveBack(ctx, l, own, block)
		errs = append(errs, err)
	}
	for _, f := range d.Claim {
		claimed, err := k.Registry.Extend(ctx, c, f)
		if err == nil {
			own = append(own, claimed)
			k.Log.Info("block is claimed", "block", claimed.Block)
			err = l.Admit(ctx, PodRange(claimed.Block)) // it may have been ours before
		}
		errs = append(errs, err)
	}
	return own, errors.Join(append(errs, k.admitForeign(ctx, l, blocksOf(own)))...)
}

// decide asks what to do about the node's blocks.
func (k *Keeper) decide(ctx context.Context, l *ipam.Ledger, own []netip.Prefix) (demand.Decision, error) {
	sets := make([]ipam.RangeSet, len(own))
	for i, block := range own {
		sets[i] = ipam.RangeSet{PodRange(block)}
	}
	usage, err := l.Usage(ctx, sets)
	if err != nil {
		return demand.Decision{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	empty := make(map[netip.Prefix]time.Time, len(own))
	all := make([]demand.Block, len(own))
	for i, u := range usage {
		b := demand.Block{Prefix: own[i], Index: i, Taken: u.Taken, Free: u.Free, Withdrawn: u.Withdrawn > 0}
		if u.Taken == 0 {
			empty[own[i]] = now
			if since, ok := k.empty[own[i]]; ok {
				empty[own[i]] = since
			}
			b.Empty = now.Sub(empty[own[i]])
		}
		all[i] = b
	}
	k.empty = empty
	return demand.Decide(all, demand.Policy{Grace: k.Grace, Fixed: !k.Pooled}), nil
}

// giveBack releases the lease of a block, and returns those that are left. The
// ledger gives none of its addresses any more before the lease is released,
// also to an ADD that read the node's state before; if one of them was taken
// meanwhile, the block stays.
func (k *Keeper) giveBack(ctx context.Context, l *ipam.Ledger, own []lease.Lease, block netip.Prefix) ([]lease.Lease, error) {
	at := slices.IndexFunc(own, func(l lease.Lease) bool { return l.Block == block })
	err := l.Withdraw(ctx, PodRange(block))
	if errors.Is(err, ipam.ErrInUse) {
		return own, nil
	}
	if err == nil {
		err = k.unused(ctx, block)
	}
	if err == nil {
		err = k.Registry.ReleaseBlock(ctx, &own[at])
	}
	if err != nil {
		return own, err
	}
	k.Log.Info("block is given back", "block", block)
	return slices.Delete(slices.Clone(own), at, at+1), nil
}

// unused makes sure that no pod has an address of a block which the ledger says
// is empty: it may have been rebuilt from the wrong interfaces.
func (k *Keeper) unused(ctx context.Context, block netip.Prefix) error {
	if k.Live == nil {
		return nil
	}
	live, err := k.Live(ctx)
	if err != nil {
		return err
	}
	for _, a := range live {
		if block.Contains(a.Address) {
			return fmt.Errorf("block %s isn't given back: %s has %s, which the ledger doesn't know", block, a.Attachment, a.Address)
		}
	}
	return nil
}

// admitForeign lets the ledger forget what was withdrawn of blocks that aren't
// ours any more, when no ADD can name them: its list is limited.
func (k *Keeper) admitForeign(ctx context.Context, l *ipam.Ledger, own []netip.Prefix) error {
	withdrawn, err := l.Withdrawn(ctx)
	if err != nil {
		return err
	}
	gone := map[netip.Addr]time.Time{}
	for _, r := range withdrawn {
		if slices.ContainsFunc(own, func(b netip.Prefix) bool {
			return b.Contains(r.First) || r.First.Less(b.Addr()) && b.Addr().Compare(r.Last) <= 0
		}) {
			continue
		}
		since, ok := k.gone[r.First]
		if !ok {
			since = k.now()
		}
		if k.now().Sub(since) < withdrawnTime {
			gone[r.First] = since
		} else if err := l.Admit(ctx, r); err != nil {
			return err
		}
	}
	k.gone = gone
	return nil
}

// Look opens the ledger to ask what to do about the node's blocks.
func (k *Keeper) Look(ctx context.Context, own []netip.Prefix) (d demand.Decision, err error) {
	l, err := k.Open()
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return k.decide(ctx, l, own)
}

func blocksOf(leases []lease.Lease) []netip.Prefix {
	all := make([]netip.Prefix, len(leases))
	for i := range leases {
		all[i] = leases[i].Block
	}
	return all
}
