package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/ctl"
	"github.com/overlay-cni/overlay-cni/pkg/lab/demo"
)

func commands() []command {
	commands := []command{
		{"ipam show", "the node's blocks and who holds which address", "", func(flags *flag.FlagSet) action {
			c := ipamFlags(flags)
			formatFlag(flags, c)
			return c.with((*ctl.IPAM).Show)
		}},
		{"ipam audit", "where the ledger and the live interfaces differ; exit status 1 if they do", "", func(flags *flag.FlagSet) action {
			c := ipamFlags(flags)
			formatFlag(flags, c)
			return c.with((*ctl.IPAM).Audit)
		}},
		{"ipam rebuild", "make a corrupt or lost ledger anew from the live interfaces", "", func(flags *flag.FlagSet) action {
			return ipamFlags(flags).with((*ctl.IPAM).Rebuild)
		}},
	}
	commands = append(commands, sharedCommands()...)
	return append(commands,
		command{"lab demo", "three nodes on two segments, pods that reach each other over VXLAN (needs root)", "", labDemo},
		command{"version", "which source this was built from", "", version},
	)
}

// node is a command about the node's addresses.
type node struct{ ctl.IPAM }

func ipamFlags(flags *flag.FlagSet) *node {
	c := &node{}
	flags.StringVar(&c.Network, "network", "", "the `name` of the network (default: all that the node has)")
	flags.StringVar(&c.Node.RunDir, "run-dir", config.DefaultRunDir, "the `folder` of the node's state")
	flags.StringVar(&c.Node.DataDir, "data-dir", config.DefaultDataDir, "the `folder` of the ledgers")
	return c
}

func formatFlag(flags *flag.FlagSet, c *node) {
	flags.TextVar(&c.Format, "o", ctl.Table, "the `format` of the output: table or json")
}

func (c *node) with(do func(*ctl.IPAM, context.Context) error) action {
	return func(ctx context.Context, stdout io.Writer) error {
		c.Out = stdout
		return do(&c.IPAM, ctx)
	}
}

func labDemo(flags *flag.FlagSet) action {
	bin := flags.String("bin", "", "the `folder` with overlayd and overlay-vxlan (default: overlayctl's own)")
	return func(ctx context.Context, stdout io.Writer) error {
		if *bin == "" {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find own folder: %w", err)
			}
			*bin = filepath.Dir(self)
		}
		return demo.Run(ctx, stdout, *bin)
	}
}

func version(*flag.FlagSet) action {
	return func(_ context.Context, stdout io.Writer) error {
		info, ok := debug.ReadBuildInfo()
		if !ok {
			return errors.New("the program doesn't say what it was built from")
		}
		return ctl.Version(stdout, "overlayctl", info)
	}
}
