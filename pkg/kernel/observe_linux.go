package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

var errNoLink = errors.New("link does not exist")

// place is a link on which things are looked for; the zero value: no link.
type place struct {
	name  string
	index int
}

// Link returns the objects that a link itself is, without what is on it: its
// kind, being up, its alias. There are none when it doesn't exist.
func (c *Conn) Link(name string) ([]reconcile.Object, error) {
	objects, _, err := c.link(name)
	if errors.Is(err, errNoLink) {
		return nil, nil
	}
	return objects, err
}

// link returns the objects that a link itself is: its kind, being up, alias.
func (c *Conn) link(name string) (objects []reconcile.Object, index int, err error) {
	l, err := c.linkByName(name)
	if err != nil {
		return nil, 0, err
	}
	attrs := l.Attrs()
	objects = append(objects, linkObject(l))
	if attrs.RawFlags&unix.IFF_UP != 0 {
		objects = append(objects, Up{Link: name})
	}
	if attrs.Alias != "" {
		objects = append(objects, Alias{Link: name, Text: attrs.Alias})
	}
	return objects, attrs.Index, nil
}

func (c *Conn) linkByName(name string) (netlink.Link, error) {
	req := c.request(unix.RTM_GETLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	var link netlink.Link
	err := c.query(req, unix.RTM_NEWLINK, func(m []byte) (err error) {
		link, err = netlink.LinkDeserialize(nil, bytes.Clone(m)) // it points into the message
		return err
	})
	switch {
	case errors.Is(err, unix.ENODEV):
		return nil, errNoLink
	case err != nil:
		return nil, err
	case link == nil:
		return nil, fmt.Errorf("the kernel's answer about link %s has no link", name)
	case link.Attrs().Name != name: // found by an alternative name
		return nil, fmt.Errorf("%w: %s is also called %s", ErrLinkExists, link.Attrs().Name, name)
	}
	return link, nil
}

// linkObject translates a link. One of another kind than ours is an
// Interface, which is what it is to those who don't create it.
func linkObject(l netlink.Link) reconcile.Object {
	attrs := l.Attrs()
	mac, _ := ether.From(attrs.HardwareAddr)
	if v, ok := l.(*netlink.Vxlan); ok {
		local, _ := netip.AddrFromSlice(v.SrcAddr)
		if v.Learning || v.FlowBased || v.Group != nil {
			local = netip.Addr{} // so that it differs from every wanted one
		}
		return VXLAN{
			Name: attrs.Name, VNI: uint32(v.VxlanId), Port: uint16(v.Port),
			Local: local.Unmap(), MTU: attrs.MTU, MAC: mac,
		}
	}
	if v, ok := l.(*netlink.Veth); ok && attrs.Group != 0 {
		return Veth{Name: v.Name, MTU: attrs.MTU, MAC: mac, Group: attrs.Group}
	}
	return Interface{Name: attrs.Name, MTU: attrs.MTU, MAC: mac}
}

// attributes calls fn for each attribute behind a header of the given size.
func attributes(message []byte, header int, fn func(kind uint16, value []byte)) error {
	if len(message) < header {
		return fmt.Errorf("netlink message of %d bytes, want at least %d", len(message), header)
	}
	for b := message[min(align(header), len(message)):]; len(b) >= unix.SizeofRtAttr; {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return fmt.Errorf("netlink attribute of %d bytes within %d", size, len(b))
		}
		fn(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:size])
		b = b[min(align(size), len(b)):]
	}
	return nil
}

// number reads a 32-bit attribute; one of another size is 0.
func number(value []byte) uint32 {
	if len(value) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(value)
}

func addr(value []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(value)
	return a
}

