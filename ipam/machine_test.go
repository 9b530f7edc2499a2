package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// chance draws numbers below n; the label says what for.
type chance func(label string, n int) int

// machine runs a ledger beside the model: one file, two processes that have it
// open, and whatever may happen to them.
type machine struct {
	fatalf func(format string, args ...any)
	draw   chance
	note   func(format string, args ...any) // what is done, for who reads a failure

	m       *model
	handles [2]*Ledger
	path    string
	mem     *memory // or nil: a file on the disk
	clock   *clock
	opts    Options
	boot    int
	pool    int          // how many blocks the node has
	seen    []Allocation // what somebody saw in the ledger a while ago
	fault   *fault       // of the operation in progress, or nil
}

const modelPods = 13

// modelSets has definitions that overlap each other, as after changes of the
// configuration.
var modelSets = [][]RangeSet{
	{{between("10.0.0.1", "10.0.0.6")}},
	{{between("10.0.0.0", "10.0.0.9", "10.0.0.0/31", "10.0.0.4/32")}},
	{{between("10.0.0.5", "10.0.0.7"), between("10.0.1.1", "10.0.1.4")}},
	{{between("fd00::", "fd00::ffff:ffff:ffff:ffff", "fd00::/125")}, {between("10.0.0.1", "10.0.0.6")}},
	{{between("10.0.1.1", "10.0.1.4")}, {between("10.0.0.1", "10.0.0.6")}},
}

// modelWithdrawals are parts, wholes and unions of the ranges in modelSets.
var modelWithdrawals = []Range{
	between("10.0.0.1", "10.0.0.6"), between("10.0.0.0", "10.0.0.255"), between("10.0.0.5", "10.0.0.7"),
	between("10.0.0.3", "10.0.0.3"), between("10.0.0.2", "10.0.0.4"), between("10.0.0.6", "10.0.0.9"),
	between("10.0.1.1", "10.0.1.2"), between("10.0.1.1", "10.0.1.4"), between("10.0.0.0", "10.1.255.255"),
	between("fd00::8", "fd00::9"), between("fd00::a", "fd00::f"), between("fd00::", "fd00::ffff:ffff:ffff:ffff"),
}

// block is one of those that the node claims as it grows: two addresses.
func block(n int) Range {
	return between(fmt.Sprintf("10.1.0.%d", 4*n), fmt.Sprintf("10.1.0.%d", 4*n+3),
		fmt.Sprintf("10.1.0.%d/32", 4*n), fmt.Sprintf("10.1.0.%d/32", 4*n+3))
}

const maxPool = 4

// wide keeps the model from searching a /64.
func wide(sets []RangeSet) []RangeSet {
	if sets[0][0].First != addr("fd00::") {
		return sets
	}
	return []RangeSet{{between("fd00::", "fd00::7f", "fd00::/125")}, sets[1]}
}

// newMachine begins with an empty ledger, in mem if that isn't nil.
func newMachine(path string, mem *memory, draw chance) (*machine, error) {
	x := &machine{draw: draw, m: newModel(), path: path, mem: mem, clock: newClock(), pool: 1}
	x.note = func(string, ...any) {}
	x.opts = Options{BootID: "boot-0", Now: x.clock.now, wrap: func(f file) file {
		if x.mem != nil {
			f = x.mem
		}
		if x.fault != nil {
			f = x.fault.wrap(f)
		}
		return noSync{f}
	}}
	x.opts.Cooldown = []time.Duration{0, time.Minute}[draw("cooldown", 2)]
	for n := range x.handles {
		if err := x.reopen(n); err != nil {
			return nil, err
		}
	}
	return x, nil
}

func (x *machine) close() {
	for _, l := range x.handles {
		l.Close()
	}
}

// reopen ends a process and starts another one.
func (x *machine) reopen(n int) (err error) {
	if x.handles[n] != nil {
		x.handles[n].Close()
	}
	x.handles[n], err = OpenLedger(x.path, x.opts)
	return err
}

// try runs one operation in one of the processes, which may die at one of its
// writes or find the disk full there. It says whether what the operation returned
// counts; where it doesn't, the operation has happened entirely or not at all,
// and apply makes the model follow.
func (x *machine) try(apply func(), op func(*Ledger) error) bool {
	n := x.draw("process", len(x.handles))
	x.fault = nil
	if x.draw("die", 4) == 0 {
		x.fault = &fault{after: x.draw("after writes", 12), stop: x.draw("for good", 3) > 0}
		if x.fault.stop {
			x.fault.part = part(x.draw("part", 3))
		}
	}
	err := op(x.handles[n])
	hit := x.fault != nil && x.fault.hit
	if hit != errors.Is(err, errFault) {
		x.fatalf("fault %v, error %v", hit, err)
	}
	if !hit {
		x.fault = nil
		return true
	}
	killed := x.fault.part
	x.fault = nil
	x.note("  died: %v", err)
	if err := x.reopen(n); err != nil {
		x.fatalf("%v", err)
	}
	if differs := x.differs(); differs != "" && killed != nothing {
		apply()
	}
	return false
}

