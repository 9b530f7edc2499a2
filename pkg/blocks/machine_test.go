package blocks_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/blocks"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// machine is a node: what package node does in a sync and an audit, and package
// cni in ADD and DEL, but for the kernel.
type machine struct {
	cluster  *cluster
	name     string
	instance string
	spec     lease.Network
	underlay intent.Underlay
	dead     bool

	offset time.Duration // of the wall clock
	booted time.Duration // in true time
	boots  int

	client    *client
	registry  *lease.Registry
	keeper    *blocks.Keeper
	collector ipam.Collector
	path      string
	opened    []*ipam.Ledger // by the daemon
	noLedger  bool           // the next time that it opens the ledger fails
	asked     func()         // when the keeper next asks for the time

	state  *nodestate.State // nil: none is written
	pods   []*pod
	calls  []*call           // ADDs on their way
	killed []ipam.Attachment // of which something may be left

	began     time.Duration // the last sync, in true time
	seen      time.Duration // the last sync that reached the store all the time
	connected time.Duration // since when it could
}

// pod is an attachment, from the moment at which its addresses are taken.
type pod struct {
	ipam.Attachment
	addresses []address
	live      bool // its interface is there
}

type address struct {
	netip.Addr
	// lost: the node was cut off for so long that another has the block.
	lost bool
}

// call is an ADD that has read the node's state, and may have an address.
type call struct {
	ipam.Attachment
	state *nodestate.State
	begun time.Duration
	pod   *pod
}

func (m *machine) wall() time.Time       { return m.cluster.now().Add(m.offset) }
func (m *machine) uptime() time.Duration { return m.cluster.at - m.booted }

// steady is the clock that the keeper sees: within a process the system's is. It
// asks once it has seen how full the blocks are.
func (m *machine) steady() time.Time {
	if asked := m.asked; asked != nil {
		m.asked = nil
		asked()
	}
	return m.cluster.now()
}

// options of the ledger, as the plugin and the daemon open it.
func (m *machine) options() ipam.Options {
	return ipam.Options{BootID: fmt.Sprint(m.instance, "-", m.boots), Now: m.wall, Live: m.live}
}

func (m *machine) live(context.Context) (live []ipam.Allocation, err error) {
	for _, p := range m.pods {
		for _, a := range p.addresses {
			if p.live {
				live = append(live, ipam.Allocation{Attachment: p.Attachment, Address: a.Addr})
			}
		}
	}
	return live, nil
}

// start is what the daemon's process begins with: nothing.
func (m *machine) start() {
	w := &m.cluster.world
	m.registry = &lease.Registry{
		Store: m.client, TTL: w.ttl, Fence: w.fence, Notice: w.notice, Now: m.wall, Elapsed: m.uptime,
	}
	m.keeper = &blocks.Keeper{
		Registry: m.registry, Open: m.open, Pooled: true, Grace: w.grace, Log: slog.New(slog.DiscardHandler),
		Now: m.steady,
	}
	m.collector = ipam.Collector{Grace: w.grace}
}

// open is how the daemon opens the ledger.
func (m *machine) open() (*ipam.Ledger, error) {
	if m.noLedger {
		m.noLedger = false
		return nil, errInjected
	}
	l, err := ipam.OpenLedger(m.path, m.options())
	if err == nil {
		m.opened = append(m.opened, l)
	}
	return l, err
}

// kill makes all fail that the daemon still does in a sync.
func (m *machine) kill() {
	m.client.cut = true
	for _, l := range m.opened {
		_ = l.Close()
	}
}

func (m *machine) claim(joined lease.Network) *lease.Claim {
	return &lease.Claim{
		Network: joined, Node: m.name, Instance: m.instance,
		VTEP: lease.VTEP{Underlay: m.underlay.Addresses, MAC: joined.MAC(m.name)},
	}
}

// sync is node.Network.Sync.
func (m *machine) sync() error {
	defer func() { m.opened = nil }()
	m.began = m.cluster.at
	ctx := context.Background()
	previous := m.state
	if previous == nil { // to know whether the node is a fresh one
		if _, err := m.registry.View(ctx, m.spec.Name); err != nil {
			return err
		}
	}
	wall, uptime := m.wall(), m.uptime()
	facts := intent.Facts{Network: m.spec, Node: m.name, Instance: m.instance, Underlay: m.underlay}
	var err error
	if facts.Network, err = m.registry.Join(ctx, &m.spec); err != nil {
		return err
	}
	own, err := m.registry.Acquire(ctx, m.claim(facts.Network))
	lacking := previous != nil && len(own) > 0 && errors.Is(err, lease.ErrNoBlock)
	if err != nil && !lacking {
		return err
	}
	own, problem := m.keeper.Balance(ctx, m.claim(facts.Network), own)
	if lacking {
		problem = err.Error()
	}
	view, err := m.registry.View(ctx, m.spec.Name)
	if err != nil {
		return err
	}
	facts.Leases = view.Leases
	want, err := intent.ForNode(&facts)
	if err != nil {
		return err
	}
	state := &nodestate.State{
		Network: facts.Network, Node: m.name, VTEP: want.VTEP, Expires: earliest(own), Revision: view.Revision, Problem: problem,
	}
	// As moment.deadline in package node.
	state.Deadline = uptime + state.Expires.Sub(wall)
	if previous != nil && previous.Expires.Equal(state.Expires) && previous.Deadline > uptime {
		state.Deadline = min(state.Deadline, previous.Deadline)
	}
	m.state = state
	return nil
}

