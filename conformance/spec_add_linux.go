package conformance

// Section 2, ADD.

import "context"

func addClauses() []Clause {
	const of = "Section 2: ADD"
	const exists = "If an interface of the requested name already exists in the container, the CNI plugin MUST return with an error."
	return []Clause{
		spec("2.4-add-01", Should, of, "create the interface defined by `CNI_IFNAME` inside the container at `CNI_NETNS`, or", createsInterface).
			where(needsInterface).note("the sentence begins: A CNI plugin, upon receiving an ADD command, should either"),
		spec("2.4-add-02", Must, of, "If the CNI plugin is successful, it must output a [result structure](#Success) (see below) on standard out.",
			perPlugin(printsResult)).each().note("the standard output is one JSON object, which is no error, and nothing else"),
		spec("2.4-add-03", Must, of, "it MUST handle `prevResult` by either passing it through, or modifying it appropriately.", handlesPrevious).
			where(needsChain).each(),
		spec("2.4-add-04", Must, of, exists, foreignInterface).where(needsInterface).note("the interface is somebody else's"),
		spec("2.4-add-05", Must, of, exists, addTwice).where(needsInterface).note("the interface is an earlier ADD's"),
		spec("2.4-add-06", May, of, "This implies that a given container ID may be added to a specific network more than once only if each addition is done with a different interface name.",
			secondInterface).note("what runtimes may do works; some configurations ask for what one container can't have twice, such as a default route"),
	}
}

func createsInterface(ctx context.Context, b *bench) error {
	a, err := b.prepare()
	if err != nil {
		return err
	}
	x := b.add(ctx, a)
	if err := b.attached(x); err != nil {
		return err
	}
	made, err := a.has()
	if err == nil && !made {
		return x.violated("the container has no interface %s", a.ifname)
	}
	return err
}

func printsResult(ctx context.Context, b *bench, place int) error {
	x, err := b.sampled(ctx, place)
	if err != nil {
		return err
	}
	if x.Status != 0 {
		return nothing("%s ADD failed%s", x.Plugin, x.said())
	}
	o, err := x.object()
	if err != nil {
		return x.violated("%v", err)
	}
	if o["code"] != nil && o["ips"] == nil {
		return x.violated("standard output is an error")
	}
	return nil
}

// handlesPrevious looks at the chain as it is: what the container was given
// before is still in the result.
func handlesPrevious(ctx context.Context, b *bench) error {
	return b.each(b.chained(), func(place int) error {
		a, err := b.addBefore(ctx, place)
		if err != nil {
			return err
		}
		x := b.do(ctx, call{plugin: place, command: "ADD", at: a, prev: a.result()})
		if err := b.attached(x); err != nil {
			return err
		}
		return b.kept(x, a.result())
	})
}

func foreignInterface(ctx context.Context, b *bench) error {
	a, err := b.prepare()
	if err != nil {
		return err
	}
	if err := occupy(a.container.Host, a.ifname); err != nil {
		return err
	}
	return b.do(ctx, call{command: "ADD", at: a}).fails("the container had an interface " + a.ifname)
}

func addTwice(ctx context.Context, b *bench) error {
	a, err := b.attach(ctx)
	if err != nil {
		return err
	}
	made, err := a.has()
	if err != nil {
		return err
	}
	if !made {
		return nothing("the first ADD made no interface")
	}
	return b.do(ctx, call{command: "ADD", at: a}).fails("the first ADD had made " + a.ifname)
}

func secondInterface(ctx context.Context, b *bench) error {
	first, err := b.attach(ctx)
	if err != nil {
		return err
	}
	second := b.prepareIn(first.container, "net1")
	x := b.add(ctx, second)
	if err := x.succeeds("the container had no interface net1"); err != nil {
		return err
	}
	if b.plugins[0].kind == ipamPlugin {
		return nil
	}
	for _, a := range []*attachment{first, second} {
		if made, err := a.has(); err != nil {
			return err
		} else if !made {
			return x.violated("after the second ADD the container has no interface %s", a.ifname)
		}
	}
	return nil
}
