// Package node brings one network up on one node, and keeps it so: it acquires
// the lease, works out what should exist, makes the kernel agree, and writes
// the node state for the plugin. The daemon calls it again and again; without
// a daemon the plugin calls it once.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
)

// Network is one network on this node.
type Network struct {
	Spec     lease.Network
	Node     string
	Registry *lease.Registry
	RunDir   string
	Underlay string // the interface; "": that of the default route
	Firewall firewall.Firewall
	Log      *slog.Logger
}

// Sync brings the node to what it should be, and returns the state written for
// the plugin. Nothing is changed before the store's leases are known.
func (n *Network) Sync(ctx context.Context) (*nodestate.State, error) {
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
	for _, peer := range want.Unreachable {
		n.Log.Warn("peer can't be reached", "network", n.Spec.Name, "peer", peer,
			"reason", "no underlay address of the family of "+want.VTEP.Local.String())
	}
	if err := n.apply(ctx, &want); err != nil {
		return nil, err
	}
	state := &nodestate.State{
		Network: n.Spec, Node: n.Node, VTEP: want.VTEP, Expires: earliest(own), Revision: view.Revision,
	}
	return state, nodestate.Write(n.RunDir, state)
}

// acquire registers the network and makes sure of the node's leases.
func (n *Network) acquire(ctx context.Context) (*intent.Facts, []lease.Lease, error) {
	u, err := underlay.Find(n.Underlay)
	if err != nil {
		return nil, nil, fmt.Errorf("network %s: %w", n.Spec.Name, err)
	}
	facts := &intent.Facts{Network: n.Spec, Node: n.Node, Underlay: u}
	if err := facts.Validate(); err != nil { // before a lease is claimed for nothing
		return nil, nil, fmt.Errorf("network %s: %w", n.Spec.Name, err)
	}
	if err := n.Registry.Join(ctx, &n.Spec); err != nil {
		return nil, nil, err
	}
	own, err := n.Registry.Acquire(ctx, &lease.Claim{
		Network: n.Spec, Node: n.Node,
		VTEP: lease.VTEP{Underlay: u.Addresses, MAC: n.Spec.MAC(n.Node)},
	})
	return facts, own, err
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
