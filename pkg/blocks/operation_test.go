package blocks_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
)

// operation is what may happen, to a node that is drawn.
type operation func(c *cluster, m *machine)

// operations are all that may happen, each as often as it is listed.
func operations() []operation {
	return []operation{
		addPod, addPod, addPod, addPod, fill, killAdd, beginAdd, beginAdd, goOn, goOn, goOn,
		deletePod, deletePod, drain, killDelete, collectGarbage, audit, audit,
		syncs, syncs, syncs, syncs, disturb, disturb, disturb, disturb, disturb, restart, shrink, shrink,
		reboot, die, join, away, part, reunite, reunite, outage, jump, jump, wait, wait, wait, live,
	}
}

// attachment is a new one, or that of an ADD or DEL which was killed.
func (c *cluster) attachment(m *machine) ipam.Attachment {
	if n := len(m.killed); n > 0 && c.draw(4) == 0 {
		last := m.killed[n-1]
		m.killed = m.killed[:n-1]
		return last
	}
	c.pod++
	return ipam.Attachment{ContainerID: fmt.Sprint("p", c.pod), Interface: "eth0"}
}

// allocate is an ADD's way to addresses; no pod: there are none.
func (c *cluster) allocate(m *machine, k *call) *pod {
	p, err := m.allocate(k.Attachment, k.state)
	if err != nil && !errors.Is(err, ipam.ErrFull) {
		c.fatalf("ADD of %s on %s: %v", k.ContainerID, m.name, err)
	}
	if p != nil {
		c.note("  %s gets %v", k.ContainerID, p.addresses)
	}
	return p
}

// begin an ADD; nil: it is refused.
func (c *cluster) begin(m *machine) *call {
	if !m.usable() {
		return nil
	}
	return &call{Attachment: c.attachment(m), state: m.state, begun: c.at}
}

func addPod(c *cluster, m *machine) {
	k := c.begin(m)
	c.note("add on %s: %t", m.name, k != nil)
	if k == nil || m.busy(k.Attachment) {
		return
	}
	if p := c.allocate(m, k); p != nil {
		p.live = true
	}
}

func fill(c *cluster, m *machine) {
	for range 1 + c.draw(10) {
		addPod(c, m)
	}
}

// killAdd leaves an address that is held, and no interface.
func killAdd(c *cluster, m *machine) {
	k := c.begin(m)
	c.note("add on %s that is killed: %t", m.name, k != nil)
	if k == nil || m.busy(k.Attachment) {
		return
	}
	if p := c.allocate(m, k); p != nil {
		m.forget(p)
		m.killed = append(m.killed, k.Attachment)
	}
}

// beginAdd reads the node's state for an ADD that takes its time.
func beginAdd(c *cluster, m *machine) {
	k := c.begin(m)
	c.note("add on %s begins: %t", m.name, k != nil)
	if k != nil && !m.busy(k.Attachment) && c.world.patience > 0 {
		m.calls = append(m.calls, k)
	}
}

// goOn does the next of what a slow ADD does.
func goOn(c *cluster, m *machine) {
	if len(m.calls) == 0 {
		return
	}
	i := c.draw(len(m.calls))
	k := m.calls[i]
	c.note("add of %s on %s goes on after %s", k.ContainerID, m.name, c.at-k.begun)
	switch {
	case k.pod != nil:
		k.pod.live = true
	case c.at-k.begun <= c.world.patience:
		k.pod = c.allocate(m, k)
	}
	if k.pod == nil || k.pod.live || c.draw(2) == 0 {
		m.calls = append(m.calls[:i:i], m.calls[i+1:]...)
		if k.pod != nil && !k.pod.live {
			c.note("  and is killed")
			m.forget(k.pod)
			m.killed = append(m.killed, k.Attachment)
		}
	}
}

