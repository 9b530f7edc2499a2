package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// external returns the external peers that the node uses. Those that can't be used
// are told when that changes, and the rest goes on.
func (n *Network) external(ctx context.Context, leases []lease.Lease) ([]lease.ExternalPeer, error) {
	usable, refused, err := n.Registry.UsablePeers(ctx, n.Spec.Name, leases)
	if err != nil {
		return nil, err
	}
	for i := range usable {
		n.showPeer(ctx, usable[i].Name, fmt.Sprint(usable[i]), nil)
	}
	errs := make([]error, len(refused))
	for i, r := range refused {
		errs[i] = r
		n.showPeer(ctx, r.Peer, r.Error(), r.Err)
	}
	text := ""
	if joined := errors.Join(errs...); joined != nil {
		text = joined.Error()
	}
	if text == n.refused {
		return usable, nil
	}
	n.refused = text
	if text == "" {
		n.Log.Info("all external peers are used again", "network", n.Spec.Name)
		return usable, nil
	}
	n.Log.Warn("external peers aren't used", "network", n.Spec.Name, "reason", text)
	return usable, nil
}

// showPeer shows in the store whether an external peer is used.
func (n *Network) showPeer(ctx context.Context, name, opinion string, problem error) {
	n.show(ctx, "external peer "+name, opinion, func() error { return n.Registry.ReportPeer(ctx, name, problem) })
}
