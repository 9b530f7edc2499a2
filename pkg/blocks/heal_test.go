package blocks_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/blocks"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// heal ends all that is wrong, and wants everything to be as it should then.
func (c *cluster) heal() {
	c.note("all is healed")
	for _, m := range c.living() {
		c.connect(m)
		m.offset = 0
		for _, k := range m.calls { // what was still on its way is killed
			if k.pod != nil {
				m.forget(k.pod)
			}
		}
		m.calls = nil
		m.spec = c.spec()
		c.sync(m)
	}
	c.at = max(c.at, c.lastExpiry()) + c.world.fence + time.Second
	c.settle()
	c.clean()
	c.available()
}

// lastExpiry is when the last lease of a dead node ends, in true time.
func (c *cluster) lastExpiry() time.Duration {
	var last time.Duration
	for _, h := range c.held() {
		if c.owner(&h.Lease).dead {
			last = max(last, h.Expires.Sub(c.now().Add(-c.at)))
		}
	}
	return last
}

// settle lets all nodes do what they do, until nothing has changed for longer
// than anybody waits: for another's notice twice its time, then for one's own.
func (c *cluster) settle() {
	const enough, most = 10, 200
	for quiet, round := 0, 0; quiet < enough; quiet, round = quiet+1, round+1 {
		if round == most {
			c.fatalf("the nodes don't settle: they have %v", c.leased())
		}
		before := c.changes
		c.round()
		for _, m := range c.living() {
			m.audit()
		}
		if c.changes != before {
			quiet = 0
		}
	}
}

// round is a sync of every node, which come often enough for a notice to count.
func (c *cluster) round() {
	c.at += c.world.notice / 3
	for _, m := range c.shuffled() {
		c.sync(m)
	}
}

// clean: a node's ledger is its pods, what it has is what it needs.
func (c *cluster) clean() {
	for _, m := range c.living() {
		if len(m.keeper.Own()) == 0 {
			continue // it never got a block
		}
		var held []ipam.Allocation
		c.must(m.withLedger(func(ctx context.Context, l *ipam.Ledger) (err error) {
			held, err = l.All(ctx)
			return err
		}))
		var want []netip.Addr
		for _, p := range m.pods {
			for _, a := range p.addresses {
				want = append(want, a.Addr)
			}
		}
		slices.SortFunc(want, netip.Addr.Compare)
		if !slices.EqualFunc(held, want, func(h ipam.Allocation, a netip.Addr) bool { return h.Address == a }) {
			c.fatalf("ledger of %s: %v are held, and its pods have %v", m.name, held, want)
		}
		for _, f := range m.spec.Families() {
			c.noSurplus(m, f)
		}
	}
}

// use of a node's blocks of one family, in the order in which they were claimed.
type use struct {
	block       netip.Prefix
	taken, free int
}

func (m *machine) uses(f lease.Family) (all []use) {
	var leases []*held
	for _, h := range m.cluster.held() {
		if h.Instance == m.instance && h.Family() == f {
			leases = append(leases, h)
		}
	}
	slices.SortStableFunc(leases, func(a, b *held) int { return a.Index - b.Index })
	own := make([]netip.Prefix, len(leases))
	for i, h := range leases {
		own[i] = h.Block
	}
	for i, u := range m.usage(own) {
		all = append(all, use{own[i], int(u.Taken), int(u.Free)})
	}
	return all
}

// usage of blocks by the node's ledger.
func (m *machine) usage(of []netip.Prefix) (usage []ipam.Usage) {
	sets := make([]ipam.RangeSet, len(of))
	for i := range of {
		sets[i] = ipam.RangeSet{blocks.PodRange(of[i])}
	}
	m.cluster.must(m.withLedger(func(ctx context.Context, l *ipam.Ledger) (err error) {
		usage, err = l.Usage(ctx, sets)
		return err
	}))
	return usage
}

// noSurplus: no block but the first is empty while half of the largest's
// addresses would be free in the others.
func (c *cluster) noSurplus(m *machine, f lease.Family) {
	all := m.uses(f)
	free, wanted := 0, 1
	for _, u := range all {
		free += u.free
		wanted = max(wanted, (u.taken+u.free)/4)
	}
	for i, u := range all {
		if i > 0 && u.taken == 0 && free-u.free >= 2*wanted {
			c.fatalf("%s keeps %s, which is empty; it has %+v", m.name, u.block, all)
		}
	}
}

// available: an ADD fails only if nobody could serve it. Every node is tried
// once, then one until it gets no more.
func (c *cluster) available() {
	all := c.shuffled()
	for _, m := range all {
		c.serve(m)
	}
	for range 200 {
		if !c.serve(all[0]) {
			return
		}
	}
	c.fatalf("%s gets more addresses than there are", all[0].name)
}

// serve says whether an ADD could be served, after some time if need be.
func (c *cluster) serve(m *machine) bool {
	for range 15 {
		pods := len(m.pods)
		if addPod(c, m); len(m.pods) > pods {
			return true
		}
		if slices.ContainsFunc(m.spec.Families(), func(f lease.Family) bool { return !c.could(m, f) }) {
			return false
		}
		c.round()
	}
	c.fatalf("%s gets no address, though there are some in %v", m.name, c.leased())
	return false
}

// could says whether an address of a family could be given.
func (c *cluster) could(m *machine, f lease.Family) bool {
	for _, u := range m.uses(f) {
		if u.free > 0 {
			return true
		}
	}
	leased, there := 0, 0
	for _, h := range c.held() {
		if h.Family() == f {
			if c.owner(&h.Lease).dead {
				return true
			}
			leased++
		}
	}
	for _, p := range c.pools {
		if lease.FamilyOf(p.CIDR.Addr()) == f {
			there += 1 << (p.BlockLength - p.CIDR.Bits())
		}
	}
	return leased < there
}

// leased is who has which block.
func (c *cluster) leased() (all []string) {
	for _, h := range c.held() {
		all = append(all, fmt.Sprint(h.Block, " of ", h.Instance))
	}
	return all
}
