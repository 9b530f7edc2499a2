package ipam

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"slices"
)

// Range is where addresses may come from: all from First to Last, both
// included, without those in Exclude. It may be as large as a family.
type Range struct {
	First, Last netip.Addr
	// Exclude has what is never given out: the network's own address, gateways,
	// reservations.
	Exclude []netip.Prefix
}

// String gives the bounds.
func (r Range) String() string { return fmt.Sprintf("%s-%s", r.First, r.Last) }

// RangeSet gives one address, from the first of its ranges that has one free.
// Its ranges are of one family.
type RangeSet []Range

// Request asks for one address from each set.
type Request struct {
	Attachment Attachment
	// Sets must not overlap.
	Sets []RangeSet
	// Addresses are fixed: the set that one lies in gives exactly this one.
	Addresses []netip.Addr
	// Elsewhere says that somebody else makes the attachment's interface, whom the
	// owner of the ledger can't look at: that it isn't among what lives means nothing.
	Elsewhere bool
}

// interval is the addresses from first to last, both included.
type interval struct{ first, last netip.Addr }

func (i interval) contains(a netip.Addr) bool {
	return i.first.Compare(a) <= 0 && a.Compare(i.last) <= 0
}

func (i interval) overlaps(o interval) bool {
	return i.first.Compare(o.last) <= 0 && o.first.Compare(i.last) <= 0
}

// clip is the part that lies within an interval that overlaps this one.
func (i interval) clip(to interval) interval {
	if i.first.Less(to.first) {
		i.first = to.first
	}
	if to.last.Less(i.last) {
		i.last = to.last
	}
	return i
}

// span is a Range that was checked and brought to one form, so that equal
// ranges compare equal.
type span struct {
	interval
	holes []interval // excluded: sorted, disjoint, not touching, within the bounds
	size  uint64     // addresses that may be given; MaxUint64 stands for any larger number
}

// bounds checks a range's First and Last.
func (r Range) bounds() (interval, error) {
	first, last := r.First.Unmap(), r.Last.Unmap()
	switch {
	case !first.IsValid() || !last.IsValid():
		return interval{}, invalidf("range %s lacks a bound", r)
	case first.Zone() != "" || last.Zone() != "":
		return interval{}, invalidf("range %s has a zone", r)
	case first.Is4() != last.Is4():
		return interval{}, invalidf("range %s mixes families", r)
	case last.Less(first):
		return interval{}, invalidf("range %s ends before it starts", r)
	}
	bounds := interval{first, last}
	if first.Is6() && bounds.overlaps(mapped()) {
		return interval{}, invalidf("range %s covers IPv4-mapped addresses", r)
	}
	return bounds, nil
}

// newSpan checks a range.
func newSpan(r Range) (span, error) {
	bounds, err := r.bounds()
	if err != nil {
		return span{}, err
	}
	s := span{interval: bounds}
	for _, p := range r.Exclude {
		if !p.IsValid() {
			return span{}, invalidf("range %s excludes an invalid prefix", r)
		}
		s.exclude(p)
	}
	s.holes = merge(s.holes)
	s.size = s.count()
	return s, nil
}

// mapped is where IPv6 repeats IPv4.
func mapped() interval {
	p := netip.PrefixFrom(netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff}), 96)
	return interval{p.Addr(), lastOf(p)}
}

// exclude adds the part of p that lies within the bounds to the holes.
func (s *span) exclude(p netip.Prefix) {
	p = p.Masked()
	hole := interval{p.Addr(), lastOf(p)}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		hole = interval{hole.first.Unmap(), hole.last.Unmap()}
	}
	if hole.first.Is4() != s.first.Is4() || !s.overlaps(hole) {
		return
	}
	s.holes = append(s.holes, hole.clip(s.interval))
}

// merge sorts intervals, of one family or both, and joins those that overlap or
// touch.
func merge(all []interval) []interval {
	slices.SortFunc(all, func(a, b interval) int { return a.first.Compare(b.first) })
	joined := all[:0]
	for _, next := range all {
		if n := len(joined); n > 0 {
			end := joined[n-1].last
			if next.first.Compare(end) <= 0 || next.first == end.Next() {
				if end.Less(next.last) {
					joined[n-1].last = next.last
				}
				continue
			}
		}
		joined = append(joined, next)
	}
	return joined
}

// count is how many addresses the span may give, at most MaxUint64.
func (s *span) count() uint64 {
	hi, lo := s.extent()
	if hi != 0 {
		return math.MaxUint64
	}
	return lo
}

