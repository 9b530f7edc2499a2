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
}

// Facts are all that a node's intent for a network follows from.
type Facts struct {
	Network  lease.Network
	Node     string
	Instance string // the machine's own, by which its leases are known as well
	Underlay Underlay
	// Leases are all of the network's, our own among them.
	Leases []lease.Lease
}

// Node is what should exist on a node for one network.
type Node struct {
	VTEP     vtep.Spec
	Peers    []vtep.Peer
	Firewall firewall.Rules
	Underlay Underlay
	Families []lease.Family
	// Unreachable are nodes without an underlay address of our family.
	Unreachable []string
}

// ForNode works out a node's intent. The error is a *lease.FieldError when the
// network can't be used on this underlay.
func ForNode(f *Facts) (Node, error) {
	own, peers := split(f)
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
	n.Peers, n.Unreachable = reachable(peers, lease.FamilyOf(local))
	return n, nil
}

// Rules is what a network needs of the packet filter of a node with a VTEP.
func Rules(n *lease.Network, v *vtep.Spec) firewall.Rules {
	return firewall.Rules{
		Network: n.Name, Port: n.Port, Underlay: v.Local, CIDRs: n.CIDRs, VTEPs: v.Addresses(),
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

// split tells our own blocks, in the order in which they were claimed, from the
// others' leases.
func split(f *Facts) (own []netip.Prefix, others []lease.Lease) {
	var claimed []lease.Lease
	for _, l := range f.Leases {
		if l.Node == f.Node || f.Instance != "" && l.Instance == f.Instance {
			claimed = append(claimed, l)
		} else {
			others = append(others, l)
		}
	}
	slices.SortStableFunc(claimed, func(a, b lease.Lease) int { return cmp.Compare(a.Index, b.Index) })
	for i := range claimed {
		own = append(own, claimed[i].Block)
	}
	return own, others
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

// reachable makes one peer of all leases of a node.
func reachable(leases []lease.Lease, outer lease.Family) (peers []vtep.Peer, unreachable []string) {
	at := map[string]int{}
	for i := range leases {
		l := &leases[i]
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
