package firewall

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// tablePlan is the content of a network's nftables table. Written out for a
// network 10.244.0.0/16 whose node has the block 10.244.1.0/24 with the VTEP
// address 10.244.1.0 and the underlay address 192.0.2.11, with VNI 4096 and port
// 4789, where 10.9.0.0/16 isn't masqueraded, beside another network 10.8.0.0/16,
// its IPv4 part is:
//
//	set peers4 { type ipv4_addr; size 32768; elements = { 192.0.2.12, 192.0.2.13 } }
//	set strangers4 { type ipv4_addr; size 64; flags dynamic,timeout; timeout 1h; }
//	set translated4 { type ipv4_addr . ipv4_addr; flags dynamic,timeout; }
//	chain prerouting { type filter hook prerouting priority raw;
//	  udp dport 4789 jump vxlan
//	  ip saddr 10.244.0.0/16 ip daddr 10.244.0.0/16 ip daddr != 10.244.1.0
//	    ip saddr . ip daddr != @translated4 ip daddr . ip saddr != @translated4 notrack accept
//	  ip saddr 10.9.0.0/16 ip daddr 10.244.0.0/16 ip daddr != 10.244.1.0/24
//	    ip saddr . ip daddr != @translated4 ip daddr . ip saddr != @translated4 notrack accept
//	}
//	chain vxlan {
//	  @th,96,24 4096 ip saddr != @peers4 fib daddr type != unicast goto strangers
//	  ip daddr 192.0.2.11 notrack accept
//	}
//	chain strangers {
//	  update @strangers4 { ip saddr }
//	  drop
//	}
//	chain output { type filter hook output priority raw;
//	  udp dport 4789 notrack accept
//	}
//	chain forward { type filter hook forward priority filter;
//	  ip daddr 10.244.0.0/16 accept
//	  ip saddr 10.244.0.0/16 jump others4
//	}
//	chain others4 {
//	  ip daddr 10.8.0.0/16 drop
//	}
//	chain postrouting { type nat hook postrouting priority srcnat;
//	  ip saddr 10.244.0.0/16 jump masquerade4
//	}
//	chain masquerade4 {
//	  udp dport 4789 ip daddr @peers4 drop
//	  ip daddr 10.244.0.0/16 return
//	  ip daddr 10.9.0.0/16 return
//	  ip daddr 224.0.0.0/4 return
//	  masquerade fully-random
//	}
//	chain translated { type filter hook postrouting priority srcnat + 10;
//	  ct status dnat ip saddr 10.244.0.0/16 ip daddr 10.244.0.0/16 update @translated4 { ip saddr . ip daddr }
//	  ct status dnat ip saddr 10.244.0.0/16 ip daddr 10.9.0.0/16 ip saddr != 10.244.1.0/24 update @translated4 { ip saddr . ip daddr }
//	}
//
// What is behind external peers has the rules of 10.244.0.0/16, together with it.
// Without other networks there is nothing at the hook forward.
type tablePlan struct {
	chains []*nftables.Chain
	sets   []*nftables.Set
	rules  map[string][][]expr.Any
}

const (
	// translatedTimeout is how long a pair of addresses is remembered after
	// the last translated packet from one to the other: as long as
	// conntrack remembers a silent established TCP flow (five days,
	// nf_conntrack_tcp_timeout_established), and so at least as long as
	// there are flows that need it.
	translatedTimeout = 5 * 24 * time.Hour
	// translatedSize bounds the memory that the pairs may take.
	translatedSize = 1 << 20
	// statusDstNAT is IPS_DST_NAT, linux/netfilter/nf_conntrack_common.h.
	statusDstNAT = 1 << 5
	// afterSNAT runs when packets have their final addresses.
	afterSNAT = 10
)

