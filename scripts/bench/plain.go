//go:build linux

package main

// The set-up to compare with: the same shape made by hand, without any rules.

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	plainDevice = "plain"
	plainVNI    = 4096
	plainPort   = 4789
	vxlanHeader = 50 // with its UDP, IPv4 and Ethernet headers
)

// plainNode is one of the two nodes.
type plainNode struct {
	pod     netip.Addr
	gateway netip.Addr // the block's first address, the VTEP's
	block   netip.Prefix
	mac     net.HardwareAddr // the VTEP's
}

// plain makes veths with routes, and a VXLAN device or routes on the underlay.
func (b *builder) plain(s *setup, overlay bool) error {
	s.mtu = b.mtu
	if s.mtu == 0 {
		s.mtu = s.nodes[0].Segment().MTU - vxlanHeader
	}
	if !overlay {
		s.mtu = s.nodes[0].Segment().MTU
	}
	var nodes [2]plainNode
	for i, n := range s.nodes {
		nodes[i] = newPlainNode(b.options.family, i)
		s.addresses[i] = nodes[i].pod
		err := errors.Join(n.SetSysctl("ipv4/ip_forward", "1"), n.SetSysctl("ipv6/conf/all/forwarding", "1"))
		if err != nil {
			return err
		}
		if overlay {
			if err := n.Do(func() error { return nodes[i].addDevice(n.IPv4(), s.mtu) }); err != nil {
				return err
			}
		}
		if err := plainPod(s, i); err != nil {
			return err
		}
	}
	for i, n := range s.nodes {
		peer, remote := &nodes[1-i], s.nodes[1-i]
		add := func() error { return peer.addPeer(remote.IPv4()) }
		if !overlay {
			add = func() error { return peer.addRoute(remote.IPv4(), remote.IPv6()) }
		}
		if err := n.Do(add); err != nil {
			return err
		}
	}
	return nil
}

func newPlainNode(family string, i int) plainNode {
	block := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i + 1), 0}), 24)
	if family == "ipv6" {
		block = netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", i+1))
	}
	return plainNode{pod: block.Addr().Next().Next(), gateway: block.Addr(), block: block}
}

// addDevice adds the VXLAN device, with the address by which the node itself
// talks to pods.
func (n *plainNode) addDevice(local netip.Addr, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = plainDevice, mtu
	device := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: plainVNI, Port: plainPort, SrcAddr: local.AsSlice()}
	if err := netlink.LinkAdd(device); err != nil {
		return fmt.Errorf("add VXLAN device: %w", err)
	}
	link, err := netlink.LinkByName(plainDevice)
	if err != nil {
		return fmt.Errorf("find VXLAN device: %w", err)
	}
	n.mac = link.Attrs().HardwareAddr
	return errors.Join(netlink.LinkSetUp(link), netlink.AddrAdd(link, address(n.gateway)))
}

// addPeer adds the route to a peer's block, its neighbour and its FDB entry.
func (n *plainNode) addPeer(remote netip.Addr) error {
	link, err := netlink.LinkByName(plainDevice)
	if err != nil {
		return fmt.Errorf("find VXLAN device: %w", err)
	}
	index := link.Attrs().Index
	return errors.Join(
		netlink.NeighSet(&netlink.Neigh{
			LinkIndex: index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT,
			HardwareAddr: n.mac, IP: remote.AsSlice(),
		}),
		netlink.NeighSet(&netlink.Neigh{
			LinkIndex: index, State: netlink.NUD_PERMANENT, HardwareAddr: n.mac, IP: n.gateway.AsSlice(),
		}),
		netlink.RouteAdd(&netlink.Route{
			LinkIndex: index, Dst: network(n.block), Gw: n.gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK),
		}),
	)
}

// addRoute adds a route to a peer's block without an overlay.
func (n *plainNode) addRoute(v4, v6 netip.Addr) error {
	via := v4
	if n.block.Addr().Is6() {
		via = v6
	}
	return netlink.RouteAdd(&netlink.Route{Dst: network(n.block), Gw: via.AsSlice()})
}

// plainPod joins a pod to its node: a pair of links, routes both ways, and
// permanent neighbours.
func plainPod(s *setup, i int) error {
	namespace, err := os.Open(s.pods[i].Path())
	if err != nil {
		return fmt.Errorf("open pod's namespace: %w", err)
	}
	defer func() { _ = namespace.Close() }() // read only
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "pod0", s.mtu
	pair := netlink.NewVeth(attrs)
	pair.PeerName, pair.PeerMTU, pair.PeerNamespace = "eth0", uint32(s.mtu), netlink.NsFd(namespace.Fd())
	var host, pod net.HardwareAddr
	err = s.nodes[i].Do(func() error {
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("add pod's link: %w", err)
		}
		host, err = up("pod0")
		return err
	})
	if err != nil {
		return err
	}
	a := s.addresses[i]
	err = s.pods[i].Do(func() error {
		if pod, err = up("eth0"); err != nil {
			return err
		}
		return plainInPod(a, host)
	})
	if err != nil {
		return err
	}
	return s.nodes[i].Do(func() error {
		link, err := netlink.LinkByName("pod0")
		if err != nil {
			return fmt.Errorf("find pod's link: %w", err)
		}
		index := link.Attrs().Index
		return errors.Join(
			netlink.NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, HardwareAddr: pod, IP: a.AsSlice()}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: index, Dst: network(netip.PrefixFrom(a, a.BitLen())), Scope: scope(a)}),
		)
	})
}

// plainInPod configures the pod's end.
func plainInPod(a netip.Addr, host net.HardwareAddr) error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find pod's link: %w", err)
	}
	gateway := netip.MustParseAddr("169.254.1.1")
	if a.Is6() {
		gateway = netip.MustParseAddr("fe80::1")
	}
	index := link.Attrs().Index
	return errors.Join(
		netlink.AddrAdd(link, address(a)),
		netlink.NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, HardwareAddr: host, IP: gateway.AsSlice()}),
		netlink.RouteAdd(&netlink.Route{LinkIndex: index, Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}),
	)
}

// up sets a link up and returns its link-layer address.
func up(name string) (net.HardwareAddr, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set link %s up: %w", name, err)
	}
	return link.Attrs().HardwareAddr, nil
}

func scope(a netip.Addr) netlink.Scope {
	if a.Is4() {
		return netlink.SCOPE_LINK
	}
	return netlink.SCOPE_UNIVERSE
}

func address(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: network(netip.PrefixFrom(a, a.BitLen())), Flags: unix.IFA_F_NODAD}
}

func network(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