// extent is how many addresses the span may give, in 128 bits.
func (s *span) extent() (hi, lo uint64) {
	hi, lo = distance(s.first, s.last)
	for _, hole := range s.holes {
		h, l := distance(hole.first, hole.last)
		// A hole counts one more than the distance of its ends.
		l, carry := bits.Add64(l, 1, 0)
		h += carry
		var borrow uint64
		lo, borrow = bits.Sub64(lo, l, 0)
		hi, _ = bits.Sub64(hi, h, borrow)
	}
	// So does the span. One that is all hole wraps from -1 to 0, as it should.
	lo, carry := bits.Add64(lo, 1, 0)
	return hi + carry, lo
}

// hole is the hole that an address lies in.
func (s *span) hole(a netip.Addr) (interval, bool) {
	i, found := slices.BinarySearchFunc(s.holes, a, func(h interval, a netip.Addr) int {
		if h.contains(a) {
			return 0
		}
		return h.first.Compare(a)
	})
	if !found {
		return interval{}, false
	}
	return s.holes[i], true
}

// gives says whether the address is one that the span may give.
func (s *span) gives(a netip.Addr) bool {
	if !s.contains(a) {
		return false
	}
	_, excluded := s.hole(a)
	return !excluded
}

// less is the span without some intervals: itself where none of them touches it.
func (s *span) less(gone []interval) *span {
	holes := within(gone, s.interval)
	if len(holes) == 0 {
		return s
	}
	rest := &span{interval: s.interval, holes: merge(append(holes, s.holes...))}
	rest.size = rest.count()
	return rest
}

// identity follows from bounds and holes.
func (s *span) identity() identity {
	text := append(make([]byte, 0, 64+32*len(s.holes)), "range:"...)
	for _, i := range append([]interval{s.interval}, s.holes...) {
		first, last := i.first.As16(), i.last.As16()
		text = append(append(text, first[:]...), last[:]...)
	}
	sum := sha256.Sum256(text)
	return identity(sum[:16])
}

// String gives the bounds.
func (i interval) String() string { return fmt.Sprintf("%s-%s", i.first, i.last) }

// distance is b - a, of addresses of one family.
func distance(a, b netip.Addr) (hi, lo uint64) {
	ah, al := halves(a)
	bh, bl := halves(b)
	lo, borrow := bits.Sub64(bl, al, 0)
	hi, _ = bits.Sub64(bh, ah, borrow)
	return hi, lo
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	raw := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(raw)
	return last
}

// parseSets checks sets and refuses those that overlap.
func parseSets(sets []RangeSet) ([][]span, error) {
	parsed := make([][]span, 0, len(sets))
	var all []interval
	for _, set := range sets {
		if len(set) == 0 {
			return nil, invalidf("a set has no range")
		}
		spans := make([]span, 0, len(set))
		for _, r := range set {
			s, err := newSpan(r)
			if err != nil {
				return nil, err
			}
			if s.first.Is4() != set[0].First.Unmap().Is4() {
				return nil, invalidf("ranges %s and %s of a set are of two families", set[0], r)
			}
			spans = append(spans, s)
			all = append(all, s.interval)
		}
		parsed = append(parsed, spans)
	}
	slices.SortFunc(all, func(a, b interval) int { return cmp.Or(a.first.Compare(b.first), a.last.Compare(b.last)) })
	for i := 1; i < len(all); i++ {
		if all[i-1].overlaps(all[i]) {
			return nil, invalidf("ranges %s-%s and %s-%s overlap", all[i-1].first, all[i-1].last, all[i].first, all[i].last)
		}
	}
	return parsed, nil
}

// order is a Request that was checked.
type order struct {
	attachment Attachment
	key        identity
	sets       [][]span
	fixed      []netip.Addr // by set; the zero Addr where any will do
	elsewhere  bool
}

func (r Request) parse() (*order, error) {
	if err := r.Attachment.validate(); err != nil {
		return nil, err
	}
	if len(r.Sets) == 0 {
		return nil, invalidf("no set of ranges")
	}
	sets, err := parseSets(r.Sets)
	if err != nil {
		return nil, err
	}
	o := &order{
		attachment: r.Attachment, key: r.Attachment.identity(), sets: sets,
		fixed: make([]netip.Addr, len(sets)), elsewhere: r.Elsewhere,
	}
	for _, a := range r.Addresses {
		a = a.Unmap()
		set := slices.IndexFunc(sets, func(s []span) bool { return spanOf(s, a) >= 0 })
		if set < 0 {
			return nil, fmt.Errorf("%w: %s", ErrOutsideRange, a)
		}
		if o.fixed[set].IsValid() && o.fixed[set] != a {
			return nil, invalidf("addresses %s and %s are of one set", o.fixed[set], a)
		}
		o.fixed[set] = a
	}
	return o, nil
}

// spanOf is the index of the span that gives an address, or -1.
func spanOf(set []span, a netip.Addr) int {
	return slices.IndexFunc(set, func(s span) bool { return s.gives(a) })
}
