package conformance

// Section 2, DEL.

import (
	"context"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

func delClauses() []Clause {
	const of = "Section 2: DEL"
	const best = "plugins should always complete a `DEL` action without error to the fullest extent possible, even if some resources or state are missing."
	const bridge = "the `bridge` plugin should delegate the DEL action to the IPAM plugin and clean up its own resources even if the container network namespace and/or container network interface no longer exist."
	return []Clause{
		spec("2.4-del-01", Should, of, "delete the interface defined by `CNI_IFNAME` inside the container at `CNI_NETNS`, or", deletesInterface(true)).
			where(needsInterface).note("the sentence begins: A CNI plugin, upon receiving a DEL command, should either"),
		spec("2.4-del-02", Should, of, "Plugins should still return without error if `prevResult` is empty for a `DEL` command, however.",
			deletesInterface(false)),
		spec("2.4-del-03", Should, of, best, delWithout(closeContainer)).note("the network namespace is gone"),
		spec("2.4-del-04", Should, of, best, delWithout(nil)).note("CNI_NETNS isn't set; it is an optional parameter of DEL"),
		spec("2.4-del-05", Should, of, best, delWithout(deleteLink)).where(needsInterface).note("the interface is gone"),
		spec("2.4-del-06", Must, of, "Plugins MUST accept multiple `DEL` calls for the same (`CNI_CONTAINERID`, `CNI_IFNAME`) pair, and return success if the interface in question, or any modifications added, are missing.",
			delTwice),
		spec("2.4-del-07", Should, of, best, neverAdded).note("ADD was never called"),
		spec("2.4-del-08", Should, of, "an IPAM plugin should generally release an IP allocation and return success even if the container network namespace no longer exists",
			releasesWithoutNetns).where(needsIPAM).since("0.4.0").note("that the address is released shows in CHECK"),
		spec("2.4-del-09", Should, of, bridge, delegatesWithoutNetns).where(needsDelegate).note("the IPAM plugin's DEL is called when the network namespace is gone"),
		spec("2.4-del-10", Should, of, bridge, leavesNothing).where(needsInterface).
			note("what a second container's ADD made on the node is gone after its DEL, though interface and network namespace were gone before"),
	}
}

// delAll calls DEL of all plugins and returns the first exchange that failed,
// or the last.
func (b *bench) delAll(ctx context.Context, a *attachment, change func(*call)) *Exchange {
	var x *Exchange
	for i := range slices.Backward(b.plugins) {
		c := call{plugin: i, command: "DEL", at: a, prev: a.result()}
		change(&c)
		if x = b.do(ctx, c); x.Status != 0 {
			break
		}
	}
	return x
}

func deletesInterface(withResult bool) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		a, err := b.attach(ctx)
		if err != nil {
			return err
		}
		made, err := a.has()
		if err != nil {
			return err
		}
		if !made && b.plugins[0].kind == interfacePlugin {
			return nothing("ADD made no interface")
		}
		x := b.delAll(ctx, a, func(c *call) {
			if !withResult {
				c.prev = nil
			}
		})
		if err := x.succeeds("the container had been added"); err != nil {
			return err
		}
		if left, err := a.has(); err != nil {
			return err
		} else if left {
			return x.violated("the container still has %s", a.ifname)
		}
		return nil
	}
}

// deleteLink takes away what a DEL would look for.
func deleteLink(a *attachment) error { return a.change(netlink.LinkDel) }

// closeContainer removes the container's network namespace, as a runtime does
// before a late DEL. The interface goes first: the kernel would remove it, and
// so its other end on the node, in its own time, and what a plugin finds there
// would be a matter of luck.
func closeContainer(a *attachment) error {
	if err := deleteLink(a); err != nil && !isNothing(err) {
		return err
	}
	return a.container.Close()
}

// delWithout calls DEL when something is gone, or when CNI_NETNS isn't set.
func delWithout(take func(*attachment) error) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		a, err := b.attach(ctx)
		if err != nil {
			return err
		}
		if take != nil {
			if err := take(a); err != nil {
				return err
			}
		}
		return b.delAll(ctx, a, func(c *call) {
			if take == nil {
				c.unset = []string{"CNI_NETNS"}
			}
		}).succeeds("what is gone needs no deleting")
	}
}

func delTwice(ctx context.Context, b *bench) error {
	a, err := b.attach(ctx)
	if err != nil {
		return err
	}
	if x := b.all(ctx, "DEL", a); x.Status != 0 {
		return nothing("the first DEL failed%s", x.said())
	}
	for range 2 {
		if err := b.all(ctx, "DEL", a).succeeds("the DEL before it succeeded"); err != nil {
			return err
		}
	}
	return nil
}

func neverAdded(ctx context.Context, b *bench) error {
	a, err := b.prepare()
	if err != nil {
		return err
	}
	return b.all(ctx, "DEL", a).succeeds("there was nothing to delete")
}

func releasesWithoutNetns(ctx context.Context, b *bench) error {
	a, err := b.attach(ctx)
	if err != nil {
		return err
	}
	if x := b.all(ctx, "CHECK", a); x.Status != 0 {
		return nothing("CHECK after ADD failed%s", x.said())
	}
	kept, err := b.newContainer() // CHECK needs a namespace
	if err != nil {
		return err
	}
	gone := map[string]string{"CNI_NETNS": a.container.Path()}
	if err := closeContainer(a); err != nil {
		return err
	}
	x := b.do(ctx, call{command: "DEL", at: a, prev: a.result(), env: gone})
	if err := x.succeeds("an IPAM plugin needs no network namespace to release an address"); err != nil {
		return err
	}
	check := b.do(ctx, call{command: "CHECK", at: a, prev: a.result(), env: map[string]string{"CNI_NETNS": kept.Path()}})
	if check.Status == 0 {
		return x.violated("the address is still reserved: CHECK succeeds")
	}
	return nil
}

func delegatesWithoutNetns(ctx context.Context, b *bench) error {
	return b.eachDelegate(ctx, func(place int, a *attachment) error {
		if err := closeContainer(a); err != nil {
			return err
		}
		x := b.do(ctx, call{plugin: place, command: "DEL", at: a, prev: a.result()})
		return b.wasDelegated(x)
	})
}

// leavesNothing compares the node before the second container and after it:
// what the first one made may stay.
func leavesNothing(ctx context.Context, b *bench) error {
	if _, err := b.attach(ctx); err != nil {
		return err
	}
	node := b.machine.node
	earlier, err := snapshot(node.Host)
	if err != nil {
		return err
	}
	second, err := b.attach(ctx)
	if err != nil {
		return err
	}
	if err := closeContainer(second); err != nil {
		return err
	}
	x := b.all(ctx, "DEL", second)
	if x.Status != 0 {
		return nothing("DEL failed%s", x.said())
	}
	later, err := snapshot(node.Host)
	if err != nil {
		return err
	}
	var left []string
	for _, line := range earlier.Diff(later) {
		if strings.HasPrefix(line, "+ ") {
			left = append(left, strings.TrimPrefix(line, "+ "))
		}
	}
	if len(left) > 0 {
		return x.violated("the node has what it hadn't before the container: %s", strings.Join(left, "; "))
	}
	return nil
}
