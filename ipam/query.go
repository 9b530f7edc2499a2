package ipam

import (
	"cmp"
	"context"
	"math"
	"math/bits"
	"slices"
)

// Usage is how many addresses of a set there are: taken, withdrawn, or free. One
// that is withdrawn counts as that only, also when it is held, which can be after
// a Rebuild. Numbers that don't fit are the largest that does.
type Usage struct{ Taken, Free, Total, Withdrawn uint64 }

// Lookup is what the attachment holds, in the order of the sets it came from.
func (l *Ledger) Lookup(ctx context.Context, a Attachment) ([]Allocation, error) {
	if err := a.validate(); err != nil {
		return nil, err
	}
	var found []Allocation
	err := l.do(ctx, "read", func(t *tx) error {
		held, err := t.heldBy(a.identity())
		if err != nil {
			return err
		}
		slices.SortFunc(held, func(i, j uint32) int {
			return cmp.Compare(t.slots[i].slot[atPosition], t.slots[j].slot[atPosition])
		})
		for _, i := range held {
			allocation := t.slots[i].allocation()
			allocation.Attachment, allocation.Truncated = a, false
			found = append(found, allocation)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// All is every address that is held, in ascending order. It reads all records.
func (l *Ledger) All(ctx context.Context) ([]Allocation, error) {
	var all []Allocation
	err := l.do(ctx, "read", func(t *tx) error {
		return t.scan(func(_ uint32, s *slot) error {
			if s.state() == stateTaken {
				all = append(all, s.allocation())
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	sortAllocations(all)
	return all, nil
}

func sortAllocations(all []Allocation) {
	slices.SortFunc(all, func(a, b Allocation) int { return a.Address.Compare(b.Address) })
}

// Usage counts the addresses of each set, so that whether one more attachment
// can be served is whether every set has one free. Its time grows with the
// number of ranges only.
func (l *Ledger) Usage(ctx context.Context, sets []RangeSet) ([]Usage, error) {
	parsed, err := parseSets(sets)
	if err != nil {
		return nil, err
	}
	usage := make([]Usage, len(parsed))
	err = l.do(ctx, "count in", func(t *tx) error {
		for i, set := range parsed {
			for n := range set {
				open, err := t.open(&set[n])
				if err != nil {
					return err
				}
				taken, err := t.held(&set[n], open)
				if err != nil {
					return err
				}
				usage[i].add(uint64(taken), &set[n], open)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return usage, nil
}

func (u *Usage) add(taken uint64, s, open *span) {
	free := open.size
	if free != math.MaxUint64 {
		free -= min(taken, free)
	}
	u.Taken = sumUp(u.Taken, taken)
	u.Free = sumUp(u.Free, free)
	u.Total = sumUp(u.Total, s.size)
	if open != s {
		hi, lo := s.extent()
		openHi, openLo := open.extent()
		withdrawn, borrow := bits.Sub64(lo, openLo, 0)
		if hi, _ = bits.Sub64(hi, openHi, borrow); hi != 0 {
			withdrawn = math.MaxUint64
		}
		u.Withdrawn = sumUp(u.Withdrawn, withdrawn)
	}
}

func sumUp(a, b uint64) uint64 {
	sum, carry := bits.Add64(a, b, 0)
	if carry != 0 {
		return math.MaxUint64
	}
	return sum
}

// held counts the taken addresses of a range. One that the ledger doesn't know
// and that nothing in it can overlap isn't added, so that to ask writes nothing.
func (t *tx) held(s, open *span) (uint32, error) {
	if open.size == 0 || (t.head.ranges == 0 && t.head.orphans == 0) {
		return 0, nil
	}
	_, r, err := t.activate(s, open)
	if err != nil {
		return 0, err
	}
	return r.word(atHeld), nil
}
