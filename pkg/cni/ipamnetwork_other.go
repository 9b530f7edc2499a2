//go:build !linux

package cni

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/overlay-cni/overlay-cni/ipam"
)

// liveOverlay isn't known where overlay-vxlan can't attach pods yet.
func liveOverlay(_ context.Context, network string) ([]ipam.Allocation, error) {
	return nil, fmt.Errorf("restore ledger of network %s on %s: %w", network, runtime.GOOS, errors.ErrUnsupported)
}
