package ipam

import (
	"fmt"
	"net/netip"
	"slices"
)

// The list of what is withdrawn, in the file and in hand. The file has room for
// two copies, and the header names the one that counts: an operation that changes
// the list writes the other one, and the header that ends it turns to that. So
// there is nothing to undo, and the header's checksum of the list vouches that
// the two belong together.

const (
	// MaxWithdrawn is how many separate ranges can be withdrawn at a time. Those
	// that overlap or touch each other count as one.
	MaxWithdrawn = 256

	intervalSize = 32
	listSize     = intervalSize * MaxWithdrawn
)

// listRef is where the list is, and what it is.
type listRef struct {
	copy  uint8
	count uint16
	sum   uint32
}

func (r listRef) offset() int64 { return headerSize + listSize*int64(r.copy) }

// encodeList is the list as it is in a copy, and what the header says of it.
func encodeList(all []interval, in uint8) ([]byte, listRef, error) {
	if len(all) > MaxWithdrawn {
		return nil, listRef{}, fmt.Errorf("%w: %d, at most %d", ErrTooMany, len(all), MaxWithdrawn)
	}
	if len(all) == 0 {
		return nil, listRef{}, nil
	}
	b := make([]byte, 0, intervalSize*len(all))
	for _, i := range all {
		first, last := i.first.As16(), i.last.As16()
		b = append(append(b, first[:]...), last[:]...)
	}
	return b, listRef{copy: in, count: uint16(len(all)), sum: checksum(b)}, nil
}

// readList reads the copy that counts.
func readList(f file, ref listRef) ([]interval, error) {
	if ref.count == 0 {
		return nil, nil
	}
	b := make([]byte, intervalSize*int(ref.count))
	if _, err := f.ReadAt(b, ref.offset()); err != nil {
		return nil, fmt.Errorf("read withdrawn ranges: %w", err)
	}
	if checksum(b) != ref.sum {
		return nil, corruptf("checksum of the withdrawn ranges")
	}
	all := make([]interval, 0, ref.count)
	for ; len(b) > 0; b = b[intervalSize:] {
		all = append(all, interval{netip.AddrFrom16([16]byte(b)).Unmap(), netip.AddrFrom16([16]byte(b[16:])).Unmap()})
	}
	for n, i := range all {
		if i.first.Is4() != i.last.Is4() || i.last.Less(i.first) {
			return nil, corruptf("withdrawn range %s", i)
		}
		if n > 0 && (i.first.Compare(all[n-1].last) <= 0 || i.first == all[n-1].last.Next()) {
			return nil, corruptf("withdrawn ranges %s and %s are out of order", all[n-1], i)
		}
	}
	return all, nil
}

// within is the parts of sorted, disjoint intervals that lie within bounds.
func within(all []interval, bounds interval) []interval {
	at, _ := slices.BinarySearchFunc(all, bounds.first, func(i interval, a netip.Addr) int { return i.last.Compare(a) })
	var parts []interval
	for ; at < len(all) && all[at].overlaps(bounds); at++ {
		parts = append(parts, all[at].clip(bounds))
	}
	return parts
}

// without is sorted, disjoint intervals less what lies within bounds.
func without(all []interval, bounds interval) []interval {
	var rest []interval
	for _, i := range all {
		if !i.overlaps(bounds) {
			rest = append(rest, i)
			continue
		}
		if i.first.Less(bounds.first) {
			rest = append(rest, interval{i.first, bounds.first.Prev()})
		}
		if bounds.last.Less(i.last) {
			rest = append(rest, interval{bounds.last.Next(), i.last})
		}
	}
	return rest
}

// withdrawn is the list, which is read once.
func (t *tx) withdrawn() (all []interval, err error) {
	if t.gone == nil {
		t.gone, err = readList(t.f, t.head.withdrawn)
	}
	return t.gone, err
}

// setWithdrawn replaces the list.
func (t *tx) setWithdrawn(all []interval) (err error) {
	t.list, t.head.withdrawn, err = encodeList(all, 1-t.was.withdrawn.copy)
	t.gone = all
	return err
}

// isWithdrawn says whether the address may not be given.
func (t *tx) isWithdrawn(a netip.Addr) (bool, error) {
	gone, err := t.withdrawn()
	return len(within(gone, interval{a, a})) > 0, err
}

// open is the span without what is withdrawn of it: s itself where that is nothing.
func (t *tx) open(s *span) (*span, error) {
	gone, err := t.withdrawn()
	if err != nil {
		return nil, err
	}
	return s.less(gone), nil
}
