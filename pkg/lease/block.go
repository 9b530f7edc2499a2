package lease

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// blockCount returns how many blocks of a length a CIDR has, at most 2^32: more
// nodes than that need no block number of their own.
func blockCount(cidr netip.Prefix, length int) uint64 {
	return 1 << min(length-cidr.Bits(), 32)
}

// blockAt returns block i of a CIDR, counted from its first.
func blockAt(cidr netip.Prefix, length int, i uint64) netip.Prefix {
	f := FamilyOf(cidr.Addr())
	shift := f.Bits() - length
	if f == IPv4 {
		a := cidr.Addr().As4()
		binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+uint32(i<<shift))
		return netip.PrefixFrom(netip.AddrFrom4(a), length)
	}
	a := cidr.Addr().As16()
	hi, lo := binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])
	addHi, addLo := shiftLeft(i, shift)
	lo, carry := bits.Add64(lo, addLo, 0)
	hi, _ = bits.Add64(hi, addHi, carry)
	binary.BigEndian.PutUint64(a[:8], hi)
	binary.BigEndian.PutUint64(a[8:], lo)
	return netip.PrefixFrom(netip.AddrFrom16(a), length)
}

// shiftLeft shifts i left by n bits within 128.
func shiftLeft(i uint64, n int) (hi, lo uint64) {
	switch {
	case n == 0:
		return 0, i
	case n >= 64:
		return i << (n - 64), 0
	default:
		return i >> (64 - n), i << n
	}
}

// Last returns the highest address of a prefix.
func Last(p netip.Prefix) netip.Addr {
	a := p.Addr().As16()
	offset := 128 - p.Addr().BitLen()
	for bit := offset + p.Bits(); bit < 128; bit++ {
		a[bit/8] |= 1 << (7 - bit%8)
	}
	last := netip.AddrFrom16(a)
	if p.Addr().Is4() {
		return last.Unmap()
	}
	return last
}
