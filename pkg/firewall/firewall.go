// Package firewall programs what an overlay network needs of the node's packet
// filter:
//
//   - masquerade: what pods send to addresses outside their network leaves with
//     the node's address;
//   - no connection tracking for the outer VXLAN packets, which would walk the
//     NAT rules of the node (kube-proxy's thousands) once more for every flow;
//   - no tracking of packets from pod to pod, unless the flow was translated
//     (a Service, a hostPort), for then the replies must find their entry;
//   - forwarding of the network's packets, where the node's iptables would drop
//     them;
//   - isolation: packets from the network's pods to those of another network are
//     dropped, unless both are open;
//   - VXLAN packets of the network are taken from its peers alone.
//
// Rules is what should be, and pure; NFTables and IPTables are the targets that
// observe and write it. Nothing is per pod: adding one touches no rule. A peer is
// an element of a set, which is written by itself.
package firewall

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// Rules is what one network needs on a node.
type Rules struct {
	// Network names the network; tables and chains are named after it.
	Network string
	// VNI and Port, of UDP, are the network's VXLAN, Underlay the node's address
	// for it.
	VNI      uint32
	Port     uint16
	Underlay netip.Addr
	// Peers are the underlay addresses from which the network's VXLAN packets
	// may come, of the family of Underlay. Only Reconcile looks at them.
	Peers []netip.Addr
	// CIDRs are the network's: who has such an address is a pod, or a VTEP.
	CIDRs []netip.Prefix
	// VTEPs are this node's own addresses within CIDRs. What is for them
	// stays tracked, for the sake of the node's own input rules.
	VTEPs []netip.Addr
	// Blocks are this node's own: where its pods are.
	Blocks []netip.Prefix
	// External are the CIDRs behind external peers. Packets between these and
	// pods go as those from pod to pod do.
	External []netip.Prefix
	// Others are the CIDRs of networks whose pods can't be reached from this one.
	Others []netip.Prefix
	// Masquerade says whether packets to other addresses leave with the
	// node's; those to Exclude don't.
	Masquerade bool
	Exclude    []netip.Prefix
}

// of returns the prefixes of one family.
func of(f lease.Family, prefixes []netip.Prefix) []netip.Prefix {
	var found []netip.Prefix
	for _, p := range prefixes {
		if lease.FamilyOf(p.Addr()) == f {
			found = append(found, p)
		}
	}
	return found
}

// multicast of a family: RFC 5771 and RFC 4291. It is for the segment that it
// was sent in, and never masqueraded.
func multicast(f lease.Family) netip.Prefix {
	if f == lease.IPv4 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{224}), 4)
	}
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xff}), 8)
}

// kept returns the destinations of a family that see a pod's own address.
func (r *Rules) kept(f lease.Family) []netip.Prefix {
	kept := append(append(of(f, r.CIDRs), of(f, r.External)...), of(f, r.Exclude)...)
	return append(kept, multicast(f))
}

// direction is where packets come from and go to.
type direction struct{ from, to netip.Prefix }

// overlay returns the directions of a family in which packets go over the VXLAN:
// from pod to pod, and between pods and what is behind external peers.
func (r *Rules) overlay(f lease.Family) []direction {
	pods, external := of(f, r.CIDRs), of(f, r.External)
	var all []direction
	for _, from := range pods {
		for _, to := range pods {
			all = append(all, direction{from, to})
		}
	}
	for _, pod := range pods {
		for _, e := range external {
			all = append(all, direction{pod, e}, direction{e, pod})
		}
	}
	return all
}

// isolated says whether there is anybody to be isolated from.
func (r *Rules) isolated(f lease.Family) bool {
	return len(of(f, r.CIDRs)) > 0 && len(of(f, r.Others)) > 0
}

// transit returns the directions of a family in which packets come from outside
// and may be for pods of other nodes, which this one forwards them to. As those
// who sent them see the pods' own addresses, the pods' node answers past this one:
// connection tracking would see one direction only, and call it invalid, upon
// which kube-proxy drops it.
func (r *Rules) transit(f lease.Family) []direction {
	outside := of(f, r.Exclude)
	if !r.Masquerade {
		outside = []netip.Prefix{everywhere(f)}
	}
	var all []direction
	for _, from := range outside {
		for _, to := range of(f, r.CIDRs) {
			all = append(all, direction{from, to})
		}
	}
	return all
}

func everywhere(f lease.Family) netip.Prefix {
	if f == lease.IPv4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// Backend names the way rules are programmed.
type Backend string

// The backends.
const (
	// Auto takes nftables, unless the node's other rules are in the old
	// iptables ("legacy").
	Auto     Backend = "auto"
	Nftables Backend = "nftables"
	Iptables Backend = "iptables"
)

// ParseBackend reads a configured backend; empty is Auto.
func ParseBackend(field, s string) (Backend, error) {
	switch b := Backend(s); b {
	case "":
		return Auto, nil
	case Auto, Nftables, Iptables:
		return b, nil
	}
	return "", lease.Invalid(field, s, "must be auto, nftables or iptables")
}

// Detect chooses a backend for Auto from what /proc/net/ip_tables_names and
// ip6_tables_names say: the tables of legacy iptables that are in use.
func Detect(b Backend, legacyTables string) Backend {
	if b != Auto {
		return b
	}
	if strings.TrimSpace(legacyTables) != "" {
		return Iptables
	}
	return Nftables
}

// shortened fits a network's name into a limit, keeping names distinct.
func shortened(prefix, name string, limit int) string {
	if len(prefix)+len(name) <= limit {
		return prefix + name
	}
	const digest = 9
	h := fnv.New32a()
	h.Write([]byte(name))
	return fmt.Sprintf("%s%s-%08x", prefix, name[:limit-len(prefix)-digest], h.Sum32())
}
