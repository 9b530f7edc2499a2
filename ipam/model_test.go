package ipam

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// model is a ledger as simple as can be: maps, and searches through all.
type model struct {
	known map[netip.Addr]*modelAddr
	added int
	op    int
	// moves is every Withdraw and Admit; the last one of an address counts.
	moves []move
}

type move struct {
	interval
	out bool
}

func newModel() *model { return &model{known: map[netip.Addr]*modelAddr{}} }

func (m *model) withdrawn(a netip.Addr) bool {
	for _, move := range slices.Backward(m.moves) {
		if move.contains(a) {
			return move.out
		}
	}
	return false
}

type modelAddr struct {
	address   netip.Addr
	number    int // in the order of first use
	holder    *Attachment
	position  int
	elsewhere bool
	since     time.Time
	freedOp   int
	freedAt   time.Time
}

func (m *model) held(a Attachment) []*modelAddr {
	var held []*modelAddr
	for _, k := range m.known {
		if k.holder != nil && *k.holder == a {
			held = append(held, k)
		}
	}
	slices.SortFunc(held, func(a, b *modelAddr) int { return cmp.Compare(a.position, b.position) })
	return held
}

func each(r Range, visit func(netip.Addr) bool) {
	s, err := newSpan(r)
	if err != nil {
		panic(err)
	}
	for a := s.first; s.contains(a); a = a.Next() {
		if s.gives(a) && !visit(a) {
			return
		}
	}
}

func gives(set RangeSet, a netip.Addr) bool {
	found := false
	for _, r := range set {
		each(r, func(b netip.Addr) bool { found = found || a == b; return !found })
	}
	return found
}

// pick is the address that a set gives next.
func (m *model) pick(set RangeSet, now time.Time, cooldown time.Duration, except []netip.Addr) (netip.Addr, bool) {
	var any []*modelAddr
	older := func(a, b *modelAddr) int {
		return cmp.Or(cmp.Compare(a.freedOp, b.freedOp), cmp.Compare(a.number, b.number))
	}
	for _, r := range set {
		var fresh netip.Addr
		var free []*modelAddr
		each(r, func(a netip.Addr) bool {
			k := m.known[a]
			switch {
			case slices.Contains(except, a) || m.withdrawn(a):
			case k == nil && !fresh.IsValid():
				fresh = a
			case k != nil && k.holder == nil:
				free = append(free, k)
			}
			return true
		})
		if fresh.IsValid() {
			return fresh, true
		}
		slices.SortFunc(free, older)
		if len(free) > 0 {
			if cooldown == 0 || now.Sub(free[0].freedAt) >= cooldown {
				return free[0].address, true
			}
			any = append(any, free[0])
		}
	}
	if len(any) == 0 {
		return netip.Addr{}, false
	}
	return slices.MinFunc(any, older).address, true
}

// allocate says what the ledger has to answer, and how to make it so.
func (m *model) allocate(req Request, now time.Time, cooldown time.Duration) ([]netip.Addr, error, func()) {
	nothing := func() {}
	fixed := make([]netip.Addr, len(req.Sets))
	for _, a := range req.Addresses {
		set := slices.IndexFunc(req.Sets, func(s RangeSet) bool { return gives(s, a) })
		if set < 0 {
			return nil, ErrOutsideRange, nothing
		}
		fixed[set] = a
	}
	if held := m.held(req.Attachment); len(held) > 0 {
		var got []netip.Addr
		for i, set := range req.Sets {
			for _, k := range held {
				if gives(set, k.address) && (!fixed[i].IsValid() || fixed[i] == k.address) {
					got = append(got, k.address)
					break
				}
			}
		}
		if len(got) != len(req.Sets) || len(held) != len(got) || held[0].elsewhere != req.Elsewhere {
			return nil, ErrHeld, nothing
		}
		return got, nil, nothing
	}
	var got []netip.Addr
	for i, set := range req.Sets {
		if fixed[i].IsValid() && m.withdrawn(fixed[i]) {
			return nil, ErrWithdrawn, nothing
		}
		if k := m.known[fixed[i]]; k != nil && k.holder != nil {
			return nil, ErrTaken, nothing
		}
		a, ok := fixed[i], true
		if !a.IsValid() {
			a, ok = m.pick(set, now, cooldown, got)
		}
		if !ok {
			return nil, ErrFull, nothing
		}
		got = append(got, a)
	}
	return got, nil, func() {
		for i, a := range got {
			if m.known[a] == nil {
				m.known[a] = &modelAddr{address: a, number: m.added}
				m.added++
			}
			k := m.known[a]
			k.holder, k.position, k.elsewhere, k.since = &req.Attachment, i, req.Elsewhere, now
		}
	}
}

func (m *model) free(all []*modelAddr, now time.Time) {
	m.op++
	for _, k := range all {
		k.holder, k.freedOp, k.freedAt = nil, m.op, now
	}
}

// withdraw says whether nothing is held there, and how to make it so.
func (m *model) withdraw(r Range) (error, func()) {
	bounds := interval{r.First, r.Last}
	for a, k := range m.known {
		if k.holder != nil && bounds.contains(a) {
			return ErrInUse, func() {}
		}
	}
	return nil, func() { m.moves = append(m.moves, move{bounds, true}) }
}

func (m *model) admit(r Range) func() {
	return func() { m.moves = append(m.moves, move{interval{r.First, r.Last}, false}) }
}

// usage counts one by one.
func (m *model) usage(set RangeSet) Usage {
	var u Usage
	for _, r := range set {
		each(r, func(a netip.Addr) bool {
			u.Total++
			switch k := m.known[a]; {
			case m.withdrawn(a):
				u.Withdrawn++
			case k != nil && k.holder != nil:
				u.Taken++
			default:
				u.Free++
			}
			return true
		})
	}
	return u
}
