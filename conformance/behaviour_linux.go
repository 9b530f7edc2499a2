package conformance

// What a runtime relies on besides the specification's words: that a plugin
// may be killed, called at once with others, and find a node that was switched
// off in between; and what it costs.

import (
	"context"
	"slices"
	"sync"
)

// behaviour makes a clause about something that a runtime relies on.
func behaviour(id string, level Level, about, expected string, check func(context.Context, *bench) error) Clause {
	return Clause{ID: "behaviour-" + id, Section: Behaviour, Of: "Behaviour: " + about, Level: level, Quote: expected, check: check}
}

func behaviourClauses() []Clause {
	return slices.Concat(killClauses(), crowdClauses(), rebootClauses(), limitClauses(), costClauses())
}

// forget takes attachments that are deleted off the list of what is cleaned up,
// and gives their containers back.
func (b *bench) forget(all ...*attachment) error {
	b.mu.Lock()
	b.attachments = slices.DeleteFunc(b.attachments, func(a *attachment) bool { return slices.Contains(all, a) })
	b.mu.Unlock()
	for _, a := range all {
		if err := a.container.Close(); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes attachments one after the other, as a step to what is to be
// checked.
func (b *bench) remove(ctx context.Context, all ...*attachment) error {
	for _, a := range all {
		if x := b.all(ctx, "DEL", a); x.Status != 0 {
			return nothing("%s DEL failed%s", x.Plugin, x.said())
		}
	}
	return b.forget(all...)
}

// largest is how many containers a range has room for at most that is filled
// to see how many fit.
const largest = 16

// fit attaches containers until that fails, or until there are more than are
// counted, deletes them, and returns how many there were and the last ADD.
func (b *bench) fit(ctx context.Context) (int, *Exchange, error) {
	var all []*attachment
	for {
		a, err := b.prepare()
		if err != nil {
			return 0, nil, err
		}
		all = append(all, a)
		x := b.add(ctx, a)
		if failed := b.attached(x) != nil; failed {
			return len(all) - 1, x, b.remove(ctx, all...)
		}
		if len(all) > largest {
			return len(all), x, b.remove(ctx, all...)
		}
	}
}

// A capacity is how many containers fit on a node. It is counted once: no
// clause changes it.
type capacity struct {
	once    sync.Once
	fitting int // one more than are counted, where there are many
	room    int // the same where it is known, or zero
	err     error
}

// counted returns the capacity. It is known unless there are many, or addresses
// aren't free again as soon as they are released.
func (b *bench) counted(ctx context.Context) (*capacity, error) {
	c := b.capacity
	c.once.Do(func() {
		var x *Exchange
		if c.fitting, x, c.err = b.fit(ctx); c.err != nil || c.fitting > largest {
			return
		}
		if c.fitting == 0 {
			c.err = b.attached(x)
			return
		}
		var again int
		if again, _, c.err = b.fit(ctx); again == c.fitting {
			c.room = again
		}
	})
	return c, c.err
}

// room is the capacity where it is known, or zero.
func (b *bench) room(ctx context.Context) (int, error) {
	c, err := b.counted(ctx)
	return c.room, err
}

// hasRoom is violated when fewer containers fit than did before.
func (b *bench) hasRoom(ctx context.Context, before int, when string) error {
	if before == 0 {
		return nil
	}
	now, x, err := b.fit(ctx)
	if err != nil {
		return err
	}
	if now < before {
		return x.violated("%s %d containers fit, and there was room for %d; the next ADD failed%s", when, now, before, x.said())
	}
	return nil
}
