package blocks_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// world is what may happen to the nodes of a cluster, and what may not.
type world struct {
	name                      string
	ttl, fence, notice, grace time.Duration
	// patience is how old the state may be by which an ADD allocates.
	patience time.Duration
	// spread is by how much wall clocks differ at most; 0: by anything.
	spread time.Duration
	// steady is the longest time from one sync of a node to the next while it
	// reaches the store, and partition the longest in which it doesn't; 0: any.
	steady, partition time.Duration
}

// apart is a world in which clocks differ by less than the fence, and nodes may
// be cut off for any time. Where an ADD may be slow, it takes its part of the
// fence.
func apart(patience, spread time.Duration) world {
	return world{
		name: "clocks differ by less than the fence", ttl: lease.DefaultTTL, fence: lease.DefaultFence,
		notice: lease.DefaultNotice, grace: time.Minute, patience: patience, spread: spread,
	}
}

// astray is a world in which clocks show anything, and every node syncs in time
// to object to a notice. The times are such that hours needn't pass.
func astray() world {
	w := world{
		name: "clocks show anything", ttl: 40 * time.Minute, fence: 10 * time.Minute,
		notice: 10 * time.Minute, grace: time.Minute, patience: 9 * time.Minute,
	}
	w.steady = w.notice / 3
	w.partition = w.steady
	return w
}

// cluster is nodes around a store, and what must be true of all.
type cluster struct {
	world  world
	draw   func(n int) int
	note   func(format string, args ...any)
	fatalf func(format string, args ...any)
	dir    string

	at     time.Duration // the true time, since the beginning
	store  *memory
	nodes  []*machine // of all times
	pools  []lease.Pool
	more   []lease.Pool // to grow by
	pod    int          // the last one's number
	outage bool
	away   time.Duration // when the last outage began
	blocks map[string]*held
	// changes counts those of leases, but for renewals.
	changes int
}

// held is a lease in the store.
type held struct {
	lease.Lease
	written time.Duration // in true time: the beginning of the sync that claimed or renewed it
}

func (c *cluster) now() time.Time {
	return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(c.at)
}

func (c *cluster) must(err error) {
	if err != nil {
		c.fatalf("%v", err)
	}
}

// spec is the network as a node that starts now has it.
func (c *cluster) spec() lease.Network {
	return lease.Network{Name: "pods", Pools: slices.Clone(c.pools)}.Complete()
}

func pool(cidr string, length int) lease.Pool {
	return lease.Pool{CIDR: netip.MustParsePrefix(cidr), BlockLength: length}
}

// newCluster has two to four nodes, that haven't synced yet.
func newCluster(w world, dir string, draw func(int) int) *cluster {
	c := &cluster{world: w, draw: draw, dir: dir, store: newMemory(), blocks: map[string]*held{}}
	c.note = func(string, ...any) {}
	c.store.wrote = c.wrote
	c.pools = []lease.Pool{[]lease.Pool{
		pool("10.0.0.0/28", 30), pool("10.0.0.0/27", 30), pool("10.0.0.0/27", 29), pool("10.0.0.0/26", 28),
	}[draw(4)]}
	c.more = []lease.Pool{pool("10.0.1.0/29", 30), pool("10.0.2.0/28", 29)}
	if draw(3) == 0 {
		c.pools = append(c.pools, pool("fd00::/124", 126))
		c.more = append(c.more, pool("fd00:1::/124", 126))
	}
	for range 2 + draw(3) {
		c.add(fmt.Sprint("n", len(c.nodes)))
	}
	return c
}

func (c *cluster) add(name string) *machine {
	m := newMachine(c, len(c.nodes), name, c.spec())
	c.nodes = append(c.nodes, m)
	m.offset = c.offset(m)
	return m
}