// some is a pod whose ADD is done.
func (c *cluster) some(m *machine) *pod {
	var live []*pod
	for _, p := range m.pods {
		if p.live {
			live = append(live, p)
		}
	}
	if len(live) == 0 {
		return nil
	}
	return live[c.draw(len(live))]
}

func deletePod(c *cluster, m *machine) {
	if p := c.some(m); p != nil {
		c.note("delete %s on %s", p.ContainerID, m.name)
		m.forget(p)
		m.release(p.Attachment)
	}
}

func drain(c *cluster, m *machine) {
	for c.some(m) != nil && c.draw(20) > 0 {
		deletePod(c, m)
	}
}

// killDelete removes the interface, and the address stays held.
func killDelete(c *cluster, m *machine) {
	if p := c.some(m); p != nil {
		c.note("delete %s on %s, and is killed", p.ContainerID, m.name)
		m.forget(p)
		m.killed = append(m.killed, p.Attachment)
	}
}

func collectGarbage(c *cluster, m *machine) {
	c.note("GC on %s", m.name)
	m.collect()
}

func audit(c *cluster, m *machine) {
	c.note("audit on %s", m.name)
	m.audit()
}

func syncs(c *cluster, m *machine) {
	c.note("sync %s", m.name)
	c.sync(m)
}

// disturb is a sync in which something fails, ends, or comes between.
func disturb(c *cluster, m *machine) {
	after, was := c.draw(9), m.client.cut
	kind := c.draw(9)
	c.note("sync %s, disturbed after %d calls by %s", m.name, after,
		[]string{"a refusal", "a lost answer", "its end", "its end after a call", "the ledger", "a partition", "an ADD after the look", "another", "another"}[kind])
	switch kind {
	case 0:
		m.client.inject(refused, after, nil)
	case 1:
		m.client.inject(lost, after, nil)
	case 2:
		m.client.inject(refused, after, m.kill)
	case 3:
		m.client.inject(lost, after, m.kill)
	case 4:
		m.noLedger = true
	case 5:
		m.client.inject(refused, after, func() { c.cut(m) })
	case 6:
		m.asked = func() { []operation{addPod, fill, goOn, goOn}[c.draw(4)](c, m) }
	default:
		m.client.inject(between, after, func() { c.intrude(m) })
	}
	if err := m.sync(); err != nil {
		c.note("  %s can't sync: %v", m.name, err)
	} else if kind != 4 && !m.client.cut {
		m.seen = m.began
	}
	m.client.inject(none, 0, nil)
	m.noLedger, m.asked = false, nil
	if kind == 2 || kind == 3 {
		m.client.cut = was
		m.start()
	}
}

// shrink gives a node more blocks than it needs, while ADDs are on their way that
// know of these; then it is time to give some back.
func shrink(c *cluster, m *machine) {
	for range 1 + c.draw(2) {
		fill(c, m)
		syncs(c, m)
	}
	for range c.draw(4) {
		beginAdd(c, m)
	}
	drain(c, m)
	syncs(c, m)
	if c.draw(4) > 0 {
		c.note("%s pass", c.world.grace)
		c.pass(c.world.grace)
	}
	for range 1 + c.draw(4) {
		[]operation{disturb, disturb, syncs, addPod, goOn, goOn, wait}[c.draw(7)](c, m)
	}
}

// intrude is what happens while a node syncs.
func (c *cluster) intrude(m *machine) {
	all := []operation{addPod, fill, goOn, goOn, deletePod, killAdd, jump, jump}
	if other := c.any(); other != m {
		all = append(all, func(c *cluster, _ *machine) { syncs(c, other) }, func(c *cluster, _ *machine) { addPod(c, other) })
	}
	if c.world.steady == 0 {
		all = append(all, wait)
	}
	all[c.draw(len(all))](c, m)
}

// any living node.
func (c *cluster) any() *machine {
	all := c.living()
	return all[c.draw(len(all))]
}

