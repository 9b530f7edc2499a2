//go:build !linux

package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/containernetworking/cni/pkg/types"
)

// Main runs overlay-vxlan and returns its exit status. Where pods can't be
// attached yet every verb but VERSION says so.
func Main(stdout, stderr io.Writer) int {
	unsupported := func(context.Context, *Args) error {
		return coded(fmt.Errorf("overlay-vxlan on %s: %w", runtime.GOOS, errors.ErrUnsupported), types.ErrPluginNotAvailable)
	}
	verbs := Verbs{Add: unsupported, Del: unsupported, Check: unsupported, Status: unsupported, GC: unsupported}
	return NewProcess(stdout, stderr).Run(About, verbs)
}

// isKernelConflict says whether a device can't be had because of another.
func isKernelConflict(error) bool { return false }
