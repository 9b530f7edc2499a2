package ipam

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Collector decides what may be freed of that which has leaked. One look isn't
// enough: the interface of a container that is just made isn't there yet, and a
// list of what lives may have been read a moment before. The zero Collector
// wants two looks and no time between them.
type Collector struct {
	// Grace is the least time between the first look that found an address leaked
	// and the one that allows to free it.
	Grace time.Duration

	suspects map[suspect]suspicion
	last     time.Time // of the looks
}

// suspect is an allocation as such: the same address taken again is another.
type suspect struct {
	attachment Attachment
	address    netip.Addr
	since      int64
}

type suspicion struct {
	Allocation
	first time.Time // the first of the looks in a row that found it leaked
}

// Observe takes the next look, and returns what was leaked in this and in every
// look before it for at least the grace, and in two at least. Free that with
// ReleaseIf, which sees to it that it is still the same. What isn't leaked in one
// look begins anew, and so does everything when the clock was set back. A look
// that failed is none: don't observe what may be incomplete. now should be from
// time.Now, which measures the time between looks also when the clock is set.
func (c *Collector) Observe(now time.Time, r Report) []Allocation {
	if now.Before(c.last) {
		c.suspects = nil
	}
	c.last = now
	next := make(map[suspect]suspicion, len(r.Leaked))
	var ripe []Allocation
	for _, a := range r.Leaked {
		key := suspect{nameOf(a), a.Address.Unmap(), a.Since.UnixNano()}
		before, known := c.suspects[key]
		if !known {
			next[key] = suspicion{a, now}
			continue
		}
		next[key] = before
		if now.Sub(before.first) >= c.Grace {
			ripe = append(ripe, a)
		}
	}
	c.suspects = next
	slices.SortFunc(ripe, compareAllocations)
	return ripe
}

// Suspects is what was leaked in the last look, whether it may be freed or not.
func (c *Collector) Suspects() []Allocation {
	all := make([]Allocation, 0, len(c.suspects))
	for s := range maps.Values(c.suspects) {
		all = append(all, s.Allocation)
	}
	slices.SortFunc(all, compareAllocations)
	return all
}