func planTable(table *nftables.Table, r *Rules) tablePlan {
	p := tablePlan{rules: map[string][][]expr.Any{}}
	filter, raw, srcnat := *nftables.ChainPriorityFilter, *nftables.ChainPriorityRaw, *nftables.ChainPriorityNATSource
	p.base(table, "prerouting", nftables.ChainHookPrerouting, raw)
	p.base(table, "output", nftables.ChainHookOutput, raw)
	if r.isolated(lease.IPv4) || r.isolated(lease.IPv6) {
		p.base(table, "forward", nftables.ChainHookForward, filter)
	}
	p.base(table, "postrouting", nftables.ChainHookPostrouting, srcnat).Type = nftables.ChainTypeNAT
	p.base(table, "translated", nftables.ChainHookPostrouting, srcnat+afterSNAT)
	p.outer(table, r)
	for _, f := range lease.Families() {
		if cidrs := of(f, r.CIDRs); len(cidrs) > 0 {
			p.family(table, r, packet{f}, cidrs)
		}
	}
	return p
}

// base adds a chain at a hook.
func (p *tablePlan) base(table *nftables.Table, name string, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
	accept := nftables.ChainPolicyAccept
	c := &nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: &priority, Policy: &accept}
	p.chains = append(p.chains, c)
	return c
}

// chain adds a chain that others jump to.
func (p *tablePlan) chain(table *nftables.Table, name string) string {
	p.chains = append(p.chains, &nftables.Chain{Name: name, Table: table})
	return name
}

func (p *tablePlan) add(chain string, parts ...[]expr.Any) {
	var rule []expr.Any
	for _, part := range parts {
		rule = append(rule, part...)
	}
	p.rules[chain] = append(p.rules[chain], rule)
}

// family adds what is needed for one IP family.
func (p *tablePlan) family(table *nftables.Table, r *Rules, ip packet, cidrs []netip.Prefix) {
	set := ip.pairs(table)
	p.sets = append(p.sets, set)
	var local []expr.Any
	for _, a := range r.VTEPs {
		if lease.FamilyOf(a) == ip.Family {
			local = append(local, ip.not(destination, netip.PrefixFrom(a, a.BitLen()))...)
		}
	}
	for _, d := range r.overlay(ip.Family) {
		inside := append(ip.match(source, d.from), ip.match(destination, d.to)...)
		p.add("prerouting", ip.is(), inside, local,
			ip.unlisted(set, source, destination), ip.unlisted(set, destination, source), untrack())
		p.add("translated", translated(), ip.is(), inside, ip.remember(set))
	}
	p.transit(r, ip, set)
	p.isolate(table, r, ip)
	if !r.Masquerade {
		return
	}
	masquerade := p.chain(table, "masquerade"+ip.suffix())
	for _, from := range cidrs {
		p.add("postrouting", ip.is(), ip.match(source, from), jump(masquerade))
	}
	p.underOurName(r, ip, masquerade)
	for _, to := range r.kept(ip.Family) {
		p.add(masquerade, ip.is(), ip.match(destination, to), verdict(expr.VerdictReturn))
	}
	p.add(masquerade, []expr.Any{&expr.Masq{FullyRandom: true}})
}

// transit adds what is needed for packets on their way to pods of other nodes. A
// flow that this node translates for such a pod comes back this way.
func (p *tablePlan) transit(r *Rules, ip packet, set *nftables.Set) {
	blocks := of(ip.Family, r.Blocks)
	elsewhere := func(f field) []expr.Any {
		var all []expr.Any
		for _, block := range blocks {
			all = append(all, ip.not(f, block)...)
		}
		return all
	}
	for _, d := range r.transit(ip.Family) {
		p.add("prerouting", ip.is(), ip.match(source, d.from), ip.match(destination, d.to), elsewhere(destination),
			ip.unlisted(set, source, destination), ip.unlisted(set, destination, source), untrack())
		p.add("translated", translated(), ip.is(), ip.match(source, d.to), ip.match(destination, d.from), elsewhere(source), ip.remember(set))
	}
}

// isolate drops packets to other networks, after their destination was translated
// and before their source is. Those within the network fail the first comparison.
func (p *tablePlan) isolate(table *nftables.Table, r *Rules, ip packet) {
	if !r.isolated(ip.Family) {
		return
	}
	others := p.chain(table, "others"+ip.suffix())
	for _, own := range of(ip.Family, r.CIDRs) {
		p.add("forward", ip.is(), ip.match(destination, own), verdict(expr.VerdictAccept))
	}
	for _, own := range of(ip.Family, r.CIDRs) {
		p.add("forward", ip.is(), ip.match(source, own), jump(others))
	}
	for _, other := range of(ip.Family, r.Others) {
		p.add(others, ip.is(), ip.match(destination, other), verdict(expr.VerdictDrop))
	}
}

