// Package intent works out what should exist: on a node for one network, and
// for one attachment of a pod. Its functions are pure, and know nothing of
// netlink or HNS; netlinkplan turns their results into kernel objects.
package intent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/vtep"
)

// Underlay is what a node knows of the interface that its VXLAN goes over.
type Underlay struct {
	Interface string
	MTU       int
	Addresses []netip.Addr // at most one of a family
	// AcceptsRA: the interface takes its routes from router advertisements,
	// and must go on doing so when the node forwards IPv6.
	AcceptsRA bool
	// StrictSources: a new interface takes IPv4 packets from those alone whom
	// it leads to (rp_filter 1).
	StrictSources bool
}

// Facts are all that a node's intent for a network follows from.
type Facts struct {
	Network  lease.Network
	Node     string
	Instance string // the machine's own, by which its leases are known as well
	Underlay Underlay
	// Leases are all of the network's, our own among them.
	Leases []lease.Lease
	// External are the network's peers that are no nodes.
	External []lease.ExternalPeer
	// Others are all networks that there are.
	Others []lease.Network
}

// Node is what should exist on a node for one network.
type Node struct {
	VTEP     vtep.Spec
	Peers    []vtep.Peer
	Firewall firewall.Rules
	Underlay Underlay
	Families []lease.Family
	// Unreachable are nodes and external peers without an underlay address of
	// our family.
	Unreachable []string
}

// ForNode works out a node's intent. The error is a *lease.FieldError when the
// network can't be used on this underlay.
func ForNode(f *Facts) (Node, error) {
	own := f.own()
	if len(own) == 0 {
		return Node{}, fmt.Errorf("node %s has no lease in network %s", f.Node, f.Network.Name)
	}
	local, mtu, err := f.outer()
	if err != nil {
		return Node{}, err
	}
	n := Node{
		VTEP: vtep.Spec{
			Device: vtep.DeviceName(f.Network.VNI), VNI: f.Network.VNI, Port: f.Network.Port,
			Local: local, MAC: f.Network.MAC(f.Node), MTU: mtu, Blocks: own, Within: f.Network.CIDRs,
		},
		Underlay: f.Underlay,
		Families: f.Network.Families(),
	}
	n.Firewall = Rules(&f.Network, &n.VTEP)
	n.Peers, n.Unreachable = f.reachable(lease.FamilyOf(local))
	n.join(f.External, lease.FamilyOf(local))
	n.Firewall.Peers = make([]netip.Addr, len(n.Peers))
	for i := range n.Peers {
		n.Firewall.Peers[i] = n.Peers[i].Underlay
	}
	n.Firewall.Others = f.isolated()
	return n, nil
}

// isolated returns the CIDRs of networks whose pods can't be reached. One that can't
// be used beside this one isn't on the node, and may be anywhere else.
func (f *Facts) isolated() []netip.Prefix {
	var cidrs []netip.Prefix
	for i := range f.Others {
		o := &f.Others[i]
		if o.Name != f.Network.Name && !f.Network.Reaches(o) && f.Network.ConflictsWith(o) == nil {
			cidrs = append(cidrs, o.CIDRs...)
		}
	}
	return cidrs
}

// join adds external peers: to a node they are peers like others, whose blocks
// happen to be outside the network. What is behind one that can't be reached is
// outside for the packet filter as well.
func (n *Node) join(external []lease.ExternalPeer, outer lease.Family) {
	for i := range external {
		e := &external[i]
		underlay := e.VTEP.UnderlayOf(outer)
		if !underlay.IsValid() {
			n.Unreachable = append(n.Unreachable, "external peer "+e.Name)
			continue
		}
		n.Peers = append(n.Peers, vtep.Peer{Underlay: underlay, MAC: e.VTEP.MAC, Blocks: e.CIDRs})
		n.Firewall.External = append(n.Firewall.External, e.CIDRs...)
	}
}

