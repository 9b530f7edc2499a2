package lab

// The underlay: a bridge per segment in a namespace of its own, the router's
// and the machines' legs in them.

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An underlay is a namespace which only switches frames.
type underlay struct {
	ns      *namespace
	kernel  *netlink.Handle
	bridges []netlink.Link // by segment
	legs    atomic.Int64   // how many there were, for their ports' names
}

// A leg is a cable from a host to a segment's bridge. The cable is new after
// each power-on, its addresses are the same.
type leg struct {
	segment int
	link    string // the host's end
	port    string // the bridge's end
	mac     net.HardwareAddr
	v4, v6  netip.Prefix
}

// newUnderlay makes the bridges.
func newUnderlay(segments []Segment) (*underlay, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, fmt.Errorf("make underlay: %w", err)
	}
	u := &underlay{ns: ns}
	if err := u.build(segments); err != nil {
		return nil, errors.Join(fmt.Errorf("make underlay: %w", err), u.close())
	}
	return u, nil
}

func (u *underlay) build(segments []Segment) (err error) {
	// Bridges and ports have nothing to say of their own.
	if err := u.ns.set(sysctl{"ipv6/conf/default/disable_ipv6", "1"}); err != nil {
		return err
	}
	if u.kernel, err = u.ns.kernel(); err != nil {
		return err
	}
	for k, s := range segments {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = fmt.Sprintf("br%d", k), s.MTU
		snooping := false
		bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
		if err := u.kernel.LinkAdd(bridge); err != nil {
			return fmt.Errorf("add bridge of segment %s: %w", s.Name, err)
		}
		if err := setUp(u.kernel, bridge); err != nil {
			return err
		}
		u.bridges = append(u.bridges, bridge)
	}
	return nil
}

func (u *underlay) close() error {
	if u.kernel != nil {
		u.kernel.Close()
	}
	return u.ns.close()
}

// newLeg describes a leg for the link eth0 of a host.
func (u *underlay) newLeg(segment int, host string, v4, v6 netip.Prefix) *leg {
	return &leg{
		segment: segment,
		link:    "eth0",
		port:    fmt.Sprintf("leg%d", u.legs.Add(1)),
		mac:     macFor(host),
		v4:      v4,
		v6:      v6,
	}
}

// route turns a namespace into the router of the segments.
func (u *underlay) route(ns *namespace, segments []Segment) error {
	err := ns.set(
		sysctl{"ipv4/ip_forward", "1"},
		sysctl{"ipv6/conf/all/forwarding", "1"},
		// No test has to wait for a packet-too-big that was held back.
		sysctl{"ipv4/icmp_ratelimit", "0"},
		sysctl{"ipv6/icmp/ratelimit", "0"},
	)
	if err != nil {
		return fmt.Errorf("make router: %w", err)
	}
	for k, s := range segments {
		v4, v6 := s.router()
		l := u.newLeg(k, routerName+"."+s.Name, v4, v6)
		l.link = fmt.Sprintf("eth%d", k)
		if err := u.connect(ns, l, s.MTU); err != nil {
			return fmt.Errorf("make router: %w", err)
		}
	}
	return nil
}

// plug connects a machine to its segment and routes to the others.
func (u *underlay) plug(ns *namespace, l *leg, s Segment) error {
	if err := u.connect(ns, l, s.MTU); err != nil {
		return err
	}
	kernel, err := ns.kernel()
	if err != nil {
		return err
	}
	defer kernel.Close()
	link, err := kernel.LinkByName(l.link)
	if err != nil {
		return fmt.Errorf("find link %s: %w", l.link, err)
	}
	v4, v6 := s.router()
	for _, via := range []netip.Prefix{v4, v6} {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: via.Addr().AsSlice()}
		if err := kernel.RouteAdd(route); err != nil {
			return fmt.Errorf("add default route via %s: %w", via.Addr(), err)
		}
	}
	return nil
}

// connect lays the cable of a leg: link, port, addresses. Frames pass when it
// returns.
func (u *underlay) connect(ns *namespace, l *leg, mtu int) error {
	kernel, err := ns.kernel()
	if err != nil {
		return err
	}
	defer kernel.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = l.link, mtu, l.mac
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = l.port, netlink.NsFd(u.ns.fd)
	if err := kernel.LinkAdd(veth); err != nil {
		return fmt.Errorf("add link %s: %w", l.link, err)
	}
	err = ns.set(
		sysctl{"ipv6/conf/" + l.link + "/accept_dad", "0"},
		sysctl{"ipv6/conf/" + l.link + "/accept_ra", "0"},
	)
	if err != nil {
		return err
	}
	if err := setUp(kernel, veth); err != nil {
		return err
	}
	if err := u.connectPort(l); err != nil {
		return err
	}
	if err := addAddresses(kernel, veth, l); err != nil {
		return err
	}
	return u.settle(ns, kernel, l)
}

func addAddresses(kernel *netlink.Handle, link netlink.Link, l *leg) error {
	for _, p := range []netip.Prefix{l.v4, l.v6} {
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := kernel.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add address %s to %s: %w", p, l.link, err)
		}
	}
	return nil
}

// connectPort puts the bridge's end of a leg into the bridge.
func (u *underlay) connectPort(l *leg) error {
	port, err := u.kernel.LinkByName(l.port)
	if err != nil {
		return fmt.Errorf("find port %s: %w", l.port, err)
	}
	if err := u.kernel.LinkSetMaster(port, u.bridges[l.segment]); err != nil {
		return fmt.Errorf("add port %s to bridge: %w", l.port, err)
	}
	return setUp(u.kernel, port)
}

// settle waits until both ends of a leg have their carrier and the host
// answers to its addresses.
func (u *underlay) settle(ns *namespace, kernel *netlink.Handle, l *leg) error {
	if err := ns.awaitCarrier(kernel, l.link, true); err != nil {
		return err
	}
	if err := u.ns.awaitCarrier(u.kernel, l.port, true); err != nil {
		return err
	}
	if err := ns.awaitAddress(kernel, l.v4.Addr()); err != nil {
		return err
	}
	return ns.awaitAddress(kernel, l.v6.Addr())
}

// unplug removes a leg's cable at once. A leg that isn't plugged is fine.
func (u *underlay) unplug(l *leg) error {
	port, err := u.kernel.LinkByName(l.port)
	if _, ok := errors.AsType[netlink.LinkNotFoundError](err); ok {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find port %s: %w", l.port, err)
	}
	if err := u.kernel.LinkDel(port); err != nil {
		return fmt.Errorf("remove port %s: %w", l.port, err)
	}
	return nil
}

// wire takes or gives a leg's carrier, and waits until that is so.
func (u *underlay) wire(ns *namespace, l *leg, up bool) error {
	kernel, err := ns.kernel()
	if err != nil {
		return err
	}
	defer kernel.Close()
	port, err := u.kernel.LinkByName(l.port)
	if err != nil {
		return fmt.Errorf("find port %s: %w", l.port, err)
	}
	if up {
		if err := setUp(u.kernel, port); err != nil {
			return err
		}
		return u.settle(ns, kernel, l)
	}
	if err := u.kernel.LinkSetDown(port); err != nil {
		return fmt.Errorf("set port %s down: %w", l.port, err)
	}
	return ns.awaitCarrier(kernel, l.link, false)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
