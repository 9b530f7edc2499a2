package ipam

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
)

// Verify reads the whole ledger and says, with ErrCorrupt, where what is derived
// disagrees with the records. Operations don't need it; a doctor and tests do.
func (l *Ledger) Verify(ctx context.Context) error {
	return l.do(ctx, "verify", func(t *tx) error { return (&verifier{tx: t}).run() })
}

// verifier counts what it finds in the records, then walks the structures and
// takes off what it finds there.
type verifier struct {
	*tx
	ranges []uint32
	held   map[uint32]uint32 // by range
	freed  map[uint32]uint32
	gone   map[uint32]netip.Addr // withdrawn addresses, one by range
	keyed  int                   // slots that have to be found by identity
	placed int                   // slots that have to be found by address
}

func (v *verifier) run() error {
	v.held, v.freed, v.gone = make(map[uint32]uint32), make(map[uint32]uint32), make(map[uint32]netip.Addr)
	seen := make(map[netip.Addr]uint32)
	err := v.scan(func(i uint32, s *slot) error {
		if s.isRange() {
			v.ranges = append(v.ranges, i)
			v.keyed++
			return nil
		}
		a := s.address(atAddress)
		if other, ok := seen[a]; ok {
			return corruptf("slots %d and %d are both of %s", other, i, a)
		}
		seen[a] = i
		v.placed++
		if s.state() == stateTaken {
			v.keyed++
			v.held[s.word(atOwner)]++
		} else {
			v.freed[s.word(atOwner)]++
		}
		if op := max(s.long(atTakenOp), s.long(atFreedOp)); op > v.was.committed {
			return corruptf("slot %d is of operation %d; the last one was %d", i, op, v.was.committed)
		}
		return v.withdrawal(s, a)
	})
	if err != nil {
		return err
	}
	for _, check := range []func() error{v.header, v.chains, v.owners} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// withdrawal notes the range of a withdrawn address, which may not be held unless
// it was when the ledger was rebuilt.
func (v *verifier) withdrawal(s *slot, a netip.Addr) error {
	withdrawn, err := v.isWithdrawn(a)
	if err != nil || !withdrawn {
		return err
	}
	if s.state() == stateTaken && s.long(atTakenOp) > rebuiltOp {
		return corruptf("%s is withdrawn and held", a)
	}
	v.gone[s.word(atOwner)] = a
	return nil
}

func (v *verifier) header() error {
	var taken uint32
	for _, n := range v.held {
		taken += n
	}
	if taken != v.head.taken {
		return corruptf("header counts %d taken addresses; there are %d", v.head.taken, taken)
	}
	if orphans := v.held[0] + v.freed[0]; orphans != v.head.orphans {
		return corruptf("header counts %d records without a range; there are %d", v.head.orphans, orphans)
	}
	return nil
}

// chains finds every slot in its chain, and no slot twice.
func (v *verifier) chains() error {
	for in, want := range map[table]int{byKey: v.keyed, byAddress: v.placed} {
		found := make(map[uint32]bool, want)
		heads, err := v.heads(in)
		if err != nil {
			return err
		}
		for _, bucket := range heads {
			twice := uint32(0)
			err := v.chain(in, bucket, func(i uint32, _ *page) bool {
				if found[i] {
					twice = i
				}
				found[i] = true
				return twice == 0
			})
			if err != nil {
				return err
			}
			if twice != 0 {
				return corruptf("slot %d is in chains twice", twice)
			}
		}
		if len(found) != want {
			return corruptf("table at %d leads to %d slots of %d", in, len(found), want)
		}
	}
	return nil
}

// heads is the buckets of a table that aren't empty.
func (v *verifier) heads(in table) ([]uint32, error) {
	var heads []uint32
	b, empty := make([]byte, 4*headerSize), make([]byte, headerSize)
	for from := 0; from < tableSize; from += len(b) {
		if _, err := v.f.ReadAt(b, int64(in)+int64(from)); err != nil {
			return nil, fmt.Errorf("read table: %w", err)
		}
		for at := 0; at < len(b); at += headerSize {
			if bytes.Equal(b[at:at+headerSize], empty) {
				continue // most are
			}
			for n := at; n < at+headerSize; n += 4 {
				if le.Uint32(b[n:]) != 0 {
					heads = append(heads, uint32((from+n)/4))
				}
			}
		}
	}
	return heads, nil
}

// owners walks the ranges and their queues.
func (v *verifier) owners() error {
	listed := 0
	var active []interval
	for i := v.head.ranges; i != 0; listed++ {
		r, err := v.owner(i)
		if err != nil {
			return err
		}
		if listed > len(v.ranges) {
			return corruptf("chain of ranges has a cycle")
		}
		if r.word(atHeld) != v.held[i] || r.word(atFreed) != v.freed[i] {
			return corruptf("range %d counts %d held and %d free; there are %d and %d",
				i, r.word(atHeld), r.word(atFreed), v.held[i], v.freed[i])
		}
		if err := v.queue(i, r); err != nil {
			return err
		}
		if a, ok := v.gone[i]; ok && r.state() == stateActive {
			return corruptf("active range %d owns %s, which is withdrawn", i, a)
		}
		if r.state() == stateActive {
			for _, other := range active {
				if other.overlaps(r.bounds()) {
					return corruptf("active range %d overlaps another", i)
				}
			}
			active = append(active, r.bounds())
		}
		i = r.word(atOlder)
	}
	if listed != len(v.ranges) {
		return corruptf("%d ranges are listed; there are %d", listed, len(v.ranges))
	}
	return nil
}

// queue walks the free records of a range, which have to be in the order in
// which they were freed.
func (v *verifier) queue(owner uint32, r *page) error {
	var count, before uint32
	var op uint64
	for i := r.word(atHead); i != 0; count++ {
		if count > r.word(atFreed) {
			return corruptf("queue of range %d has a cycle", owner)
		}
		p, err := v.queued(i, owner)
		if err != nil {
			return err
		}
		if p.word(atPrev) != before {
			return corruptf("slot %d doesn't know the one before it", i)
		}
		if p.long(atFreedOp) < op {
			return corruptf("slot %d was freed before the one before it", i)
		}
		if !r.bounds().contains(p.address(atAddress)) {
			return corruptf("slot %d is outside its range", i)
		}
		op, before, i = p.long(atFreedOp), i, p.word(atNext)
	}
	if before != r.word(atTail) || count != r.word(atFreed) {
		return corruptf("queue of range %d ends at slot %d after %d", owner, before, count)
	}
	return nil
}
