package cni

import (
	"io"
	"log/slog"

	"github.com/overlay-cni/overlay-cni/pkg/node"
)

// Main runs overlay-vxlan and returns its exit status.
func Main(stdout, stderr io.Writer) int {
	p := &Plugin{
		Dataplane: Linux{},
		Sync:      node.Ensure,
		Stdout:    stdout,
		Stderr:    stderr,
		Log:       slog.New(slog.NewTextHandler(stderr, nil)),
	}
	return NewProcess(stdout, stderr).Run(About, p.Verbs())
}
