package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/netlinkplan"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
	"github.com/overlay-cni/overlay-cni/pkg/vtep"
)

// Network is one network on this node.
type Network struct {
	Spec     lease.Network
	Node     string
	Instance string // the machine's own, whatever its name
	Registry *lease.Registry
	RunDir   string
	Underlay string // the interface; "": that of the default route
	Firewall firewall.Firewall
	Log      *slog.Logger

	unreachable []string // as last warned of
}

// Sync brings the node to what it should be, and returns the state written for
// the plugin. Nothing is changed before the store's leases are known.
func (n *Network) Sync(ctx context.Context) (*nodestate.State, error) {
	fresh, err := n.isFresh(ctx)
	if err != nil {
		return nil, err
	}
	facts, own, err := n.acquire(ctx)
	if err != nil {
		return nil, err
	}
	view, err := n.Registry.View(ctx, n.Spec.Name)
	if err != nil {
		return nil, err
	}
	facts.Leases = view.Leases
	want, err := intent.ForNode(facts)
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", n.Spec.Name, err)
	}
	n.warn(want.Unreachable, want.VTEP.Local)
	if err := n.apply(ctx, &want); err != nil {
		if fresh {
			err = errors.Join(err, n.Retire(context.WithoutCancel(ctx), &want.VTEP))
		}
		return nil, err
	}
	state := &nodestate.State{
		Network: n.Spec, Node: n.Node, Underlay: n.Underlay, Firewall: n.Firewall.Backend,
		VTEP: want.VTEP, Expires: earliest(own), Revision: view.Revision,
	}
	return state, nodestate.Write(n.RunDir, state)
}

// acquire registers the network and makes sure of the node's leases.
func (n *Network) acquire(ctx context.Context) (*intent.Facts, []lease.Lease, error) {
	u, err := underlay.Find(n.Underlay)
	if err != nil {
		return nil, nil, fmt.Errorf("network %s: %w", n.Spec.Name, err)
	}
	facts := &intent.Facts{Network: n.Spec, Node: n.Node, Instance: n.Instance, Underlay: u}
	if err := facts.Validate(); err != nil { // before a lease is claimed for nothing
		return nil, nil, fmt.Errorf("network %s: %w", n.Spec.Name, err)
	}
	if err := n.Registry.Join(ctx, &n.Spec); err != nil {
		return nil, nil, err
	}
	own, err := n.Registry.Acquire(ctx, &lease.Claim{
		Network: n.Spec, Node: n.Node, Instance: n.Instance,
		VTEP: lease.VTEP{Underlay: u.Addresses, MAC: n.Spec.MAC(n.Node)},
	})
	return facts, own, err
}

// isFresh says whether the node has nothing of the network yet: no state, and
// no lease. What a first sync that fails has made is then undone.
func (n *Network) isFresh(ctx context.Context) (bool, error) {
	if _, err := nodestate.Read(n.RunDir, n.Spec.Name); !errors.Is(err, nodestate.ErrNotReady) {
		return false, err
	}
	view, err := n.Registry.View(ctx, n.Spec.Name)
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(view.Leases, func(l lease.Lease) bool { return l.Node == n.Node }), nil
}

// Pods returns how many pods of the network the node has.
func (n *Network) Pods() (count int, err error) {
	conn, err := kernel.Open()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	veths, err := conn.Veths(intent.Group(n.Spec.Name))
	return len(veths), err
}

// Retire takes the network from the node: device, rules, state and leases. Only
// a node without pods in the network may do that.
func (n *Network) Retire(ctx context.Context, v *vtep.Spec) error {
	conn, err := kernel.Open()
	if err != nil {
		return err
	}
	rules := intent.Rules(&n.Spec, v)
	return errors.Join(
		nodestate.Remove(n.RunDir, n.Spec.Name),
		vtep.Remove(ctx, conn, v), conn.Close(),
		n.Firewall.Remove(ctx, &rules),
		n.Registry.Release(ctx, n.Spec.Name, n.Node),
	)
}

// warn tells of peers that can't be reached, when that changed.
func (n *Network) warn(unreachable []string, local netip.Addr) {
	if slices.Equal(unreachable, n.unreachable) {
		return
	}
	n.unreachable = unreachable
	n.Log.Warn("peers can't be reached", "network", n.Spec.Name, "peers", unreachable,
		"reason", "no underlay address of the family of "+local.String())
}

// apply makes the kernel and the packet filter agree with the intent.
func (n *Network) apply(ctx context.Context, want *intent.Node) error {
	conn, err := kernel.Open()
	if err != nil {
		return err
	}
	objects := netlinkplan.Node(want)
	target := kernel.NewTarget(conn, objects)
	target.Blackholes = want.VTEP.Within
	changes, err := reconcile.Settle(ctx, target, objects, reconcile.Owned)
	n.report(changes)
	err = kernel.Explain(err, kernel.VXLAN{Name: want.VTEP.Device, VNI: want.VTEP.VNI, Port: want.VTEP.Port})
	if err = errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("network %s: %w", n.Spec.Name, err)
	}
	changes, err = n.Firewall.Reconcile(ctx, &want.Firewall)
	n.report(changes)
	if err != nil {
		return fmt.Errorf("network %s: %w", n.Spec.Name, err)
	}
	return nil
}

func (n *Network) report(changes []reconcile.Change) {
	for _, c := range changes {
		n.Log.Debug("changed", "network", n.Spec.Name, "change", c.String())
	}
}

// earliest returns the first expiry of the leases; zero when none expires.
func earliest(leases []lease.Lease) time.Time {
	var first time.Time
	for _, l := range leases {
		if !l.Expires.IsZero() && (first.IsZero() || l.Expires.Before(first)) {
			first = l.Expires
		}
	}
	return first
}

// Name returns the network's name.
func (n *Network) Name() string { return n.Spec.Name }

// Watch calls changed when the network's leases have changed since a revision.
func (n *Network) Watch(ctx context.Context, after store.Revision, changed func()) error {
	return n.Registry.Watch(ctx, n.Spec.Name, after, changed)
}
