package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The comparison of what the ledger says with what is. It is pure: who holds
// what, what lives and which blocks the node has are found out elsewhere.

// Report is how a ledger, the live interfaces and the node's blocks differ. All
// its lists are in the order of addresses, then of attachments.
type Report struct {
	// Leaked is held, while neither the attachment nor anybody with the address
	// lives. It is what may be freed, once a Collector has seen enough of it. What
	// is held Elsewhere never is: nobody here knows whether it lives.
	Leaked []Allocation
	// Orphaned is live and held by nobody: the ledger may give it to another.
	Orphaned []Allocation
	// Duplicate is an address of more than one attachment: two have it live, or one
	// holds it that another has live.
	Duplicate []Conflict
	// Foreign is held or live outside of the blocks.
	Foreign []Allocation
}

// Conflict is an address of more than one attachment.
type Conflict struct {
	Address    netip.Addr
	Held, Live []Attachment
}

// String names all who have the address.
func (c Conflict) String() string {
	var who []string
	for _, a := range c.Held {
		who = append(who, "held by "+a.String())
	}
	for _, a := range c.Live {
		who = append(who, "live at "+a.String())
	}
	return fmt.Sprintf("%s %s", c.Address, strings.Join(who, ", "))
}

// Clean says that nothing differs.
func (r Report) Clean() bool {
	return len(r.Leaked)+len(r.Orphaned)+len(r.Duplicate)+len(r.Foreign) == 0
}

// String has a line for each difference.
func (r Report) String() string {
	if r.Clean() {
		return "nothing differs"
	}
	var lines []string
	for _, c := range r.Duplicate {
		lines = append(lines, "duplicate "+c.String())
	}
	for _, kind := range []struct {
		name string
		all  []Allocation
	}{{"orphaned", r.Orphaned}, {"foreign", r.Foreign}, {"leaked", r.Leaked}} {
		for _, a := range kind.all {
			lines = append(lines, fmt.Sprintf("%s %s of %s", kind.name, a.Address, a.Attachment))
		}
	}
	return strings.Join(lines, "\n")
}

// claims is what is said of one address.
type claims struct{ held, live []Allocation }

// Audit compares what is held with what lives and with the node's blocks.
//
// A live attachment without an address, as one is for a moment while it is made,
// is listed with the zero Addr: it lives, so that nothing that it holds has
// leaked. Container IDs are compared as far as a ledger keeps them. Addresses
// that no ledger gives, such as link-local ones, have to be left out of live.
func Audit(held, live []Allocation, blocks []netip.Prefix) Report {
	alive := make(map[Attachment]bool, len(live))
	said := make(map[netip.Addr]*claims, len(held))
	of := func(a *Allocation) *claims {
		a.Address = a.Address.Unmap()
		if said[a.Address] == nil {
			said[a.Address] = &claims{}
		}
		return said[a.Address]
	}
	for _, a := range live {
		alive[nameOf(a)] = true
		if a.Address.IsValid() {
			c := of(&a)
			c.live = append(c.live, a)
		}
	}
	for _, a := range held {
		c := of(&a)
		c.held = append(c.held, a)
	}
	var r Report
	for a, c := range said {
		r.add(a, c, alive, blocks)
	}
	for _, list := range [][]Allocation{r.Leaked, r.Orphaned, r.Foreign} {
		slices.SortFunc(list, compareAllocations)
	}
	slices.SortFunc(r.Duplicate, func(a, b Conflict) int { return a.Address.Compare(b.Address) })
	return r
}

// add judges one address.
func (r *Report) add(a netip.Addr, c *claims, alive map[Attachment]bool, blocks []netip.Prefix) {
	c.held, c.live = distinct(c.held), distinct(c.live)
	everyone := distinct(slices.Concat(c.held, c.live))
	if len(everyone) > 1 {
		r.Duplicate = append(r.Duplicate, Conflict{Address: a, Held: attachments(c.held), Live: attachments(c.live)})
	}
	if len(c.held) == 0 {
		r.Orphaned = append(r.Orphaned, c.live...)
	}
	if len(c.live) == 0 {
		for _, h := range c.held {
			if !h.Elsewhere && !alive[nameOf(h)] {
				r.Leaked = append(r.Leaked, h)
			}
		}
	}
	inside := func(p netip.Prefix) bool { return unmapped(p).Contains(a) }
	if !slices.ContainsFunc(blocks, inside) {
		r.Foreign = append(r.Foreign, everyone...)
	}
}

// unmapped is an IPv4 prefix for one that is written as IPv6.
func unmapped(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

// nameOf is the attachment as far as a ledger can give it back, so that one that
// was cut compares equal to the whole one. The mark makes it longer than any that
// wasn't.
func nameOf(a Allocation) Attachment {
	if a.Truncated || len(a.ContainerID) > InlineContainerID {
		a.ContainerID = a.ContainerID[:min(len(a.ContainerID), InlineContainerID)] + "..."
	}
	return a.Attachment
}

// distinct sorts allocations of one address and keeps one of each attachment, the
// first.
func distinct(all []Allocation) []Allocation {
	all = slices.Clone(all)
	slices.SortStableFunc(all, compareAllocations)
	return slices.CompactFunc(all, func(a, b Allocation) bool { return nameOf(a) == nameOf(b) })
}

func attachments(all []Allocation) []Attachment {
	var named []Attachment
	for _, a := range all {
		named = append(named, a.Attachment)
	}
	return named
}

// compareAllocations orders by address, then by attachment.
func compareAllocations(a, b Allocation) int {
	n, m := nameOf(a), nameOf(b)
	return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(n.ContainerID, m.ContainerID),
		cmp.Compare(n.Interface, m.Interface))
}
