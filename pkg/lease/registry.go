package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
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
)

// Errors of a Registry, wrapped.
var (
	// ErrNoBlock: every block of the network is leased.
	ErrNoBlock = errors.New("no free block")
	// ErrConflict: the network is registered differently, or another
	// registered network can't be used beside it.
	ErrConflict = errors.New("network conflict")
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
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Claim is what a node wants of a network.
type Claim struct {
	Network Network
	Node    string
	// Instance is the machine's own, whatever its name; "" where there is
	// none: then a name stands for one machine.
	Instance string
	VTEP     VTEP
}

// View is what a store says of a network's leases at one revision.
type View struct {
	Leases   []Lease
	Revision store.Revision
}

// View lists all leases of a network.
func (r *Registry) View(ctx context.Context, network string) (View, error) {
	held, revision, err := r.list(ctx, network)
	if err != nil {
		return View{}, err
	}
	view := View{Revision: revision, Leases: make([]Lease, len(held))}
	for i := range held {
		view.Leases[i] = held[i].Lease
	}
	return view, nil
}

// Watch calls changed whenever leases of the network may have changed since
// the revision. It returns when ctx ends, or with what ended the watch.
func (r *Registry) Watch(ctx context.Context, network string, after store.Revision, changed func()) error {
	err := r.Store.Watch(ctx, leasePrefix(network), after, func(store.Event) error {
		changed()
		return nil
	})
	if err != nil {
		return fmt.Errorf("watch leases of network %s: %w", network, err)
	}
	return nil
}

// stored is a lease with the revision by which it may be replaced.
type stored struct {
	Lease
	revision store.Revision
}

func (r *Registry) list(ctx context.Context, network string) ([]stored, store.Revision, error) {
	entries, revision, err := r.Store.List(ctx, leasePrefix(network))
	if err != nil {
		return nil, 0, fmt.Errorf("list leases of network %s: %w", network, err)
	}
	leases := make([]stored, 0, len(entries))
	for _, e := range entries {
		l, err := decodeLease(e.Key, e.Value)
		if err != nil {
			return nil, 0, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
		}
		leases = append(leases, stored{l, e.Revision})
	}
	return leases, revision, nil
}

// Acquire returns the node's leases of a network, one of each family, claiming
// what it doesn't have yet. Leases that it has are renewed, and brought up to
// date with the VTEP; so Acquire is what a node calls at every start.
func (r *Registry) Acquire(ctx context.Context, c *Claim) ([]Lease, error) {
	if err := errors.Join(ValidateName("node", c.Node), c.Network.Validate()); err != nil {
		return nil, err
	}
	leases, _, err := r.list(ctx, c.Network.Name)
	if err != nil {
		return nil, err
	}
	var own []Lease
	for _, f := range c.Network.Families() {
		l, err := r.acquire(ctx, c, f, leases)
		if err != nil {
			return nil, err
		}
		own = append(own, l)
	}
	return own, nil
}

// attempts bounds how often a claim is tried again after another node took the
// block in between. Every failed try means that somebody else succeeded.
const attempts = 1000

func (r *Registry) acquire(ctx context.Context, c *Claim, f Family, leases []stored) (Lease, error) {
	for range attempts {
		l, err := r.claim(ctx, c, f, leases)
		if !errors.Is(err, store.ErrExists) && !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) {
			return l, err
		}
		if leases, _, err = r.list(ctx, c.Network.Name); err != nil {
			return Lease{}, err
		}
	}
	return Lease{}, fmt.Errorf("claim a block of network %s: lost %d races", c.Network.Name, attempts)
}

// claim tries once, on the leases known: to keep our own, to take a free
// block, to take one whose owner is long gone.
func (r *Registry) claim(ctx context.Context, c *Claim, f Family, leases []stored) (Lease, error) {
	want := Lease{Network: c.Network.Name, Node: c.Node, Instance: c.Instance, VTEP: c.VTEP, Expires: r.expiry()}
	for i := range leases {
		l := &leases[i]
		own, err := l.isOf(c, r.now())
		if err != nil {
			return Lease{}, err
		}
		if own && l.Family() == f && c.Network.Contains(l.Block.Addr()) {
			want.Block = l.Block
			return r.replace(ctx, l, &want)
		}
	}
	if block, ok := freeBlock(&c.Network, f, c.Node, leases); ok {
		want.Block = block
		return r.create(ctx, &want)
	}
	if l := r.abandoned(&c.Network, f, leases); l != nil {
		want.Block = l.Block
		return r.replace(ctx, l, &want)
	}
	return Lease{}, fmt.Errorf("%w of %s in network %s: all are leased", ErrNoBlock, f, c.Network.Name)
}

