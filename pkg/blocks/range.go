package blocks

import (
	"net/netip"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// PodRange is the addresses of a block that pods can have. Its first is the
// VTEP's; the last of an IPv4 block is left out, for software that takes it for
// a broadcast address.
func PodRange(block netip.Prefix) ipam.Range {
	r := ipam.Range{First: block.Addr().Next(), Last: lease.Last(block)}
	if lease.FamilyOf(block.Addr()) == lease.IPv4 {
		r.Last = r.Last.Prev()
	}
	return r
}

// PodRanges turns a node's blocks into what IPAM takes: an address of each
// family, from the first block of it that has one.
func PodRanges(blocks []netip.Prefix) []ipam.RangeSet {
	var sets []ipam.RangeSet
	for _, f := range lease.Families() {
		var set ipam.RangeSet
		for _, b := range blocks {
			if lease.FamilyOf(b.Addr()) == f {
				set = append(set, PodRange(b))
			}
		}
		if set != nil {
			sets = append(sets, set)
		}
	}
	return sets
}