func earliest(own []lease.Lease) time.Time {
	first := own[0].Expires
	for _, l := range own {
		if l.Expires.Before(first) {
			first = l.Expires
		}
	}
	return first
}

// usable says whether an ADD is begun.
func (m *machine) usable() bool { return m.state != nil && !m.state.Expired(m.wall(), m.uptime()) }

// allocate takes addresses for an ADD that has read a state.
func (m *machine) allocate(a ipam.Attachment, s *nodestate.State) (*pod, error) {
	p := &pod{Attachment: a}
	err := m.withLedger(func(ctx context.Context, l *ipam.Ledger) error {
		request := ipam.Request{Attachment: a, Sets: blocks.PodRanges(s.Blocks())}
		got, err := l.Allocate(ctx, request)
		if errors.Is(err, ipam.ErrHeld) { // left of an ADD that was killed
			if _, err := l.Release(ctx, a); err != nil {
				return err
			}
			got, err = l.Allocate(ctx, request)
		}
		for _, a := range got {
			p.addresses = append(p.addresses, address{Addr: a})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	m.pods = append(m.pods, p)
	m.cluster.given(m, p, len(blocks.PodRanges(s.Blocks())))
	return p, nil
}

// forget drops a pod, as when its interface is gone, or an ADD is.
func (m *machine) forget(p *pod) {
	m.pods = slices.DeleteFunc(m.pods, func(o *pod) bool { return o == p })
}

// release frees what a pod that is forgotten held.
func (m *machine) release(a ipam.Attachment) {
	err := m.withLedger(func(ctx context.Context, l *ipam.Ledger) error {
		_, err := l.Release(ctx, a)
		return err
	})
	m.cluster.must(err)
}

// collect is the runtime's GC: what is not alive or being made is freed.
func (m *machine) collect() {
	var keep []ipam.Attachment
	for _, p := range m.pods {
		keep = append(keep, p.Attachment)
	}
	for _, c := range m.calls {
		keep = append(keep, c.Attachment)
	}
	err := m.withLedger(func(ctx context.Context, l *ipam.Ledger) error {
		_, err := l.Retain(ctx, keep)
		return err
	})
	m.cluster.must(err)
}

// audit is node.Network.Audit. What would be for people to decide must not be.
func (m *machine) audit() {
	own := m.keeper.Own()
	if len(own) == 0 {
		return // not synced yet
	}
	err := m.withLedger(func(ctx context.Context, l *ipam.Ledger) error {
		held, err := l.All(ctx)
		if err != nil {
			return err
		}
		live, err := m.live(ctx)
		if err != nil {
			return err
		}
		report := ipam.Audit(held, live, own)
		if len(report.Orphaned)+len(report.Duplicate) > 0 {
			m.cluster.fatalf("audit of %s: %v", m.name, report)
		}
		for _, leaked := range m.collector.Observe(m.cluster.now(), report) {
			if m.busy(leaked.Attachment) {
				continue
			}
			if _, err := l.ReleaseIf(ctx, leaked); err != nil {
				return err
			}
		}
		return nil
	})
	m.cluster.must(err)
}

// busy says whether an ADD has the attachment's lock.
func (m *machine) busy(a ipam.Attachment) bool {
	return slices.ContainsFunc(m.calls, func(c *call) bool { return c.Attachment == a })
}

func (m *machine) withLedger(do func(context.Context, *ipam.Ledger) error) error {
	l, err := ipam.OpenLedger(m.path, m.options())
	if err != nil {
		return err
	}
	return errors.Join(do(context.Background(), l), l.Close())
}

// reboot loses all but the disk.
func (m *machine) reboot() {
	m.boots++
	m.booted = m.cluster.at
	m.state, m.pods, m.calls, m.killed = nil, nil, nil, nil
	m.start()
}

// die is for good.
func (m *machine) die() {
	m.dead = true
	m.state, m.pods, m.calls = nil, nil, nil
	m.client.cut = true
}

// newMachine makes a node; its ledger is another's of the same number, emptied.
func newMachine(c *cluster, number int, name string, spec lease.Network) *machine {
	m := &machine{
		cluster: c, name: name, instance: fmt.Sprintf("machine-%d", number), spec: spec,
		underlay: intent.Underlay{Interface: "eth0", MTU: 1500, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(number + 1)})}},
		booted:   c.at, seen: c.at, connected: c.at,
		client: &client{memory: c.store}, path: filepath.Join(c.dir, fmt.Sprint(number)),
	}
	m.start()
	return m
}