// Registers (linux/netfilter/nf_tables.h): register1 is the first of 16 bytes;
// what follows a 4-byte value in it has a number of its own.
const (
	register1    = unix.NFT_REG_1
	register2    = unix.NFT_REG_2
	register1At4 = unix.NFT_REG32_01
)

// field is an address field of the IP header.
type field int

const (
	source field = iota
	destination
)

// packet makes expressions about packets of one family.
type packet struct{ lease.Family }

func (ip packet) suffix() string {
	if ip.Family == lease.IPv4 {
		return "4"
	}
	return "6"
}

// pairs is the set of (client, backend) addresses between which translated
// flows were seen.
func (ip packet) pairs(table *nftables.Table) *nftables.Set {
	pair := nftables.MustConcatSetType(ip.address(), ip.address())
	return &nftables.Set{
		Table: table, Name: "translated" + ip.suffix(), KeyType: pair, Concatenation: true,
		Dynamic: true, HasTimeout: true, Timeout: translatedTimeout, Size: translatedSize,
	}
}

func (ip packet) is() []expr.Any {
	proto := byte(unix.NFPROTO_IPV4)
	if ip.Family == lease.IPv6 {
		proto = unix.NFPROTO_IPV6
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register1, Data: []byte{proto}},
	}
}

// load puts an address field into a register: RFC 791 and RFC 8200 headers.
func (ip packet) load(f field, register uint32) expr.Any {
	offset, size := uint32(12), uint32(4)
	if ip.Family == lease.IPv6 {
		offset, size = 8, 16
	}
	return &expr.Payload{
		Base: expr.PayloadBaseNetworkHeader, DestRegister: register,
		Offset: offset + uint32(f)*size, Len: size,
	}
}

func (ip packet) match(f field, p netip.Prefix) []expr.Any { return ip.compare(expr.CmpOpEq, f, p) }

func (ip packet) not(f field, p netip.Prefix) []expr.Any { return ip.compare(expr.CmpOpNeq, f, p) }

// compare compares an address with a prefix. A whole address needs no mask, and
// everything no comparison.
func (ip packet) compare(op expr.CmpOp, f field, p netip.Prefix) []expr.Any {
	if p.Bits() == 0 && op == expr.CmpOpEq {
		return nil
	}
	size := ip.Bits() / 8
	mask := make([]byte, size)
	for bit := range p.Bits() {
		mask[bit/8] |= 0x80 >> (bit % 8)
	}
	compared := []expr.Any{
		ip.load(f, register1),
		&expr.Bitwise{SourceRegister: register1, DestRegister: register1, Len: uint32(size), Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: op, Register: register1, Data: p.Masked().Addr().AsSlice()},
	}
	if p.IsSingleIP() {
		return slices.Delete(compared, 1, 2)
	}
	return compared
}

// pair loads two fields into the registers of a concatenated key.
func (ip packet) pair(first, second field) []expr.Any {
	next := uint32(register1At4)
	if ip.Family == lease.IPv6 {
		next = register2
	}
	return []expr.Any{ip.load(first, register1), ip.load(second, next)}
}

func (ip packet) unlisted(set *nftables.Set, first, second field) []expr.Any {
	return append(ip.pair(first, second), &expr.Lookup{SourceRegister: register1, SetName: set.Name, Invert: true})
}

func (ip packet) remember(set *nftables.Set) []expr.Any {
	return append(ip.pair(source, destination),
		&expr.Dynset{SrcRegKey: register1, SetName: set.Name, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE)})
}

// translated matches packets of flows whose destination was translated.
func translated() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: register1},
		&expr.Bitwise{
			SourceRegister: register1, DestRegister: register1, Len: 4,
			Mask: binary.NativeEndian.AppendUint32(nil, statusDstNAT), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register1, Data: make([]byte, 4)},
	}
}

func untrack() []expr.Any {
	return append([]expr.Any{&expr.Notrack{}}, verdict(expr.VerdictAccept)...)
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func verdictTo(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

func jump(chain string) []expr.Any { return verdictTo(expr.VerdictJump, chain) }
