package ipam

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is a ledger as simple as can be: maps, and searches through all.
type model struct {
	known map[netip.Addr]*modelAddr
	added int
	op    int
}

type modelAddr struct {
	address  netip.Addr
	number   int // in the order of first use
	holder   *Attachment
	position int
	freedOp  int
	freedAt  time.Time
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
			case slices.Contains(except, a):
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
		if len(got) != len(req.Sets) || len(held) != len(got) {
			return nil, ErrHeld, nothing
		}
		return got, nil, nothing
	}
	var got []netip.Addr
	for i, set := range req.Sets {
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
			m.known[a].holder, m.known[a].position = &req.Attachment, i
		}
	}
}

func (m *model) free(all []*modelAddr, now time.Time) {
	m.op++
	for _, k := range all {
		k.holder, k.freedOp, k.freedAt = nil, m.op, now
	}
}

// machine runs a ledger beside the model.
type machine struct {
	t     *rapid.T
	m     *model
	l     *Ledger
	clock *clock
	opts  Options
	boot  int
	fault *fault // of the operation in progress, or nil
}

// modelSets has definitions that overlap each other, as after changes of the
// configuration.
var modelSets = [][]RangeSet{
	{{between("10.0.0.1", "10.0.0.6")}},
	{{between("10.0.0.0", "10.0.0.9", "10.0.0.0/31", "10.0.0.4/32")}},
	{{between("10.0.0.5", "10.0.0.7"), between("10.0.1.1", "10.0.1.4")}},
	{{between("fd00::", "fd00::ffff:ffff:ffff:ffff", "fd00::/125")}, {between("10.0.0.1", "10.0.0.6")}},
	{{between("10.0.1.1", "10.0.1.4")}, {between("10.0.0.1", "10.0.0.6")}},
}

// wide keeps the model from searching a /64.
func wide(sets []RangeSet) []RangeSet {
	if sets[0][0].First != addr("fd00::") {
		return sets
	}
	return []RangeSet{{between("fd00::", "fd00::1ff", "fd00::/125")}, sets[1]}
}

func (x *machine) reopen() {
	if x.l != nil {
		x.l.Close()
	}
	l, err := OpenLedger(x.l.path, x.opts)
	if err != nil {
		x.t.Fatal(err)
	}
	x.l = l
}

// arm may let the next operation die before one of its writes.
func (x *machine) arm() {
	x.fault = nil
	if rapid.IntRange(0, 4).Draw(x.t, "die") == 0 {
		x.fault = &fault{after: rapid.IntRange(0, 12).Draw(x.t, "after writes"), stop: rapid.Bool().Draw(x.t, "for good")}
	}
}

// died says whether the operation died, and lets the next process come.
func (x *machine) died(err error) bool {
	hit := x.fault != nil && x.fault.hit
	if hit != errors.Is(err, errFault) {
		x.t.Fatalf("fault %v, error %v", hit, err)
	}
	x.fault = nil
	if hit {
		x.reopen()
	}
	return hit
}

func (x *machine) attachment() Attachment {
	return pod(rapid.IntRange(0, 12).Draw(x.t, "pod"))
}

func (x *machine) allocate(t *rapid.T) {
	x.t = t
	sets := rapid.SampledFrom(modelSets).Draw(t, "sets")
	req := Request{Attachment: x.attachment(), Sets: sets}
	if rapid.IntRange(0, 3).Draw(t, "fixed") == 0 {
		req.Addresses = append(req.Addresses, netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 10).Draw(t, "address"))}))
	}
	inModel := req
	inModel.Sets = wide(sets)
	want, wantErr, apply := x.m.allocate(inModel, x.clock.at, x.opts.Cooldown)
	x.arm()
	got, err := x.l.Allocate(context.Background(), req)
	if x.died(err) {
		return
	}
	if !errors.Is(err, wantErr) || !slices.Equal(got, want) {
		t.Fatalf("allocate %v: got %v, %v, want %v, %v", req, got, err, want, wantErr)
	}
	apply()
}

