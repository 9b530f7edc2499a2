package lease

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Times of leases.
const (
	// DefaultTTL is how long a lease lasts without being renewed.
	DefaultTTL = 24 * time.Hour
	// DefaultFence is how long after its expiry a lease stays its owner's
	// alone: clocks that differ by less than that can't lend a block twice.
	DefaultFence = time.Hour
	// DefaultGrace is how long a block of a pool stays leased after the last
	// of its addresses was freed.
	DefaultGrace = 5 * time.Minute
	// DefaultNotice is how long whoever takes an expired lease's block waits
	// after having said so, for its owner to object by renewing it.
	DefaultNotice = 2 * time.Minute
)

// Errors of a Registry, wrapped.
var (
	// ErrNoBlock: every block of the network is leased.
	ErrNoBlock = errors.New("no free block")
	// ErrConflict: the network is registered differently, or another
	// registered network can't be used beside it.
	ErrConflict = errors.New("network conflict")
	// ErrInvalid: what is registered can't be used as it is.
	ErrInvalid = errors.New("registration is invalid")
	// ErrLost: a lease is no longer ours.
	ErrLost = errors.New("lease is lost")
)

// Registry claims blocks of networks in a store.
type Registry struct {
	Store store.Store
	// TTL of new leases and renewals; zero: they never expire.
	TTL time.Duration
	// Fence is the time from a lease's expiry until its block may be given
	// to another node; zero: DefaultFence.
	Fence time.Duration
	// Notice is the time from saying that a block will be taken until it is;
	// zero: DefaultNotice.
	Notice time.Duration
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Elapsed is a clock that nobody sets; nil: the time of this process.
	Elapsed func() time.Duration

	read    read
	watched watched
}

// Claim is what a node wants of a network.
type Claim struct {
	Network Network
	Node    string
	// Instance is the machine's own, whatever its name; "" where there is
	// none: then a name stands for one machine.
	Instance string
	// Labels are the node's, by which pools select it.
	Labels map[string]string
	VTEP   VTEP
	// Given are the blocks that the cluster has allocated to the node, which
	// it claims of a network with PodCIDRs.
	Given []netip.Prefix
	// Had are blocks that the node had before, and has pods in, perhaps: where
	// the store lost their leases, it takes these before others.
	Had []netip.Prefix
}

// lease is the claim of one block.
func (c *Claim) lease(block netip.Prefix, index int, expires time.Time) *Lease {
	return &Lease{
		Network: c.Network.Name, Block: block, Node: c.Node, Instance: c.Instance, VTEP: c.VTEP, Index: index, Expires: expires,
	}
}

// View is what a store says of a network's leases at one revision.
type View struct {
	Leases   []Lease
	Revision store.Revision
}

// View lists the leases of a network, those that are in force: when a lease has
// expired for longer than the fence, nobody may use its block.
func (r *Registry) View(ctx context.Context, network string) (View, error) {
	held, revision, err := r.list(ctx, network)
	if err != nil {
		return View{}, err
	}
	view, fenced := View{Revision: revision, Leases: make([]Lease, 0, len(held))}, r.fenced()
	for i := range held {
		if !held[i].Expired(fenced) {
			view.Leases = append(view.Leases, held[i].Lease)
		}
	}
	return view, nil
}

// stored is a lease with the revision by which it may be replaced.
type stored struct {
	Lease
	revision store.Revision
}

func (r *Registry) list(ctx context.Context, network string) ([]stored, store.Revision, error) {
	entries, revision, err := r.entries(ctx, leasePrefix(network))
	if err != nil {
		return nil, 0, fmt.Errorf("list leases of network %s: %w", network, err)
	}
	leases, err := r.decode(network, entries)
	return leases, revision, err
}

