//go:build !linux

// Package daemon puts overlayd together: which store, which networks, which
// tasks.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"

	"github.com/overlay-cni/overlay-cni/pkg/config"
)

// Leave says that there is no daemon for this system yet.
func Leave(ctx context.Context, c *config.Daemon, log *slog.Logger) error { return Run(ctx, c, log) }

// Run says that there is no daemon for this system yet.
func Run(context.Context, *config.Daemon, *slog.Logger) error {
	return fmt.Errorf("overlayd on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
