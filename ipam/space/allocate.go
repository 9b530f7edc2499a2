package space

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// attempts bounds how often something is tried again because another process was
// faster. Every failed attempt means that somebody else succeeded.
const attempts = 1000

// ErrReleased says that the attachment was released while it was given
// addresses. It has none now.
var ErrReleased = errors.New("attachment was released meanwhile")

// lostError says that somebody else has claimed an address.
type lostError struct{ claim *Claim }

// Error implements error.
func (e *lostError) Error() string { return fmt.Sprintf("%s: %s", ipam.ErrTaken, e.claim) }

// Unwrap makes it an ipam.ErrTaken.
func (e *lostError) Unwrap() error { return ipam.ErrTaken }

// Allocate claims one address from each set of the request, all or none, and
// returns them in the order of the sets. The errors are those of
// ipam.Ledger.Allocate, those of the store wrapped in ErrUnavailable, and
// ErrReleased.
//
// An attachment that has its addresses already gets them again. One whose last
// Allocate was killed gets those that the ledger had given it, unless another node
// has claimed them since.
//
// Two Allocates of one attachment must not run at the same time, nor may one begin
// while a Release of it runs: it is for the caller to keep them apart. A Release
// that comes while an Allocate runs is safe.
func (s *Space) Allocate(ctx context.Context, req ipam.Request) ([]netip.Addr, error) {
	search, err := s.newSearch(ctx, req)
	if err != nil {
		return nil, err
	}
	for range attempts {
		next, again, err := search.next(ctx)
		if err != nil {
			return nil, err
		}
		got, err := s.attempt(ctx, next, again)
		if err == nil {
			return got, nil
		}
		if err := search.learn(ctx, err); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: an address of space %s: lost %d races", ErrUnavailable, s.name, attempts)
}

// attempt claims the fixed addresses of a request, which are one of each set, or
// again what the attachment holds already. That may be in use, so it isn't undone
// because the store fails.
func (s *Space) attempt(ctx context.Context, req ipam.Request, again bool) ([]netip.Addr, error) {
	got, err := s.ledger.Allocate(ctx, req)
	if err != nil {
		return nil, err
	}
	held, err := s.ledger.Lookup(ctx, req.Attachment)
	if err != nil {
		return nil, err
	}
	if !sameAddresses(held, got) {
		return nil, fmt.Errorf("%w: %s", ErrReleased, req.Attachment)
	}
	err = s.claimAll(ctx, held)
	if err == nil {
		return got, nil
	}
	if again && !errors.Is(err, ipam.ErrTaken) && !errors.Is(err, ErrReleased) {
		return nil, err
	}
	return nil, errors.Join(err, s.undo(ctx, held))
}

func (s *Space) claimAll(ctx context.Context, held []ipam.Allocation) error {
	for _, h := range held {
		if err := s.claim(ctx, h); err != nil {
			return err
		}
	}
	// The ledger may have been lost and restored before the claim was there, or a
	// Release came in between: what the ledger doesn't hold mustn't be used.
	return s.stillHeld(ctx, held...)
}

func sameAddresses(held []ipam.Allocation, got []netip.Addr) bool {
	return len(held) == len(got) && !slices.ContainsFunc(held, func(h ipam.Allocation) bool {
		return !slices.Contains(got, h.Address)
	})
}

// claim makes the store say what the ledger says.
func (s *Space) claim(ctx context.Context, h ipam.Allocation) error {
	c := &Claim{Machine: s.machine, Attachment: h.Attachment, Address: h.Address, Since: h.Since}
	value, err := c.encode()
	if err != nil {
		return err
	}
	for range attempts {
		_, err := s.store.Create(ctx, key(s.name, h.Address), value)
		if errors.Is(err, store.ErrExists) {
			err = s.takeOver(ctx, h, value)
		} else if err != nil {
			err = unavailable(fmt.Errorf("claim %s in %s: %w", h.Address, s.name, err))
		}
		if !errors.Is(err, errChanged) {
			return err
		}
	}
	return fmt.Errorf("%w: claim of %s in %s changed %d times", ErrUnavailable, h.Address, s.name, attempts)
}

// errChanged says that a claim is no longer what it was a moment ago.
var errChanged = errors.New("claim has changed")

// takeOver replaces a claim that this machine made in an earlier boot, of an
// address that its ledger has given now. Those of this boot are left to Sweep,
// for whoever made one may be about to learn that the ledger has forgotten it.
func (s *Space) takeOver(ctx context.Context, h ipam.Allocation, value []byte) error {
	c, err := s.get(ctx, h.Address)
	switch {
	case err != nil:
		return err
	case c == nil:
		return errChanged
	case s.own(c, h):
		return nil
	case !c.is(s.machine) || c.Boot == s.machine.Boot:
		return &lostError{c}
	}
	_, err = s.store.Update(ctx, key(s.name, h.Address), value, c.revision)
	switch {
	case errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound):
		return errChanged
	case err != nil:
		return unavailable(fmt.Errorf("take over %s in %s: %w", h.Address, s.name, err))
	}
	return nil
}

// stillHeld returns ErrReleased unless the attachment holds what it held.
func (s *Space) stillHeld(ctx context.Context, held ...ipam.Allocation) error {
	now, err := s.ledger.Lookup(ctx, held[0].Attachment)
	if err != nil {
		return err
	}
	for _, h := range held {
		if !slices.ContainsFunc(now, func(n ipam.Allocation) bool { return n.Address == h.Address && n.Since.Equal(h.Since) }) {
			return fmt.Errorf("%w: %s", ErrReleased, h.Attachment)
		}
	}
	return nil
}

// undoTime is what it may take to undo an Allocate whose own time is over.
const undoTime = 10 * time.Second

// undo frees what an attempt has taken. What can't be freed stays in the ledger
// for Release.
func (s *Space) undo(ctx context.Context, held []ipam.Allocation) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	return s.freeAll(ctx, held)
}
