package ipam

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
)

// Ranges in the ledger. Each record belongs to at most one range, and active
// ranges don't overlap: the definition used last is the one that holds. A range
// that was used before keeps the records that lie outside the new one, until
// these are released, and never gives them out unless it is used again. An active
// range owns no record of an address that is withdrawn: those belong to a range
// that isn't active, or to none.

// activate finds or adds the range s, and makes it the owner of all records of
// addresses that it gives, which are those of open. That takes constant time
// unless the range overlaps another definition, as happens once when a
// configuration is changed, or what was withdrawn of it in part has changed.
func (t *tx) activate(s, open *span) (uint32, *page, error) {
	i, r, err := t.rangeOf(s.identity())
	if err != nil {
		return 0, nil, err
	}
	if i != 0 && r.state() == stateActive {
		return i, r, nil
	}
	overlap, err := t.supersede(s, i)
	if err != nil {
		return 0, nil, err
	}
	if i == 0 {
		if i, r, err = t.addRange(s); err != nil {
			return 0, nil, err
		}
	}
	r.set(atState, stateActive)
	t.activated = append(t.activated, *s)
	if overlap || t.head.orphans > 0 || open != s {
		err = t.adopt(open, i, r)
	}
	return i, r, err
}

// addRange appends a range that owns nothing.
func (t *tx) addRange(s *span) (uint32, *page, error) {
	i, r, err := t.extend()
	if err != nil {
		return 0, nil, err
	}
	key := s.identity()
	copy(r.slot[atKey:], key[:])
	r.set(atState, stateInactive)
	r.setAddress(atFirst, s.first)
	r.setAddress(atLast, s.last)
	r.setAddress(atCursor, s.first)
	r.setAddress(atCursorPrev, s.first)
	r.set(atOlder, t.head.ranges)
	t.head.ranges = i
	return i, r, t.insert(byKey, i, r)
}

// supersede makes all ranges but self that overlap s inactive, and says whether
// there are any, active or not.
func (t *tx) supersede(s *span, self uint32) (overlap bool, err error) {
	err = t.eachRange(func(i uint32, r *page) {
		if i != self && s.overlaps(r.bounds()) {
			overlap = true
			r.set(atState, stateInactive)
		}
	})
	return overlap, err
}

// eachRange visits all ranges, the newest first.
func (t *tx) eachRange(visit func(i uint32, r *page)) error {
	next := t.head.ranges
	for steps := uint32(0); next != 0; steps++ {
		if steps > t.head.slots {
			return corruptf("chain of ranges has a cycle")
		}
		r, err := t.owner(next)
		if err != nil {
			return err
		}
		visit(next, r)
		next = r.word(atOlder)
	}
	return nil
}

// adopt makes the range the owner of all records that it gives and of no other,
// and queues the free ones in the order in which they were freed.
func (t *tx) adopt(s *span, owner uint32, r *page) error {
	type freed struct {
		i  uint32
		p  *page
		op uint64
	}
	var free []freed
	err := t.scan(func(i uint32, p *slot) error {
		if !p.isRecord() {
			return nil
		}
		if !s.gives(p.address(atAddress)) {
			if p.word(atOwner) != owner {
				return nil
			}
			return t.disown(i, t.take(i, p))
		}
		record := t.take(i, p)
		if record.state() == stateFree {
			if err := t.dequeue(i, record); err != nil {
				return err
			}
			free = append(free, freed{i, record, record.long(atFreedOp)})
		} else if err := t.moveHeld(record, r); err != nil {
			return err
		}
		if record.word(atOwner) == 0 {
			if t.head.orphans == 0 {
				return corruptf("header counts none of the records without a range")
			}
			t.head.orphans--
		}
		record.set(atOwner, owner)
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(free, func(a, b freed) int { return cmp.Or(cmp.Compare(a.op, b.op), cmp.Compare(a.i, b.i)) })
	for _, f := range free {
		if err := t.enqueue(f.i, f.p); err != nil {
			return err
		}
	}
	return nil
}

// disown makes a record belong to no range.
func (t *tx) disown(i uint32, record *page) (err error) {
	if record.state() == stateFree {
		err = t.dequeue(i, record)
	} else {
		err = t.countHeld(record, -1)
	}
	record.set(atOwner, 0)
	t.head.orphans++
	return err
}

// moveHeld counts a taken record for another range.
func (t *tx) moveHeld(record, to *page) error {
	if err := t.countHeld(record, -1); err != nil {
		return err
	}
	to.add(atHeld, 1)
	return nil
}

// countHeld changes the number of taken records of the record's range.
func (t *tx) countHeld(record *page, delta int) error {
	if record.word(atOwner) == 0 {
		return nil
	}
	r, err := t.owner(record.word(atOwner))
	if err != nil {
		return err
	}
	if delta < 0 && r.word(atHeld) == 0 {
		return corruptf("range %d counts none of the addresses that it holds", record.word(atOwner))
	}
	r.add(atHeld, delta)
	return nil
}

// keepCursor notes what the cursor was before this operation moves it.
func (t *tx) keepCursor(r *page) {
	if r.long(atCursorOp) == t.op {
		return
	}
	r.setLong(atCursorOp, t.op)
	copy(r.slot[atCursorPrev:atCursorOp], r.slot[atCursor:atCursorPrev])
	r.slot[atEndPrev] = r.slot[atEnd]
}

// advance moves the range's cursor to the next address that was never given, and
// past it. Each address is passed once, so this is constant time on average; and
// it isn't begun when the counts say that there is none.
func (t *tx) advance(s *span, r *page) (netip.Addr, bool, error) {
	if r.slot[atEnd] != 0 || (s.size != math.MaxUint64 && uint64(r.word(atHeld))+uint64(r.word(atFreed)) >= s.size) {
		return netip.Addr{}, false, nil
	}
	t.keepCursor(r)
	at := r.address(atCursor)
	if !s.contains(at) {
		return netip.Addr{}, false, corruptf("cursor %s of range %s is outside", at, s)
	}
	for {
		var given bool
		if hole, excluded := s.hole(at); excluded {
			at, given = hole.last, true
		} else if i, _, err := t.recordOf(at); err != nil {
			return netip.Addr{}, false, err
		} else {
			given = i != 0
		}
		ended := at == s.last
		if ended {
			r.slot[atEnd] = 1
		} else {
			r.setAddress(atCursor, at.Next())
		}
		if !given {
			return at, true, nil
		}
		if ended {
			return netip.Addr{}, false, nil
		}
		at = at.Next()
	}
}
