package lease

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// How blocks are claimed that the cluster allocates: there is nothing to choose,
// and whoever else has the lease had the block before.

// claimGiven claims those of the blocks given to the node which it doesn't have.
func (r *Registry) claimGiven(ctx context.Context, c *Claim, kept []Lease, leases []stored, index int) ([]Lease, error) {
	given := c.given()
	if len(given) == 0 {
		return kept, fmt.Errorf("%w: node %s has no spec.podCIDRs in network %s, of %v, but %v", ErrNoBlock, c.Node, c.Network.Name, c.Network.CIDRs, c.Given)
	}
	for _, block := range given {
		if slices.ContainsFunc(kept, func(l Lease) bool { return l.Block == block }) {
			continue
		}
		l, err := r.take(ctx, c, block, leases, index)
		if err != nil {
			return kept, err
		}
		kept = append(kept, l)
		index++
	}
	return kept, nil
}

// given are the blocks that are the network's.
func (c *Claim) given() []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(c.Given), func(b netip.Prefix) bool {
		return !slices.ContainsFunc(c.Network.CIDRs, func(p netip.Prefix) bool { return p.Contains(b.Addr()) && p.Bits() <= b.Bits() })
	})
}

// take claims a given block. One that another node still has a lease of was
// allocated to that one before: it is taken unless that node objects.
func (r *Registry) take(ctx context.Context, c *Claim, block netip.Prefix, leases []stored, index int) (Lease, error) {
	for i := range leases {
		l := &leases[i]
		switch {
		case l.Block == block:
			return r.reclaim(ctx, c, l, index)
		case l.Block.Overlaps(block):
			return Lease{}, fmt.Errorf("%w of network %s: %s, which the cluster gave to node %s, overlaps %s of node %s",
				ErrNoBlock, l.Network, block, c.Node, l.Block, l.Node)
		}
	}
	return r.create(ctx, c.lease(block, index, r.expiry()))
}
