package conformance

// What a container has in the kernel, and spoiling it.

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// A link is an interface as the kernel has it.
type link struct {
	name, mac string
	mtu       int
	up        bool
	addresses []netip.Prefix
}

// snapshot is what a host's kernel has, without what follows from its addresses
// in the kernel's own time, such as after duplicate address detection: the
// routes that deliver them.
func snapshot(h *lab.Host) (lab.Snapshot, error) {
	s, err := h.Snapshot()
	return slices.DeleteFunc(s, delivers), err
}

// delivers says whether a line of a snapshot is a route of the kernel's own in
// the table local.
func delivers(line string) bool {
	return strings.HasPrefix(line, fmt.Sprintf("route table %d ", unix.RT_TABLE_LOCAL)) &&
		strings.Contains(line, fmt.Sprintf(" proto %d ", unix.RTPROT_KERNEL))
}

// links returns a host's interfaces but lo.
func links(h *lab.Host) (map[string]link, error) {
	all := map[string]link{}
	err := h.Do(func() error {
		found, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range found {
			attrs := l.Attrs()
			if attrs.Flags&net.FlagLoopback != 0 {
				continue
			}
			one := link{name: attrs.Name, mac: attrs.HardwareAddr.String(), mtu: attrs.MTU, up: attrs.Flags&net.FlagUp != 0}
			addresses, err := netlink.AddrList(l, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			for _, a := range addresses {
				one.addresses = append(one.addresses, prefix(a.IPNet))
			}
			all[one.name] = one
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	return all, nil
}

// prefix is a network of package net as netip has it.
func prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits)
}

// routes returns the destinations of a host's routes, of all tables.
func routes(h *lab.Host) ([]netip.Prefix, error) {
	var all []netip.Prefix
	err := h.Do(func() error {
		found, err := everyRoute()
		for i := range found {
			all = append(all, destination(&found[i]))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return all, nil
}

func everyRoute() ([]netlink.Route, error) {
	return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
}

// destination of a route; the default one's is all addresses of its family.
func destination(r *netlink.Route) netip.Prefix {
	if r.Dst != nil {
		return prefix(r.Dst).Masked()
	}
	if r.Family == netlink.FAMILY_V6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// change does something to a container's interface. What can't be done leaves
// nothing to check: a plugin that made no interface, a kind of interface that
// doesn't take it.
func (a *attachment) change(fn func(netlink.Link) error) error {
	return a.container.Do(func() error {
		l, err := netlink.LinkByName(a.ifname)
		if err == nil {
			err = fn(l)
		}
		if err != nil {
			return nothing("%s can't be changed: %v", a.ifname, err)
		}
		return nil
	})
}

// has says whether the container has the interface.
func (a *attachment) has() (bool, error) {
	found, err := links(a.container.Host)
	_, there := found[a.ifname]
	return there, err
}

// occupy makes an interface that isn't the plugin's.
func occupy(h *lab.Host, name string) error {
	return h.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "conformance1"})
	})
}

// removeAddress takes one of the addresses away.
func removeAddress(which netip.Prefix) func(netlink.Link) error {
	return func(l netlink.Link) error {
		all, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(a netlink.Addr) bool { return prefix(a.IPNet) == which })
		if i < 0 {
			return nothing("the interface has no address %s", which)
		}
		return netlink.AddrDel(l, &all[i])
	}
}

// removeRoute takes the routes to a destination away.
func removeRoute(dst netip.Prefix) func(netlink.Link) error {
	return func(netlink.Link) error {
		all, err := everyRoute()
		if err != nil {
			return err
		}
		found := false
		for i := range all {
			if destination(&all[i]) != dst {
				continue
			}
			found = true
			if err := netlink.RouteDel(&all[i]); err != nil {
				return err
			}
		}
		if !found {
			return nothing("the container has no route to %s", dst)
		}
		return nil
	}
}

// addRoute makes a route over the interface.
func addRoute(dst netip.Prefix) func(netlink.Link) error {
	return func(l netlink.Link) error {
		to := &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), dst.Addr().BitLen())}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: to, Scope: netlink.SCOPE_LINK})
	}
}
