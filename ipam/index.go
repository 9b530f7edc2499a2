package ipam

import "net/netip"

// The structures that follow from the records: two hash tables with chains
// through the slots, and a queue of freed records per range.

// link is where a slot keeps the next of a chain.
func (t table) link() int {
	if t == byKey {
		return atKeyNext
	}
	return atAddrNext
}

// chain visits the slots of a bucket until visit returns false. Each slot has to
// belong to the bucket, and there can't be more of them than slots at all: a
// chain that was led astray ends in an error, and so does a cycle.
func (t *tx) chain(in table, bucket uint32, visit func(uint32, *page) bool) error {
	head, err := t.first(in.offset(bucket))
	if err != nil {
		return err
	}
	next := head.now
	for steps := uint32(0); next != 0; steps++ {
		if steps > t.head.slots {
			return corruptf("chain of bucket %d has a cycle", bucket)
		}
		p, err := t.slot(next)
		if err != nil {
			return err
		}
		if (in == byAddress && !p.isRecord()) || (in == byKey && p.state() == stateFree) || p.bucket(in) != bucket {
			return corruptf("slot %d is in the chain of bucket %d, where it doesn't belong", next, bucket)
		}
		if !visit(next, p) {
			return nil
		}
		next = p.word(in.link())
	}
	return nil
}

// insert puts a slot at the head of its chain.
func (t *tx) insert(in table, i uint32, p *page) error {
	head, err := t.first(in.offset(p.bucket(in)))
	if err != nil {
		return err
	}
	p.set(in.link(), head.now)
	head.now = i
	return nil
}

// remove takes a slot out of its chain.
func (t *tx) remove(in table, i uint32, p *page) error {
	bucket := p.bucket(in)
	var before *page
	found := false
	err := t.chain(in, bucket, func(at uint32, q *page) bool {
		if at == i {
			found = true
			return false
		}
		before = q
		return true
	})
	if err != nil {
		return err
	}
	if !found {
		return corruptf("slot %d is missing from the chain of bucket %d", i, bucket)
	}
	if before != nil {
		before.set(in.link(), p.word(in.link()))
	} else {
		t.words[in.offset(bucket)].now = p.word(in.link())
	}
	p.set(in.link(), 0)
	return nil
}

// recordOf finds the record of an address, or 0.
func (t *tx) recordOf(a netip.Addr) (found uint32, record *page, err error) {
	err = t.chain(byAddress, addressBucket(a), func(i uint32, p *page) bool {
		if p.address(atAddress) != a {
			return true
		}
		found, record = i, p
		return false
	})
	return found, record, err
}

// heldBy finds the records that an attachment holds.
func (t *tx) heldBy(key identity) (held []uint32, err error) {
	err = t.chain(byKey, key.bucket(), func(i uint32, p *page) bool {
		if p.state() == stateTaken && p.key() == key {
			held = append(held, i)
		}
		return true
	})
	return held, err
}

// rangeOf finds a range, or 0.
func (t *tx) rangeOf(key identity) (found uint32, r *page, err error) {
	err = t.chain(byKey, key.bucket(), func(i uint32, p *page) bool {
		if !p.isRange() || p.key() != key {
			return true
		}
		found, r = i, p
		return false
	})
	return found, r, err
}

// enqueue makes a free record the most recently freed one of its range.
func (t *tx) enqueue(i uint32, p *page) error {
	p.set(atPrev, 0)
	p.set(atNext, 0)
	if p.word(atOwner) == 0 {
		return nil
	}
	r, err := t.owner(p.word(atOwner))
	if err != nil {
		return err
	}
	if tail := r.word(atTail); tail != 0 {
		last, err := t.queued(tail, p.word(atOwner))
		if err != nil {
			return err
		}
		last.set(atNext, i)
		p.set(atPrev, tail)
	} else {
		r.set(atHead, i)
	}
	r.set(atTail, i)
	r.add(atFreed, 1)
	return nil
}

// dequeue takes a free record out of its range's queue, wherever it is in it.
func (t *tx) dequeue(i uint32, p *page) error {
	owner := p.word(atOwner)
	if owner == 0 {
		return nil
	}
	r, err := t.owner(owner)
	if err != nil {
		return err
	}
	if r.word(atFreed) == 0 {
		return corruptf("slot %d is queued in range %d, which counts none", i, owner)
	}
	prev, next := p.word(atPrev), p.word(atNext)
	if (prev == 0 && r.word(atHead) != i) || (next == 0 && r.word(atTail) != i) {
		return corruptf("slot %d is at no end of the queue of range %d", i, owner)
	}
	if prev == 0 {
		r.set(atHead, next)
	} else if err := t.relink(prev, owner, atNext, i, next); err != nil {
		return err
	}
	if next == 0 {
		r.set(atTail, prev)
	} else if err := t.relink(next, owner, atPrev, i, prev); err != nil {
		return err
	}
	p.set(atPrev, 0)
	p.set(atNext, 0)
	r.add(atFreed, -1)
	return nil
}

// relink makes a neighbour's link, which has to be old, new.
func (t *tx) relink(neighbour, owner uint32, at int, old, to uint32) error {
	q, err := t.queued(neighbour, owner)
	if err != nil {
		return err
	}
	if q.word(at) != old {
		return corruptf("slots %d and %d disagree on being neighbours", neighbour, old)
	}
	q.set(at, to)
	return nil
}

// queued reads a record that has to be in a range's queue.
func (t *tx) queued(i, owner uint32) (*page, error) {
	p, err := t.record(i)
	if err == nil && (p.state() != stateFree || p.word(atOwner) != owner) {
		return nil, corruptf("slot %d is queued in range %d, where it doesn't belong", i, owner)
	}
	return p, err
}
