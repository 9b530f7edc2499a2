package ipam

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// reuseAfter bounds the ledger of a range that is never exhausted: when that
// many of its addresses wait to be given again, the one that waited longest is
// preferred to one that was never given. Ranges that aren't larger than
// largeRange give all their addresses once before they give one again.
const (
	reuseAfter = 4096
	largeRange = 1 << 16
)

func (s *span) large() bool { return s.size > largeRange }

// Allocate takes one address from each set of the request, all or none, and
// returns them in the order of the sets.
//
// An attachment that already holds addresses gets these again when they are one
// from each set, agree with the fixed ones, and were requested with the same
// Elsewhere; otherwise the error is ErrHeld.
//
// A set gives from the first of its ranges that has an address free. So the later
// ones stay empty while the earlier ones do, and fall empty first; of a node's
// blocks, name the oldest first. Within a range, addresses that were never given
// come first, in ascending order, then the one that was released first. One that
// was released within the cooldown comes only when its whole set has nothing else,
// the one that was released first, from whichever range: a range of which all that
// is free was just released is passed over for a later one. Fixed addresses don't
// wait.
//
// Addresses that are withdrawn are passed over, and as fixed ones refused with
// ErrWithdrawn. An attachment that holds one gets it again all the same.
func (l *Ledger) Allocate(ctx context.Context, req Request) ([]netip.Addr, error) {
	o, err := req.parse()
	if err != nil {
		return nil, err
	}
	var got []netip.Addr
	var activated []span
	err = l.do(ctx, "allocate from", func(t *tx) error {
		got, err = t.allocate(o, l.opts.Now(), l.opts.Cooldown)
		activated = t.activated
		return err
	})
	if errors.Is(err, ErrFull) && len(activated) > 0 {
		// What it took to learn that nothing is free shouldn't have to be done again.
		err = errors.Join(err, l.settle(ctx, activated))
	}
	if err != nil {
		return nil, err
	}
	return got, nil
}

// settle makes ranges active.
func (l *Ledger) settle(ctx context.Context, spans []span) error {
	return l.do(ctx, "add ranges to", func(t *tx) error {
		for i := range spans {
			open, err := t.open(&spans[i])
			if err != nil {
				return err
			}
			if open.size == 0 {
				continue
			}
			if _, _, err := t.activate(&spans[i], open); err != nil {
				return err
			}
		}
		return nil
	})
}

func (t *tx) allocate(o *order, now time.Time, cooldown time.Duration) ([]netip.Addr, error) {
	held, err := t.heldBy(o.key)
	if err != nil {
		return nil, err
	}
	if len(held) > 0 {
		return t.again(o, held)
	}
	got := make([]netip.Addr, 0, len(o.sets))
	for position, set := range o.sets {
		var i uint32
		var err error
		if fixed := o.fixed[position]; fixed.IsValid() {
			i, err = t.pickFixed(set, fixed)
		} else {
			i, err = t.pick(set, now, cooldown)
		}
		if err != nil {
			return nil, err
		}
		p, err := t.hold(i, o, position, now)
		if err != nil {
			return nil, err
		}
		got = append(got, p.address(atAddress))
	}
	return got, nil
}

// again answers a request of an attachment that holds addresses.
func (t *tx) again(o *order, held []uint32) ([]netip.Addr, error) {
	addresses, err := t.addresses(held)
	if err != nil {
		return nil, err
	}
	got := make([]netip.Addr, 0, len(o.sets))
	for position, set := range o.sets {
		at := slices.IndexFunc(addresses, func(a netip.Addr) bool { return spanOf(set, a) >= 0 })
		if at < 0 || (o.fixed[position].IsValid() && o.fixed[position] != addresses[at]) {
			break
		}
		got = append(got, addresses[at])
	}
	if len(got) != len(o.sets) || len(got) != len(addresses) {
		return nil, fmt.Errorf("%w: %s holds %v", ErrHeld, o.attachment, addresses)
	}
	for _, i := range held {
		if t.slots[i].elsewhere() != o.elsewhere {
			return nil, fmt.Errorf("%w: %s holds %v with elsewhere %t, not %t",
				ErrHeld, o.attachment, addresses, !o.elsewhere, o.elsewhere)
		}
	}
	return got, nil
}

// addresses of records, in the order of the sets that they came from.
func (t *tx) addresses(records []uint32) ([]netip.Addr, error) {
	pages := make([]*page, 0, len(records))
	for _, i := range records {
		p, err := t.record(i)
		if err != nil {
			return nil, err
		}
		pages = append(pages, p)
	}
	slices.SortFunc(pages, func(a, b *page) int { return cmp.Compare(a.slot[atPosition], b.slot[atPosition]) })
	addresses := make([]netip.Addr, 0, len(pages))
	for _, p := range pages {
		addresses = append(addresses, p.address(atAddress))
	}
	return addresses, nil
}

