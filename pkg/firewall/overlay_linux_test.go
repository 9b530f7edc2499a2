package firewall_test

// A small overlay for the tests with real packets: two nodes with pods on
// different segments, and a machine that knows the way to the pods.
//
//	n1 (a): p1 p2      n2 (b): p3      v1 (a)

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/netlinkplan"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
	"github.com/overlay-cni/overlay-cni/pkg/vtep"
)

// port is where everybody serves.
const port = 8080

// soon is a deadline for what is not meant to come.
const soon = 400 * time.Millisecond

type overlay struct {
	outer lease.Family
	nodes [2]*lab.Node
	pods  map[string]*pod
	vm    *lab.Machine
}

type pod struct {
	*lab.Pod
	addresses [2]netip.Addr // IPv4, IPv6
}

// at is the pod's server in a family.
func (p *pod) at(family int) netip.AddrPort { return netip.AddrPortFrom(p.addresses[family], port) }

func families() [2]string { return [2]string{"IPv4", "IPv6"} }

func newOverlay(t testing.TB) *overlay { return newOverlayOver(t, lease.IPv4) }

// newOverlayOver makes one whose outer packets are of a family.
func newOverlayOver(t testing.TB, outer lease.Family) *overlay {
	t.Helper()
	l := labtest.New(t, lab.Topology{})
	o := &overlay{outer: outer, pods: map[string]*pod{}, vm: labtest.VM(t, l, "v1", "a")}
	o.nodes = [2]*lab.Node{labtest.Node(t, l, "n1", "a"), labtest.Node(t, l, "n2", "b")}
	for n, node := range o.nodes {
		o.join(t, n, node)
	}
	o.attach(t, "p1", 0, 5)
	o.attach(t, "p2", 0, 6)
	o.attach(t, "p3", 1, 5)
	for _, p := range o.pods {
		labtest.Server(t, p.Host, port)
	}
	labtest.Server(t, o.vm.Host, port)
	command(t, o.vm.Host, "ip route add 10.244.0.0/16 via "+o.nodes[0].IPv4().String())
	command(t, o.vm.Host, "ip -6 route add fd00:10:244::/48 via "+o.nodes[0].IPv6().String())
	return o
}

// underlay is a host's address that outer packets have.
func (o *overlay) underlay(m *lab.Machine) netip.Addr {
	if o.outer == lease.IPv6 {
		return m.IPv6()
	}
	return m.IPv4()
}

// mac is that of a node's VTEP.
func (o *overlay) mac(n int) ether.Addr { return ether.Local([5]byte{4: byte(n)}) }

func (o *overlay) blocks(n int) []netip.Prefix {
	return prefixes(fmt.Sprintf("10.244.%d.0/24", n+1), fmt.Sprintf("fd00:10:244:%d::/64", n+1))
}

// rules are those of a node.
func (o *overlay) rules(n int) *firewall.Rules {
	r := dualStack()
	r.Exclude, r.VTEPs, r.Underlay, r.Blocks = nil, nil, o.underlay(o.nodes[n].Machine), o.blocks(n)
	r.Peers = []netip.Addr{o.underlay(o.nodes[1-n].Machine)}
	for _, b := range o.blocks(n) {
		r.VTEPs = append(r.VTEPs, vtep.Gateway(b))
	}
	return r
}

// join gives a node its VTEP, with the other as its peer, and lets it forward.
func (o *overlay) join(t testing.TB, n int, node *lab.Node) {
	t.Helper()
	s := &vtep.Spec{
		Device: "ovx4096", VNI: 4096, Port: 4789, Local: o.underlay(node.Machine), MAC: o.mac(n), MTU: 1500 - o.outer.Overhead(),
		Blocks: o.blocks(n), Within: prefixes("10.244.0.0/16", "fd00:10:244::/48"),
	}
	peer := vtep.Peer{Underlay: o.underlay(o.nodes[1-n].Machine), MAC: o.mac(1 - n), Blocks: o.blocks(1 - n)}
	conn := open(t, node.Host)
	if _, err := vtep.Reconcile(t.Context(), conn, s, []vtep.Peer{peer}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := node.SetSysctl(name, "1"); err != nil {
			t.Fatal(err)
		}
	}
}

func open(t testing.TB, h *lab.Host) *kernel.Conn {
	t.Helper()
	c, err := kernel.OpenNamespace(h.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// attach makes a pod on a node, with the node's last bytes as its address.
func (o *overlay) attach(t testing.TB, name string, n int, last byte) {
	t.Helper()
	p := &pod{Pod: labtest.Pod(t, o.nodes[n], name)}
	a := intent.Attachment{Network: "pods", Container: p.ContainerID(), Interface: "eth0"}
	for i, b := range o.blocks(n) {
		raw := b.Addr().AsSlice()
		raw[len(raw)-1] = last
		p.addresses[i], _ = netip.AddrFromSlice(raw)
	}
	want := &intent.Pod{
		Attachment: a, Addresses: p.addresses[:], MTU: 1500 - o.outer.Overhead(), MAC: a.PodMAC(), Routes: prefixes("0.0.0.0/0", "::/0"),
	}
	host, inside, mark := netlinkplan.Pod(want)
	node := &kernel.Target{Conn: open(t, o.nodes[n].Host), Peer: open(t, p.Host)}
	err := node.Apply(t.Context(), reconcile.Diff(host[:1], nil, reconcile.Shared))
	if err == nil {
		_, err = reconcile.Run(t.Context(), kernel.NewTarget(node.Peer, inside), inside, reconcile.Shared)
	}
	if err = errors.Join(err, node.Apply(t.Context(), reconcile.Diff(append(host[1:], mark), nil, reconcile.Shared))); err != nil {
		t.Fatal(err)
	}
	o.pods[name] = p
}

// protect gives all nodes their rules, changed by edit.
func (o *overlay) protect(t testing.TB, b firewall.Backend, edit func(*firewall.Rules)) {
	t.Helper()
	for n := range o.nodes {
		r := o.rules(n)
		if edit != nil {
			edit(r)
		}
		apply(t, o.nodes[n].Host, b, r)
	}
}

// tracked returns the flows that a node tracks, as text, from or to one of the
// addresses; all, when none is given.
func tracked(t testing.TB, h *lab.Host, addresses ...netip.Addr) (found []string) {
	t.Helper()
	var flows []*netlink.ConntrackFlow
	err := h.Do(func() error {
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			some, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
			if err != nil {
				return err
			}
			flows = append(flows, some...)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	has := func(f *netlink.ConntrackFlow) bool {
		for _, a := range addresses {
			ip := a.AsSlice()
			if !f.Forward.SrcIP.Equal(ip) && !f.Forward.DstIP.Equal(ip) && !f.Reverse.SrcIP.Equal(ip) && !f.Reverse.DstIP.Equal(ip) {
				return false
			}
		}
		return true
	}
	for _, f := range flows {
		if has(f) {
			found = append(found, f.String())
		}
	}
	return found
}

// exchange talks in all ways, and returns the sources that the server saw.
func exchange(t testing.TB, from *lab.Host, to netip.AddrPort) (sources []netip.Addr) {
	t.Helper()
	if _, err := from.Ping(t.Context(), to.Addr()); err != nil {
		t.Error(err)
	}
	tcp, err := from.TCP(t.Context(), to)
	if err != nil {
		t.Error(err)
	}
	udp, err := from.UDP(t.Context(), to, 1000, true)
	if err != nil {
		t.Error(err)
	}
	return []netip.Addr{tcp.Source.Addr(), udp.Source.Addr()}
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
