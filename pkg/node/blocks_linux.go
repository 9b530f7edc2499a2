package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/demand"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// How many blocks the node has: what the ledger says of them, and what comes of
// package demand's decisions.

// blocks is what is remembered of the node's blocks from one sync to the next.
type blocks struct {
	mu      sync.Mutex
	own     []netip.Prefix             // in the order in which they were claimed
	empty   map[netip.Prefix]time.Time // since when
	gone    map[netip.Addr]time.Time   // withdrawn and not ours, by the first address: since when
	refused time.Time                  // the last claim that got nothing
}

const (
	// refusedPause is how long a claim that got nothing isn't made again just
	// because an address was taken.
	refusedPause = 5 * time.Second
	// withdrawnTime is how long after a block was given back an ADD might
	// still name it: more than any ADD's patience.
	withdrawnTime = 10 * time.Minute
)

// balance claims another block where the node's are nearly full, and gives back
// what is empty. It returns the leases that the node then has, and what kept it
// from getting what it needs: that is no reason to leave the rest undone.
func (n *Network) balance(ctx context.Context, c *lease.Claim, own []lease.Lease) ([]lease.Lease, string) {
	balanced, err := n.rebalance(ctx, c, own)
	n.blocks.mu.Lock()
	defer n.blocks.mu.Unlock()
	n.blocks.own = blocksOf(balanced)
	n.blocks.refused = time.Time{}
	if err == nil {
		return balanced, ""
	}
	n.blocks.refused = time.Now()
	n.Log.Warn("the node lacks blocks", "network", n.Spec.Name, "error", err)
	return balanced, err.Error()
}

func (n *Network) rebalance(ctx context.Context, c *lease.Claim, own []lease.Lease) (balanced []lease.Lease, err error) {
	l, err := n.openLedger()
	if err != nil {
		return own, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	d, err := n.decide(ctx, l, blocksOf(own))
	if err != nil {
		return own, err
	}
	for _, block := range d.Admit {
		if err := l.Admit(ctx, intent.PodRange(block)); err != nil {
			return own, err
		}
	}
	var errs []error
	for _, block := range d.Return {
		own, err = n.giveBack(ctx, l, own, block)
		errs = append(errs, err)
	}
	for _, f := range d.Claim {
		claimed, err := n.Registry.Extend(ctx, c, f)
		if err == nil {
			own = append(own, claimed)
			n.Log.Info("block is claimed", "network", n.Spec.Name, "block", claimed.Block)
			err = l.Admit(ctx, intent.PodRange(claimed.Block)) // it may have been ours before
		}
		errs = append(errs, err)
	}
	return own, errors.Join(append(errs, n.admitForeign(ctx, l, blocksOf(own)))...)
}

// decide asks what to do about the node's blocks.
func (n *Network) decide(ctx context.Context, l *ipam.Ledger, own []netip.Prefix) (demand.Decision, error) {
	sets := make([]ipam.RangeSet, len(own))
	for i, block := range own {
		sets[i] = ipam.RangeSet{intent.PodRange(block)}
	}
	usage, err := l.Usage(ctx, sets)
	if err != nil {
		return demand.Decision{}, err
	}
	n.blocks.mu.Lock()
	defer n.blocks.mu.Unlock()
	now := time.Now()
	empty := make(map[netip.Prefix]time.Time, len(own))
	all := make([]demand.Block, len(own))
	for i, u := range usage {
		b := demand.Block{Prefix: own[i], Index: i, Taken: u.Taken, Free: u.Free, Withdrawn: u.Withdrawn > 0}
		if u.Taken == 0 {
			empty[own[i]] = now
			if since, ok := n.blocks.empty[own[i]]; ok {
				empty[own[i]] = since
			}
			b.Empty = now.Sub(empty[own[i]])
		}
		all[i] = b
	}
	n.blocks.empty = empty
	return demand.Decide(all, demand.Policy{Grace: n.Grace, Fixed: !n.Spec.Pooled()}), nil
}

// giveBack releases the lease of a block, and returns those that are left. The
// ledger gives none of its addresses any more before the lease is released,
// also to an ADD that read the node's state before; if one of them was taken
// meanwhile, the block stays.
func (n *Network) giveBack(ctx context.Context, l *ipam.Ledger, own []lease.Lease, block netip.Prefix) ([]lease.Lease, error) {
	at := slices.IndexFunc(own, func(l lease.Lease) bool { return l.Block == block })
	err := l.Withdraw(ctx, intent.PodRange(block))
	if errors.Is(err, ipam.ErrInUse) {
		return own, nil
	}
	if err == nil {
		err = n.Registry.ReleaseBlock(ctx, &own[at])
	}
	if err != nil {
		return own, err
	}
	n.Log.Info("block is given back", "network", n.Spec.Name, "block", block)
	return slices.Delete(slices.Clone(own), at, at+1), nil
}

// admitForeign lets the ledger forget what was withdrawn of blocks that aren't
// ours any more, when no ADD can name them: its list is limited.
func (n *Network) admitForeign(ctx context.Context, l *ipam.Ledger, own []netip.Prefix) error {
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
		since, ok := n.blocks.gone[r.First]
		if !ok {
			since = time.Now()
		}
		if time.Since(since) < withdrawnTime {
			gone[r.First] = since
		} else if err := l.Admit(ctx, r); err != nil {
			return err
		}
	}
	n.blocks.gone = gone
	return nil
}

// look opens the ledger to ask what to do about the node's blocks.
func (n *Network) look(ctx context.Context, own []netip.Prefix) (d demand.Decision, err error) {
	l, err := n.openLedger()
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return n.decide(ctx, l, own)
}

// openLedger opens the network's ledger; one that was lost is restored.
func (n *Network) openLedger() (*ipam.Ledger, error) {
	if err := os.MkdirAll(filepath.Dir(n.Ledger), 0o755); err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	return ipam.OpenLedger(n.Ledger, ipam.Options{
		Live: func(ctx context.Context) ([]ipam.Allocation, error) { return Live(ctx, n.Spec.Name) },
	})
}

func blocksOf(leases []lease.Lease) []netip.Prefix {
	all := make([]netip.Prefix, len(leases))
	for i := range leases {
		all[i] = leases[i].Block
	}
	return all
}