// offset is what the wall clock of a node is set to: where clocks are nearly
// right, anything only while nobody sees it.
func (c *cluster) offset(m *machine) time.Duration {
	if c.world.steady == 0 && !m.client.cut {
		return time.Duration(c.draw(1001)-500) * c.world.spread / 1000
	}
	if c.draw(4) == 0 {
		return m.offset + c.world.notice*3/2
	}
	unit := []time.Duration{0, time.Second, time.Minute, time.Hour, 24 * time.Hour, 365 * 24 * time.Hour}[c.draw(6)]
	return time.Duration(c.draw(21)-10) * unit
}

// living are the nodes that aren't dead.
func (c *cluster) living() []*machine {
	var living []*machine
	for _, m := range c.nodes {
		if !m.dead {
			living = append(living, m)
		}
	}
	return living
}

// shuffled are the living nodes in any order.
func (c *cluster) shuffled() []*machine {
	all := c.living()
	for i := range all {
		j := i + c.draw(len(all)-i)
		all[i], all[j] = all[j], all[i]
	}
	return all
}

// cut parts a node from the store.
func (c *cluster) cut(m *machine) { m.client.cut = true }

func (c *cluster) connect(m *machine) {
	if m.client.cut {
		m.client.cut = false
		if c.world.steady > 0 {
			m.connected = c.at
		} else {
			m.offset = c.offset(m)
		}
	}
}

// sync is a sync at which nothing is injected.
func (c *cluster) sync(m *machine) {
	err := m.sync()
	if !m.client.cut {
		m.seen = m.began
	}
	if err != nil {
		c.note("  %s can't sync: %v", m.name, err)
	} else if m.state.Problem == "" {
		c.admitted(m)
	}
}

// admitted: all that a node says it has it can give.
func (c *cluster) admitted(m *machine) {
	for i, u := range m.usage(m.state.Blocks()) {
		if u.Withdrawn > 0 {
			c.fatalf("%s has %s, and gives none of its addresses", m.name, m.state.Blocks()[i])
		}
	}
}

// due is when a node has to sync.
func (c *cluster) due(m *machine) time.Duration {
	if m.client.cut {
		return m.seen + c.world.partition
	}
	return max(m.seen, m.connected) + c.world.steady
}

// pass lets true time pass, in which nodes sync as the world wants them to.
func (c *cluster) pass(d time.Duration) {
	if c.world.steady == 0 || c.outage {
		c.at += d
		return
	}
	for end := c.at + d; ; {
		next := end
		for _, m := range c.living() {
			next = min(next, c.due(m))
		}
		c.at = max(c.at, next)
		for _, m := range c.shuffled() {
			if c.due(m) <= c.at {
				c.connect(m)
				c.sync(m)
			}
		}
		if next >= end {
			return
		}
	}
}

// owner is the node that has a lease.
func (c *cluster) owner(l *lease.Lease) *machine {
	for _, m := range c.nodes {
		if m.instance == l.Instance {
			return m
		}
	}
	c.fatalf("nobody is %s, of the lease of %s", l.Instance, l.Block)
	return nil
}

// wrote follows the leases, and judges every change of them.
func (c *cluster) wrote(now, before store.Event) {
	if !strings.HasPrefix(now.Key, "leases/") {
		return
	}
	old := c.blocks[now.Key]
	c.changes++
	if now.Deleted {
		c.note("  %s gives %s back", old.Node, old.Block)
		c.abandoned(old)
		delete(c.blocks, now.Key)
		return
	}
	h := &held{}
	c.must(json.Unmarshal(now.Value, &h.Lease))
	h.written = c.owner(&h.Lease).began
	c.blocks[now.Key] = h
	switch {
	case old == nil:
		c.note("  %s claims %s", h.Node, h.Block)
		c.apartFrom(h)
		c.regained(h)
	case h.Instance != old.Instance:
		c.note("  %s takes %s from %s", h.Node, h.Block, old.Node)
		c.taken(old, c.owner(&h.Lease))
		c.regained(h)
	case h.Notice != nil && h.Expires.Equal(old.Expires):
		c.note("  %s gives notice that it takes %s from %s", h.Notice.Node, h.Block, h.Node)
		h.written = old.written
	default:
		c.changes--
	}
}