// Rules is what a network needs of the packet filter of a node with a VTEP, but
// for peers and other networks.
func Rules(n *lease.Network, v *vtep.Spec) firewall.Rules {
	return firewall.Rules{
		Network: n.Name, VNI: n.VNI, Port: n.Port, Underlay: v.Local, CIDRs: n.CIDRs, VTEPs: v.Addresses(), Blocks: v.Blocks,
		Masquerade: !n.Masquerade.Disabled, Exclude: n.Masquerade.Exclude,
	}
}

// Validate says whether the network can be used on the underlay, before there
// is a lease.
func (f *Facts) Validate() error {
	for i, p := range f.Network.CIDRs {
		for _, a := range f.Underlay.Addresses {
			if p.Contains(a) {
				return lease.Invalid(f.Network.CIDRField(i), p, "contains the node's own address %s of interface %s", a, f.Underlay.Interface)
			}
		}
	}
	_, _, err := f.outer()
	return err
}

// outer returns the source of outer packets and the MTU of inner ones.
func (f *Facts) outer() (netip.Addr, int, error) {
	local := f.Underlay.local()
	if !local.IsValid() {
		return local, 0, fmt.Errorf("interface %s has no address that VXLAN could use", f.Underlay.Interface)
	}
	mtu, err := f.mtu(lease.FamilyOf(local))
	return local, mtu, err
}

// own returns our own blocks, in the order in which they were claimed.
func (f *Facts) own() (blocks []netip.Prefix) {
	var claimed []lease.Lease
	for i := range f.Leases {
		if l := &f.Leases[i]; f.claimed(l) {
			claimed = append(claimed, *l)
		}
	}
	slices.SortStableFunc(claimed, func(a, b lease.Lease) int { return cmp.Compare(a.Index, b.Index) })
	for i := range claimed {
		blocks = append(blocks, claimed[i].Block)
	}
	return blocks
}

// claimed says whether a lease is our own.
func (f *Facts) claimed(l *lease.Lease) bool {
	return l.Node == f.Node || f.Instance != "" && l.Instance == f.Instance
}

// local picks the outer packets' source: IPv4 where there is one, for its
// smaller overhead.
func (u *Underlay) local() netip.Addr {
	for _, f := range lease.Families() {
		for _, a := range u.Addresses {
			if lease.FamilyOf(a) == f {
				return a
			}
		}
	}
	return netip.Addr{}
}

// mtu is the network's, or what the underlay leaves of its own.
func (f *Facts) mtu(outer lease.Family) (int, error) {
	most := f.Underlay.MTU - outer.Overhead()
	switch {
	case f.Network.MTU != 0 && f.Network.MTU > most:
		return 0, lease.Invalid("mtu", f.Network.MTU, "is too large: interface %s has an MTU of %d, which leaves %d within VXLAN over %s",
			f.Underlay.Interface, f.Underlay.MTU, most, outer)
	case f.Network.MTU != 0:
		return f.Network.MTU, nil
	case most < f.Network.MinMTU():
		return 0, lease.Invalid("mtu", "auto", "interface %s has an MTU of %d, which leaves %d within VXLAN over %s, but the network needs %d",
			f.Underlay.Interface, f.Underlay.MTU, most, outer, f.Network.MinMTU())
	}
	return most, nil
}

// reachable makes one peer of all leases of another node.
func (f *Facts) reachable(outer lease.Family) (peers []vtep.Peer, unreachable []string) {
	at := make(map[string]int, len(f.Leases))
	peers = make([]vtep.Peer, 0, len(f.Leases))
	for i := range f.Leases {
		l := &f.Leases[i]
		if f.claimed(l) {
			continue
		}
		underlay := l.VTEP.UnderlayOf(outer)
		if !underlay.IsValid() {
			if !slices.Contains(unreachable, l.Node) {
				unreachable = append(unreachable, l.Node)
			}
			continue
		}
		p, ok := at[l.Node]
		if !ok {
			p = len(peers)
			at[l.Node] = p
			peers = append(peers, vtep.Peer{Underlay: underlay, MAC: l.VTEP.MAC})
		}
		peers[p].Blocks = append(peers[p].Blocks, l.Block)
	}
	return peers, unreachable
}
