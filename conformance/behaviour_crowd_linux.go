package conformance

// Many containers at once.

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sync/errgroup"
)

// crowd is how many containers are attached at once.
const crowd = 64

func crowdClauses() []Clause {
	const of = "many at once"
	return []Clause{
		behaviour("crowd-01", Should, of, "Of many ADDs at once those that succeed give addresses that nobody else has, on interfaces that have them, and those that fail say so as an error.",
			addsAtOnce).note("64 containers; how many succeed isn't looked at"),
		behaviour("crowd-02", Should, of, "Many DELs at once succeed and leave nothing.", delsAtOnce).
			note("64 containers, twice: what is left the second time and wasn't the first, and in a small range how many containers fit"),
		behaviour("crowd-03", Should, of, "ADDs and DELs at once don't disturb each other.", addsAndDelsAtOnce).
			note("three times up to 16 containers are attached while those before them are deleted; they are held to the same as in behaviour-crowd-01 and -02"),
		behaviour("crowd-04", Should, of, "As many containers as can be attached one after the other can be attached at once.", fitsAtOnce).
			note("up to 16 containers; an ADD that fails with code 11, try again later, is called again"),
	}
}

// A guest is one of many containers, and what came of its last command.
type guest struct {
	at      *attachment
	x       *Exchange // of the last plugin, or of one that failed
	slowest *Exchange // of all plugins
}

// attached says whether its ADD succeeded.
func (g *guest) attached() bool { return len(g.at.results) > 0 && g.x.Status == 0 }

// guests makes containers.
func (b *bench) guests(n int) ([]*guest, error) {
	var all []*guest
	for range n {
		a, err := b.prepare()
		if err != nil {
			return nil, err
		}
		all = append(all, &guest{at: a})
	}
	return all, nil
}

// atOnce calls a command for all.
func (b *bench) atOnce(ctx context.Context, command string, all []*guest) {
	var g errgroup.Group
	for _, one := range all {
		g.Go(func() error {
			exchanges := b.calls(ctx, command, one.at)
			one.x = exchanges[len(exchanges)-1]
			one.slowest = slices.MaxFunc(exchanges, func(x, y *Exchange) int { return cmp.Compare(x.Took, y.Took) })
			return nil
		})
	}
	_ = g.Wait() // what failed is in the exchanges
}

// attachedRight looks at all that an ADD was called for.
func attachedRight(all []*guest) error {
	owners := map[netip.Addr]*guest{}
	some := false
	for _, one := range all {
		if !one.attached() {
			if _, err := one.x.refusal(); err != nil {
				return one.x.violated("it failed with status %d, and %v", one.x.Status, err)
			}
			continue
		}
		some = true
		result, err := answerOf(one.at.result())
		if err != nil {
			return one.x.violated("%v", err)
		}
		given := result.addresses(one.at)
		for _, p := range given {
			if other := owners[p.Addr()]; other != nil {
				return one.x.violated("it gave %s to two containers, %.12s and %.12s",
					p.Addr(), other.at.container.ContainerID(), one.at.container.ContainerID())
			}
			owners[p.Addr()] = one
		}
		if err := one.hasInterface(result, given); err != nil {
			return err
		}
	}
	if !some {
		return nothing("no ADD succeeded")
	}
	return nil
}

// hasInterface is violated when the container lacks the interface that the
// result has, or one of its addresses.
func (g *guest) hasInterface(result answer, given []netip.Prefix) error {
	if result.index(g.at) < 0 {
		return nil // an IPAM plugin's
	}
	found, err := links(g.at.container.Host)
	if err != nil {
		return err
	}
	l, there := found[g.at.ifname]
	if !there {
		return g.x.violated("it succeeded, and the container has no %s", g.at.ifname)
	}
	if !l.up {
		return g.x.violated("it succeeded, and %s of the container is down", g.at.ifname)
	}
	for _, p := range given {
		if !slices.Contains(l.addresses, p) {
			return g.x.violated("it succeeded, and %s of the container hasn't %s", g.at.ifname, p)
		}
	}
	return nil
}

// deletedRight looks at all that a DEL was called for.
func deletedRight(all []*guest) error {
	for _, one := range all {
		if err := one.x.succeeds("others were deleted at the same time"); err != nil {
			return err
		}
	}
	return nil
}

// attachments are those of the guests.
func attachments(all []*guest) []*attachment {
	var list []*attachment
	for _, one := range all {
		list = append(list, one.at)
	}
	return list
}

