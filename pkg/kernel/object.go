// Package kernel describes the parts of the Linux kernel's network state that
// this project writes: links, addresses, routes, neighbours, FDB entries and
// sysctls, as comparable values that say how they should be. The values are
// pure; Target, in the files for Linux, observes and writes them.
package kernel

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// Protocol is the routing protocol number (rtm_protocol, linux/rtnetlink.h) by
// which our routes are known. Numbers above 4 mean nothing to the kernel.
const Protocol = 118

// Ranks: the order in which objects are created. A packet that meets a route
// must find its neighbour and FDB entry, so routes come after these. Marking a
// link with its alias comes last: it says that all the rest is there.
const (
	rankLink = iota
	rankSysctl
	rankUp
	rankAddress
	rankFDB
	rankNeighbor
	rankRoute
	rankAlias
)

// VXLAN is a VXLAN device without learning and without a default destination:
// it sends to the peers in its FDB, and to nobody else.
type VXLAN struct {
	Name  string
	VNI   uint32
	Port  uint16
	Local netip.Addr // the source of outer packets; its family is theirs
	MTU   int
	MAC   ether.Addr
}

// Veth is a pair of virtual Ethernet devices, seen from the end that stays.
type Veth struct {
	Name  string
	MTU   int
	MAC   ether.Addr
	Group uint32 // the link group (IFLA_GROUP)
	// Peer is the other end, in the namespace that the Target was given for
	// it. It is used at creation only, and can't be seen from this end.
	Peer    string
	PeerMAC ether.Addr
}

// Interface is a link that somebody else creates, with what it should have.
type Interface struct {
	Name string
	MTU  int
	MAC  ether.Addr // none: any
}

// Up is a link being administratively up.
type Up struct{ Link string }

// Alias is a text kept with a link (IFLA_IFALIAS).
type Alias struct {
	Link string
	Text string
}

// Sysctl is a setting below /proc/sys.
type Sysctl struct {
	Name  string // with slashes: "net/ipv4/ip_forward"
	Value string
}

// Address is an IP address of a link.
type Address struct {
	Link   string
	Prefix netip.Prefix
}

// Neighbor is an entry of the ARP or neighbour table that the kernel doesn't
// collect: a permanent one, or one that follows the neighbour.
type Neighbor struct {
	Link    string
	Address netip.Addr
	MAC     ether.Addr
	// Follows: MAC is what the entry begins with. It is used at once, and the
	// kernel asks for another when the neighbour has announced one, or no longer
	// answers at this one. So each that the kernel has is as wanted.
	Follows bool
}

// FDB is a permanent entry of a VXLAN device's forwarding database: behind
// which underlay address an Ethernet address is.
type FDB struct {
	Link   string
	MAC    ether.Addr
	Remote netip.Addr
}

// Route is a route in the main table. Without Via the destination is on the
// link itself; without Link it is a blackhole.
type Route struct {
	Dst    netip.Prefix
	Link   string
	Via    netip.Addr // on the link, whether or not an address there says so
	Source netip.Addr // preferred source address
	Metric uint32
}

// link is the name of the link that the setting is about, or "".
func (o Sysctl) link() string {
	if path := strings.Split(o.Name, "/"); len(path) == 5 && (path[2] == "conf" || path[2] == "neigh") {
		return path[3]
	}
	return ""
}

type linkKey struct{ name string }

// Key implements reconcile.Object.
func (o VXLAN) Key() any { return linkKey{o.Name} }

// Key implements reconcile.Object.
func (o Veth) Key() any { return linkKey{o.Name} }

// Key implements reconcile.Object.
func (o Interface) Key() any { return linkKey{o.Name} }

// Key implements reconcile.Object.
func (o Up) Key() any { return o }

// Key implements reconcile.Object.
func (o Alias) Key() any { return struct{ alias string }{o.Link} }

// Key implements reconcile.Object.
func (o Sysctl) Key() any { return struct{ sysctl string }{o.Name} }

// Key implements reconcile.Object.
func (o Address) Key() any { return o }

// Key implements reconcile.Object.
func (o Neighbor) Key() any {
	return struct {
		link     string
		neighbor netip.Addr
	}{o.Link, o.Address}
}

// Key implements reconcile.Object.
func (o FDB) Key() any {
	return struct {
		link string
		fdb  ether.Addr
	}{o.Link, o.MAC}
}

// Key implements reconcile.Object. The kernel tells routes of one table apart
// by destination and metric.
func (o Route) Key() any {
	return struct {
		route  netip.Prefix
		metric uint32
	}{o.Dst, o.Metric}
}

// Matches implements reconcile.Object.
func (o VXLAN) Matches(have reconcile.Object) bool { return o == have }

// Matches implements reconcile.Object.
func (o Veth) Matches(have reconcile.Object) bool {
	h, ok := have.(Veth)
	h.Peer, h.PeerMAC = o.Peer, o.PeerMAC
	return ok && o == h
}

