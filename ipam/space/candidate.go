package space

import (
	"encoding/binary"
	"iter"
	"math"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/ipam"
)

// window is how many addresses of a set a node prefers to all others. It bounds
// the ledger, which remembers every address that it has ever taken.
const window = 4096

// chooser proposes addresses of one set, in an order that looks random.
type chooser struct {
	set    ipam.RangeSet
	total  uint64 // within the bounds of the ranges, or the largest number
	base   uint64 // where the node's window begins
	random *rand.Rand
}

// newChooser returns the chooser of a valid set for a node, by a digest of its
// name.
func newChooser(set ipam.RangeSet, node uint64, random *rand.Rand) *chooser {
	c := &chooser{set: plainSet(set), random: random}
	for _, r := range c.set {
		sum, carry := bits.Add64(c.total, size(r), 0)
		if carry != 0 {
			sum = math.MaxUint64
		}
		c.total = sum
	}
	c.base = node % c.total
	return c
}

func plainSet(set ipam.RangeSet) ipam.RangeSet {
	var all ipam.RangeSet
	for _, r := range set {
		all = append(all, plain(r))
	}
	return all
}

// plain writes IPv4 as IPv4, also where it was written as IPv6.
func plain(r ipam.Range) ipam.Range {
	r.First, r.Last = r.First.Unmap(), r.Last.Unmap()
	r.Exclude = slices.Clone(r.Exclude)
	for i, p := range r.Exclude {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			r.Exclude[i] = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
	}
	return r
}

// next is an address that isn't taken; false when all are.
func (c *chooser) next(taken map[netip.Addr]bool) (netip.Addr, bool) {
	for a := range around(c.set, c.start()) {
		if !taken[a] {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// place is an address of one of a set's ranges.
type place struct {
	index   int
	address netip.Addr
}

// start is any place of the node's window, also one that is excluded.
func (c *chooser) start() place {
	n := c.random.Uint64N(min(window, c.total))
	if n >= c.total-c.base {
		n -= c.total - c.base
	} else {
		n += c.base
	}
	for i, r := range c.set {
		if n < size(r) {
			return place{i, plus(r.First, n)}
		}
		n -= size(r)
	}
	return place{0, c.set[0].First} // beyond what 64 bits count
}

// around goes once over the addresses that a set gives, from a place to the end
// and from the beginning to that place.
func around(set ipam.RangeSet, start place) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for k := range len(set) + 1 {
			r := set[(start.index+k)%len(set)]
			switch k {
			case 0:
				r.First = start.address
			case len(set):
				if r.First == start.address {
					return
				}
				r.Last = start.address.Prev()
			}
			for a := range addresses(r) {
				if !yield(a) {
					return
				}
			}
		}
	}
}

// addresses goes over what a range gives, in ascending order. What is excluded
// it steps over, however large.
func addresses(r ipam.Range) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for a := r.First; a.IsValid() && a.Compare(r.Last) <= 0; a = a.Next() {
			if p, excluded := exclusion(r, a); excluded {
				a = last(p)
			} else if !yield(a) {
				return
			}
		}
	}
}

// gives says whether a set of plain ranges may give an address.
func gives(set ipam.RangeSet, a netip.Addr) bool {
	return slices.ContainsFunc(set, func(r ipam.Range) bool {
		_, excluded := exclusion(r, a)
		return r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0 && !excluded
	})
}

// exclusion is what of a range's exclusions an address lies in.
func exclusion(r ipam.Range, a netip.Addr) (netip.Prefix, bool) {
	i := slices.IndexFunc(r.Exclude, func(p netip.Prefix) bool { return p.Contains(a) })
	if i < 0 {
		return netip.Prefix{}, false
	}
	return r.Exclude[i], true
}

// size is how many addresses lie within a range's bounds, or the largest number.
func size(r ipam.Range) uint64 {
	firstHi, firstLo := halves(r.First)
	lastHi, lastLo := halves(r.Last)
	lo, borrow := bits.Sub64(lastLo, firstLo, 0)
	hi, _ := bits.Sub64(lastHi, firstHi, borrow)
	if hi != 0 || lo == math.MaxUint64 {
		return math.MaxUint64
	}
	return lo + 1
}

// plus is the address that comes n after another.
func plus(a netip.Addr, n uint64) netip.Addr {
	hi, lo := halves(a)
	lo, carry := bits.Add64(lo, n, 0)
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], hi+carry)
	binary.BigEndian.PutUint64(b[8:], lo)
	sum := netip.AddrFrom16(b)
	if a.Is4() {
		return sum.Unmap()
	}
	return sum
}

func halves(a netip.Addr) (hi, lo uint64) {
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}

// last is the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
