package conformance

// Nodes and daemons that go away, and come back.

import (
	"context"
	"slices"
)

// talking attaches two pods to each node, all of which reach each other.
func (m *mesh) talking(ctx context.Context) ([]*talker, error) {
	pods, err := m.newPods(ctx, 2, m.nodes...)
	if err != nil {
		return nil, err
	}
	return pods, m.try(ctx, pairs(pods, pods, anywhere), connects)
}

// without are the pods that aren't on a node.
func without(pods []*talker, lost *bench) []*talker {
	var rest []*talker
	for _, p := range pods {
		if p.on != lost {
			rest = append(rest, p)
		}
	}
	return rest
}

func losesNode(ctx context.Context, m *mesh) error {
	pods, err := m.talking(ctx)
	if err != nil {
		return err
	}
	lost := m.nodes[0] // if one was there for the others, it would be the first
	if err := lost.powerOff(); err != nil {
		return err
	}
	rest := without(pods, lost)
	all := pairs(rest, rest, anywhere)
	return while(ctx, passes, func(ctx context.Context) error {
		return keep(ctx, all, "after another node lost its power", pings, connects, sends)
	})
}

func rejoins(ctx context.Context, m *mesh) error {
	pods, err := m.talking(ctx)
	if err != nil {
		return err
	}
	lost := m.nodes[1]
	if err := lost.powerOff(); err != nil {
		return err
	}
	if err := lost.powerOn(ctx); err != nil {
		return err
	}
	if err := m.deleteLost(ctx, pods, lost); err != nil {
		return err
	}
	return m.joined(ctx, without(pods, lost), lost)
}

// joined attaches pods to a node that has come anew, which all reach each other
// and those that were there.
func (m *mesh) joined(ctx context.Context, rest []*talker, on *bench) error {
	fresh, err := m.newPods(ctx, 2, on)
	if err != nil {
		return err
	}
	all := slices.Concat(rest, fresh)
	return m.try(ctx, pairs(all, all, anywhere), pings, connects, sends)
}

// deleteLost deletes the pods that a node had before it lost its power, as a
// runtime does that starts again.
func (m *mesh) deleteLost(ctx context.Context, pods []*talker, on *bench) error {
	for _, p := range pods {
		if p.on != on {
			continue
		}
		if err := on.all(ctx, "DEL", p.at).succeeds("the pod went with the node's power"); err != nil {
			return err
		}
	}
	return nil
}

func replaced(ctx context.Context, m *mesh) error {
	pods, err := m.talking(ctx)
	if err != nil {
		return err
	}
	lost := m.nodes[1]
	if err := lost.powerOff(); err != nil {
		return err
	}
	next, err := m.replace(ctx, lost)
	if err != nil {
		return err
	}
	return m.joined(ctx, without(pods, lost), next)
}

// daemonKilled looks at connections that stand, and at new ones, all the time.
func daemonKilled(ctx context.Context, m *mesh) error {
	pods, err := m.talking(ctx)
	if err != nil {
		return err
	}
	all := pairs(pods, pods, anywhere)
	standing, err := openStreams(ctx, all)
	defer standing.close()
	if err != nil {
		return err
	}
	goOn := func(since string) func(context.Context) error {
		return func(ctx context.Context) error {
			if err := standing.goOn(ctx, since); err != nil {
				return err
			}
			return keep(ctx, all, since, pings, connects, sends)
		}
	}
	victim := m.nodes[1]
	if err := victim.stopDaemon(); err != nil {
		return err
	}
	if err := while(ctx, passes, goOn("after a node's daemon was killed")); err != nil {
		return err
	}
	restart := func(ctx context.Context) error {
		if err := victim.startDaemon(ctx); err != nil {
			return err
		}
		return passes(ctx)
	}
	if err := while(ctx, restart, goOn("since a node's daemon was started again")); err != nil {
		return err
	}
	fresh, err := m.newPods(ctx, 1, victim)
	if err != nil {
		return err
	}
	return m.try(ctx, append(pairs(pods, fresh, anywhere), pairs(fresh, pods, anywhere)...), connects)
}