// Acquire returns the node's leases of a network, at least one of each family of
// which a pool selects the node, claiming what it doesn't have yet. Leases that it has are renewed, and brought
// up to date with the VTEP; so Acquire is what a node calls at every start. The
// leases of a family are in the order in which the node claimed them. An error
// that wraps ErrNoBlock comes with the leases that the node does have.
func (r *Registry) Acquire(ctx context.Context, c *Claim) ([]Lease, error) {
	if err := errors.Join(ValidateName("node", c.Node), c.Network.Validate()); err != nil {
		return nil, err
	}
	var own []Lease
	err := r.unraced("claim blocks of network "+c.Network.Name, func() (err error) {
		own, err = r.acquire(ctx, c)
		return err
	})
	return own, err
}

// attempts bounds how often a claim is tried again after another node took the
// block in between. Every failed try means that somebody else succeeded.
const attempts = 1000

// unraced tries until nobody else came between.
func (r *Registry) unraced(what string, try func() error) error {
	for range attempts {
		err := try()
		if !isRace(err) {
			return err
		}
	}
	return fmt.Errorf("%s: lost %d races", what, attempts)
}

func (r *Registry) acquire(ctx context.Context, c *Claim) ([]Lease, error) {
	leases, own, err := r.seen(ctx, c)
	if err != nil {
		return nil, err
	}
	kept := make([]Lease, 0, len(own))
	for _, l := range own { // first, whatever becomes of the rest
		l, err := r.replace(ctx, l, c.lease(l.Block, l.Index, r.expiry()))
		if err != nil {
			return nil, err
		}
		kept = append(kept, l)
	}
	if c.Network.PodCIDRs {
		return r.claimGiven(ctx, c, kept, leases, nextIndex(own))
	}
	families := c.Network.familiesFor(c.Labels)
	if len(families) == 0 && len(kept) == 0 {
		return nil, fmt.Errorf("%w: no pool of network %s selects node %s, whose labels are %v", ErrNoBlock, c.Network.Name, c.Node, c.Labels)
	}
	for _, f := range families {
		if slices.ContainsFunc(kept, func(l Lease) bool { return l.Family() == f }) {
			continue
		}
		l, err := r.claim(ctx, c, f, leases, nextIndex(own))
		if err != nil {
			return kept, err
		}
		kept = append(kept, l)
	}
	slices.SortStableFunc(kept, func(a, b Lease) int { return cmp.Compare(a.Family(), b.Family()) })
	return kept, nil
}

// Extend claims one more block of a family for a node that has leases already.
// The error wraps ErrNoBlock when there is none to be had.
func (r *Registry) Extend(ctx context.Context, c *Claim, f Family) (Lease, error) {
	var l Lease
	err := r.unraced("claim another block of network "+c.Network.Name, func() error {
		leases, own, err := r.seen(ctx, c)
		if err == nil {
			l, err = r.claim(ctx, c, f, leases, nextIndex(own))
		}
		return err
	})
	return l, err
}

// seen lists a network's leases, and those of them that are the claimant's, as
// it claimed them.
func (r *Registry) seen(ctx context.Context, c *Claim) (leases []stored, own []*stored, err error) {
	if leases, _, err = r.list(ctx, c.Network.Name); err != nil {
		return nil, nil, err
	}
	var errs []error
	for i := range leases {
		l := &leases[i]
		whose, err := l.of(c, r.fenced())
		if err != nil {
			return nil, nil, err
		}
		if whose == others || !c.Network.Contains(l.Block.Addr()) {
			continue
		}
		if whose == lapsed {
			errs = append(errs, r.inherit(ctx, c, l))
		}
		own = append(own, l)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	slices.SortStableFunc(own, func(a, b *stored) int { return cmp.Compare(a.Index, b.Index) })
	return leases, own, nil
}

// nextIndex is that of the claim after those.
func nextIndex(own []*stored) int {
	next := 0
	for _, l := range own {
		next = max(next, l.Index+1)
	}
	return next
}

// Renew extends a node's leases. The error wraps ErrLost when one of them is
// gone or another node's: its addresses must not be used any more.
func (r *Registry) Renew(ctx context.Context, own []Lease) ([]Lease, error) {
	renewed := make([]Lease, 0, len(own))
	for _, l := range own {
		l, err := r.renew(ctx, l)
		if err != nil {
			return nil, err
		}
		renewed = append(renewed, l)
	}
	return renewed, nil
}

func (r *Registry) renew(ctx context.Context, own Lease) (renewed Lease, err error) {
	err = r.unraced("renew block "+own.Block.String(), func() error {
		have, err := r.owned(ctx, &own)
		if err != nil {
			return fmt.Errorf("renew block %s: %w", own.Block, err)
		}
		own.Expires, own.Notice = r.expiry(), nil
		renewed, err = r.replace(ctx, have, &own)
		return err
	})
	return renewed, err
}

// owned reads a lease of ours anew; the error wraps ErrLost when it no longer
// is.
func (r *Registry) owned(ctx context.Context, own *Lease) (*stored, error) {
	e, err := r.Store.Get(ctx, own.Key())
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrLost
	}
	if err != nil {
		return nil, err
	}
	have, err := decodeLease(e.Key, e.Value)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	if have.Node != own.Node || have.Instance != own.Instance {
		return nil, fmt.Errorf("%w to node %s", ErrLost, have.Node)
	}
	return &stored{have, e.Revision}, nil
}