func (x *machine) release(t *rapid.T) {
	x.t = t
	a := x.attachment()
	held := x.m.held(a)
	var want []netip.Addr
	for _, k := range held {
		want = append(want, k.address)
	}
	x.arm()
	got, err := x.l.Release(context.Background(), a)
	if x.died(err) {
		return
	}
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("release %s: got %v, %v, want %v", a, got, err, want)
	}
	x.m.free(held, x.clock.at)
}

func (x *machine) retain(t *rapid.T) {
	x.t = t
	var keep []Attachment
	for n := range 13 {
		if rapid.IntRange(0, 3).Draw(t, "keep") > 0 {
			keep = append(keep, pod(n))
		}
	}
	var stale []*modelAddr
	for _, k := range x.m.known {
		if k.holder != nil && !slices.Contains(keep, *k.holder) {
			stale = append(stale, k)
		}
	}
	x.arm()
	freed, err := x.l.Retain(context.Background(), keep)
	if x.died(err) {
		return
	}
	if err != nil || len(freed) != len(stale) {
		t.Fatalf("retain %v: got %v, %v, want %d", keep, freed, err, len(stale))
	}
	x.m.free(stale, x.clock.at)
}

func (x *machine) reboot(t *rapid.T) {
	x.t = t
	x.boot++
	x.opts.BootID = fmt.Sprint("boot-", x.boot)
	x.reopen()
	x.m = &model{known: map[netip.Addr]*modelAddr{}}
}

// check compares all that is held, who holds it, and the counts.
func (x *machine) check(t *rapid.T) {
	x.t, x.fault = t, nil
	ctx := context.Background()
	if err := x.l.Verify(ctx); err != nil {
		t.Fatal(err)
	}
	all, err := x.l.All(ctx)
	if err != nil {
		t.Fatal(err)
	}
	taken := 0
	for _, k := range x.m.known {
		if k.holder != nil {
			taken++
		}
	}
	if len(all) != taken {
		t.Fatalf("holds %v, want %d", all, taken)
	}
	for _, got := range all {
		if k := x.m.known[got.Address]; k == nil || k.holder == nil || *k.holder != got.Attachment {
			t.Fatalf("%s is held by %s", got.Address, got.Attachment)
		}
	}
}

func (x *machine) usage(t *rapid.T) {
	x.t, x.fault = t, nil
	sets := wide(rapid.SampledFrom(modelSets).Draw(t, "sets"))
	usage, err := x.l.Usage(context.Background(), sets)
	if err != nil {
		t.Fatal(err)
	}
	for i, set := range sets {
		var want Usage
		for _, r := range set {
			each(r, func(a netip.Addr) bool {
				want.Total++
				if k := x.m.known[a]; k != nil && k.holder != nil {
					want.Taken++
				}
				return true
			})
		}
		if want.Free = want.Total - want.Taken; usage[i] != want {
			t.Fatalf("usage of %v: got %+v, want %+v", set, usage[i], want)
		}
	}
}

func TestLedgerMatchesModel(t *testing.T) {
	dir := t.TempDir()
	var runs atomic.Int64
	rapid.Check(t, func(t *rapid.T) {
		x := &machine{t: t, clock: newClock(), m: &model{known: map[netip.Addr]*modelAddr{}}}
		x.opts = Options{BootID: "boot-0", Now: x.clock.now, wrap: func(f file) file {
			if x.fault != nil {
				f = x.fault.wrap(f)
			}
			return noSync{f}
		}}
		x.opts.Cooldown = rapid.SampledFrom([]time.Duration{0, time.Minute}).Draw(t, "cooldown")
		x.l = &Ledger{path: filepath.Join(dir, fmt.Sprint(runs.Add(1))), turn: make(chan struct{}, 1)}
		x.reopen()
		defer func() { x.l.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"allocate": x.allocate,
			"Allocate": x.allocate, // twice as likely
			"release":  x.release,
			"retain":   x.retain,
			"usage":    x.usage,
			"reopen":   func(t *rapid.T) { x.t = t; x.reopen() },
			"reboot": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "really") == 0 {
					x.reboot(t)
				}
			},
			"wait": func(t *rapid.T) {
				x.clock.advance(time.Duration(rapid.IntRange(1, 90).Draw(t, "seconds")) * time.Second)
			},
			"": x.check,
		})
	})
}