func (r *Registry) create(ctx context.Context, want *Lease) (Lease, error) {
	value, err := json.Marshal(want)
	if err != nil {
		return Lease{}, fmt.Errorf("encode lease %s: %w", want.Block, err)
	}
	if _, err := r.Store.Create(ctx, want.Key(), value); err != nil {
		return Lease{}, fmt.Errorf("claim block %s: %w", want.Block, err)
	}
	return *want, nil
}

// replace writes a lease over the one seen. Nothing is written when that would
// only make it last a little longer: a lease is renewed in the last two thirds
// of its life.
func (r *Registry) replace(ctx context.Context, have *stored, want *Lease) (Lease, error) {
	if have.Node == want.Node && have.Instance == want.Instance && have.VTEP.Equal(&want.VTEP) && r.fresh(have.Expires) {
		return have.Lease, nil
	}
	value, err := json.Marshal(want)
	if err != nil {
		return Lease{}, fmt.Errorf("encode lease %s: %w", want.Block, err)
	}
	if _, err := r.Store.Update(ctx, have.Key(), value, have.revision); err != nil {
		return Lease{}, fmt.Errorf("renew block %s: %w", want.Block, err)
	}
	return *want, nil
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

func (r *Registry) renew(ctx context.Context, own Lease) (Lease, error) {
	for range attempts {
		e, err := r.Store.Get(ctx, own.Key())
		if errors.Is(err, store.ErrNotFound) {
			return Lease{}, fmt.Errorf("renew block %s: %w", own.Block, ErrLost)
		}
		if err != nil {
			return Lease{}, fmt.Errorf("renew block %s: %w", own.Block, err)
		}
		have, err := decodeLease(e.Key, e.Value)
		if err != nil {
			return Lease{}, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
		}
		if have.Node != own.Node {
			return Lease{}, fmt.Errorf("renew block %s: %w to node %s", own.Block, ErrLost, have.Node)
		}
		own.Expires = r.expiry()
		l, err := r.replace(ctx, &stored{have, e.Revision}, &own)
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) {
			return l, err
		} // changed in between: by whom, the next look says
	}
	return Lease{}, fmt.Errorf("renew block %s: lost %d races", own.Block, attempts)
}

// Release gives a node's leases of a network back, and with the last one the
// network's registration. Only a node that no longer has pods may call it.
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
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return r.forget(ctx, network)
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

// fresh says whether an expiry needn't be put off yet.
func (r *Registry) fresh(expires time.Time) bool {
	if r.TTL == 0 {
		return expires.IsZero()
	}
	left := expires.Sub(r.now())
	return left > r.TTL/3*2 && left <= r.TTL
}

// abandoned returns the lease of one of the network's blocks that expired first,
// and longer ago than the fence; or nil.
func (r *Registry) abandoned(n *Network, f Family, leases []stored) *stored {
	fence := r.Fence
	if fence == 0 {
		fence = DefaultFence
	}
	var oldest *stored
	for i := range leases {
		l := &leases[i]
		usable := l.Family() == f && l.Block.Bits() == n.BlockLength.Of(f) && n.Contains(l.Block.Addr())
		if usable && l.Expired(r.now().Add(-fence)) && (oldest == nil || l.Expires.Before(oldest.Expires)) {
			oldest = l
		}
	}
	return oldest
}

// freeBlock picks a block that nobody holds. Where the search starts follows
// from the node's name: nodes that start at the same time seldom want the same
// block, and a node that comes back is likely to find the one it had.
func freeBlock(n *Network, f Family, node string, leases []stored) (netip.Prefix, bool) {
	length := n.BlockLength.Of(f)
	for _, cidr := range n.CIDRsOf(f) {
		taken := make(map[netip.Prefix]bool, len(leases))
		var odd []netip.Prefix // of another length: they may cover several of ours
		for i := range leases {
			if block := leases[i].Block; block.Bits() == length {
				taken[block] = true
			} else if block.Overlaps(cidr) {
				odd = append(odd, block)
			}
		}
		count := blockCount(cidr, length)
		start := hash(node) % count
		for i := range count {
			block := blockAt(cidr, length, (start+i)%count)
			if !taken[block] && !slices.ContainsFunc(odd, block.Overlaps) {
				return block, true
			}
		}
	}
	return netip.Prefix{}, false
}

func hash(s string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(s))
	return h.Sum64()
}
