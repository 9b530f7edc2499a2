package conformance

// The network section: what pods rely on, on several nodes.

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// network makes a clause of the network section.
func network(id string, level Level, of, quote string, check func(context.Context, *mesh) error) Clause {
	return Clause{ID: id, Section: Network, Of: of, Level: level, Quote: quote, applies: needsNodes, network: check}
}

// onLinks returns the clause for segments with these MTUs.
func (c Clause) onLinks(mtus ...int) Clause { c.mtus = mtus; return c }

func networkClauses() []Clause {
	const (
		model = "Kubernetes network model"
		pods  = "pods can communicate with all other pods on any other node without NAT"
		agent = "agents on a node (e.g. system daemons, kubelet) can communicate with all pods on that node"
		ours  = "what people expect of a network"
	)
	return []Clause{
		network("network-pod-01", Must, model, pods, amongPods(sameNode, pings, connects, sends)).note("on the same node, in each family: ICMP, TCP, UDP"),
		network("network-pod-02", Must, model, pods, amongPods(sameSegment, pings, connects, sends)).note("of two nodes on one link"),
		network("network-pod-03", Must, model, pods, amongPods(otherSegment, pings, connects, sends)).note("of two nodes with a router between them"),
		network("network-pod-04", Must, model, pods, amongPods(anywhere, keepsSource)).note("without NAT: the peer sees the pod's own address"),
		network("network-pod-05", Must, model, "each pod gets its own unique cluster-wide IP address", uniqueAddresses).note("sixteen pods at once on each of three nodes"),
		network("network-node-01", Must, model, agent, fromNodes(sameNode, pings, connects, sends)),
		network("network-node-02", Should, ours, "a node reaches the pods of other nodes", fromNodes(otherNode, pings, connects, sends)).
			note("an API server calls webhooks, a node port is answered by a pod elsewhere"),
		network("network-node-03", Should, ours, "a pod reaches all nodes", toNodes(pings, connects, sends)),
		network("network-outside-01", Should, ours, "a pod reaches machines that are no nodes", toOutside).note("on each segment, in each family; the machine has no route to pods"),
		network("network-mtu-01", Should, ours, "a packet of the size of the pod's MTU reaches all pods in one piece", amongPods(anywhere, fills)).note("with fragmentation forbidden"),
		network("network-mtu-02", Should, ours, "datagrams larger than the MTU reach all pods", amongPods(anywhere, needsFragments)),
		network("network-mtu-03", Should, ours, "data in bulk reaches all pods where links between nodes differ in MTU", amongPods(otherNode, carries)).
			note("one of the segments has an MTU of 1400; TCP, 256 KiB there and back").onLinks(1500, 1400),
		network("network-loss-01", Must, model, pods, losesNode).note("the others go on when a node loses its power"),
		network("network-loss-02", Must, model, pods, rejoins).note("a node that lost its power is back; its /var/lib is as before, its kernel and /run are new"),
		network("network-loss-03", Must, model, pods, replaced).note("a node takes the place of one that is gone for good, with its address and another name"),
		network("network-daemon-01", Should, ours, "pods go on talking while a node's daemon is away", daemonKilled).where(needsDaemon).note("killed, then started again"),
		network("network-stale-01", Should, ours, "a node that lost its pods is as it was before it had them", leavesNoTrace).note("links, addresses, routes, rules, neighbours and packet filters; pods had talked"),
		network("network-stale-02", Should, ours, "an address is reached where it is now", movesAddress).note("a pod's address is given to another pod on the node, while peers still know the first"),
	}
}

// sameNode and the others choose pairs.
func sameNode(from, to *talker) bool  { return from.on == to.on }
func otherNode(from, to *talker) bool { return from.on != to.on }
func anywhere(_, _ *talker) bool      { return true }

func sameSegment(from, to *talker) bool {
	return otherNode(from, to) && from.on.machine.node.Segment() == to.on.machine.node.Segment()
}

