package space

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Options are what a Space is opened with.
type Options struct {
	// Store is where all nodes claim.
	Store store.Store
	// Name of the space: the CNI network's.
	Name string
	// Machine is the one that this is, whatever runs on it. An empty Boot asks the
	// system.
	Machine Machine
	// Ledger is the path of the ledger that this machine has for this space alone.
	Ledger string
	// LockWait is how long to wait for other processes that have the ledger; see
	// ipam.Options.
	LockWait time.Duration
	// Now is the clock, time.Now if nil.
	Now func() time.Time
}

// Space is an address space that the nodes of a cluster share, as one of them
// uses it. Its methods may be called concurrently, from any number of goroutines
// and processes.
type Space struct {
	store   store.Store
	name    string
	machine Machine
	ledger  ledger
}

// ledger is what a Space needs of an ipam.Ledger.
type ledger interface {
	Allocate(ctx context.Context, req ipam.Request) ([]netip.Addr, error)
	Lookup(ctx context.Context, a ipam.Attachment) ([]ipam.Allocation, error)
	ReleaseIf(ctx context.Context, seen ipam.Allocation) (bool, error)
	All(ctx context.Context) ([]ipam.Allocation, error)
	Usage(ctx context.Context, sets []ipam.RangeSet) ([]ipam.Usage, error)
	Close() error
}

// ErrNotHeld says that an address isn't the attachment's, by the ledger or by the
// store.
var ErrNotHeld = errors.New("address is not held")

// Open returns a space. The ledger's folder has to exist.
func Open(o *Options) (*Space, error) {
	m := o.Machine
	if m.Boot == "" {
		boot, err := ipam.BootID()
		if err != nil {
			return nil, fmt.Errorf("open space %s: read boot ID: %w", o.Name, err)
		}
		m.Boot = boot
	}
	if m.Node == "" || m.Instance == "" {
		return nil, fmt.Errorf("%w: open space %s: node %q and instance %q must not be empty", ipam.ErrInvalid, o.Name, m.Node, m.Instance)
	}
	if err := store.ValidatePrefix(prefix(o.Name)); err != nil || strings.Contains(o.Name, "/") {
		return nil, fmt.Errorf("%w: name of space %q: must be one segment of a key", ipam.ErrInvalid, o.Name)
	}
	s := &Space{store: o.Store, name: o.Name, machine: m}
	l, err := ipam.OpenLedger(o.Ledger, ipam.Options{BootID: m.Boot, LockWait: o.LockWait, Now: o.Now, Live: s.live})
	if err != nil {
		return nil, fmt.Errorf("open space %s: %w", o.Name, err)
	}
	s.ledger = l
	return s, nil
}

// Close closes the ledger. The store is the caller's.
func (s *Space) Close() error { return s.ledger.Close() }

// live is what a lost ledger is restored from: what this machine has claimed in
// this boot. What it claimed in earlier ones nobody has any more.
func (s *Space) live(ctx context.Context) ([]ipam.Allocation, error) {
	claims, err := Claims(ctx, s.store, s.name)
	if err != nil {
		return nil, err
	}
	var live []ipam.Allocation
	for i := range claims {
		if c := &claims[i]; c.is(s.machine) && c.Boot == s.machine.Boot {
			live = append(live, ipam.Allocation{Attachment: c.Attachment, Address: c.Address, Since: c.Since})
		}
	}
	return live, nil
}

// get reads the claim of an address; nil when nobody has it.
func (s *Space) get(ctx context.Context, a netip.Addr) (*Claim, error) {
	e, err := s.store.Get(ctx, key(s.name, a))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil //nolint:nilnil // documented: nobody has it
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("read claim of %s in %s: %w", a, s.name, err))
	}
	c, err := decode(s.name, e)
	return &c, err
}

// own says whether a claim is what our ledger says that we hold.
func (s *Space) own(c *Claim, held ipam.Allocation) bool {
	return c != nil && c.is(s.machine) && c.Boot == s.machine.Boot && c.matches(held)
}

// Lookup is what the attachment holds by the ledger.
func (s *Space) Lookup(ctx context.Context, a ipam.Attachment) ([]ipam.Allocation, error) {
	return s.ledger.Lookup(ctx, a)
}

// Check returns an error unless the attachment holds each of the addresses, by
// the ledger and by the store. It wraps ErrNotHeld, and says who else has it.
func (s *Space) Check(ctx context.Context, a ipam.Attachment, want []netip.Addr) error {
	held, err := s.ledger.Lookup(ctx, a)
	if err != nil {
		return err
	}
	for _, w := range want {
		at := slices.IndexFunc(held, func(h ipam.Allocation) bool { return h.Address == w })
		if at < 0 {
			return fmt.Errorf("%w: %s by %s, says the ledger of space %s", ErrNotHeld, w, a, s.name)
		}
		c, err := s.get(ctx, w)
		switch {
		case err != nil:
			return err
		case c == nil:
			return fmt.Errorf("%w: %s by anybody, says the store", ErrNotHeld, w)
		case !s.own(c, held[at]):
			return fmt.Errorf("%w: the store has %s", ErrNotHeld, c)
		}
	}
	return nil
}

// Usage counts the addresses of each set: taken is what the store says is claimed,
// by whatever node, and what this node's ledger holds besides. It goes through all
// claims.
func (s *Space) Usage(ctx context.Context, sets []ipam.RangeSet) ([]ipam.Usage, error) {
	usage, err := s.ledger.Usage(ctx, sets) // which knows how many there are
	if err != nil {
		return nil, err
	}
	v, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	taken := v.taken(s.machine)
	for n, set := range sets {
		u, plain := &usage[n], plainSet(set)
		u.Taken, u.Free = 0, u.Total
		for a := range taken {
			if gives(plain, a) {
				u.Taken++
			}
		}
		if u.Total != math.MaxUint64 { // which stands for any larger number
			u.Free -= min(u.Free, u.Taken)
		}
	}
	return usage, nil
}
