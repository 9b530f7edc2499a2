package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// Withdraw keeps all addresses from the range's First to its Last from being
// given, whatever ranges requests name and also as fixed ones, until Admit. What
// the range excludes is withdrawn too: others may not exclude it.
//
// While any of them is held it fails with ErrInUse and changes nothing. So a
// block may be given back after Withdraw, although requests may still be on
// their way that name it. To withdraw what is withdrawn already changes nothing.
//
// When more than MaxWithdrawn separate ranges would be, the error is ErrTooMany.
// The owner of the ledger admits what it claimed again, and may admit what no
// request can name any more.
//
// Its time grows with the number of ranges the ledger knows, not with that of
// the addresses, unless some are held in a range that overlaps this one.
func (l *Ledger) Withdraw(ctx context.Context, r Range) error {
	bounds, err := r.bounds()
	if err != nil {
		return err
	}
	return l.do(ctx, "withdraw from", func(t *tx) error { return t.withdraw(bounds) })
}

// Admit lets the addresses from the range's First to its Last be given again. To
// admit what isn't withdrawn changes nothing. To admit the middle of what was
// withdrawn as one leaves two, so that this may fail with ErrTooMany as well.
func (l *Ledger) Admit(ctx context.Context, r Range) error {
	bounds, err := r.bounds()
	if err != nil {
		return err
	}
	return l.do(ctx, "admit to", func(t *tx) error { return t.admit(bounds) })
}

// Withdrawn is what is withdrawn, in ascending order. Ranges that overlap or
// touch each other have become one.
func (l *Ledger) Withdrawn(ctx context.Context) ([]Range, error) {
	var all []Range
	err := l.do(ctx, "read", func(t *tx) error {
		gone, err := t.withdrawn()
		for _, i := range gone {
			all = append(all, Range{First: i.first, Last: i.last})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// withdraw makes all ranges concerned inactive: when one is used again, it gives
// up what it doesn't own any more.
func (t *tx) withdraw(bounds interval) error {
	if err := t.unused(bounds); err != nil {
		return err
	}
	gone, err := t.withdrawn()
	if err != nil {
		return err
	}
	next := merge(append(slices.Clone(gone), bounds))
	if slices.Equal(next, gone) {
		return nil
	}
	err = t.eachRange(func(_ uint32, r *page) {
		if r.bounds().overlaps(bounds) {
			r.set(atState, stateInactive)
		}
	})
	if err != nil {
		return err
	}
	return t.setWithdrawn(next)
}

// admit makes all ranges concerned inactive, as withdraw does, and sets their
// cursors back to what these may have passed over.
func (t *tx) admit(bounds interval) error {
	gone, err := t.withdrawn()
	if err != nil {
		return err
	}
	back := within(gone, bounds)
	if len(back) == 0 {
		return nil
	}
	err = t.eachRange(func(_ uint32, r *page) {
		for _, part := range back {
			if r.bounds().overlaps(part) {
				r.set(atState, stateInactive)
				t.rewind(r, part.first)
			}
		}
	})
	if err != nil {
		return err
	}
	return t.setWithdrawn(without(gone, bounds))
}

// unused fails with ErrInUse when an address is held. The records are read only
// if the counts don't rule that out.
func (t *tx) unused(bounds interval) error {
	possible := t.head.orphans > 0
	err := t.eachRange(func(_ uint32, r *page) {
		possible = possible || (r.word(atHeld) > 0 && r.bounds().overlaps(bounds))
	})
	if err != nil || !possible {
		return err
	}
	var count int
	var one Allocation
	err = t.scan(func(_ uint32, s *slot) error {
		if s.state() != stateTaken || !bounds.contains(s.address(atAddress)) {
			return nil
		}
		if held := s.allocation(); count == 0 || held.Address.Less(one.Address) {
			one = held
		}
		count++
		return nil
	})
	if err != nil || count == 0 {
		return err
	}
	return fmt.Errorf("%w: %d held of %s, among them %s by %s", ErrInUse, count, bounds, one.Address, one.Attachment)
}

// rewind sets a range's cursor back to an address, or to the range's first.
func (t *tx) rewind(r *page, to netip.Addr) {
	if first := r.address(atFirst); to.Less(first) {
		to = first
	}
	if r.slot[atEnd] == 0 && r.address(atCursor).Compare(to) <= 0 {
		return
	}
	t.keepCursor(r)
	r.setAddress(atCursor, to)
	r.slot[atEnd] = 0
}
