// Package netlinkplan turns intent into kernel objects. It is pure: what a pod
// or a node amounts to on Linux can be read in its golden files.
package netlinkplan

import (
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
	"github.com/overlay-cni/overlay-cni/pkg/vtep"
)

// Node returns what should exist in a node's namespace for a network, but for
// the packet filter.
func Node(n *intent.Node) []reconcile.Object {
	return append(sysctls(n), vtep.Objects(&n.VTEP, n.Peers)...)
}

// sysctls let the node forward. The VXLAN device takes packets that other nodes
// forward, whoever sent them: machines outside the network may reach pods through
// any node, and other nodes by the address of their underlay. A node that forwards IPv6 stops listening to
// router advertisements unless it's told to go on (accept_ra 2), and would
// lose its default route.
func sysctls(n *intent.Node) []reconcile.Object {
	var objects []reconcile.Object
	if n.Underlay.AcceptsRA && slices.Contains(n.Families, lease.IPv6) {
		objects = append(objects, kernel.Sysctl{Name: "net/ipv6/conf/" + n.Underlay.Interface + "/accept_ra", Value: "2"})
	}
	if n.Underlay.StrictSources && slices.Contains(n.Families, lease.IPv4) {
		objects = append(objects, kernel.Sysctl{Name: "net/ipv4/conf/" + n.VTEP.Device + "/rp_filter", Value: "2"})
	}
	return append(objects, Forwarding(n.Families)...)
}

// Forwarding is what makes a node forward packets of some families.
func Forwarding(families []lease.Family) []reconcile.Object {
	objects := make([]reconcile.Object, 0, len(families))
	for _, f := range families {
		name := "net/ipv4/ip_forward"
		if f == lease.IPv6 {
			name = "net/ipv6/conf/all/forwarding"
		}
		objects = append(objects, kernel.Sysctl{Name: name, Value: "1"})
	}
	return objects
}

// Pod returns what should exist for an attachment: in the node's namespace, in
// the pod's, and the mark on the host's end which says that all of it is there.
func Pod(p *intent.Pod) (host, pod []reconcile.Object, mark reconcile.Object) {
	return hostObjects(p), podObjects(p), kernel.Alias{Link: p.HostInterface(), Text: p.Alias()}
}

// HostVeth is the host's end of an attachment: removing it removes all that
// the kernel holds of the attachment.
func HostVeth(p *intent.Pod) kernel.Veth {
	return kernel.Veth{
		Name: p.HostInterface(), MTU: p.MTU, MAC: p.HostMAC(), Group: intent.Group(p.Network),
		Peer: p.Interface, PeerMAC: p.MAC,
	}
}

func hostObjects(p *intent.Pod) []reconcile.Object {
	name := p.HostInterface()
	objects := []reconcile.Object{HostVeth(p), kernel.Up{Link: name}}
	if has(p.Addresses, lease.IPv4) {
		// The host's end answers for the gateway, at once, should the pod's
		// permanent neighbour be gone: changing a link's address flushes it.
		objects = append(objects,
			kernel.Sysctl{Name: "net/ipv4/conf/" + name + "/proxy_arp", Value: "1"},
			kernel.Sysctl{Name: "net/ipv4/neigh/" + name + "/proxy_delay", Value: "0"},
			neverGiveUp("ipv4", name),
		)
	}
	if has(p.Addresses, lease.IPv6) {
		// The gateway is the host's end's only link-local address, and
		// usable at once: without one, the kernel can't ask for the pod.
		objects = append(objects,
			kernel.Sysctl{Name: "net/ipv6/conf/" + name + "/addr_gen_mode", Value: "1"},
			kernel.Address{Link: name, Prefix: netip.PrefixFrom(intent.Gateway(lease.IPv6), linkLocalBits)},
			neverGiveUp("ipv6", name),
		)
	}
	for _, a := range p.Addresses {
		objects = append(objects,
			kernel.Neighbor{Link: name, Address: a, MAC: p.MAC, Follows: true},
			kernel.Route{Dst: netip.PrefixFrom(a, a.BitLen()), Link: name, Metric: podMetric},
		)
	}
	return objects
}

// neverGiveUp makes the host's end ask on, for years, for a pod that doesn't
// answer, and meanwhile use the Ethernet address that it knows. A pod may have
// reasons not to answer (rp_filter, where another of its interfaces has the
// default route), and be there all the same.
func neverGiveUp(family, link string) kernel.Sysctl {
	return kernel.Sysctl{Name: "net/" + family + "/neigh/" + link + "/mcast_resolicit", Value: "1000000000"}
}

// Announcements are the settings of the pod's end by which its kernel tells the
// host at once when somebody gives it another Ethernet address. ADD makes them;
// whether they stay is for those behind us in the chain, and the pod, to say.
func Announcements(p *intent.Pod) []reconcile.Object {
	var objects []reconcile.Object
	if has(p.Addresses, lease.IPv4) {
		objects = append(objects, kernel.Sysctl{Name: "net/ipv4/conf/" + p.Interface + "/arp_notify", Value: "1"})
	}
	if has(p.Addresses, lease.IPv6) {
		objects = append(objects, kernel.Sysctl{Name: "net/ipv6/conf/" + p.Interface + "/ndisc_notify", Value: "1"})
	}
	return objects
}

func podObjects(p *intent.Pod) []reconcile.Object {
	objects := []reconcile.Object{
		kernel.Interface{Name: p.Interface, MTU: p.MTU, MAC: p.MAC},
		kernel.Up{Link: p.Interface},
	}
	if has(p.Addresses, lease.IPv6) {
		// Some runtimes start with IPv6 turned off.
		objects = append(objects, kernel.Sysctl{Name: "net/ipv6/conf/" + p.Interface + "/disable_ipv6", Value: "0"})
	}
	for _, a := range p.Addresses {
		objects = append(objects, kernel.Address{Link: p.Interface, Prefix: netip.PrefixFrom(a, a.BitLen())})
	}
	for _, f := range lease.Families() {
		if has(p.Addresses, f) && !p.Readdressed {
			objects = append(objects, kernel.Neighbor{Link: p.Interface, Address: intent.Gateway(f), MAC: p.HostMAC()})
		}
	}
	for _, dst := range p.Routes {
		f := lease.FamilyOf(dst.Addr())
		if has(p.Addresses, f) {
			objects = append(objects, kernel.Route{
				Dst: dst, Link: p.Interface, Via: intent.Gateway(f), Metric: interfaceMetric(p.Interface),
			})
		}
	}
	return objects
}

func has(addresses []netip.Addr, f lease.Family) bool {
	for _, a := range addresses {
		if lease.FamilyOf(a) == f {
			return true
		}
	}
	return false
}

// linkLocalBits is the prefix length of link-local addresses, RFC 4291.
const linkLocalBits = 64

// podMetric is the metric of the host's routes to pods. It is what the kernel
// gives IPv6 routes that ask for none.
const podMetric = 1024

// interfaceMetric is the metric of a pod's routes. Interfaces of a pod differ
// in it, so that each can have a default route; that of eth0 wins.
func interfaceMetric(name string) uint32 {
	if name == "eth0" {
		return podMetric
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	return podMetric + 1 + h.Sum32()%(1<<16)
}