// apartFrom: blocks don't overlap.
func (c *cluster) apartFrom(h *held) {
	for _, o := range c.blocks {
		if o != h && o.Block.Overlaps(h.Block) {
			c.fatalf("blocks %s and %s are leased", h.Block, o.Block)
		}
	}
}

// abandoned: what is given back has no pods.
func (c *cluster) abandoned(h *held) {
	m := c.owner(&h.Lease)
	for _, p := range m.pods {
		for _, a := range p.addresses {
			if h.Block.Contains(a.Addr) {
				c.fatalf("%s gives %s back, but %s has %s", m.name, h.Block, p.ContainerID, a)
			}
		}
	}
}

// taken judges that a block passes from one node to another. It is the one
// excuse for an address that two pods have: the pods of a node that was away for
// longer than lease and fence don't count from here on.
func (c *cluster) taken(h *held, by *machine) {
	from := c.owner(&h.Lease)
	if least := c.world.ttl + c.world.fence - c.world.spread - time.Second; c.world.steady == 0 && c.at-h.written < least {
		c.fatalf("%s takes %s from %s, which has renewed it %s ago, less than %s", by.name, h.Block, from.name, c.at-h.written, least)
	}
	if from.dead {
		return
	}
	if from.usable() && slices.Contains(from.state.Blocks(), h.Block) {
		c.fatalf("%s takes %s from %s, which may give its addresses", by.name, h.Block, from.name)
	}
	healthy := c.world.steady > 0 || h.written+c.world.ttl > c.away && !from.client.cut
	if since := c.at - max(from.seen, from.connected); since < c.world.notice && healthy {
		c.fatalf("%s takes %s from %s, which could object for %s only", by.name, h.Block, from.name, since)
	}
	c.mark(from, h, true)
}

// regained: pods that were excused count again when their node has the block.
func (c *cluster) regained(h *held) { c.mark(c.owner(&h.Lease), h, false) }

func (c *cluster) mark(m *machine, h *held, lost bool) {
	for _, p := range m.pods {
		for i := range p.addresses {
			if h.Block.Contains(p.addresses[i].Addr) {
				p.addresses[i].lost = lost
			}
		}
	}
}

// given judges what an ADD got of blocks of so many families.
func (c *cluster) given(m *machine, p *pod, want int) {
	families := 1
	for i, a := range p.addresses {
		at := slices.IndexFunc(c.held(), func(h *held) bool { return h.Block.Contains(a.Addr) })
		if at < 0 || c.held()[at].Instance != m.instance {
			c.fatalf("%s gives %s, which isn't of a block of its own", m.name, a)
		}
		if i > 0 && a.Is4() != p.addresses[0].Is4() {
			families++
		}
	}
	if families != want || len(p.addresses) != want {
		c.fatalf("%s gives %v, want an address of each of %d families", m.name, p.addresses, want)
	}
	c.check()
}

// held are all leases, in the order of blocks.
func (c *cluster) held() []*held {
	all := make([]*held, 0, len(c.blocks))
	for _, h := range c.blocks {
		all = append(all, h)
	}
	slices.SortFunc(all, func(a, b *held) int { return a.Block.Addr().Compare(b.Block.Addr()) })
	return all
}

// check: no address is of two pods.
func (c *cluster) check() {
	seen := map[netip.Addr]string{}
	for _, m := range c.nodes {
		for _, p := range m.pods {
			for _, a := range p.addresses {
				name := p.ContainerID + " on " + m.name
				if other, ok := seen[a.Addr]; ok && !a.lost {
					c.fatalf("%s is of %s and %s", a, other, name)
				}
				if !a.lost {
					seen[a.Addr] = name
				}
			}
		}
	}
}
