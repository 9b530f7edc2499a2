package conformance

// Several nodes of one network, for clauses about what pods rely on.

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// A mesh is three nodes on two segments that a router joins: n1 and n2 on one,
// n3 on the other.
type mesh struct {
	plan    *plan
	version string
	lab     *lab.Lab
	nodes   []*bench
}

// segmentsOfNodes are the segments of the nodes, in order.
func segmentsOfNodes() []string { return []string{"a", "a", "b"} }

// onMesh checks a clause on nodes that nobody had before. That one isn't ready is
// a violation there: the target is known to work on one node.
func onMesh(ctx context.Context, p *plan, version string, mtus []int, check func(context.Context, *mesh) error) (err error) {
	m := &mesh{plan: p, version: version}
	topology := lab.Topology{Segments: []lab.Segment{{Name: "a"}, {Name: "b"}}}
	for i, mtu := range mtus {
		topology.Segments[i].MTU = mtu
	}
	if m.lab, err = lab.New(ctx, topology); err != nil {
		return err
	}
	defer func() { err = errors.Join(orViolated(err), m.close(ctx)) }()
	if err := m.addNodes(ctx, segmentsOfNodes()); err != nil {
		return err
	}
	return check(ctx, m)
}

// addNodes adds a node to each of some segments. They start at the same time.
func (m *mesh) addNodes(ctx context.Context, segments []string) error {
	m.nodes = make([]*bench, len(segments))
	var g errgroup.Group
	for i, segment := range segments {
		node, err := m.lab.AddNode(fmt.Sprintf("n%d", i+1), segment)
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		g.Go(func() error {
			b, err := newBench(ctx, m.plan, m.version, node, site{index: i + 1, shared: m.lab.Router().Dir()})
			if err == nil {
				m.nodes[i] = b
			}
			return err
		})
	}
	return g.Wait()
}

// replace puts another node where one was that is off: it has the address and
// nothing else of it.
func (m *mesh) replace(ctx context.Context, lost *bench) (*bench, error) {
	number := len(m.nodes) + 1
	node := lost.machine.node
	if err := node.PowerOn(); err != nil {
		return nil, err
	}
	at := site{name: fmt.Sprintf("n%d", number), index: number, shared: lost.site.shared}
	b, err := newBench(ctx, m.plan, m.version, node, at)
	if err != nil {
		return nil, err
	}
	m.nodes = append(m.nodes, b)
	return b, nil
}

// close ends all nodes. Their kernels go with the lab: what is deleted one by one
// is what an API server knows.
func (m *mesh) close(ctx context.Context) error {
	var all []error
	for _, b := range m.nodes {
		if b == nil {
			continue // it never got ready
		}
		if b.gateway != nil {
			b.cleanUp(ctx)
		}
		all = append(all, b.close())
	}
	return errors.Join(append(all, m.lab.Close())...)
}

// A talker is a pod, a node or another machine, with the addresses that it is
// reached at.
type talker struct {
	*lab.Host
	name string
	on   *bench // nil for a machine that is no node
	all  []netip.Addr

	// What only a pod has.
	mtu   int
	at    *attachment
	added *Exchange
}

// address is the one of the family, if there is one.
func (t *talker) address(v6 bool) (netip.Addr, bool) {
	i := slices.IndexFunc(t.all, func(a netip.Addr) bool { return a.Is6() == v6 })
	if i < 0 {
		return netip.Addr{}, false
	}
	return t.all[i], true
}

// newPod attaches a pod that answers.
func (m *mesh) newPod(ctx context.Context, on *bench) (*talker, error) {
	a, err := on.prepare()
	if err != nil {
		return nil, err
	}
	return m.serving(ctx, on, a, on.add(ctx, a))
}

// serving makes a talker of a pod that was added.
func (m *mesh) serving(ctx context.Context, on *bench, a *attachment, x *Exchange) (*talker, error) {
	if err := x.succeeds("a pod is attached to node " + on.site.name); err != nil {
		return nil, err
	}
	result, err := x.object()
	if err != nil {
		return nil, x.violated("%v", err)
	}
	t := &talker{Host: a.container.Host, on: on, at: a, added: x}
	for _, p := range answer(result).addresses(a) {
		t.all = append(t.all, p.Addr())
	}
	if len(t.all) == 0 {
		return nil, x.violated("the result has no address of the pod")
	}
	t.name = fmt.Sprintf("pod %s on %s", t.all[0], on.site.name)
	found, err := links(a.container.Host)
	if err != nil {
		return nil, err
	}
	if t.mtu = found[a.ifname].mtu; t.mtu == 0 {
		return nil, x.violated("the pod has no interface %s", a.ifname)
	}
	_, err = t.Serve(ctx, port)
	return t, err
}

// newPods attaches a number of pods to each of some nodes, all at once.
func (m *mesh) newPods(ctx context.Context, each int, on ...*bench) ([]*talker, error) {
	pods := make([]*talker, each*len(on))
	var g errgroup.Group
	for i := range pods {
		g.Go(func() (err error) {
			pods[i], err = m.newPod(ctx, on[i/each])
			return err
		})
	}
	return pods, g.Wait()
}

// node is a node as something that answers.
func (m *mesh) node(ctx context.Context, b *bench) (*talker, error) {
	n := b.machine.node
	_, err := n.Serve(ctx, port)
	return &talker{Host: n.Host, on: b, name: "node " + n.Name(), all: []netip.Addr{n.IPv4(), n.IPv6()}}, err
}

// powerOff ends a node at one instant, with its daemon and its pods. It is off
// the wire before anything dies, so that nobody hears a goodbye.
func (b *bench) powerOff() error { return errors.Join(b.machine.node.PowerOff(), b.end()) }

// powerOn starts a node that was powered off: its kernel and /run are new, its
// /var/lib is as it was. That it doesn't get ready is a violation.
func (b *bench) powerOn(ctx context.Context) error {
	if err := b.machine.node.PowerOn(); err != nil {
		return err
	}
	if err := b.machine.boot(); err != nil {
		return err
	}
	return orViolated(b.begin(ctx))
}
