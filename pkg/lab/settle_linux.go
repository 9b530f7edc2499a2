package lab

// Waiting for what the kernel does after the call that asked for it has
// returned. A link whose other end has come up drops frames for a moment, as
// does its port in a bridge; an address of IPv6 isn't served at once. Whoever
// sends too early loses a packet, and waits a second for address resolution to
// try again.

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// settleDeadline is how long the kernel may take.
const settleDeadline = 10 * time.Second

// awaitCarrier waits until the link is operational, or until it isn't.
func (ns *namespace) awaitCarrier(kernel *netlink.Handle, link string, want bool) error {
	err := ns.await(unix.RTNLGRP_LINK, func() (bool, error) {
		l, err := kernel.LinkByName(link)
		return err == nil && (l.Attrs().OperState == netlink.OperUp) == want, err
	})
	if err != nil {
		return fmt.Errorf("await carrier %t of link %s: %w", want, link, err)
	}
	return nil
}

// awaitAddress waits until packets to the address are delivered locally.
func (ns *namespace) awaitAddress(kernel *netlink.Handle, addr netip.Addr) error {
	group := uint(unix.RTNLGRP_IPV4_ROUTE)
	if addr.Is6() {
		group = unix.RTNLGRP_IPV6_ROUTE
	}
	err := ns.await(group, func() (bool, error) {
		routes, err := kernel.RouteGet(addr.AsSlice())
		return err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL, err
	})
	if err != nil {
		return fmt.Errorf("await address %s: %w", addr, err)
	}
	return nil
}

// await waits until something is ready, asking again whenever the kernel
// announces a change to the group.
func (ns *namespace) await(group uint, ready func() (bool, error)) error {
	if ok, err := ready(); ok || err != nil {
		return err
	}
	var events *nl.NetlinkSocket
	err := ns.do(func() (err error) {
		events, err = nl.Subscribe(unix.NETLINK_ROUTE, group)
		return err
	})
	if err != nil {
		return fmt.Errorf("subscribe in %s: %w", ns.id, err)
	}
	defer events.Close()
	for deadline := time.Now().Add(settleDeadline); ; {
		// Asked only once subscribed, so that no change is missed.
		if ok, err := ready(); ok || err != nil {
			return err
		}
		left := unix.NsecToTimeval(max(time.Until(deadline), time.Microsecond).Nanoseconds())
		if err := events.SetReceiveTimeout(&left); err != nil {
			return err
		}
		// Events that were lost are as good as one that was not.
		if _, _, err := events.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
	}
}
