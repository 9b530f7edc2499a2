package lease

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// How one block is claimed: a free one by creating its key, an abandoned one by
// replacing its lease, both only if nobody was faster.

// claim tries once, on the leases known, to get one more block.
func (r *Registry) claim(ctx context.Context, c *Claim, f Family, leases []stored, index int) (Lease, error) {
	if block, ok := freeBlock(c, f, leases); ok {
		return r.create(ctx, c.lease(block, index, r.expiry()))
	}
	if l := r.abandoned(c, f, leases); l != nil {
		return r.reclaim(ctx, c, l, index)
	}
	return Lease{}, fmt.Errorf("%w of %s in network %s: all that node %s may have are leased", ErrNoBlock, f, c.Network.Name, c.Node)
}

func (r *Registry) create(ctx context.Context, want *Lease) (Lease, error) {
	value, err := json.Marshal(want)
	if err != nil {
		return Lease{}, fmt.Errorf("encode lease %s: %w", want.Block, err)
	}
	if _, err := r.lasting().Create(ctx, want.Key(), value); err != nil {
		return Lease{}, fmt.Errorf("claim block %s: %w", want.Block, err)
	}
	return *want, nil
}

// replace writes a lease over the one seen. Nothing is written when that would
// only make it last a little longer: a lease is renewed when between two thirds
// and half of its life are left.
func (r *Registry) replace(ctx context.Context, have *stored, want *Lease) (Lease, error) {
	same := have.Node == want.Node && have.Instance == want.Instance && have.VTEP.Equal(&want.VTEP) && have.Notice == want.Notice
	if same && r.fresh(want.Key(), have.Expires) {
		return have.Lease, nil
	}
	return r.overwrite(ctx, have.revision, want)
}

func (r *Registry) overwrite(ctx context.Context, revision store.Revision, want *Lease) (Lease, error) {
	value, err := json.Marshal(want)
	if err != nil {
		return Lease{}, fmt.Errorf("encode lease %s: %w", want.Block, err)
	}
	if _, err := r.lasting().Update(ctx, want.Key(), value, revision); err != nil {
		return Lease{}, fmt.Errorf("write lease of block %s: %w", want.Block, err)
	}
	return *want, nil
}

// reclaim takes the block of an owner that seems to be gone, in two steps: to
// say so, and, if the owner doesn't renew its lease meanwhile, to take it. The
// first is for those whose clock is wrong, and for the end of a time in which
// nobody could reach the store: everybody's lease has expired then, and the
// first to come back must not take the others' blocks.
func (r *Registry) reclaim(ctx context.Context, c *Claim, l *stored, index int) (Lease, error) {
	stood, err := r.unopposed(ctx, c, l)
	if err != nil {
		return Lease{}, err
	}
	if stood {
		return r.overwrite(ctx, l.revision, c.lease(l.Block, index, r.expiry()))
	}
	return Lease{}, fmt.Errorf("%w of %s in network %s: block %s of node %s, whose lease expires at %s, is taken unless it is renewed within %s",
		ErrNoBlock, l.Family(), l.Network, l.Block, l.Node, l.Expires.Format(time.RFC3339), r.notice())
}

// inherit says, by no error, that a lapsed lease is the claimant's: its owner had
// the claimant's name, and the time to object.
func (r *Registry) inherit(ctx context.Context, c *Claim, l *stored) error {
	stood, err := r.unopposed(ctx, c, l)
	if stood || err != nil {
		return err
	}
	return fmt.Errorf("%w: node name %s was used by another machine, at %v, whose lease of %s expired at %s: it is taken unless it is renewed within %s",
		ErrConflict, l.Node, l.VTEP.Underlay, l.Block, l.Expires.Format(time.RFC3339), r.notice())
}

