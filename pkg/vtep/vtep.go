// Package vtep programs VXLAN tunnel end points: one VXLAN device, and for each
// peer a route to its blocks, a neighbour and a forwarding (FDB) entry. It
// needs nothing else of this project: give it a Spec and the Peers, as often
// as you like, and it makes the kernel agree.
//
// The device neither learns nor floods. A packet to a peer's block takes one
// lookup at each step:
//
//	route     10.244.2.0/24 via 10.244.2.0 dev ovx4096 onlink
//	neighbour 10.244.2.0 lladdr 0e:5c:...          (the peer's VTEP)
//	FDB       0e:5c:... dst 192.0.2.12             (the peer's underlay address)
//
// IPv4 and IPv6 blocks are treated alike and share the device; which family the
// outer packets have follows from Spec.Local.
package vtep

import (
	"fmt"
	"hash/fnv"
	"net/netip"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// Spec is what a node's own VTEP should be.
type Spec struct {
	Device string     `json:"device"` // the name of the VXLAN device, at most 15 bytes
	VNI    uint32     `json:"vni"`    // 1 to 16777215
	Port   uint16     `json:"port"`   // UDP port, as at the peers
	Local  netip.Addr `json:"local"`  // underlay address of this node
	MAC    ether.Addr `json:"mac"`    // by which the peers know this VTEP
	MTU    int        `json:"mtu"`    // of inner packets, in bytes
	// Blocks are this node's own. What in them is no pod goes nowhere,
	// instead of following the default route. The first address of the
	// first block of each family is the device's: with it the node itself
	// talks to pods of other nodes.
	Blocks []netip.Prefix `json:"blocks"`
	// Within are the CIDRs of the network: where blackhole routes of blocks
	// given back are looked for.
	Within []netip.Prefix `json:"within"`
}

// Peer is another node's VTEP.
type Peer struct {
	Underlay netip.Addr // of the family of Spec.Local
	MAC      ether.Addr
	Blocks   []netip.Prefix
}

// Addresses returns the device's own addresses within the network.
func (s *Spec) Addresses() []netip.Addr {
	var addresses []netip.Addr
	for _, f := range lease.Families() {
		for _, block := range s.Blocks {
			if lease.FamilyOf(block.Addr()) == f {
				addresses = append(addresses, Gateway(block))
				break
			}
		}
	}
	return addresses
}

// DeviceName is the name that this project gives to the device of a network.
func DeviceName(vni uint32) string { return fmt.Sprintf("ovx%d", vni) }

// Gateway returns the address by which a block's routes point at its VTEP: the
// block's first, which no pod gets.
func Gateway(block netip.Prefix) netip.Addr { return block.Masked().Addr() }

// BlackholeMetric is the metric of the routes for unused addresses of own
// blocks; any other route to them wins.
const BlackholeMetric = 1 << 31

// Metric returns the metric of the route to a block. It follows from the block
// because the kernel looks for equal routes in a hash that leaves the gateway
// out: with one metric for all, adding n routes takes n^2 steps.
func Metric(block netip.Prefix) uint32 {
	h := fnv.New32a()
	a := block.Addr().As16()
	h.Write(a[:])
	h.Write([]byte{byte(block.Bits())})
	return h.Sum32()&(BlackholeMetric-1) | 1<<10
}

// Device returns the device itself, without what is on it.
func Device(s *Spec) []reconcile.Object {
	return []reconcile.Object{
		kernel.VXLAN{Name: s.Device, VNI: s.VNI, Port: s.Port, Local: s.Local, MTU: s.MTU, MAC: s.MAC},
		kernel.Up{Link: s.Device},
	}
}

// Objects returns what should exist for a VTEP and its peers. It is pure.
func Objects(s *Spec, peers []Peer) []reconcile.Object {
	objects := make([]reconcile.Object, 0, 8+4*len(peers))
	objects = append(objects, Device(s)...)
	for _, a := range s.Addresses() {
		objects = append(objects, kernel.Address{Link: s.Device, Prefix: netip.PrefixFrom(a, a.BitLen())})
	}
	for _, block := range s.Blocks {
		objects = append(objects, kernel.Route{Dst: block, Metric: BlackholeMetric})
	}
	for i := range peers {
		objects = append(objects, peerObjects(s.Device, &peers[i])...)
	}
	return objects
}

func peerObjects(device string, p *Peer) []reconcile.Object {
	objects := make([]reconcile.Object, 0, 1+2*len(p.Blocks))
	objects = append(objects, kernel.FDB{Link: device, MAC: p.MAC, Remote: p.Underlay})
	for _, block := range p.Blocks {
		gateway := Gateway(block)
		objects = append(objects,
			kernel.Neighbor{Link: device, Address: gateway, MAC: p.MAC},
			kernel.Route{Dst: block, Link: device, Via: gateway, Metric: Metric(block)},
		)
	}
	return objects
}
