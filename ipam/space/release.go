package space

import (
	"context"
	"errors"
	"net/netip"

	"github.com/overlay-cni/overlay-cni/ipam"
)

// Release frees what the attachment holds and returns it. An attachment that
// holds nothing is no error, and costs nothing but a look into the ledger.
func (s *Space) Release(ctx context.Context, a ipam.Attachment) ([]netip.Addr, error) {
	held, err := s.ledger.Lookup(ctx, a)
	if err != nil {
		return nil, err
	}
	if err := s.freeAll(ctx, held); err != nil {
		return nil, err
	}
	var freed []netip.Addr
	for _, h := range held {
		freed = append(freed, h.Address)
	}
	return freed, nil
}

func (s *Space) freeAll(ctx context.Context, held []ipam.Allocation) error {
	var errs []error
	for _, h := range held {
		errs = append(errs, s.free(ctx, h))
	}
	return errors.Join(errs...)
}

// free frees one address as it was seen in the ledger, and nothing that was taken
// since: the store first. If the store has no claim, an Allocate may be about to
// make one. Whether it has is certain when the ledger has forgotten the address,
// for from then on that Allocate finds out and undoes it.
func (s *Space) free(ctx context.Context, h ipam.Allocation) error {
	was, err := s.unclaim(ctx, h)
	if err != nil {
		return err
	}
	if _, err := s.ledger.ReleaseIf(ctx, h); err != nil || was {
		return err
	}
	_, err = s.unclaim(ctx, h)
	return err
}

// unclaim deletes the claim that belongs to what the ledger holds, and says
// whether there was one.
func (s *Space) unclaim(ctx context.Context, h ipam.Allocation) (bool, error) {
	c, err := s.get(ctx, h.Address)
	if err != nil || !s.own(c, h) {
		return false, err
	}
	_, err = remove(ctx, s.store, s.name, c)
	return true, err
}

// Collect frees what is held by no attachment in keep, and sweeps. Leftovers go
// also where their attachment is in keep: it doesn't live in the boot or under
// the machine's ledger that they are of, or the ledger would know it.
func (s *Space) Collect(ctx context.Context, keep []ipam.Attachment) error {
	held, err := s.ledger.All(ctx)
	if err != nil {
		return err
	}
	wanted := make(map[ipam.Attachment]bool, len(keep))
	for _, a := range keep {
		wanted[cut(a)] = true
	}
	var stale []ipam.Allocation
	for _, h := range held {
		if !wanted[h.Attachment] {
			stale = append(stale, h)
		}
	}
	return errors.Join(s.freeAll(ctx, stale), s.Sweep(ctx))
}

// cut names an attachment as a ledger lists it. Of two that it can't tell apart
// either is kept for the other's sake.
func cut(a ipam.Attachment) ipam.Attachment {
	a.ContainerID = a.ContainerID[:min(len(a.ContainerID), ipam.InlineContainerID)]
	return a
}

// Sweep deletes this machine's leftovers: claims that its ledger doesn't know.
func (s *Space) Sweep(ctx context.Context) error {
	v, err := s.look(ctx)
	if err != nil {
		return err
	}
	return s.clear(ctx, v.leftovers(s.machine))
}

func (s *Space) clear(ctx context.Context, leftovers []Claim) error {
	var errs []error
	for i := range leftovers {
		_, err := remove(ctx, s.store, s.name, &leftovers[i])
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// view is what store and ledger say.
type view struct {
	claims []Claim
	held   map[netip.Addr]ipam.Allocation
}

// look reads the store first and the ledger after, so that a claim which isn't a
// leftover has its place in the ledger: what was in the store was in the ledger
// before.
func (s *Space) look(ctx context.Context) (*view, error) {
	claims, err := Claims(ctx, s.store, s.name)
	if err != nil {
		return nil, err
	}
	held, err := s.ledger.All(ctx)
	if err != nil {
		return nil, err
	}
	v := &view{claims, make(map[netip.Addr]ipam.Allocation, len(held))}
	for _, h := range held {
		v.held[h.Address] = h
	}
	return v, nil
}

// leftover says whether a claim is the machine's, and its ledger doesn't know it.
func (v *view) leftover(c *Claim, m Machine) bool {
	h, ok := v.held[c.Address]
	return c.is(m) && (!ok || c.Boot != m.Boot || !c.matches(h))
}

func (v *view) leftovers(m Machine) []Claim {
	var found []Claim
	for i := range v.claims {
		if v.leftover(&v.claims[i], m) {
			found = append(found, v.claims[i])
		}
	}
	return found
}

// taken is every address that the machine can't have: other claims, and what is
// held by its ledger.
func (v *view) taken(m Machine) map[netip.Addr]bool {
	taken := make(map[netip.Addr]bool, len(v.claims)+len(v.held))
	for i := range v.claims {
		if c := &v.claims[i]; !v.leftover(c, m) {
			taken[c.Address] = true
		}
	}
	for a := range v.held {
		taken[a] = true
	}
	return taken
}
