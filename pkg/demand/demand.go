// Package demand decides how many blocks of a pooled network a node should
// have. It is pure: which blocks there are and how full they are is found out
// elsewhere, and so is what comes of its decisions.
package demand

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// Block is one that the node has a lease of.
type Block struct {
	Prefix netip.Prefix
	// Index is the lease's: the lowest of a family is the node's first block,
	// which it keeps.
	Index int
	// Taken and Free are how many of the addresses that pods can have are.
	Taken, Free uint64
	// Withdrawn: none of its addresses is given any more, because it was
	// about to be given back.
	Withdrawn bool
	// Empty is how long none of its addresses has been taken.
	Empty time.Duration
}

// Policy is when blocks are claimed and given back.
type Policy struct {
	// Grace is how long a block stays after its last address was freed.
	Grace time.Duration
	// Fixed: the node has the blocks that it has.
	Fixed bool
}

// reserve is the part of its largest block's addresses that a node wants free in
// all its blocks together. Below it, another block is claimed; one is given back only
// while twice as many stay free, so that it isn't wanted again at once.
const reserve = 4

// Decision is what to do about a node's blocks.
type Decision struct {
	// Claim lists the families of which another block is needed.
	Claim []lease.Family
	// Admit lists withdrawn blocks to use again, Return those to give back.
	Admit, Return []netip.Prefix
	// Wait is when to decide again though nothing changed, as the grace of an
	// empty block will be over; 0: never.
	Wait time.Duration
}

// None says that nothing is to be done now.
func (d *Decision) None() bool { return len(d.Claim)+len(d.Admit)+len(d.Return) == 0 }

// Decide says what to do about the blocks of a node.
func Decide(blocks []Block, policy Policy) Decision {
	var d Decision
	for _, f := range lease.Families() {
		var own []Block
		for _, b := range blocks {
			if lease.FamilyOf(b.Prefix.Addr()) == f {
				own = append(own, b)
			}
		}
		if policy.Fixed {
			d.Admit = append(d.Admit, withdrawn(own)...)
		} else if len(own) > 0 {
			slices.SortStableFunc(own, func(a, b Block) int { return cmp.Compare(a.Index, b.Index) })
			d.decide(f, own, policy)
		}
	}
	return d
}

// decide is about one family: at most one block more or less at a time.
func (d *Decision) decide(f lease.Family, own []Block, policy Policy) {
	free, wanted := tally(own)
	first, withdrawn := own[0], withdrawn(own)
	settled := len(withdrawn) == 0
	switch {
	case first.Withdrawn:
		d.Admit = append(d.Admit, first.Prefix)
		withdrawn = withdrawn[1:]
	case free < wanted && len(withdrawn) > 0:
		d.Admit = append(d.Admit, withdrawn[0])
		withdrawn = withdrawn[1:]
	case free < wanted:
		d.Claim = append(d.Claim, f)
	}
	d.Return = append(d.Return, withdrawn...)
	if !settled {
		return
	}
	for _, b := range slices.Backward(own[1:]) {
		if b.Taken > 0 || free-min(b.Free, free) < 2*wanted {
			continue
		}
		if left := policy.Grace - b.Empty; left > 0 {
			d.Wait = shorter(d.Wait, left)
			continue
		}
		d.Return = append(d.Return, b.Prefix)
		return
	}
}

// tally counts the free addresses of the blocks in use, and how many of them
// there should be.
func tally(own []Block) (free, wanted uint64) {
	wanted = 1
	for _, b := range own {
		if b.Withdrawn {
			continue
		}
		wanted = max(wanted, (b.Taken+b.Free)/reserve)
		if free += b.Free; free < b.Free {
			free = math.MaxUint64 // more than can be counted
		}
	}
	return free, wanted
}

// shorter of two waits, of which 0 is none.
func shorter(a, b time.Duration) time.Duration {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// withdrawn are the blocks of which nothing is given.
func withdrawn(all []Block) []netip.Prefix {
	var found []netip.Prefix
	for _, b := range all {
		if b.Withdrawn {
			found = append(found, b.Prefix)
		}
	}
	return found
}