func otherSegment(from, to *talker) bool {
	return from.on.machine.node.Segment() != to.on.machine.node.Segment()
}

// amongPods has two pods of each node talk.
func amongPods(choose func(from, to *talker) bool, talks ...talk) func(context.Context, *mesh) error {
	return func(ctx context.Context, m *mesh) error {
		pods, err := m.newPods(ctx, 2, m.nodes...)
		if err != nil {
			return err
		}
		return m.try(ctx, pairs(pods, pods, choose), talks...)
	}
}

// fromNodes has nodes talk to pods.
func fromNodes(choose func(from, to *talker) bool, talks ...talk) func(context.Context, *mesh) error {
	return func(ctx context.Context, m *mesh) error {
		pods, nodes, err := m.podsAndNodes(ctx)
		if err != nil {
			return err
		}
		return m.try(ctx, pairs(nodes, pods, choose), talks...)
	}
}

// toNodes has pods talk to all nodes.
func toNodes(talks ...talk) func(context.Context, *mesh) error {
	return func(ctx context.Context, m *mesh) error {
		pods, nodes, err := m.podsAndNodes(ctx)
		if err != nil {
			return err
		}
		return m.try(ctx, pairs(pods, nodes, anywhere), talks...)
	}
}

func (m *mesh) podsAndNodes(ctx context.Context) (pods, nodes []*talker, err error) {
	if pods, err = m.newPods(ctx, 1, m.nodes...); err != nil {
		return nil, nil, err
	}
	for _, b := range m.nodes {
		n, err := m.node(ctx, b)
		if err != nil {
			return nil, nil, err
		}
		nodes = append(nodes, n)
	}
	return pods, nodes, nil
}

// uniqueAddresses attaches many pods at once. Each has an address of its own in
// every family that one of them has.
func uniqueAddresses(ctx context.Context, m *mesh) error {
	const each = 16
	pods, err := m.newPods(ctx, each, m.nodes...)
	if err != nil {
		return err
	}
	owners, families := map[netip.Addr]*talker{}, map[bool]*talker{}
	for _, p := range pods {
		for _, addr := range p.all {
			if other := owners[addr]; other != nil {
				return p.added.violated("two pods have %s: %s and %s", addr, p.name, other.name)
			}
			owners[addr], families[addr.Is6()] = p, p
		}
	}
	for v6, other := range families {
		for _, p := range pods {
			if _, has := p.address(v6); !has {
				return p.added.violated("%s has no address of a family that %s has one of, %s", p.name, other.name, other.all)
			}
		}
	}
	return nil
}

// toOutside has pods talk to machines that are no nodes.
func toOutside(ctx context.Context, m *mesh) error {
	pods, err := m.newPods(ctx, 1, m.nodes...)
	if err != nil {
		return err
	}
	var outside []*talker
	for i, segment := range []string{"a", "b"} {
		vm, err := m.lab.AddVM(fmt.Sprintf("v%d", i+1), segment)
		if err != nil {
			return err
		}
		if _, err := vm.Serve(ctx, port); err != nil {
			return err
		}
		outside = append(outside, &talker{Host: vm.Host, name: "machine " + vm.Name(), all: []netip.Addr{vm.IPv4(), vm.IPv6()}})
	}
	return m.try(ctx, pairs(pods, outside, anywhere), pings, connects, sends)
}

// leavesNoTrace compares nodes before and after they had pods that talked. The
// first pods make what is the network's, and stays. What differs after the
// second may be something of the first that went late: only when it is the same
// with the third it has come from pods.
func leavesNoTrace(ctx context.Context, m *mesh) error {
	if err := m.havePods(ctx); err != nil {
		return err
	}
	var changed error
	for range 2 {
		earlier, err := m.snapshots()
		if err != nil {
			return err
		}
		if err := m.havePods(ctx); err != nil {
			return err
		}
		if changed = m.eventuallyAs(ctx, earlier); changed == nil {
			return nil
		}
	}
	return changed
}

