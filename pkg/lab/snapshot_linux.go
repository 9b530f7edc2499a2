package lab

// Taking a snapshot: links, addresses, routes, rules, neighbours and
// forwarding entries, as text.

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// snapshotTries is how often a dump that the kernel interrupts is repeated.
const snapshotTries = 10

// Snapshot writes down the state of the host's namespace: links, addresses,
// routes of all tables, rules, permanent neighbours and forwarding entries,
// and nftables' tables with their chains, sets and numbers of rules. It leaves
// out what changes by itself: statistics, the numbers of links, what the
// kernel has learnt, link-local and multicast addresses of IPv6 with their
// routes.
func (h *Host) Snapshot() (Snapshot, error) {
	var s Snapshot
	err := h.Do(func() (err error) {
		s, err = snapshotHere()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("take snapshot of %s: %w", h.name, err)
	}
	return s, nil
}

// snapshotHere takes a snapshot of the thread's namespace.
func snapshotHere() (Snapshot, error) {
	kernel, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer kernel.Close()
	var lines Snapshot
	for try := 1; ; try++ {
		lines, err = describe(kernel)
		if !errors.Is(err, netlink.ErrDumpInterrupted) || try == snapshotTries {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	firewall, err := describeFirewall()
	if err != nil {
		return nil, err
	}
	lines = append(lines, firewall...)
	slices.Sort(lines)
	return lines, nil
}

// A describer turns kernel objects into lines, with names instead of numbers
// for links.
type describer struct {
	kernel *netlink.Handle
	names  map[int]string
}

func describe(kernel *netlink.Handle) (Snapshot, error) {
	links, err := kernel.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	d := describer{kernel: kernel, names: make(map[int]string, len(links))}
	for _, l := range links {
		d.names[l.Attrs().Index] = l.Attrs().Name
	}
	var lines Snapshot
	for _, l := range links {
		lines = append(lines, d.link(l))
	}
	for _, part := range []func() (Snapshot, error){d.addresses, d.routes, d.rules, d.neighbours, d.forwarding} {
		more, err := part()
		if err != nil {
			return nil, err
		}
		lines = append(lines, more...)
	}
	return lines, nil
}

// name returns a link's name; a link in another namespace has none here.
func (d describer) name(index int) string {
	if name, ok := d.names[index]; ok {
		return name
	}
	return "-"
}

func (d describer) link(l netlink.Link) string {
	a := l.Attrs()
	state := "down"
	if a.Flags&net.FlagUp != 0 {
		state = "up"
	}
	line := fmt.Sprintf("link %s %s %s mtu %d mac %s", a.Name, l.Type(), state, a.MTU, a.HardwareAddr)
	if a.MasterIndex != 0 {
		line += " master " + d.name(a.MasterIndex)
	}
	if a.Alias != "" {
		line += fmt.Sprintf(" alias %q", a.Alias)
	}
	if v, ok := l.(*netlink.Vxlan); ok {
		line += fmt.Sprintf(" vni %d port %d learning %t local %s dev %s", v.VxlanId, v.Port, v.Learning, v.SrcAddr, d.name(v.VtepDevIndex))
	}
	return line
}

func (d describer) addresses() (Snapshot, error) {
	addrs, err := d.kernel.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var lines Snapshot
	for _, a := range addrs {
		if a.IP.To4() == nil && a.IP.IsLinkLocalUnicast() {
			continue
		}
		line := fmt.Sprintf("addr %s %s scope %s", d.name(a.LinkIndex), a.IPNet, netlink.Scope(a.Scope))
		if a.Peer != nil && a.Peer.String() != a.IPNet.String() {
			line += " peer " + a.Peer.String()
		}
		lines = append(lines, line)
	}
	return lines, nil
}

func (d describer) routes() (Snapshot, error) {
	var lines Snapshot
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
		routes, err := d.kernel.RouteListFiltered(family, all, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if r.Dst != nil && r.Dst.IP.To4() == nil && (r.Dst.IP.IsLinkLocalUnicast() || r.Dst.IP.IsMulticast()) {
				continue
			}
			lines = append(lines, d.route(r))
		}
	}
	return lines, nil
}

func (d describer) route(r netlink.Route) string {
	var b strings.Builder
	dst := "default"
	if r.Dst != nil {
		dst = r.Dst.String()
	}
	fmt.Fprintf(&b, "route table %d %s %s proto %d scope %s metric %d", r.Table, routeType(r.Type), dst, int(r.Protocol), r.Scope, r.Priority)
	if r.LinkIndex != 0 {
		b.WriteString(" dev " + d.name(r.LinkIndex))
	}
	if r.Gw != nil {
		b.WriteString(" via " + r.Gw.String())
	}
	if r.Via != nil {
		b.WriteString(" via " + r.Via.String())
	}
	if r.Src != nil {
		b.WriteString(" src " + r.Src.String())
	}
	if r.Flags&unix.RTNH_F_ONLINK != 0 {
		b.WriteString(" onlink")
	}
	if r.MTU != 0 {
		fmt.Fprintf(&b, " mtu %d", r.MTU)
	}
	for _, hop := range r.MultiPath {
		fmt.Fprintf(&b, " nexthop %s dev %s weight %d", hop.Gw, d.name(hop.LinkIndex), hop.Hops+1)
	}
	return b.String()
}

// routeType returns the name ip gives a route's type.
func routeType(number int) string {
	names := []string{
		"unspec", "unicast", "local", "broadcast", "anycast", "multicast",
		"blackhole", "unreachable", "prohibit", "throw", "nat", "xresolve",
	}
	if number < 0 || number >= len(names) {
		return fmt.Sprintf("type%d", number)
	}
	return names[number]
}

func (d describer) rules() (Snapshot, error) {
	var lines Snapshot
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := d.kernel.RuleList(family)
		if err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		for _, r := range rules {
			line := fmt.Sprintf("rule family %d %s", family, strings.TrimSpace(r.String()))
			if r.Mark != 0 {
				line += fmt.Sprintf(" mark %#x", r.Mark)
			}
			if r.IifName != "" || r.OifName != "" {
				line += fmt.Sprintf(" iif %q oif %q", r.IifName, r.OifName)
			}
			lines = append(lines, line)
		}
	}
	return lines, nil
}

// neighbours lists what was configured, not what was resolved.
func (d describer) neighbours() (Snapshot, error) {
	var lines Snapshot
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		neighs, err := d.kernel.NeighList(0, family)
		if err != nil {
			return nil, fmt.Errorf("list neighbours: %w", err)
		}
		proxies, err := d.kernel.NeighProxyList(0, family)
		if err != nil {
			return nil, fmt.Errorf("list proxied neighbours: %w", err)
		}
		for _, n := range neighs {
			if n.State&netlink.NUD_PERMANENT != 0 || n.Flags&netlink.NTF_EXT_LEARNED != 0 {
				lines = append(lines, fmt.Sprintf("neigh %s %s mac %s", d.name(n.LinkIndex), n.IP, n.HardwareAddr))
			}
		}
		for _, n := range proxies {
			lines = append(lines, fmt.Sprintf("neigh %s %s proxy", d.name(n.LinkIndex), n.IP))
		}
	}
	return lines, nil
}

// forwarding lists the static forwarding entries of bridges and VXLAN
// devices, without those for the multicast groups that a link has joined.
func (d describer) forwarding() (Snapshot, error) {
	entries, err := d.kernel.NeighList(0, unix.AF_BRIDGE)
	if err != nil {
		return nil, fmt.Errorf("list forwarding entries: %w", err)
	}
	var lines Snapshot
	for _, e := range entries {
		static := e.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0 || e.Flags&netlink.NTF_EXT_LEARNED != 0
		if !static || len(e.HardwareAddr) > 0 && e.HardwareAddr[0]&1 != 0 {
			continue
		}
		line := fmt.Sprintf("fdb %s %s", d.name(e.LinkIndex), e.HardwareAddr)
		if e.IP != nil {
			line += " dst " + e.IP.String()
		}
		if e.VNI != 0 {
			line += fmt.Sprintf(" vni %d", e.VNI)
		}
		if e.MasterIndex != 0 {
			line += " master " + d.name(e.MasterIndex)
		}
		lines = append(lines, line)
	}
	return lines, nil
}