func (x *machine) attachment() Attachment { return pod(x.draw("pod", modelPods)) }

// sets is a request's: one of the definitions, or all blocks.
func (x *machine) sets() []RangeSet {
	n := x.draw("sets", len(modelSets)+2)
	if n < len(modelSets) {
		return modelSets[n]
	}
	var blocks RangeSet
	for n := range x.pool {
		blocks = append(blocks, block(n))
	}
	return []RangeSet{blocks}
}

func (x *machine) allocate() {
	req := Request{Attachment: x.attachment(), Sets: x.sets()}
	if x.draw("fixed", 4) == 0 {
		req.Addresses = append(req.Addresses, netip.AddrFrom4([4]byte{10, 0, 0, byte(x.draw("address", 11))}))
	}
	x.request(req)
}

// fill allocates from one set until it is full or nearly so.
func (x *machine) fill() { x.fillFrom(x.sets()) }

func (x *machine) fillFrom(sets []RangeSet) {
	first, n := x.draw("pod", modelPods), 3+x.draw("pods", 8)
	for i := range n {
		x.request(Request{Attachment: pod((first + i) % modelPods), Sets: sets})
		x.check()
	}
}

// retake gives an address that was seen back to who held it, at another time.
func (x *machine) retake() {
	if len(x.seen) == 0 {
		x.look()
		return
	}
	seen := x.seen[x.draw("seen", len(x.seen))]
	x.releaseOf(seen.Attachment)
	x.check()
	x.clock.advance(time.Second)
	for _, sets := range modelSets {
		if len(sets) == 1 && gives(sets[0], seen.Address) {
			x.request(Request{Attachment: seen.Attachment, Sets: sets, Addresses: []netip.Addr{seen.Address}})
			return
		}
	}
}

func (x *machine) request(req Request) {
	req.Elsewhere = x.draw("elsewhere", 4) == 0
	sets := req.Sets
	inModel := req
	inModel.Sets = wide(sets)
	want, wantErr, apply := x.m.allocate(inModel, x.clock.at, x.opts.Cooldown)
	x.note("allocate for %v fixed %v elsewhere %t from %v: %v, %v", req.Attachment, req.Addresses, req.Elsewhere, sets, want, wantErr)
	var got []netip.Addr
	var err error
	if !x.try(apply, func(l *Ledger) error { got, err = l.Allocate(context.Background(), req); return err }) {
		return
	}
	if !errors.Is(err, wantErr) || !slices.Equal(got, want) {
		x.fatalf("allocate %v: got %v, %v, want %v, %v", req, got, err, want, wantErr)
	}
	apply()
}

func (x *machine) release() { x.releaseOf(x.attachment()) }

func (x *machine) releaseOf(a Attachment) {
	held := x.m.held(a)
	var want []netip.Addr
	for _, k := range held {
		want = append(want, k.address)
	}
	x.note("release %v: %v", a, want)
	apply := func() { x.m.free(held, x.clock.at) }
	var got []netip.Addr
	var err error
	if !x.try(apply, func(l *Ledger) error { got, err = l.Release(context.Background(), a); return err }) {
		return
	}
	if err != nil || !slices.Equal(got, want) {
		x.fatalf("release %s: got %v, %v, want %v", a, got, err, want)
	}
	apply()
}

// look remembers what is held, for a releaseIf that comes later.
func (x *machine) look() {
	all, err := x.handles[0].All(context.Background())
	if err != nil {
		x.fatalf("%v", err)
	}
	x.note("look: %d held", len(all))
	x.seen = all
}

func (x *machine) releaseIf() {
	if len(x.seen) == 0 {
		x.look()
		return
	}
	seen := x.seen[x.draw("seen", len(x.seen))]
	k := x.m.known[seen.Address]
	want := k != nil && k.holder != nil && *k.holder == seen.Attachment && k.since.Equal(seen.Since) && k.elsewhere == seen.Elsewhere
	x.note("release %v of %v if since %v, elsewhere %t: %v", seen.Address, seen.Attachment, seen.Since, seen.Elsewhere, want)
	apply := func() {
		if want {
			x.m.free([]*modelAddr{k}, x.clock.at)
		}
	}
	var got bool
	var err error
	if !x.try(apply, func(l *Ledger) error { got, err = l.ReleaseIf(context.Background(), seen); return err }) {
		return
	}
	if err != nil || got != want {
		x.fatalf("release %+v: got %v, %v, want %v", seen, got, err, want)
	}
	apply()
}

