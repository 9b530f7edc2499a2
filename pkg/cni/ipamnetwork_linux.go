package cni

import (
	"context"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/node"
)

// liveOverlay lists what overlay-vxlan's attachments have, whose ledger it is too.
func liveOverlay(ctx context.Context, network string) ([]ipam.Allocation, error) {
	return node.Live(ctx, network)
}
