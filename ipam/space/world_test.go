package space

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// errKilled is what a process that was killed gets of all its calls, so that it
// ends without doing anything more.
var errKilled = errors.New("process was killed")

// errFault is of a store that fails once.
var errFault = errors.New("store failed")

// process is one operation on a node, run call by call: before each call to the
// store or the ledger it waits for its turn.
type process struct {
	node   *node
	name   string
	about  ipam.Attachment // zero: none
	verb   string
	turn   chan action
	waits  chan bool // true: it waits for its turn; false: it has ended
	killed bool
	lost   bool // the ledger, since it began
	ended  func()
	note   func(format string, args ...any)
}

// action is what becomes of one call.
type action int

const (
	proceed    action = iota
	killBefore        // the process dies before the call
	killAfter         // the call is made, and nobody hears of it
	failBefore
	failAfter
)

// call makes one call of the process when its turn comes.
func (p *process) call(what string, mayFail bool, fn func() error) error {
	if p.killed {
		return errKilled
	}
	p.waits <- true
	turn := <-p.turn
	if !mayFail && (turn == failBefore || turn == failAfter) {
		turn = proceed
	}
	var err error
	if turn != killBefore && turn != failBefore {
		err = fn()
	}
	p.note("%s: %s%s: %v", p.name, what, [...]string{"", ", killed before", ", killed after", ", fails before", ", fails after"}[turn], err)
	switch turn {
	case killBefore, killAfter:
		p.killed = true
		return errKilled
	case failBefore, failAfter:
		return errFault
	default:
		return err
	}
}

// steppedStore is the store as a process uses it.
type steppedStore struct {
	store.Store
	p *process
}

func (s *steppedStore) Get(ctx context.Context, key string) (e store.Entry, err error) {
	err = s.p.call("store Get"+" "+key, true, func() (err error) { e, err = s.Store.Get(ctx, key); return err })
	return e, err
}

func (s *steppedStore) List(ctx context.Context, prefix string) (all []store.Entry, r store.Revision, err error) {
	err = s.p.call("store List", true, func() (err error) { all, r, err = s.Store.List(ctx, prefix); return err })
	return all, r, err
}

func (s *steppedStore) Create(ctx context.Context, key string, value []byte) (r store.Revision, err error) {
	err = s.p.call("store Create"+" "+key, true, func() (err error) { r, err = s.Store.Create(ctx, key, value); return err })
	return r, err
}

func (s *steppedStore) Update(ctx context.Context, key string, value []byte, at store.Revision) (r store.Revision, err error) {
	err = s.p.call("store Update"+" "+key, true, func() (err error) { r, err = s.Store.Update(ctx, key, value, at); return err })
	return r, err
}

func (s *steppedStore) Delete(ctx context.Context, key string, at store.Revision) error {
	return s.p.call("store Delete"+" "+key, true, func() error { return s.Store.Delete(ctx, key, at) })
}

// steppedLedger is the ledger as a process uses it.
type steppedLedger struct {
	ledger
	p *process
}

func (l *steppedLedger) Allocate(ctx context.Context, req ipam.Request) (got []netip.Addr, err error) {
	err = l.p.call("ledger Allocate"+fmt.Sprint(" ", req.Addresses), false, func() (err error) { got, err = l.ledger.Allocate(ctx, req); return err })
	return got, err
}

func (l *steppedLedger) Lookup(ctx context.Context, a ipam.Attachment) (held []ipam.Allocation, err error) {
	err = l.p.call("ledger Lookup", false, func() (err error) { held, err = l.ledger.Lookup(ctx, a); return err })
	return held, err
}

func (l *steppedLedger) ReleaseIf(ctx context.Context, seen ipam.Allocation) (freed bool, err error) {
	err = l.p.call("ledger ReleaseIf"+" "+seen.Address.String(), false, func() (err error) { freed, err = l.ledger.ReleaseIf(ctx, seen); return err })
	return freed, err
}

func (l *steppedLedger) All(ctx context.Context) (all []ipam.Allocation, err error) {
	err = l.p.call("ledger All", false, func() (err error) { all, err = l.ledger.All(ctx); return err })
	return all, err
}

func (l *steppedLedger) Usage(ctx context.Context, sets []ipam.RangeSet) (u []ipam.Usage, err error) {
	err = l.p.call("ledger Usage", false, func() (err error) { u, err = l.ledger.Usage(ctx, sets); return err })
	return u, err
}

// node is a machine with what lives on it.
type node struct {
	machine Machine
	ledger  string
	boots   int
	live    map[ipam.Attachment][]netip.Addr
	// deleted counts the DELs of an attachment: an ADD that one overtook has
	// made nothing that lives.
	deleted map[ipam.Attachment]int
}

// world is a cluster and all that happens in it, one call at a time, as a source
// of random numbers says.
type world struct {
	fatalf  func(format string, args ...any)
	random  *rand.Rand
	store   store.Store
	nodes   []*node
	running []*process
	history []string
	counts  map[string]int // of what happened
}