// pickFixed finds or makes the record of a fixed address, which has to be free.
func (t *tx) pickFixed(set []span, a netip.Addr) (uint32, error) {
	s := &set[spanOf(set, a)]
	open, err := t.open(s)
	if err != nil {
		return 0, err
	}
	if !open.gives(a) {
		return 0, fmt.Errorf("%s is %w", a, ErrWithdrawn)
	}
	owner, _, err := t.activate(s, open)
	if err != nil {
		return 0, err
	}
	i, p, err := t.recordOf(a)
	switch {
	case err != nil:
		return 0, err
	case i == 0:
		return t.addRecord(a, owner)
	case p.state() == stateTaken:
		return 0, fmt.Errorf("%w: %s by %s", ErrTaken, a, p.allocation().Attachment)
	}
	return i, nil
}

// pick finds or makes the record of the address that the set gives next.
func (t *tx) pick(set []span, now time.Time, cooldown time.Duration) (uint32, error) {
	var eldest *page
	var eldestAt uint32
	withdrawn := 0
	for n := range set {
		s := &set[n]
		open, err := t.open(s)
		if err != nil {
			return 0, err
		}
		if open != s {
			withdrawn++
		}
		if open.size == 0 {
			continue
		}
		owner, r, err := t.activate(s, open)
		if err != nil {
			return 0, err
		}
		i, p, err := t.eldest(owner, r)
		if err != nil {
			return 0, err
		}
		ripe := i != 0 && (cooldown <= 0 || now.Sub(time.Unix(0, int64(p.long(atFreedAt)))) >= cooldown)
		if ripe && s.large() && r.word(atFreed) >= reuseAfter {
			return i, nil
		}
		a, ok, err := t.advance(open, r)
		switch {
		case err != nil:
			return 0, err
		case ok:
			return t.addRecord(a, owner)
		case ripe:
			return i, nil
		case i != 0 && (eldest == nil || freedBefore(p, i, eldest, eldestAt)):
			eldest, eldestAt = p, i
		}
	}
	if eldest == nil {
		return 0, fullError(set, withdrawn)
	}
	return eldestAt, nil
}

// freedBefore is the order of free records p in slot i and q in slot j, as in queues.
func freedBefore(p *page, i uint32, q *page, j uint32) bool {
	return cmp.Or(cmp.Compare(p.long(atFreedOp), q.long(atFreedOp)), cmp.Compare(i, j)) < 0
}

// fullError names the ranges, or the first and last of many, and counts those of
// which something is withdrawn.
func fullError(set []span, withdrawn int) error {
	names := make([]string, 0, len(set))
	for i := range set {
		names = append(names, set[i].String())
	}
	if n := len(names); n > 8 {
		names = append(names[:7], fmt.Sprintf("%d more", n-8), names[n-1])
	}
	full := fmt.Errorf("%w in %s", ErrFull, strings.Join(names, ", "))
	if withdrawn > 0 {
		return fmt.Errorf("%w: %d of %d ranges %w", full, withdrawn, len(set), ErrWithdrawn)
	}
	return full
}

// eldest is the least recently freed record of a range, or 0.
func (t *tx) eldest(owner uint32, r *page) (uint32, *page, error) {
	head := r.word(atHead)
	if head == 0 {
		return 0, nil, nil
	}
	p, err := t.queued(head, owner)
	return head, p, err
}

// addRecord makes the record of an address that never had one.
func (t *tx) addRecord(a netip.Addr, owner uint32) (uint32, error) {
	i, p, err := t.extend()
	if err != nil {
		return 0, err
	}
	p.set(atState, stateFree)
	p.set(atOwner, owner)
	p.setAddress(atAddress, a)
	return i, t.insert(byAddress, i, p)
}

// hold gives a free record to the attachment.
func (t *tx) hold(i uint32, o *order, position int, now time.Time) (*page, error) {
	p, err := t.record(i)
	if err != nil {
		return nil, err
	}
	if p.state() != stateFree {
		return nil, corruptf("slot %d is queued and taken", i)
	}
	if !p.fresh {
		if err := t.dequeue(i, p); err != nil {
			return nil, err
		}
	}
	p.setHolder(o.attachment, o.key, position, o.elsewhere)
	p.setLong(atTakenOp, t.op)
	p.setLong(atSince, uint64(now.UnixNano()))
	p.set(atState, stateTaken)
	t.head.taken++
	if err := t.countHeld(p, 1); err != nil {
		return nil, err
	}
	return p, t.insert(byKey, i, p)
}
