package firewall

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// What becomes of the outer packets: the network's peers send them, nobody else.

const (
	// peersSize bounds the peers. The kernel's table for a set without a bound
	// grows by itself, some time after elements were added, and whoever lists them
	// meanwhile misses some. This one takes half a MiB, and stays.
	peersSize = 1 << 15
	// strangersTimeout is how long a stranger is remembered after its last packet.
	strangersTimeout = time.Hour
	// strangersSize bounds them: whoever writes other sources into packets
	// costs the node no more than that.
	strangersSize = 64
)

// peerSet is the set of the addresses that the network's VXLAN packets come from,
// of the family of the node's own; nil where it has none. Its elements are no part
// of the plan.
func peerSet(table *nftables.Table, r *Rules) *nftables.Set {
	if !r.Underlay.IsValid() {
		return nil
	}
	ip := packet{lease.FamilyOf(r.Underlay)}
	return &nftables.Set{Table: table, Name: "peers" + ip.suffix(), KeyType: ip.address(), Size: peersSize}
}

// strangerSet is the set of those who sent VXLAN packets of the network, and are
// none of its peers.
func strangerSet(table *nftables.Table, r *Rules) *nftables.Set {
	ip := packet{lease.FamilyOf(r.Underlay)}
	return &nftables.Set{
		Table: table, Name: "strangers" + ip.suffix(), KeyType: ip.address(),
		Dynamic: true, HasTimeout: true, Timeout: strangersTimeout, Size: strangersSize,
	}
}

// outer adds what is for VXLAN packets themselves. Networks may share a port, so
// those of another VNI aren't asked where they come from. Those of strangers are
// dropped whichever address of the node they are for, since the kernel takes them
// on all; what the node forwards is somebody else's VXLAN.
func (p *tablePlan) outer(table *nftables.Table, r *Rules) {
	p.add("output", udpPort(r.Port), untrack())
	peers := peerSet(table, r)
	if peers == nil {
		p.add("prerouting", udpPort(r.Port), untrack())
		return
	}
	seen, ip := strangerSet(table, r), packet{lease.FamilyOf(r.Underlay)}
	p.sets = append(p.sets, peers, seen)
	vxlan, strangers := p.chain(table, "vxlan"), p.chain(table, "strangers")
	p.add("prerouting", udpPort(r.Port), jump(vxlan))
	p.add(vxlan, vni(r.VNI), ip.is(), ip.among(peers, source, false), notForwarded(), verdictTo(expr.VerdictGoto, strangers))
	p.add(vxlan, ip.is(), ip.match(destination, netip.PrefixFrom(r.Underlay, r.Underlay.BitLen())), untrack())
	p.add(strangers, ip.is(), ip.rememberOne(seen, source)) // which ends the rule when the set is full
	p.add(strangers, verdict(expr.VerdictDrop))
}

// underOurName drops VXLAN packets that pods make themselves: to a peer they would
// come from one, as soon as they have the node's address.
func (p *tablePlan) underOurName(r *Rules, ip packet, masquerade string) {
	peers := peerSet(nil, r)
	if peers == nil || ip.Family != lease.FamilyOf(r.Underlay) {
		return
	}
	p.add(masquerade, udpPort(r.Port), ip.is(), ip.among(peers, destination, true), verdict(expr.VerdictDrop))
}

// address is the type of a set of the family's addresses.
func (ip packet) address() nftables.SetDatatype {
	if ip.Family == lease.IPv6 {
		return nftables.TypeIP6Addr
	}
	return nftables.TypeIPAddr
}

// among matches packets with an address that is in a set, or isn't.
func (ip packet) among(set *nftables.Set, f field, is bool) []expr.Any {
	return []expr.Any{ip.load(f, register1), &expr.Lookup{SourceRegister: register1, SetName: set.Name, Invert: !is}}
}

// rememberOne puts an address into a set, or its timeout off.
func (ip packet) rememberOne(set *nftables.Set, f field) []expr.Any {
	return []expr.Any{
		ip.load(f, register1),
		&expr.Dynset{SrcRegKey: register1, SetName: set.Name, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE)},
	}
}

// vni matches VXLAN packets by where their header has the VNI (RFC 7348, section
// 5), behind the UDP header.
func vni(vni uint32) []expr.Any {
	const offset, size = 12, 3
	return []expr.Any{
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, DestRegister: register1, Offset: offset, Len: size},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register1, Data: binary.BigEndian.AppendUint32(nil, vni)[1:]},
	}
}

// notForwarded matches packets for the node: by one of its addresses, by broadcast
// or by multicast.
func notForwarded() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: register1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_UNICAST)},
	}
}

func udpPort(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register1, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, DestRegister: register1, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register1, Data: binary.BigEndian.AppendUint16(nil, port)},
	}
}
