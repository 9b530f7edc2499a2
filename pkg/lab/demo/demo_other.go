//go:build !linux

// Package demo shows the main job on a lab of network namespaces.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
)

// Run says that there are no network namespaces here.
func Run(context.Context, io.Writer, string) error {
	return fmt.Errorf("lab on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