func (x *machine) retain() {
	var keep []Attachment
	most := x.draw("most", 5)
	for n := range modelPods {
		if x.draw("keep", 4) < most {
			keep = append(keep, pod(n))
		}
	}
	var stale []*modelAddr
	for _, k := range x.m.known {
		if k.holder != nil && !slices.Contains(keep, *k.holder) {
			stale = append(stale, k)
		}
	}
	x.note("retain %v", keep)
	apply := func() { x.m.free(stale, x.clock.at) }
	var freed []Allocation
	var err error
	if !x.try(apply, func(l *Ledger) error { freed, err = l.Retain(context.Background(), keep); return err }) {
		return
	}
	if err != nil || len(freed) != len(stale) {
		x.fatalf("retain %v: got %v, %v, want %d", keep, freed, err, len(stale))
	}
	apply()
}

// part of the addresses: of those that are known to be interesting, or a block.
func (x *machine) part() Range {
	if n := x.draw("range", len(modelWithdrawals)+maxPool); n < len(modelWithdrawals) {
		return modelWithdrawals[n]
	}
	return block(x.draw("block", maxPool))
}

func (x *machine) withdraw() { x.withdrawOf(x.part()) }

func (x *machine) withdrawOf(r Range) {
	wantErr, apply := x.m.withdraw(r)
	x.note("withdraw %v: %v", r, wantErr)
	var err error
	if !x.try(apply, func(l *Ledger) error { err = l.Withdraw(context.Background(), r); return err }) {
		return
	}
	if !errors.Is(err, wantErr) {
		x.fatalf("withdraw %v: got %v, want %v", r, err, wantErr)
	}
	apply()
}

func (x *machine) admit() { x.admitOf(x.part()) }

// cycle takes a part away and gives it back, under one definition's use.
func (x *machine) cycle() {
	sets, r := x.sets(), x.part()
	x.withdrawOf(r)
	x.fillFrom(sets)
	x.admitOf(r)
	x.check()
	x.fillFrom(sets)
}

func (x *machine) admitOf(r Range) {
	apply := x.m.admit(r)
	x.note("admit %v", r)
	var err error
	if !x.try(apply, func(l *Ledger) error { err = l.Admit(context.Background(), r); return err }) {
		return
	}
	if err != nil {
		x.fatalf("admit %v: %v", r, err)
	}
	apply()
}

// grow claims one more block.
func (x *machine) grow() {
	x.pool = min(x.pool+1, maxPool)
	x.note("pool of %d", x.pool)
}

func (x *machine) restart() {
	n := x.draw("process", len(x.handles))
	x.note("reopen %d", n)
	if err := x.reopen(n); err != nil {
		x.fatalf("%v", err)
	}
}

// reboot ends both processes and loses what was never synced.
func (x *machine) reboot() {
	x.note("reboot")
	x.boot++
	x.opts.BootID = fmt.Sprint("boot-", x.boot)
	if x.mem != nil {
		x.mem.loseUnsynced(x.draw)
	}
	for n := range x.handles {
		if err := x.reopen(n); err != nil {
			x.fatalf("%v", err)
		}
	}
	x.m = newModel()
}

// wait moves the clock: a little forward, or anywhere, as when it is set.
func (x *machine) wait() {
	by := time.Duration(x.draw("seconds", 90)) * time.Second
	if x.draw("jump", 4) == 0 {
		by = time.Duration(x.draw("hours", 200)-100) * time.Hour
	}
	x.note("clock %v", by)
	x.clock.advance(by)
}

func (x *machine) usage() {
	sets := wide(x.sets())
	usage, err := x.handles[x.draw("process", len(x.handles))].Usage(context.Background(), sets)
	if err != nil {
		x.fatalf("%v", err)
	}
	seen, err := Inspect(context.Background(), x.path, x.opts)
	if err != nil {
		x.fatalf("%v", err)
	}
	counted, err := seen.Usage(sets)
	if err != nil {
		x.fatalf("%v", err)
	}
	x.note("usage of %v", sets)
	for i, set := range sets {
		if want := x.m.usage(set); usage[i] != want || counted[i] != want {
			x.fatalf("usage of %v: got %+v and in a snapshot %+v, want %+v", set, usage[i], counted[i], want)
		}
	}
}

// steps are what may happen, each as often as it is listed.
func (x *machine) steps() []step {
	return []step{
		{"allocate", x.allocate}, {"Allocate", x.allocate}, {"fill", x.fill}, {"retake", x.retake}, {"release", x.release},
		{"Release", x.release}, {"releaseIf", x.releaseIf}, {"look", x.look}, {"retain", x.retain},
		{"withdraw", x.withdraw}, {"Withdraw", x.withdraw}, {"admit", x.admit}, {"cycle", x.cycle}, {"grow", x.grow},
		{"usage", x.usage}, {"reopen", x.restart}, {"wait", x.wait}, {"reboot", func() {
			if x.draw("really", 6) == 0 {
				x.reboot()
			}
		}},
	}
}

type step struct {
	name string
	do   func()
}
