package conformance

// Section 2, CHECK of what is as ADD left it, or as others left it since.

import (
	"context"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

func checkClauses() []Clause {
	const of = "Section 2: CHECK"
	const later = "The plugin must allow for a later chained plugin to have modified networking resources, e.g. routes, on `ADD`."
	all := []Clause{
		spec("2.4-check-01", Should, of, "The plugin must consult the `prevResult` to determine the expected interfaces and addresses.", consultsPrevious).
			note("CHECK fails when prevResult has an address that the interface hasn't; the words don't say so outright"),
		spec("2.4-check-02", Must, of, later, allowsRoute).where(needsInterface).note("a later plugin has added a route"),
		spec("2.4-check-03", Should, of, later, allowsMAC).where(needsInterface).
			note("a later plugin has changed the hardware address, as tuning does in the appendix's example"),
		spec("2.4-check-04", Must, of, "The plugin must handle `CHECK` being called immediately after an `ADD`, and therefore should allow a reasonable convergence delay for any asynchronous resources.",
			checkAfterAdd).each(),
		spec("2.4-check-10", Should, of, "The plugin should return an error if other resources not tracked in the Result type such as the following are missing or are in an invalid state:",
			checkReservation).note("the IP reservation is missing"),
		spec("2.4-check-11", Should, of, "The plugin should call `CHECK` on any delegated (e.g. IPAM) plugins and pass any errors on to its caller.", passesCheckError).
			where(needsDelegate),
	}
	for i := range all {
		all[i].Since = "0.4.0"
	}
	return all
}

// checked attaches a container and sees CHECK succeed, as a step to a CHECK
// that should say something else. Only the first plugin is asked.
func (b *bench) checked(ctx context.Context) (*attachment, answer, error) {
	a, err := b.attach(ctx)
	if err != nil {
		return nil, nil, err
	}
	r, err := answerOf(a.result())
	if err != nil {
		return nil, nil, nothing("%v", err)
	}
	if x := b.do(ctx, call{command: "CHECK", at: a, prev: a.result()}); x.Status != 0 {
		return nil, nil, nothing("CHECK after ADD failed%s", x.said())
	}
	return a, r, nil
}

func checkAfterAdd(ctx context.Context, b *bench) error {
	a, err := b.attach(ctx)
	if err != nil {
		return err
	}
	return b.all(ctx, "CHECK", a).succeeds("ADD was the call before")
}

// consultsPrevious changes the address in prevResult, and the container not.
func consultsPrevious(ctx context.Context, b *bench) error {
	a, r, err := b.checked(ctx)
	if err != nil {
		return err
	}
	forged := false
	for _, ip := range r.list("ips") {
		if p, err := netip.ParsePrefix(text(ip["address"])); err == nil && p.Addr().Is4() {
			ip["address"], forged = "198.51.100.77/24", true
		} else if err == nil {
			ip["address"], forged = "2001:db8:77::77/64", true
		}
	}
	if !forged {
		return nothing("the result has no address")
	}
	raw, err := r.raw()
	if err != nil {
		return err
	}
	return b.do(ctx, call{command: "CHECK", at: a, prev: raw}).fails("nobody has the address in prevResult")
}

func allowsRoute(ctx context.Context, b *bench) error {
	a, r, err := b.checked(ctx)
	if err != nil {
		return err
	}
	added := netip.MustParsePrefix("198.51.100.0/24")
	if addresses := r.addresses(a); len(addresses) > 0 && addresses[0].Addr().Is6() {
		added = netip.MustParsePrefix("2001:db8:77::/64")
	}
	if err := a.change(addRoute(added)); err != nil {
		return err
	}
	known, _ := r["routes"].([]any)
	r["routes"] = append(known, map[string]any{"dst": added.String()})
	raw, err := r.raw()
	if err != nil {
		return err
	}
	return b.do(ctx, call{command: "CHECK", at: a, prev: raw}).succeeds("only a route to " + added.String() + " was added, which prevResult has")
}

func allowsMAC(ctx context.Context, b *bench) error {
	a, r, err := b.checked(ctx)
	if err != nil {
		return err
	}
	place := r.index(a)
	if place < 0 || text(r.list("interfaces")[place]["mac"]) == "" {
		return nothing("the result has no hardware address")
	}
	const mac = "02:00:5e:10:00:01"
	err = a.change(func(l netlink.Link) error {
		parsed, err := net.ParseMAC(mac)
		if err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(l, parsed)
	})
	if err != nil {
		return err
	}
	r.list("interfaces")[place]["mac"] = mac
	raw, err := r.raw()
	if err != nil {
		return err
	}
	return b.do(ctx, call{command: "CHECK", at: a, prev: raw}).succeeds("only the hardware address was changed, which prevResult has")
}

// reserved asks the IPAM plugin about an attachment: the target itself, or what
// the plugin at a place delegates to.
func (b *bench) reserved(ctx context.Context, place int, a *attachment) *Exchange {
	return b.do(ctx, call{plugin: place, command: "CHECK", at: a, prev: a.result(), delegate: b.plugins[place].ipam != ""})
}

// checkReservation releases an address behind the plugin's back.
func checkReservation(ctx context.Context, b *bench) error {
	one := &b.plugins[0]
	if one.kind != ipamPlugin && one.ipam == "" {
		return nothing("%s has no ipam.type: its reservations are its own", one.name)
	}
	a, _, err := b.checked(ctx)
	if err != nil {
		return err
	}
	if x := b.do(ctx, call{command: "DEL", at: a, prev: a.result(), delegate: one.ipam != ""}); x.Status != 0 {
		return nothing("%s DEL failed%s", x.Plugin, x.said())
	}
	return b.do(ctx, call{command: "CHECK", at: a, prev: a.result()}).fails("the address was released")
}

func passesCheckError(ctx context.Context, b *bench) error {
	return b.eachDelegate(ctx, func(place int, a *attachment) error {
		if x := b.do(ctx, call{plugin: place, command: "CHECK", at: a, prev: a.result()}); x.Status != 0 {
			return nothing("CHECK after ADD failed%s", x.said())
		}
		if err := b.fail("CHECK"); err != nil {
			return err
		}
		return b.do(ctx, call{plugin: place, command: "CHECK", at: a, prev: a.result()}).fails("the delegated plugin's CHECK failed, or should have been called")
	})
}