// addresses returns the IP addresses of a link but for those that the kernel
// gives it: link-local IPv6.
func (c *Conn) addresses(on place) (objects []reconcile.Object, err error) {
	req := c.request(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	msg := nl.NewIfAddrmsg(unix.AF_UNSPEC)
	msg.Index = uint32(on.index)
	req.AddData(msg)
	err = c.dump(req, unix.RTM_NEWADDR, func() { objects = nil }, func(m []byte) error {
		if len(m) < unix.SizeofIfAddrmsg {
			return fmt.Errorf("address message of %d bytes", len(m))
		}
		var local, address netip.Addr
		var flags uint32
		err := attributes(m, unix.SizeofIfAddrmsg, func(kind uint16, value []byte) {
			switch kind {
			case unix.IFA_LOCAL:
				local = addr(value)
			case unix.IFA_ADDRESS:
				address = addr(value)
			case unix.IFA_FLAGS:
				if len(value) == 4 {
					flags = binary.NativeEndian.Uint32(value)
				}
			}
		})
		if !local.IsValid() {
			local = address // IPv6 has IFA_LOCAL only with a peer
		}
		// The kernel checks the link-local addresses that it makes itself.
		byKernel := local.Is6() && local.IsLinkLocalUnicast() && flags&unix.IFA_F_NODAD == 0
		if binary.NativeEndian.Uint32(m[4:]) == uint32(on.index) && !byKernel {
			objects = append(objects, Address{Link: on.name, Prefix: netip.PrefixFrom(local, int(m[1]))})
		}
		return err
	})
	return objects, err
}

// neighbors returns the neighbours of a link that are permanent or follow.
func (c *Conn) neighbors(on place) ([]reconcile.Object, error) {
	return c.steady(unix.RTNLGRP_NEIGH, ofNeighbor(on, false), func() ([]reconcile.Object, error) {
		return c.neigh(unix.AF_UNSPEC, on, func(dst netip.Addr, mac ether.Addr, follows bool) reconcile.Object {
			return Neighbor{Link: on.name, Address: dst, MAC: mac, Follows: follows}
		})
	})
}

// fdb returns the permanent entries of a VXLAN device's forwarding database.
func (c *Conn) fdb(on place) ([]reconcile.Object, error) {
	return c.steady(unix.RTNLGRP_NEIGH, ofNeighbor(on, true), func() ([]reconcile.Object, error) {
		return c.neigh(unix.AF_BRIDGE, on, func(dst netip.Addr, mac ether.Addr, _ bool) reconcile.Object {
			return FDB{Link: on.name, MAC: mac, Remote: dst}
		})
	})
}

func (c *Conn) neigh(family uint8, on place, object func(_ netip.Addr, _ ether.Addr, follows bool) reconcile.Object) (objects []reconcile.Object, err error) {
	req := c.request(unix.RTM_GETNEIGH, unix.NLM_F_DUMP)
	req.AddData(&netlink.Ndmsg{Family: family})
	req.AddData(nl.NewRtAttr(netlink.NDA_IFINDEX, nl.Uint32Attr(uint32(on.index))))
	err = c.dump(req, unix.RTM_NEWNEIGH, func() { objects = nil }, func(m []byte) error {
		if len(m) < unix.SizeofNdMsg {
			return fmt.Errorf("neighbour message of %d bytes", len(m))
		}
		var dst netip.Addr
		var mac ether.Addr
		special := false
		err := attributes(m, unix.SizeofNdMsg, func(kind uint16, value []byte) {
			switch kind {
			case netlink.NDA_DST:
				dst = addr(value)
			case netlink.NDA_LLADDR:
				mac, _ = ether.From(value)
			case netlink.NDA_PORT, netlink.NDA_VNI: // where they aren't the device's
				special = true
			}
		})
		if special {
			dst = netip.Addr{} // so that it differs from every wanted one
		}
		permanent := binary.NativeEndian.Uint16(m[8:])&netlink.NUD_PERMANENT != 0
		follows := !permanent && family != unix.AF_BRIDGE && m[10]&unix.NTF_EXT_LEARNED != 0
		fits := dst.IsValid() && !dst.IsMulticast() || special
		if (permanent || follows) && fits && binary.NativeEndian.Uint32(m[4:]) == uint32(on.index) {
			objects = append(objects, object(dst, mac, follows))
		}
		return err
	})
	return objects, err
}

// routes returns our routes over a link, or our blackhole routes for no link.
func (c *Conn) routes(on place) (objects []reconcile.Object, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		group := unix.RTNLGRP_IPV4_ROUTE
		if family == unix.AF_INET6 {
			group = unix.RTNLGRP_IPV6_ROUTE
		}
		found, err := c.steady(group, ofRoute, func() ([]reconcile.Object, error) { return c.routesOf(family, on) })
		if err != nil {
			return nil, err
		}
		objects = append(objects, found...)
	}
	return objects, nil
}

func (c *Conn) routesOf(family uint8, on place) (found []reconcile.Object, err error) {
	req := c.request(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: family, Table: unix.RT_TABLE_MAIN, Protocol: Protocol}}
	req.AddData(msg)
	if on.index != 0 {
		req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(on.index))))
	} else {
		msg.Type = unix.RTN_BLACKHOLE // not all those to peers once more
	}
	err = c.dump(req, unix.RTM_NEWROUTE, func() { found = nil }, func(m []byte) error {
		r, ok, err := decodeRoute(m, on)
		if ok {
			found = append(found, r)
		}
		return err
	})
	if errors.Is(err, syscall.ENOENT) {
		return nil, nil // no such table: no routes yet
	}
	return found, err
}

// decodeRoute reads a route; ok is false for those that aren't looked for.
func decodeRoute(m []byte, on place) (r Route, ok bool, err error) {
	r, index, err := readRoute(m)
	if err != nil {
		return r, false, err
	}
	r.Link = on.name
	table, protocol, kind := m[4], m[5], m[7]
	wanted := kind == unix.RTN_UNICAST && index == on.index
	if on.index == 0 {
		wanted = kind == unix.RTN_BLACKHOLE
	}
	return r, wanted && table == unix.RT_TABLE_MAIN && protocol == Protocol, nil
}

// readRoute reads any route, and the index of its link in place of the name.
func readRoute(m []byte) (r Route, index int, err error) {
	if len(m) < unix.SizeofRtMsg {
		return r, 0, fmt.Errorf("route message of %d bytes", len(m))
	}
	family, bits := m[0], int(m[1])
	dst := netip.IPv6Unspecified()
	if family == unix.AF_INET {
		dst = netip.IPv4Unspecified()
	}
	err = attributes(m, unix.SizeofRtMsg, func(kind uint16, value []byte) {
		switch kind {
		case unix.RTA_DST:
			dst = addr(value)
		case unix.RTA_GATEWAY:
			r.Via = addr(value)
		case unix.RTA_PREFSRC:
			r.Source = addr(value)
		case unix.RTA_OIF:
			index = int(number(value))
		case unix.RTA_PRIORITY:
			r.Metric = number(value)
		}
	})
	r.Dst = netip.PrefixFrom(dst, bits)
	return r, index, err
}

// Veths returns the veths of a link group.
func (c *Conn) Veths(group uint32) (veths []Veth, err error) {
	req := c.request(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	err = c.dump(req, unix.RTM_NEWLINK, func() { veths = nil }, func(m []byte) error {
		l, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			return fmt.Errorf("decode link: %w", err)
		}
		if v, ok := linkObject(l).(Veth); ok && v.Group == group {
			veths = append(veths, v)
		}
		return nil
	})
	return veths, err
}
