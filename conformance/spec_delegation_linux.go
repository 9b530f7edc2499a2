package conformance

// Section 4, plugin delegation.

import (
	"context"
	"slices"
	"strings"
)

func delegationClauses() []Clause {
	const protocol = "Section 4: Delegated Plugin protocol"
	const procedure = "Section 4: Delegated plugin execution procedure"
	const also = "If a plugin is executed with `CNI_COMMAND=CHECK`, `DEL`, or `GC`, it must also execute any delegated plugins."
	const errs = "If any of the delegated plugins return error, error should be returned by the upper plugin."
	all := []Clause{
		spec("4.1-del-01", Must, protocol, "The delegated plugin must receive all the same environment variables that were passed in to the CNI plugin.", sameEnvironment).
			note("each variable, also one that has nothing to do with CNI"),
		spec("4.1-del-02", Should, protocol, "Delegated plugins are provided the *complete network configuration* passed to the \"upper\" plugin.", sameConfiguration).
			note("the words have no must; that of section 4's procedure is a should"),
		spec("4.2-exec-01", Should, procedure, "- Look up the plugin binary by searching the directories provided in `CNI_PATH` environment variable.", searchesPath).
			note("of two folders with the delegated plugin the first is used"),
		spec("4.2-exec-02", Should, procedure, "- Execute that plugin with the same environment and configuration that it received.", sameForDEL).note("on DEL"),
		spec("4.2-exec-03", Should, procedure, "- Ensure that the delegated plugin's stderr is output to the calling plugin's stderr.", passesStderr),
		spec("4.2-exec-04", Must, procedure, also, delegates("CHECK")).since("0.4.0").note("CHECK"),
		spec("4.2-exec-05", Must, procedure, also, delegates("DEL")).note("DEL"),
		spec("4.2-exec-06", Must, procedure, also, delegates("GC")).since("1.1.0").note("GC"),
		spec("4.2-exec-07", Should, procedure, errs, passesError("CHECK")).since("0.4.0").note("CHECK"),
		spec("4.2-exec-08", Should, procedure, errs, passesError("DEL")).note("DEL"),
		spec("4.2-exec-09", Should, procedure, errs, passesError("GC")).since("1.1.0").note("GC"),
		spec("4.2-exec-10", Should, procedure, "If, on `ADD`, a delegated plugin fails, the \"upper\" plugin should execute again with `DEL` before returning failure.", cleansUp),
	}
	for i := range all {
		all[i] = all[i].where(needsDelegate)
	}
	return all
}

// eachDelegate attaches a container for each plugin that has an IPAM plugin,
// with a shim before this one. A plugin that executes nothing, as its IPAM is
// its own, delegates nothing.
func (b *bench) eachDelegate(ctx context.Context, check func(place int, a *attachment) error) error {
	return b.each(b.delegates(), func(place int) error {
		defer b.unshim()
		if err := b.shim(place); err != nil {
			return err
		}
		a, err := b.attach(ctx)
		if err != nil {
			return err
		}
		all, err := b.delegations()
		if err != nil {
			return err
		}
		if !delegated(all, "ADD") {
			return nothing("%s doesn't execute %s on ADD: its IPAM is within", b.plugins[place].name, b.plugins[place].ipam)
		}
		return check(place, a)
	})
}

// wasDelegated is violated when the delegated plugin wasn't executed with the
// exchange's command.
func (b *bench) wasDelegated(x *Exchange) error {
	all, err := b.delegations()
	if err != nil {
		return err
	}
	if !delegated(all, x.Command) {
		return x.violated("the delegated plugin wasn't executed")
	}
	return nil
}

// forward calls a command that a plugin has to forward: GC has no container.
func (b *bench) forward(ctx context.Context, command string, place int, a *attachment) *Exchange {
	if command == "GC" {
		return b.gc(ctx, place, a)
	}
	return b.do(ctx, call{plugin: place, command: command, at: a, prev: a.result()})
}

func delegates(command string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		return b.eachDelegate(ctx, func(place int, a *attachment) error {
			return b.wasDelegated(b.forward(ctx, command, place, a))
		})
	}
}

func passesError(command string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		return b.eachDelegate(ctx, func(place int, a *attachment) error {
			if err := b.fail(command); err != nil {
				return err
			}
			x := b.forward(ctx, command, place, a)
			all, err := b.delegations()
			if err != nil {
				return err
			}
			if !delegated(all, command) {
				return nothing("the delegated plugin wasn't executed for %s", command)
			}
			return x.fails("the delegated plugin failed")
		})
	}
}

