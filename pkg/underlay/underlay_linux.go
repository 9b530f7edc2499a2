// Package underlay finds the interface that a node's VXLAN goes over.
package underlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// ErrNone says that no interface can be chosen.
var ErrNone = errors.New("no underlay interface")

// Find describes the interface of a name, or, where the name is empty, the one
// that the default route goes over.
func Find(name string) (intent.Underlay, error) {
	link, err := find(name)
	if err != nil {
		return intent.Underlay{}, err
	}
	u := intent.Underlay{
		Interface: link.Attrs().Name, MTU: link.Attrs().MTU, AcceptsRA: acceptsRA(link.Attrs().Name), StrictSources: strictSources(),
	}
	for _, f := range lease.Families() {
		a, err := address(link, f)
		if err != nil {
			return intent.Underlay{}, err
		}
		if a.IsValid() {
			u.Addresses = append(u.Addresses, a)
		}
	}
	if len(u.Addresses) == 0 {
		return intent.Underlay{}, fmt.Errorf("%w: %s has no global address", ErrNone, u.Interface)
	}
	return u, nil
}

func find(name string) (netlink.Link, error) {
	if name != "" {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return nil, lease.Invalid("underlay.interface", name, "%v", err)
		}
		return link, nil
	}
	index, err := defaultRoute()
	if err != nil {
		return nil, err
	}
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil, fmt.Errorf("find the default route's interface %d: %w", index, err)
	}
	return link, nil
}

// defaultRoute returns the index of the interface that the best default route
// goes over, IPv4 before IPv6.
func defaultRoute() (int, error) {
	for _, f := range lease.Families() {
		var best netlink.Route
		found := false
		// There may be many thousand routes to peers, none of which is kept.
		err := netlink.RouteListFilteredIter(number(f), &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			if isDefault(&r) && (!found || r.Priority < best.Priority) {
				best, found = r, true
			}
			return true
		})
		if err != nil {
			return 0, fmt.Errorf("list %s routes: %w", f, err)
		}
		if found {
			return outgoing(&best), nil
		}
	}
	return 0, fmt.Errorf("%w: there is no default route; set underlay.interface", ErrNone)
}

func isDefault(r *netlink.Route) bool {
	if r.Type != unix.RTN_UNICAST || outgoing(r) == 0 {
		return false
	}
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}

// outgoing is the interface of a route, that of the first next hop where there
// are several.
func outgoing(r *netlink.Route) int {
	if r.LinkIndex == 0 && len(r.MultiPath) > 0 {
		return r.MultiPath[0].LinkIndex
	}
	return r.LinkIndex
}

// address returns the first global address of a link, in the kernel's order,
// which puts primary before secondary ones. Temporary, deprecated and
// tentative addresses don't stay, or don't work yet.
func address(link netlink.Link, f lease.Family) (netip.Addr, error) {
	addresses, err := netlink.AddrList(link, number(f))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list %s addresses of %s: %w", f, link.Attrs().Name, err)
	}
	const unfit = unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	temporary := 0
	if f == lease.IPv6 {
		temporary = unix.IFA_F_TEMPORARY // the number means "secondary" in IPv4
	}
	for _, a := range addresses {
		if a.Scope == unix.RT_SCOPE_UNIVERSE && a.Flags&(unfit|temporary) == 0 {
			return fromIP(a.IP), nil
		}
	}
	return netip.Addr{}, nil
}

func fromIP(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func number(f lease.Family) int {
	if f == lease.IPv4 {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// acceptsRA says whether the interface listens to router advertisements: 1 for
// "unless forwarding", 2 for "always".
func acceptsRA(name string) bool {
	value, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/accept_ra")
	return err == nil && strings.TrimSpace(string(value)) != "0"
}

// strictSources says whether a new interface takes IPv4 packets from those alone
// whom it leads to: rp_filter 1. The greater of the two counts, and 2 is lax.
func strictSources() bool {
	for _, name := range []string{"all", "default"} {
		value, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + name + "/rp_filter")
		if err == nil && strings.TrimSpace(string(value)) == "1" {
			return true
		}
	}
	return false
}
