package ipam

import (
	"cmp"
	"context"
	"math"
	"math/bits"
	"slices"
)

// Usage is how many addresses of a set there are. Numbers that don't fit are the
// largest that does.
type Usage struct{ Taken, Free, Total uint64 }

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
				taken, err := t.held(&set[n])
				if err != nil {
					return err
				}
				usage[i].add(uint64(taken), set[n].size)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return usage, nil
}

func (u *Usage) add(taken, size uint64) {
	free := size
	if size != math.MaxUint64 {
		free -= min(taken, size)
	}
	u.Taken = sumUp(u.Taken, taken)
	u.Free = sumUp(u.Free, free)
	u.Total = sumUp(u.Total, size)
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
func (t *tx) held(s *span) (uint32, error) {
	if t.head.ranges == 0 && t.head.orphans == 0 {
		return 0, nil
	}
	_, r, err := t.activate(s)
	if err != nil {
		return 0, err
	}
	return r.word(atHeld), nil
}