// ReleaseBlock gives one of a node's leases back. None of the block's addresses
// may be in use, nor come into use any more: see ipam.Ledger.Withdraw. It is no
// error when the lease is lost already.
func (r *Registry) ReleaseBlock(ctx context.Context, own *Lease) error {
	err := r.unraced("release block "+own.Block.String(), func() error {
		have, err := r.owned(ctx, own)
		if err != nil {
			return err
		}
		return r.Store.Delete(ctx, own.Key(), have.revision)
	})
	if err != nil && !errors.Is(err, ErrLost) {
		return fmt.Errorf("release block %s: %w", own.Block, err)
	}
	return nil
}

// Release gives a node's leases of a network back. Only a node that no longer
// has pods may call it.
func (r *Registry) Release(ctx context.Context, network, node string) error {
	leases, _, err := r.list(ctx, network)
	if err != nil {
		return err
	}
	var errs []error
	for i := range leases {
		if l := &leases[i]; l.Node == node {
			if err := r.Store.Delete(ctx, l.Key(), l.revision); err != nil && !errors.Is(err, store.ErrNotFound) {
				errs = append(errs, fmt.Errorf("release block %s: %w", l.Block, err))
			}
		}
	}
	return errors.Join(errs...)
}

func (r *Registry) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}

// expiry is when a lease written now ends, to the second: stores compare text.
func (r *Registry) expiry() time.Time {
	if r.TTL == 0 {
		return time.Time{}
	}
	return r.now().Add(r.TTL).UTC().Truncate(time.Second)
}

// fresh says whether a lease's expiry needn't be put off yet. When it must be
// follows from the key: what was claimed at one time isn't renewed at one time.
func (r *Registry) fresh(key string, expires time.Time) bool {
	if r.TTL == 0 {
		return expires.IsZero()
	}
	left := expires.Sub(r.now())
	spread := time.Duration(hash(key) % uint64(r.TTL/renewalSpread+1))
	return left > r.TTL/3*2-spread && left <= r.TTL
}

// renewalSpread is the part of a lease's life over which renewals are spread.
const renewalSpread = 6

// lasting is the store for leases. One that can forgets them by itself, long
// after anybody else might have taken the block: a node that never comes back
// leaves nothing for people to clean up.
func (r *Registry) lasting() store.Store {
	const endless = 10 * 365 * 24 * time.Hour
	if e, ok := r.Store.(store.Expirer); ok && r.TTL != 0 && r.TTL < endless {
		return e.Expiring(2*r.TTL + r.now().Sub(r.fenced()))
	}
	return r.Store
}

// fenced is the time before which leases have expired for good.
func (r *Registry) fenced() time.Time {
	if r.Fence == 0 {
		return r.now().Add(-DefaultFence)
	}
	return r.now().Add(-r.Fence)
}
