package ctl

import (
	"context"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/node"
)

func interfaces(ctx context.Context, network string) ([]ipam.Allocation, error) {
	return node.Live(ctx, network)
}
