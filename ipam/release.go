package ipam

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// Release frees what the attachment holds and returns it. An attachment that
// holds nothing is no error.
func (l *Ledger) Release(ctx context.Context, a Attachment) ([]netip.Addr, error) {
	if err := a.validate(); err != nil {
		return nil, err
	}
	var freed []netip.Addr
	err := l.do(ctx, "release in", func(t *tx) error {
		held, err := t.heldBy(a.identity())
		if err != nil || len(held) == 0 {
			return err
		}
		if freed, err = t.addresses(held); err != nil {
			return err
		}
		slices.Sort(held)
		return t.free(held, l.opts.Now())
	})
	if err != nil {
		return nil, err
	}
	return freed, nil
}

// ReleaseIf frees one address if it is still held as the allocation says, by the
// same attachment since the same time and with the same Elsewhere, and says
// whether it did. Who looked at the
// ledger some time ago frees with it what he saw, and never what was taken since.
func (l *Ledger) ReleaseIf(ctx context.Context, seen Allocation) (bool, error) {
	if err := seen.validate(); err != nil {
		return false, err
	}
	a := seen.Address.Unmap()
	if !a.IsValid() || a.Zone() != "" {
		return false, invalidf("address %q of %s", a, seen.Attachment)
	}
	freed := false
	err := l.do(ctx, "release in", func(t *tx) error {
		i, p, err := t.recordOf(a)
		if err != nil || i == 0 || !p.heldAs(seen) {
			return err
		}
		freed = true
		return t.free([]uint32{i}, l.opts.Now())
	})
	return freed && err == nil, err
}

// heldAs says whether a record is taken as an allocation says. One that was cut
// is compared as far as it goes; its time tells it from others of that name.
func (s *slot) heldAs(seen Allocation) bool {
	if s.state() != stateTaken || s.elsewhere() != seen.Elsewhere || int64(s.long(atSince)) != seen.Since.UnixNano() {
		return false
	}
	if !seen.Truncated {
		return s.key() == seen.identity()
	}
	now := s.allocation()
	return now.Truncated && now.Attachment == seen.Attachment
}

// Retain frees everything that isn't held by one of the attachments in keep, and
// returns what it freed. It reads all records. Container IDs in keep have to be
// whole: one that the ledger cut is another ID.
func (l *Ledger) Retain(ctx context.Context, keep []Attachment) ([]Allocation, error) {
	wanted := make(map[identity]struct{}, len(keep))
	for _, a := range keep {
		if err := a.validate(); err != nil {
			return nil, err
		}
		wanted[a.identity()] = struct{}{}
	}
	var freed []Allocation
	err := l.do(ctx, "clean", func(t *tx) error {
		var stale []uint32
		err := t.scan(func(i uint32, s *slot) error {
			if s.state() != stateTaken {
				return nil
			}
			if _, ok := wanted[s.key()]; ok {
				return nil
			}
			stale = append(stale, i)
			freed = append(freed, s.allocation())
			t.take(i, s)
			return nil
		})
		if err != nil {
			return err
		}
		return t.free(stale, l.opts.Now())
	})
	if err != nil {
		return nil, err
	}
	sortAllocations(freed)
	return freed, nil
}

// free frees taken records, which have to be in ascending order: that is how
// those freed by one operation are queued.
func (t *tx) free(records []uint32, now time.Time) error {
	for _, i := range records {
		p, err := t.record(i)
		if err != nil {
			return err
		}
		if err := t.remove(byKey, i, p); err != nil {
			return err
		}
		if err := t.countHeld(p, -1); err != nil {
			return err
		}
		if t.head.taken == 0 {
			return corruptf("header counts none of the taken addresses")
		}
		t.head.taken--
		p.setLong(atFreedOp, t.op)
		p.setLong(atFreedAt, uint64(now.UnixNano()))
		p.set(atState, stateFree)
		if err := t.enqueue(i, p); err != nil {
			return err
		}
	}
	return nil
}
