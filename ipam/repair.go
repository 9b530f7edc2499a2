package ipam

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// image is all of a ledger in memory, for the one case in which all of it is
// read: its last operation didn't end.
type image struct {
	head   header
	arena  []byte
	keys   []byte // the table by identity
	byAddr []byte
	seen   map[netip.Addr]uint32
	free   map[uint32][]uint32 // by range
}

// repair undoes the operation that didn't end and derives the rest from the
// records. Nothing that it reads depends on what it writes, so that it may be
// killed and repeated.
func repair(f file, head header) (header, error) {
	if err := f.Truncate(slotOffset(head.slots + 1)); err != nil {
		return header{}, fmt.Errorf("truncate: %w", err)
	}
	old := make([]byte, slotSize*int(head.slots))
	if _, err := f.ReadAt(old, arenaOffset); err != nil {
		return header{}, fmt.Errorf("read slots: %w", err)
	}
	m := &image{
		head: head, arena: bytes.Clone(old), keys: make([]byte, tableSize), byAddr: make([]byte, tableSize),
		seen: make(map[netip.Addr]uint32, head.slots), free: make(map[uint32][]uint32),
	}
	if err := m.derive(); err != nil {
		return header{}, err
	}
	if err := m.writeArena(f, old); err != nil {
		return header{}, err
	}
	for t, b := range map[table][]byte{byKey: m.keys, byAddress: m.byAddr} {
		if err := writeTable(f, int64(t), b); err != nil {
			return header{}, err
		}
	}
	if _, err := f.WriteAt(m.head.encode(), dynamicOffset); err != nil {
		return header{}, fmt.Errorf("write header: %w", err)
	}
	return m.head, nil
}

func (m *image) slot(i uint32) *slot { return (*slot)(m.arena[slotSize*(i-1):]) }

// derive computes all that isn't truth. The number of the operation that didn't
// end is used up, so that what it left in records can't be taken for the next
// operation's.
func (m *image) derive() error {
	committed := m.head.committed
	m.head = header{slots: m.head.slots, committed: committed + 1, withdrawn: m.head.withdrawn}
	for i := uint32(1); i <= m.head.slots; i++ {
		s := m.slot(i)
		if err := s.check(i); err != nil {
			return err
		}
		if s.isRange() {
			if err := m.resetRange(i, s, committed); err != nil {
				return err
			}
		} else if err := rollBack(i, s, committed); err != nil {
			return err
		}
	}
	for i := uint32(1); i <= m.head.slots; i++ {
		if s := m.slot(i); s.isRecord() {
			if err := m.enter(i, s); err != nil {
				return err
			}
		}
	}
	for owner, records := range m.free {
		m.queue(m.slot(owner), records)
	}
	return nil
}

// rollBack makes a record what it was before the operation that didn't end.
func rollBack(i uint32, s *slot, committed uint64) error {
	taken, freed := s.long(atTakenOp), s.long(atFreedOp)
	if max(taken, freed) > committed+1 {
		return corruptf("slot %d is of operation %d; the last one was %d", i, max(taken, freed), committed)
	}
	switch {
	case s.state() == stateTaken && taken > committed:
		s.set(atState, stateFree)
	case s.state() == stateFree && freed > committed:
		s.set(atState, stateTaken)
	}
	return nil
}

// resetRange makes a range own nothing yet, and inactive: whether it had adopted
// all that it should is found out when it is used again.
func (m *image) resetRange(i uint32, r *slot, committed uint64) error {
	if op := r.long(atCursorOp); op > committed+1 {
		return corruptf("slot %d is of operation %d; the last one was %d", i, op, committed)
	} else if op > committed {
		copy(r[atCursor:atCursorPrev], r[atCursorPrev:atCursorOp])
		r[atEnd] = r[atEndPrev]
		r.setLong(atCursorOp, committed)
		r.seal()
	}
	for _, at := range []int{atHead, atTail, atHeld, atFreed} {
		r.set(at, 0)
	}
	r.set(atState, stateInactive)
	r.set(atOlder, m.head.ranges)
	m.head.ranges = i
	m.chain(m.keys, byKey, i, r)
	return nil
}

// enter puts a record where it belongs.
func (m *image) enter(i uint32, s *slot) error {
	a := s.address(atAddress)
	if other, ok := m.seen[a]; ok {
		return corruptf("slots %d and %d are both of %s", other, i, a)
	}
	m.seen[a] = i
	m.chain(m.byAddr, byAddress, i, s)
	s.set(atPrev, 0)
	s.set(atNext, 0)
	owner := s.word(atOwner)
	if owner > m.head.slots || owner == 0 || !m.slot(owner).isRange() {
		// The range was added by the operation that didn't end, or there was none.
		owner = 0
		s.set(atOwner, 0)
		m.head.orphans++
	}
	if s.state() == stateFree {
		s.set(atKeyNext, 0)
		if owner != 0 {
			m.free[owner] = append(m.free[owner], i)
		}
		return nil
	}
	m.chain(m.keys, byKey, i, s)
	m.head.taken++
	if owner != 0 {
		m.slot(owner).add(atHeld, 1)
	}
	return nil
}

func (m *image) chain(heads []byte, t table, i uint32, s *slot) {
	head := heads[4*s.bucket(t):]
	s.set(t.link(), le.Uint32(head))
	le.PutUint32(head, i)
}

// queue links a range's free records in the order in which they were freed.
func (m *image) queue(r *slot, records []uint32) {
	slices.SortFunc(records, func(a, b uint32) int {
		return cmp.Or(cmp.Compare(m.slot(a).long(atFreedOp), m.slot(b).long(atFreedOp)), cmp.Compare(a, b))
	})
	for n, i := range records {
		if n > 0 {
			m.slot(i).set(atPrev, records[n-1])
			m.slot(records[n-1]).set(atNext, i)
		}
	}
	r.set(atHead, records[0])
	r.set(atTail, records[len(records)-1])
	r.set(atFreed, uint32(len(records)))
}

// writeArena writes the slots that changed, neighbours in one write.
func (m *image) writeArena(f file, old []byte) error {
	same := func(at int) bool { return bytes.Equal(m.arena[at:at+slotSize], old[at:at+slotSize]) }
	for from := 0; from < len(old); from += slotSize {
		if same(from) {
			continue
		}
		to := from + slotSize
		for to < len(old) && !same(to) {
			to += slotSize
		}
		if _, err := f.WriteAt(m.arena[from:to], arenaOffset+int64(from)); err != nil {
			return fmt.Errorf("write slots: %w", err)
		}
		from = to
	}
	return nil
}

// writeTable writes the pages of a table that changed: the others may be holes
// that the disk has no room for.
func writeTable(f file, at int64, b []byte) error {
	old := make([]byte, len(b))
	if _, err := f.ReadAt(old, at); err != nil {
		return fmt.Errorf("read table: %w", err)
	}
	for page := 0; page < len(b); page += headerSize {
		if bytes.Equal(old[page:page+headerSize], b[page:page+headerSize]) {
			continue
		}
		if _, err := f.WriteAt(b[page:page+headerSize], at+int64(page)); err != nil {
			return fmt.Errorf("write table: %w", err)
		}
	}
	return nil
}
