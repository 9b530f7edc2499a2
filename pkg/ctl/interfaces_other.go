//go:build !linux

package ctl

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/overlay-cni/overlay-cni/ipam"
)

func interfaces(context.Context, string, string) ([]ipam.Allocation, error) {
	return nil, fmt.Errorf("on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
