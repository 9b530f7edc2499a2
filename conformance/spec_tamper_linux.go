package conformance

// Section 2, CHECK of what was spoilt since ADD.

import (
	"context"

	"github.com/vishvananda/netlink"
)

func tamperClauses() []Clause {
	const missing = "The plugin should return an error if a resource included in the CNI Result type (interface, address or route) was created by the plugin, and is listed in `prevResult`, but is missing or in an invalid state."
	clause := func(id, note string, spoil func(*attachment, answer) error) Clause {
		return spec(id, Should, "Section 2: CHECK", missing, tampered(spoil)).since("0.4.0").where(needsInterface).note(note)
	}
	mtu := clause("2.4-check-09", "the interface's MTU isn't the result's", spoilMTU)
	mtu.Since = "1.1.0"
	return []Clause{
		clause("2.4-check-05", "the interface is gone", func(a *attachment, _ answer) error { return a.change(netlink.LinkDel) }),
		clause("2.4-check-06", "the interface is down", func(a *attachment, _ answer) error { return a.change(netlink.LinkSetDown) }),
		clause("2.4-check-07", "an address is gone", spoilAddress),
		clause("2.4-check-08", "a route is gone", spoilRoute),
		mtu,
	}
}

// tampered sees CHECK succeed, spoils something and wants CHECK to say so.
func tampered(spoil func(*attachment, answer) error) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		a, r, err := b.checked(ctx)
		if err != nil {
			return err
		}
		if r.index(a) < 0 {
			return nothing("the result doesn't list the interface")
		}
		if err := spoil(a, r); err != nil {
			return err
		}
		return b.do(ctx, call{command: "CHECK", at: a, prev: a.result()}).fails("the container isn't as the result says")
	}
}

func spoilAddress(a *attachment, r answer) error {
	addresses := r.addresses(a)
	if len(addresses) == 0 {
		return nothing("the result has no address of the interface")
	}
	return a.change(removeAddress(addresses[0]))
}

func spoilRoute(a *attachment, r answer) error {
	all := r.destinations()
	if len(all) == 0 {
		return nothing("the result has no route")
	}
	return a.change(removeRoute(all[0]))
}

func spoilMTU(a *attachment, r answer) error {
	mtu, ok := whole(r.list("interfaces")[r.index(a)]["mtu"])
	if !ok || mtu == 0 {
		return nothing("the result has no MTU")
	}
	return a.change(func(l netlink.Link) error { return netlink.LinkSetMTU(l, int(mtu)-40) })
}