func newWorld(seed uint64, dir string, s store.Store, fatalf func(string, ...any)) *world {
	w := &world{fatalf: fatalf, random: rand.New(rand.NewPCG(seed, 1)), store: s, counts: map[string]int{}}
	for i := range 3 {
		n := &node{
			machine: Machine{Node: fmt.Sprintf("n%d", i), Instance: fmt.Sprintf("instance-%d", i)},
			ledger:  filepath.Join(dir, fmt.Sprintf("n%d.ledger", i)),
			live:    map[ipam.Attachment][]netip.Addr{}, deleted: map[ipam.Attachment]int{},
		}
		if i == 2 { // another machine of the first one's name
			n.machine.Node = "n0"
		}
		n.boot()
		w.nodes = append(w.nodes, n)
	}
	return w
}

func (n *node) boot() {
	n.boots++
	n.machine.Boot = fmt.Sprintf("boot-%d-of-%s", n.boots, n.machine.Instance)
	clear(n.live)
}

func (w *world) note(format string, args ...any) {
	w.history = append(w.history, fmt.Sprintf(format, args...))
}

// open is the space as nobody but the test uses it.
func (w *world) open(n *node) *Space {
	s, err := Open(&Options{Store: w.store, Name: "net", Machine: n.machine, Ledger: n.ledger})
	if err != nil {
		w.fatalf("%v", err)
	}
	return s
}

// start begins an operation.
func (w *world) start(n *node, verb string, about ipam.Attachment, op func(*Space) error) *process {
	p := &process{
		node: n, verb: verb, about: about, name: fmt.Sprintf("%s %s on %s", verb, about.ContainerID, n.machine.Instance),
		turn: make(chan action), waits: make(chan bool), note: w.note,
	}
	plain := w.open(n)
	stepped := &Space{store: &steppedStore{w.store, p}, name: plain.name, machine: plain.machine, ledger: &steppedLedger{plain.ledger, p}}
	w.note("start %s", p.name)
	w.running = append(w.running, p)
	go func() {
		err := op(stepped)
		p.ended = func() { w.note("end %s: %v", p.name, err) }
		if err := plain.Close(); err != nil {
			w.fatalf("%v", err)
		}
		p.waits <- false
	}()
	w.settle(p)
	return p
}

// settle waits until a process waits for its turn or has ended.
func (w *world) settle(p *process) {
	if <-p.waits {
		return
	}
	p.ended()
	w.running = slices.DeleteFunc(w.running, func(q *process) bool { return q == p })
	w.check()
}

// step gives a process its turn.
func (w *world) step(p *process, what action) {
	p.turn <- what
	w.settle(p)
}

func (w *world) finish(keep func(*process) bool) {
	for _, p := range slices.Clone(w.running) {
		for keep(p) && slices.Contains(w.running, p) {
			w.step(p, proceed)
		}
	}
}

func (w *world) busy(n *node, verbs ...string) bool {
	return slices.ContainsFunc(w.running, func(p *process) bool { return p.node == n && slices.Contains(verbs, p.verb) })
}

func (w *world) busyWith(n *node, a ipam.Attachment, verb string) bool {
	return slices.ContainsFunc(w.running, func(p *process) bool { return p.node == n && p.about == a && p.verb == verb })
}

// check makes sure that no two live attachments have an address, and that each
// has what it was given by the ledger and by the store.
func (w *world) check() {
	owner := map[netip.Addr]string{}
	for _, n := range w.nodes {
		var s *Space
		for a, addresses := range n.live {
			if s == nil {
				s = w.open(n)
			}
			if err := s.Check(context.Background(), a, addresses); err != nil {
				w.fatalf("%s on %s has lost an address: %v", a, n.machine.Instance, err)
			}
			for _, address := range addresses {
				me := fmt.Sprintf("%s on %s", a, n.machine.Instance)
				if other, twice := owner[address]; twice {
					w.fatalf("%s is of %s and of %s", address, other, me)
				}
				owner[address] = me
			}
		}
		if s != nil {
			_ = s.Close()
		}
	}
}

// lose removes a node's ledger, once while an operation runs.
func (w *world) lose(n *node) {
	for _, p := range w.running {
		if p.node == n && p.lost {
			return
		}
	}
	for _, p := range w.running {
		p.lost = p.lost || p.node == n
	}
	w.note("%s loses its ledger", n.machine.Instance)
	w.counts["ledger lost"]++
	if err := os.Remove(n.ledger); err != nil && !errors.Is(err, os.ErrNotExist) {
		w.fatalf("%v", err)
	}
}

func (w *world) reboot(n *node) {
	w.note("%s reboots", n.machine.Instance)
	w.counts["reboot"]++
	for _, p := range slices.Clone(w.running) {
		if p.node == n {
			w.step(p, killBefore)
		}
	}
	w.finish(func(p *process) bool { return p.node == n }) // killed: they only end
	n.boot()
}
