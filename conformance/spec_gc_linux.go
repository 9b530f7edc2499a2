package conformance

// Section 2, GC.

import (
	"context"
	"strings"
)

func gcClauses() []Clause {
	const of = "Section 2: GC"
	const complete = "Plugins should generally complete a `GC` action without error."
	all := []Clause{
		spec("2.4-gc-01", Should, of, "A plugin SHOULD remove as many stale resources as possible. For example, a plugin should remove any IPAM reservations associated with attachments not in the provided list.",
			collects).note("the reservation of a container that isn't in the list is gone, as CHECK tells"),
		spec("2.4-gc-02", Should, of, "The network plugin may then remove any resources related to attachments that do not exist in this set.", sparesValid).
			note("the words have no must; what it may remove is no more than that: the container in the list is as it was"),
		spec("2.4-gc-03", Should, of, complete, gcCompletes(func(*attachment) []*attachment { return nil })).note("the list is empty"),
		spec("2.4-gc-04", Should, of, complete, gcCompletes(func(a *attachment) []*attachment { return []*attachment{a} })).note("all containers are in the list"),
		spec("2.4-gc-05", Should, of, complete, gcUnknown).note("the list has a container that the plugin doesn't know, and nothing was ever added"),
		spec("2.4-gc-06", May, of, "The plugin MAY assume that the isolation domain (e.g. network namespace) has been deleted, and thus any resources (e.g. network interfaces) therein have been removed.",
			gcWithoutNetns).note("GC completes when the network namespace of what is stale is gone"),
		spec("2.4-gc-07", Should, of, "If an error is encountered, a plugin should continue; removing as many resources as possible, and report the errors back to the runtime.",
			passesGCError).where(needsDelegate).note("the error of the delegated plugin is reported"),
		spec("2.4-gc-08", Must, of, "Plugins MUST, additionally, forward any GC calls to delegated plugins they are configured to use (see section 4).", delegatesGC).
			where(needsDelegate),
		spec("2.4-gc-09", Should, of, `No output on success, ["error" result structure](#Error) on error.`, gcPrintsNothing).note("the words have no must"),
	}
	for i := range all {
		all[i].Since = "1.1.0"
	}
	return all
}

// gc calls GC of one plugin with what is valid.
func (b *bench) gc(ctx context.Context, place int, valid ...*attachment) *Exchange {
	list := []any{}
	for _, a := range valid {
		list = append(list, fields{"containerID": a.container.ContainerID(), "ifname": a.ifname})
	}
	return b.do(ctx, call{plugin: place, command: "GC", conf: fields{"cni.dev/valid-attachments": list}})
}

// gcAll calls GC of all plugins and returns the first exchange that failed, or
// the first.
func (b *bench) gcAll(ctx context.Context, valid ...*attachment) *Exchange {
	var first *Exchange
	for i := range b.plugins {
		x := b.gc(ctx, i, valid...)
		if first == nil || first.Status == 0 && x.Status != 0 {
			first = x
		}
	}
	return first
}

// collects: the namespace of what is stale is still there, so that CHECK can be
// asked. That a CHECK which still succeeds means a reservation which is still
// there, is known of an IPAM plugin whose CHECK fails after DEL.
func collects(ctx context.Context, b *bench) error {
	stale, err := b.attach(ctx)
	if err != nil {
		return err
	}
	valid, err := b.attach(ctx)
	if err != nil {
		return err
	}
	if x := b.reserved(ctx, 0, stale); x.Status != 0 {
		return nothing("%s CHECK after ADD failed%s", x.Plugin, x.said())
	}
	gc := b.gcAll(ctx, valid)
	if b.reserved(ctx, 0, stale).Status != 0 {
		return nil
	}
	if b.plugins[0].kind == interfacePlugin && b.plugins[0].ipam == "" {
		return nothing("CHECK succeeds after GC, and nothing tells whether it looks at reservations")
	}
	b.do(ctx, call{command: "DEL", at: stale, prev: stale.result(), delegate: b.plugins[0].ipam != ""})
	if b.reserved(ctx, 0, stale).Status == 0 {
		return nothing("the IPAM plugin's CHECK doesn't look at reservations")
	}
	return gc.violated("the address of a container that isn't in the list is still reserved")
}

func sparesValid(ctx context.Context, b *bench) error {
	_, err := b.attach(ctx)
	if err != nil {
		return err
	}
	valid, err := b.attach(ctx)
	if err != nil {
		return err
	}
	earlier, err := snapshot(valid.container.Host)
	if err != nil {
		return err
	}
	checked := b.all(ctx, "CHECK", valid).Status == 0
	gc := b.gcAll(ctx, valid)
	later, err := snapshot(valid.container.Host)
	if err != nil {
		return err
	}
	// What the kernel adds by itself to a new interface may still come.
	for _, line := range earlier.Diff(later) {
		if gone, lost := strings.CutPrefix(line, "- "); lost {
			return gc.violated("a container that is in the list lost %q", gone)
		}
	}
	if !checked {
		return nothing("CHECK after ADD failed")
	}
	if x := b.all(ctx, "CHECK", valid); x.Status != 0 {
		return gc.violated("the container is in the list, and its CHECK fails since%s", x.said())
	}
	return nil
}

func gcCompletes(choose func(*attachment) []*attachment) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		a, err := b.attach(ctx)
		if err != nil {
			return err
		}
		return b.gcAll(ctx, choose(a)...).succeeds("there was nothing wrong")
	}
}

func gcUnknown(ctx context.Context, b *bench) error {
	a, err := b.prepare()
	if err != nil {
		return err
	}
	return b.gcAll(ctx, a).succeeds("a container that isn't known is none to collect")
}

func gcWithoutNetns(ctx context.Context, b *bench) error {
	a, err := b.attach(ctx)
	if err != nil {
		return err
	}
	if err := closeContainer(a); err != nil {
		return err
	}
	return b.gcAll(ctx).succeeds("the network namespace of what is stale is gone, as it may be")
}

func gcPrintsNothing(ctx context.Context, b *bench) error {
	if _, err := b.attach(ctx); err != nil {
		return err
	}
	return perPlugin(func(ctx context.Context, b *bench, place int) error {
		x := b.gc(ctx, place)
		if x.Status != 0 {
			return nothing("GC failed%s", x.said())
		}
		if x.Stdout != "" {
			return x.violated("it printed %.100q", x.Stdout)
		}
		return nil
	})(ctx, b)
}

func passesGCError(ctx context.Context, b *bench) error {
	return b.eachDelegate(ctx, func(place int, _ *attachment) error {
		if err := b.fail("GC"); err != nil {
			return err
		}
		return b.gc(ctx, place).fails("the delegated plugin's GC failed, or should have been called")
	})
}

func delegatesGC(ctx context.Context, b *bench) error {
	return b.eachDelegate(ctx, func(place int, _ *attachment) error { return b.wasDelegated(b.gc(ctx, place)) })
}