// addObserved calls ADD of a plugin once more, for a container of its own, and
// returns what the shim saw of it.
func (b *bench) addObserved(ctx context.Context, place int, env map[string]string) (*Exchange, *delegation, error) {
	a, err := b.addBefore(ctx, place)
	if err != nil {
		return nil, nil, err
	}
	if _, err := b.delegations(); err != nil {
		return nil, nil, err
	}
	x := b.do(ctx, call{plugin: place, command: "ADD", at: a, prev: a.result(), env: env})
	all, err := b.delegations()
	if err != nil {
		return nil, nil, err
	}
	i := slices.IndexFunc(all, func(d delegation) bool { return d.command == "ADD" })
	if i < 0 {
		return nil, nil, nothing("%s executed nothing on this ADD", x.Plugin)
	}
	return x, &all[i], nil
}

func sameEnvironment(ctx context.Context, b *bench) error {
	return b.eachDelegate(ctx, func(place int, _ *attachment) error {
		x, d, err := b.addObserved(ctx, place, map[string]string{"CNI_ARGS": "IgnoreUnknown=1", "CONFORMANCE": "passed on"})
		if err != nil {
			return err
		}
		for _, variable := range x.Env {
			if !slices.Contains(d.env, variable) {
				return x.violated("the delegated plugin wasn't given %s", variable)
			}
		}
		return nil
	})
}

func sameConfiguration(ctx context.Context, b *bench) error {
	return b.eachDelegate(ctx, func(place int, _ *attachment) error {
		x, d, err := b.addObserved(ctx, place, nil)
		if err != nil {
			return err
		}
		if !equalJSON(x.Stdin, d.stdin) {
			return x.violated("the delegated plugin was given another configuration: %s", short(d.stdin))
		}
		return nil
	})
}

func sameForDEL(ctx context.Context, b *bench) error {
	return b.eachDelegate(ctx, func(place int, a *attachment) error {
		x := b.forward(ctx, "DEL", place, a)
		all, err := b.delegations()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(d delegation) bool { return d.command == "DEL" })
		if i < 0 {
			return nothing("the delegated plugin wasn't executed for DEL")
		}
		for _, variable := range x.Env {
			if !slices.Contains(all[i].env, variable) {
				return x.violated("the delegated plugin wasn't given %s", variable)
			}
		}
		if !equalJSON(x.Stdin, all[i].stdin) {
			return x.violated("the delegated plugin was given another configuration: %s", short(all[i].stdin))
		}
		return nil
	})
}

// searchesPath: that the shim runs at all shows that CNI_PATH is searched, in
// order. What doesn't run it is told from what has its IPAM within by an empty
// CNI_PATH, with which only the latter works.
func searchesPath(ctx context.Context, b *bench) error {
	return b.each(b.delegates(), func(place int) error {
		defer b.unshim()
		if err := b.shim(place); err != nil {
			return err
		}
		_, _, err := b.addObserved(ctx, place, nil)
		if !isNothing(err) {
			return err
		}
		a, err := b.addBefore(ctx, place)
		if err != nil {
			return err
		}
		x := b.do(ctx, call{plugin: place, command: "ADD", at: a, prev: a.result(), env: map[string]string{"CNI_PATH": b.dir}})
		if x.Status == 0 {
			return nothing("%s doesn't execute %s: its IPAM is within", b.plugins[place].name, b.plugins[place].ipam)
		}
		return x.violated("the delegated plugin in the first folder of CNI_PATH wasn't executed")
	})
}

func passesStderr(ctx context.Context, b *bench) error {
	return b.eachDelegate(ctx, func(place int, _ *attachment) error {
		x, _, err := b.addObserved(ctx, place, nil)
		if err != nil {
			return err
		}
		if !strings.Contains(x.Stderr, shimStderr) {
			return x.violated("standard error lacks what the delegated plugin wrote there: %q", shimStderr)
		}
		return nil
	})
}

func cleansUp(ctx context.Context, b *bench) error {
	return b.eachDelegate(ctx, func(place int, _ *attachment) error {
		if err := b.fail("ADD"); err != nil {
			return err
		}
		a, err := b.addBefore(ctx, place)
		if err != nil {
			return err
		}
		x := b.do(ctx, call{plugin: place, command: "ADD", at: a, prev: a.result()})
		if err := x.fails("the delegated plugin's ADD failed"); err != nil {
			return err
		}
		all, err := b.delegations()
		if err != nil {
			return err
		}
		if !delegated(all, "DEL") {
			return x.violated("the delegated plugin's ADD failed, and its DEL wasn't called")
		}
		return nil
	})
}