// Matches implements reconcile.Object.
func (o Interface) Matches(have reconcile.Object) bool {
	var h Interface
	switch have := have.(type) {
	case Interface:
		h = have
	case Veth:
		h = Interface{Name: have.Name, MTU: have.MTU, MAC: have.MAC}
	case VXLAN:
		h = Interface{Name: have.Name, MTU: have.MTU, MAC: have.MAC}
	}
	if o.MAC == (ether.Addr{}) {
		h.MAC = o.MAC
	}
	return o == h
}

// Matches implements reconcile.Object.
func (o Up) Matches(have reconcile.Object) bool { return o == have }

// Matches implements reconcile.Object.
func (o Alias) Matches(have reconcile.Object) bool { return o == have }

// Matches implements reconcile.Object.
func (o Sysctl) Matches(have reconcile.Object) bool { return o == have }

// Matches implements reconcile.Object.
func (o Address) Matches(have reconcile.Object) bool { return o == have }

// Matches implements reconcile.Object.
func (o Neighbor) Matches(have reconcile.Object) bool {
	h, ok := have.(Neighbor)
	if o.Follows && h.MAC != (ether.Addr{}) {
		h.MAC = o.MAC
	}
	return ok && o == h
}

// Matches implements reconcile.Object.
func (o FDB) Matches(have reconcile.Object) bool { return o == have }

// Matches implements reconcile.Object.
func (o Route) Matches(have reconcile.Object) bool { return o == have }

// Rank implements reconcile.Object.
func (o VXLAN) Rank() int { return rankLink }

// Rank implements reconcile.Object.
func (o Veth) Rank() int { return rankLink }

// Rank implements reconcile.Object.
func (o Interface) Rank() int { return rankLink }

// Rank implements reconcile.Object.
func (o Up) Rank() int { return rankUp }

// Rank implements reconcile.Object.
func (o Alias) Rank() int { return rankAlias }

// Rank implements reconcile.Object.
func (o Sysctl) Rank() int { return rankSysctl }

// Rank implements reconcile.Object.
func (o Address) Rank() int { return rankAddress }

// Rank implements reconcile.Object.
func (o Neighbor) Rank() int { return rankNeighbor }

// Rank implements reconcile.Object.
func (o FDB) Rank() int { return rankFDB }

// Rank implements reconcile.Object.
func (o Route) Rank() int { return rankRoute }

// String is in the words of ip-link(8).
func (o VXLAN) String() string {
	return fmt.Sprintf("link %s vxlan id %d local %s dstport %d nolearning mtu %d address %s",
		o.Name, o.VNI, o.Local, o.Port, o.MTU, o.MAC)
}

// String is in the words of ip-link(8).
func (o Veth) String() string {
	s := fmt.Sprintf("link %s veth mtu %d address %s group %d", o.Name, o.MTU, o.MAC, o.Group)
	if o.Peer != "" {
		s += fmt.Sprintf(" peer %s address %s", o.Peer, o.PeerMAC)
	}
	return s
}

// String is in the words of ip-link(8).
func (o Interface) String() string {
	s := fmt.Sprintf("link %s mtu %d", o.Name, o.MTU)
	if o.MAC != (ether.Addr{}) {
		s += " address " + o.MAC.String()
	}
	return s
}

// String is in the words of ip-link(8).
func (o Up) String() string { return "link " + o.Link + " up" }

// String is in the words of ip-link(8).
func (o Alias) String() string { return fmt.Sprintf("link %s alias %q", o.Link, o.Text) }

// String is in the words of sysctl(8).
func (o Sysctl) String() string {
	return "sysctl " + strings.ReplaceAll(o.Name, "/", ".") + " = " + o.Value
}

// String is in the words of ip-address(8).
func (o Address) String() string { return fmt.Sprintf("address %s dev %s", o.Prefix, o.Link) }

// String is in the words of ip-neighbour(8).
func (o Neighbor) String() string {
	s := fmt.Sprintf("neighbor %s lladdr %s dev %s", o.Address, o.MAC, o.Link)
	if o.Follows {
		s += " extern_learn"
	}
	return s
}

// String is in the words of bridge(8).
func (o FDB) String() string { return fmt.Sprintf("fdb %s dst %s dev %s", o.MAC, o.Remote, o.Link) }

// String is in the words of ip-route(8).
func (o Route) String() string {
	var b strings.Builder
	b.WriteString("route ")
	if o.Link == "" {
		b.WriteString("blackhole ")
	}
	b.WriteString(o.Dst.String())
	if o.Via.IsValid() {
		fmt.Fprintf(&b, " via %s", o.Via)
	}
	if o.Link != "" {
		fmt.Fprintf(&b, " dev %s", o.Link)
	}
	if o.Source.IsValid() {
		fmt.Fprintf(&b, " src %s", o.Source)
	}
	if o.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", o.Metric)
	}
	return b.String()
}