func addsAtOnce(ctx context.Context, b *bench) error {
	all, err := b.guests(crowd)
	if err != nil {
		return err
	}
	b.atOnce(ctx, "ADD", all)
	judged := attachedRight(all)
	b.atOnce(ctx, "DEL", all) // one after the other would take long
	return errors.Join(judged, b.forget(attachments(all)...))
}

// delsAtOnce fills and empties the node twice. A plugin may keep what it needed
// for that many containers, so what the node has after the first time is the
// network's.
func delsAtOnce(ctx context.Context, b *bench) error {
	room, err := b.room(ctx)
	if err != nil {
		return err
	}
	g, err := b.newGround(ctx)
	if err != nil {
		return err
	}
	for round := range 2 {
		all, err := b.guests(crowd)
		if err != nil {
			return err
		}
		b.atOnce(ctx, "ADD", all)
		if !slices.ContainsFunc(all, (*guest).attached) {
			return nothing("no ADD succeeded")
		}
		b.atOnce(ctx, "DEL", all)
		if err := deletedRight(all); err != nil {
			return err
		}
		if round == 0 {
			if g.node, err = b.nodeState(ctx); err != nil {
				return err
			}
		}
		if err := b.leavesGround(ctx, g, all[0].x, "after many DELs at once", attachments(all)...); err != nil {
			return err
		}
		if err := b.forget(attachments(all)...); err != nil {
			return err
		}
	}
	return b.hasRoom(ctx, room, "after many DELs at once")
}

// addsAndDelsAtOnce keeps a number of containers attached, but always others. A
// small range has room for those that come and those that go.
func addsAndDelsAtOnce(ctx context.Context, b *bench) error {
	const most, rounds = 16, 3
	number := most
	room, err := b.room(ctx)
	if err != nil {
		return err
	}
	if room > 0 {
		number = min(most, room/2)
	}
	if number == 0 {
		return nothing("there is room for one container only")
	}
	g, err := b.newGround(ctx)
	if err != nil {
		return err
	}
	var old []*guest
	for range rounds {
		fresh, err := b.guests(number)
		if err != nil {
			return err
		}
		if err := b.exchange(ctx, g, old, fresh); err != nil {
			return err
		}
		old = fresh
	}
	return b.exchange(ctx, g, old, nil)
}

// exchange deletes the old ones while the fresh ones are attached.
func (b *bench) exchange(ctx context.Context, g *ground, old, fresh []*guest) error {
	var both errgroup.Group
	both.Go(func() error { b.atOnce(ctx, "ADD", fresh); return nil })
	both.Go(func() error { b.atOnce(ctx, "DEL", old); return nil })
	_ = both.Wait() // what failed is in the exchanges
	if err := deletedRight(old); err != nil {
		return err
	}
	if len(fresh) > 0 {
		if err := attachedRight(fresh); err != nil {
			return err
		}
	}
	return b.hadNoPart(ctx, g, old)
}

// hadNoPart is violated by what is left of those that were deleted while others
// were there, and forgets them.
func (b *bench) hadNoPart(ctx context.Context, g *ground, old []*guest) error {
	if len(old) == 0 {
		return nil
	}
	alone := *g
	var err error
	if alone.node, err = b.nodeState(ctx); err != nil { // which others share
		return err
	}
	if err := b.leavesGround(ctx, &alone, old[0].x, "after DELs and ADDs at once", attachments(old)...); err != nil {
		return err
	}
	return b.forget(attachments(old)...)
}

// fitsAtOnce counts how many containers fit, and then attaches them at once.
func fitsAtOnce(ctx context.Context, b *bench) error {
	c, err := b.counted(ctx)
	if err != nil {
		return err
	}
	all, err := b.guests(min(c.fitting, largest))
	if err != nil {
		return err
	}
	if len(all) < 2 {
		return nothing("there is room for one container only")
	}
	b.atOnce(ctx, "ADD", all)
	for _, one := range all {
		const later = 11 // try again later
		for range all {
			if one.attached() || one.x.code() != later {
				break
			}
			b.atOnce(ctx, "DEL", []*guest{one})
			one.at.results = nil
			b.atOnce(ctx, "ADD", []*guest{one})
		}
		if !one.attached() {
			return one.x.violated("it failed%s; one after the other %d containers could be attached", one.x.said(), len(all))
		}
	}
	return nil
}