// restart of the daemon, perhaps with the pools that were added since.
func restart(c *cluster, m *machine) {
	c.note("restart of %s's daemon", m.name)
	if c.draw(2) == 0 {
		m.spec = c.spec()
	}
	m.start()
}

func reboot(c *cluster, m *machine) {
	if c.draw(2) == 0 {
		c.note("reboot of %s", m.name)
		m.reboot()
	}
}

func die(c *cluster, m *machine) {
	if len(c.living()) > 1 && c.draw(3) == 0 {
		c.note("%s dies", m.name)
		m.die()
	}
}

// join adds a node, which may have the name of a dead one and one more pool.
func join(c *cluster, _ *machine) {
	if len(c.living()) >= 5 {
		return
	}
	name := fmt.Sprint("n", len(c.nodes))
	if old := c.nodes[c.draw(len(c.nodes))]; old.dead && !c.isName(old.name) {
		name = old.name
	}
	if len(c.more) > 0 && c.draw(2) == 0 {
		c.pools, c.more = append(c.pools, c.more[0]), c.more[1:]
	}
	m := c.add(name)
	c.note("%s, %s, joins with %v", m.name, m.instance, m.spec.CIDRs)
}

func (c *cluster) isName(name string) bool {
	for _, m := range c.living() {
		if m.name == name {
			return true
		}
	}
	return false
}

func part(c *cluster, m *machine) {
	c.note("%s is cut off", m.name)
	c.cut(m)
}

func reunite(c *cluster, m *machine) {
	if m.client.cut {
		c.note("%s reaches the store again", m.name)
		c.connect(m)
	}
}

// outage: nobody reaches the store for longer than leases last. Then all come
// back, each in time to object.
func outage(c *cluster, _ *machine) {
	if c.draw(2) == 0 {
		return
	}
	c.note("the store is away")
	c.outage, c.away = true, c.at
	for _, m := range c.living() {
		c.cut(m)
	}
	c.pass(c.world.ttl + c.world.fence + c.world.spread + time.Duration(c.draw(120))*time.Minute)
	c.outage = false
	c.note("the store is back")
	for _, m := range c.living() {
		c.connect(m)
		m.connected = c.at
	}
	live(c, nil)
}

// away: a node is cut off until about the time at which others may take its
// blocks, which they want.
func away(c *cluster, m *machine) {
	if c.world.partition > 0 {
		return
	}
	part(c, m)
	d := c.world.ttl + time.Duration(c.draw(120))*time.Minute
	c.note("%s pass", d)
	c.pass(d)
	for range 4 + c.draw(6) {
		c.note("%s pass, and all sync", c.world.notice/3)
		c.pass(c.world.notice / 3)
		for _, m := range c.shuffled() {
			c.sync(m)
			[]operation{fill, addPod, addPod, jump}[c.draw(4)](c, m)
		}
	}
}

// live lets time pass in which all nodes sync often.
func live(c *cluster, _ *machine) {
	for range 1 + c.draw(5) {
		c.note("%s pass, and all sync", c.world.notice/3)
		c.at += c.world.notice / 3
		for _, m := range c.shuffled() {
			if c.world.partition > 0 {
				c.connect(m)
			}
			c.sync(m)
			if c.draw(3) == 0 {
				[]operation{addPod, addPod, deletePod, jump}[c.draw(4)](c, m)
			}
		}
	}
}

// jump sets a wall clock.
func jump(c *cluster, m *machine) {
	m.offset = c.offset(m)
	c.note("the clock of %s is %s off", m.name, m.offset)
}

func wait(c *cluster, _ *machine) {
	unit := []time.Duration{time.Millisecond, time.Second, time.Minute, 10 * time.Minute, time.Hour, 12 * time.Hour}
	if c.world.steady > 0 {
		unit = unit[:4]
	}
	d := unit[c.draw(len(unit))] * time.Duration(1+c.draw(6))
	c.note("%s pass", d)
	c.pass(d)
}