// unopposed says whether the claimant's notice has stood for its time; it gives
// notice where there is none of the claimant's.
func (r *Registry) unopposed(ctx context.Context, c *Claim, l *stored) (bool, error) {
	if c.gave(l.Notice) {
		// A listing may be from memory: it must be the store that says so.
		now, err := r.Store.Get(ctx, l.Key())
		if err == nil && now.Revision != l.revision {
			err = store.ErrConflict
		}
		if err != nil {
			return false, fmt.Errorf("look at lease of block %s: %w", l.Block, err)
		}
		return r.watched.stood(r, l) >= r.notice(), nil
	}
	noticed := *l
	noticed.Notice = &Notice{Node: c.Node, Instance: c.Instance, At: r.now().UTC()}
	_, err := r.overwrite(ctx, l.revision, &noticed.Lease)
	return false, err
}

// gave says whether a notice is the claimant's.
func (c *Claim) gave(n *Notice) bool { return n != nil && n.Node == c.Node && n.Instance == c.Instance }

func (r *Registry) notice() time.Duration {
	if r.Notice == 0 {
		return DefaultNotice
	}
	return r.Notice
}

// abandoned returns the lease which the node may take that expired first, and
// longer ago than the fence; or nil. What another node is about to take is
// left to it, unless it takes too long.
func (r *Registry) abandoned(c *Claim, f Family, leases []stored) *stored {
	var oldest *stored
	for i := range leases {
		l := &leases[i]
		if l.Family() != f || !l.Expired(r.fenced()) || !c.mayHave(l.Block) {
			continue
		}
		if l.Notice != nil && !c.gave(l.Notice) && r.watched.stood(r, l) < 2*r.notice() {
			continue
		}
		if oldest == nil || l.Expires.Before(oldest.Expires) {
			oldest = l
		}
	}
	return oldest
}

// mayHave says whether a block is one of a pool that selects the node.
func (c *Claim) mayHave(block netip.Prefix) bool {
	return slices.ContainsFunc(c.Network.pools(), func(p Pool) bool {
		return p.CIDR.Contains(block.Addr()) && block.Bits() == p.BlockLength && p.selects(c.Labels)
	})
}

// freeBlock picks a block that nobody holds, of the first pool that has one.
func freeBlock(c *Claim, f Family, leases []stored) (netip.Prefix, bool) {
	for _, p := range c.Network.pools() {
		if FamilyOf(p.CIDR.Addr()) != f || !p.selects(c.Labels) {
			continue
		}
		if block, ok := p.free(c, leases); ok {
			return block, true
		}
	}
	return netip.Prefix{}, false
}

// free picks a block of the pool that nobody holds: one that the node had before,
// if it can. Where the search for another starts follows from the node's name:
// nodes that start at the same time seldom want the same block.
func (p *Pool) free(c *Claim, leases []stored) (netip.Prefix, bool) {
	taken := make(map[netip.Prefix]bool, len(leases))
	var odd []netip.Prefix // of another length: they may cover several of ours, or all
	for i := range leases {
		if block := leases[i].Block; block.Bits() == p.BlockLength {
			taken[block] = true
		} else if block.Overlaps(p.CIDR) {
			odd = append(odd, block)
		}
	}
	if slices.ContainsFunc(odd, func(b netip.Prefix) bool { return b.Bits() <= p.CIDR.Bits() }) {
		return netip.Prefix{}, false
	}
	isFree := func(block netip.Prefix) bool { return !taken[block] && !slices.ContainsFunc(odd, block.Overlaps) }
	for _, block := range c.Had {
		if block.Bits() == p.BlockLength && p.CIDR.Contains(block.Addr()) && isFree(block) {
			return block, true
		}
	}
	count := blockCount(p.CIDR, p.BlockLength)
	start := hash(c.Node) % count
	for i := range count {
		if block := blockAt(p.CIDR, p.BlockLength, (start+i)%count); isFree(block) {
			return block, true
		}
	}
	return netip.Prefix{}, false
}

func hash(s string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(s))
	return h.Sum64()
}
