package conformance

// A node that is switched off and on again: its kernel and /run are new, its
// /var/lib is as it was, and its containers are gone.

import (
	"context"
)

func rebootClauses() []Clause {
	const of = "reboot"
	const how = "the node's kernel and /run are new, /var/lib is as it was, the containers are gone; no file may name them, and in a small range as many containers fit as before"
	return []Clause{
		behaviour("reboot-01", Should, of, "After a reboot DEL of the containers of before succeeds and frees their addresses, and new containers are attached.",
			afterReboot(delOld)).note(how),
		behaviour("reboot-02", Should, of, "After a reboot GC succeeds and frees the addresses of the containers of before, and new containers are attached.",
			afterReboot(gcOld)).since("1.1.0").note("GC is called with an empty list; " + how),
		behaviour("reboot-03", Should, of, "After a reboot new containers are attached, whether or not anything else was called before.",
			attachesAfterReboot).note("where there was room for another container"),
	}
}

// reboot switches the node off and on again.
func (b *bench) reboot(ctx context.Context) error {
	if err := b.powerOff(); err != nil {
		return err
	}
	return b.powerOn(ctx)
}

// occupants attaches containers that a reboot will end: as many as fit but
// for some, or a few.
func (b *bench) occupants(ctx context.Context, room, spare int) ([]*attachment, error) {
	const few = 4
	number := few
	if room > 0 {
		number = min(few, room-spare)
	}
	if number < 1 {
		return nil, nothing("there is room for %d container only", room)
	}
	var all []*attachment
	for range number {
		a, err := b.attach(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

// afterReboot deletes the containers of before the reboot in some way, and then
// looks for what is left of them.
func afterReboot(end func(context.Context, *bench, []*attachment) (*Exchange, error)) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		room, err := b.room(ctx)
		if err != nil {
			return err
		}
		g, err := b.newGround(ctx)
		if err != nil {
			return err
		}
		old, err := b.occupants(ctx, room, 0)
		if err != nil {
			return err
		}
		if err := b.reboot(ctx); err != nil {
			return err
		}
		x, err := end(ctx, b, old)
		if err != nil {
			return err
		}
		if g.node, err = b.nodeState(ctx); err != nil { // the kernel is another one
			return err
		}
		if err := b.leavesGround(ctx, g, x, "after a reboot", old...); err != nil {
			return err
		}
		if err := b.attachesNew(ctx); err != nil {
			return err
		}
		return b.hasRoom(ctx, room, "after a reboot")
	}
}

func delOld(ctx context.Context, b *bench, old []*attachment) (*Exchange, error) {
	var x *Exchange
	for _, a := range old {
		x = b.all(ctx, "DEL", a)
		if err := x.succeeds("the node was rebooted since ADD"); err != nil {
			return nil, err
		}
	}
	return x, nil
}

func gcOld(ctx context.Context, b *bench, _ []*attachment) (*Exchange, error) {
	x := b.gcAll(ctx)
	return x, x.succeeds("the node was rebooted, and nothing is attached")
}

// attachesNew attaches a container, looks at it, and deletes it.
func (b *bench) attachesNew(ctx context.Context) error {
	all, err := b.guests(1)
	if err != nil {
		return err
	}
	b.atOnce(ctx, "ADD", all)
	if err := all[0].x.succeeds("the node was rebooted, and had attached containers before"); err != nil {
		return err
	}
	if err := attachedRight(all); err != nil {
		return err
	}
	return b.remove(ctx, all[0].at)
}

func attachesAfterReboot(ctx context.Context, b *bench) error {
	room, err := b.room(ctx)
	if err != nil {
		return err
	}
	if _, err := b.occupants(ctx, room, 1); err != nil {
		return err
	}
	if err := b.reboot(ctx); err != nil {
		return err
	}
	return b.attachesNew(ctx)
}
