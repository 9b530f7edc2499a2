package node

import (
	"context"
	"errors"

	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/netlinkplan"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
	"github.com/overlay-cni/overlay-cni/pkg/vtep"
)

// Check compares the node with its state in a network: the device with its
// addresses, forwarding, and the packet filter where it can be looked at
// without programs. Peers are the daemon's to check: the state has none.
func Check(ctx context.Context, s *nodestate.State) ([]reconcile.Change, error) {
	drift, err := checkObjects(ctx, append(vtep.Objects(&s.VTEP, nil), netlinkplan.Forwarding(s.Network.Families())...))
	if err != nil {
		return nil, err
	}
	rules := intent.Rules(&s.Network, &s.VTEP)
	rules.External, rules.Others = s.External, s.Others
	more, err := firewall.Firewall{Backend: s.Firewall}.Check(ctx, &rules)
	if errors.Is(err, firewall.ErrNoIPTables) {
		err = nil
	}
	return append(drift, more...), err
}

// hasDevice says whether the VXLAN device is there, as it should be, and up:
// what can be learnt from one request.
func hasDevice(s *nodestate.State) (found bool, err error) {
	conn, err := kernel.Open()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	have, err := conn.Link(s.VTEP.Device)
	return len(reconcile.Diff(vtep.Device(&s.VTEP), have, reconcile.Shared)) == 0, err
}

func checkObjects(ctx context.Context, want []reconcile.Object) (drift []reconcile.Change, err error) {
	conn, err := kernel.Open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	return reconcile.Check(ctx, kernel.NewTarget(conn, want), want, reconcile.Shared)
}
