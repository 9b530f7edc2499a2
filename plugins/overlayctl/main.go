// Command overlayctl is the operator's tool. For now it has the lab: hosts in
// network namespaces of this machine that run the real binaries.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/overlay-cni/overlay-cni/pkg/lab/demo"
)

const usage = `usage: overlayctl lab demo [--bin DIR]

  lab demo   three nodes on two segments of this machine, pods that reach each
             other over VXLAN, a node that dies and comes back (needs root)
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "overlayctl:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) < 2 || args[0] != "lab" || args[1] != "demo" {
		fmt.Fprint(os.Stderr, usage)
		return flag.ErrHelp
	}
	flags := flag.NewFlagSet("overlayctl lab demo", flag.ContinueOnError)
	bin := flags.String("bin", "", "the `folder` with overlayd and overlay-vxlan (default: overlayctl's own)")
	if err := flags.Parse(args[2:]); err != nil {
		return err
	}
	if *bin == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find own folder: %w", err)
		}
		*bin = filepath.Dir(self)
	}
	return demo.Run(ctx, os.Stdout, *bin)
}