// havePods attaches pods that talk, and deletes them.
func (m *mesh) havePods(ctx context.Context) error {
	pods, err := m.talking(ctx)
	if err != nil {
		return err
	}
	return m.remove(ctx, pods)
}

// remove deletes pods.
func (m *mesh) remove(ctx context.Context, pods []*talker) error {
	for _, p := range pods {
		if err := p.on.all(ctx, "DEL", p.at).succeeds("a pod is deleted"); err != nil {
			return err
		}
		if err := p.on.forget(p.at); err != nil {
			return err
		}
	}
	return nil
}

func (m *mesh) snapshots() (map[*bench]lab.Snapshot, error) {
	all := map[*bench]lab.Snapshot{}
	for _, b := range m.nodes {
		var err error
		if all[b], err = snapshot(b.machine.node.Host); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// eventuallyAs waits until nodes are as they were: the kernel takes its time
// with what has gone.
func (m *mesh) eventuallyAs(ctx context.Context, earlier map[*bench]lab.Snapshot) error {
	return until(ctx, func() error {
		now, err := m.snapshots()
		if err != nil {
			return err
		}
		for _, b := range slices.SortedFunc(maps.Keys(earlier), func(a, b *bench) int { return a.site.index - b.site.index }) {
			if changed := earlier[b].Diff(now[b]); len(changed) > 0 {
				return &Violation{Text: fmt.Sprintf("node %s differs: %q", b.site.name, changed)}
			}
		}
		return nil
	})
}

// movesAddress gives the addresses of one pod to another, while pods on all
// nodes and the node itself still know the first.
func movesAddress(ctx context.Context, m *mesh) error {
	on := m.nodes[2]
	peers, err := m.newPods(ctx, 1, m.nodes...)
	if err != nil {
		return err
	}
	node, err := m.node(ctx, on)
	if err != nil {
		return err
	}
	peers = append(peers, node)
	first, err := m.newPod(ctx, on)
	if err != nil {
		return err
	}
	if err := m.try(ctx, pairs(peers, []*talker{first}, anywhere), connects); err != nil {
		return err
	}
	if err := m.remove(ctx, []*talker{first}); err != nil {
		return err
	}
	next, err := m.newPodAs(ctx, on, first)
	if err != nil {
		return err
	}
	all := slices.DeleteFunc(pairs(peers, []*talker{next}, anywhere), func(p pair) bool { return !slices.Contains(first.all, p.dst) })
	return keep(ctx, all, "which has the address of an earlier pod", connects)
}

// newPodAs attaches a pod with an address of one that is gone: it asks for all of
// them, where a plugin takes them, or else attaches pods until one has one.
func (m *mesh) newPodAs(ctx context.Context, on *bench, gone *talker) (*talker, error) {
	const most, each = 300, 10
	moved := func(p *talker) bool {
		return slices.ContainsFunc(p.all, func(a netip.Addr) bool { return slices.Contains(gone.all, a) })
	}
	if needsCapability("ips")(m.plan) == "" {
		a, x, err := on.requested(ctx, "ips", gone.all)
		if err != nil {
			return nil, err
		}
		if x.Status == 0 {
			next, err := m.serving(ctx, on, a, x)
			if err != nil || moved(next) {
				return next, err
			}
		}
		if x := on.all(ctx, "DEL", a); x.Status != 0 {
			return nil, nothing("%s DEL failed%s", x.Plugin, x.said())
		}
	}
	for range most / each {
		pods, err := m.newPods(ctx, each, on)
		if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(pods, moved); i >= 0 {
			return pods[i], nil
		}
		if err := m.remove(ctx, pods); err != nil {
			return nil, err
		}
	}
	return nil, nothing("none of %d pods got an address of an earlier one", most)
}
