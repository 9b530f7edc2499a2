package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// What a machine's ledger and its model have to agree on.

// differs says how ledger and model do: in what is held, by whom, how and since
// when, and in what is withdrawn.
func (x *machine) differs() string {
	ctx := context.Background()
	before, err := Inspect(ctx, x.path, x.opts) // as a killed process left it
	if err != nil {
		x.fatalf("%v", err)
	}
	all, err := x.handles[1].All(ctx)
	if err != nil {
		x.fatalf("%v", err)
	}
	if !slices.Equal(before.Held, all) {
		x.fatalf("inspected, it holds %v; asked, %v", before.Held, all)
	}
	taken := 0
	for _, k := range x.m.known {
		if k.holder != nil {
			taken++
		}
	}
	if len(all) != taken {
		return fmt.Sprintf("holds %v, want %d", all, taken)
	}
	held := map[netip.Addr]bool{}
	for _, got := range all {
		if held[got.Address] {
			x.fatalf("%s is held twice", got.Address)
		}
		held[got.Address] = true
		if k := x.m.known[got.Address]; k == nil || k.holder == nil || *k.holder != got.Attachment || !k.since.Equal(got.Since) || k.elsewhere != got.Elsewhere {
			return fmt.Sprintf("%s is held by %s since %s, elsewhere %t", got.Address, got.Attachment, got.Since, got.Elsewhere)
		}
	}
	gone, err := x.handles[0].Withdrawn(ctx)
	if err != nil {
		x.fatalf("%v", err)
	}
	if fmt.Sprint(before.Withdrawn) != fmt.Sprint(gone) {
		x.fatalf("inspected, withdrawn are %v; asked, %v", before.Withdrawn, gone)
	}
	inList := func(a netip.Addr) bool {
		return slices.ContainsFunc(gone, func(r Range) bool { return interval{r.First, r.Last}.contains(a) })
	}
	var ends []interval
	for _, move := range x.m.moves {
		ends = append(ends, move.interval)
	}
	for _, r := range gone {
		ends = append(ends, interval{r.First, r.Last})
	}
	for _, i := range ends {
		for _, a := range []netip.Addr{i.first.Prev(), i.first, i.last, i.last.Next()} {
			if inList(a) != x.m.withdrawn(a) {
				return fmt.Sprintf("withdrawn are %v, which is wrong for %s", gone, a)
			}
		}
	}
	return ""
}

// check is what holds after every step. The ledger was repaired by then, so that
// to inspect it also verifies it.
func (x *machine) check() {
	x.fault = nil
	if differs := x.differs(); differs != "" {
		x.fatalf("%s", differs)
	}
	for a, k := range x.m.known {
		if k.holder != nil && x.m.withdrawn(a) {
			x.fatalf("%s is held and withdrawn", a)
		}
	}
}
