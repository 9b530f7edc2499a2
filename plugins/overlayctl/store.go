package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/overlay-cni/overlay-cni/pkg/ctl"
	"github.com/overlay-cni/overlay-cni/pkg/daemon"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// sharedCommands are about what the nodes share: what is in the store that
// overlayd's configuration names.
func sharedCommands() []command {
	return []command{
		{"network list", "the registered networks", "", listNetworks},
		{"network show", "one network", "NAME", named((*ctl.Cluster).NetworkShow, true)},
		{"network apply", "register networks, or change what may be changed of them", "", applied((*ctl.Cluster).NetworkApply)},
		{"network remove", "remove a network that no node has leases of", "NAME", removeNetwork},
		{"peer list", "the external peers, and why some aren't used", "", listPeers},
		{"peer show", "one external peer", "NAME", named((*ctl.Cluster).PeerShow, true)},
		{"peer apply", "create or replace external peers", "", applied((*ctl.Cluster).PeerApply)},
		{"peer remove", "remove an external peer", "NAME", named((*ctl.Cluster).PeerRemove, false)},
		{"lease list", "which node has which block, behind which VTEP, and until when", "", listLeases},
		{"lease release", "release the leases of a node that won't come back", "", releaseLeases},
		{"ipam claims", "who has claimed which address of a space that all nodes share", "", listClaims},
		{"ipam release", "free what a node has claimed of such a space that won't come back", "", releaseClaims},
	}
}

// configured is a command on the store that overlayd's configuration names.
type configured struct {
	ctl.Cluster
	config string
}

func storeFlags(flags *flag.FlagSet) *configured {
	c := &configured{}
	flags.StringVar(&c.config, "config", daemon.DefaultConfig, "overlayd's configuration `file`, which names the store")
	return c
}

// open calls do with the store.
func (c *configured) open(do func(store.Store) error) (err error) {
	d, err := daemon.ReadConfig(c.config)
	if err != nil {
		return err
	}
	s, err := daemon.OpenStore(&d.Store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return do(s)
}

// with does something with the cluster.
func (c *configured) with(do func(*ctl.Cluster, context.Context) error) action {
	return func(ctx context.Context, stdout io.Writer) error {
		return c.open(func(s store.Store) error {
			c.Out, c.Registry = stdout, &lease.Registry{Store: s}
			return do(&c.Cluster, ctx)
		})
	}
}

func (c *configured) formatFlag(flags *flag.FlagSet) {
	flags.TextVar(&c.Format, "o", ctl.Table, "the `format` of the output: table or json")
}

func listNetworks(flags *flag.FlagSet) action {
	c := storeFlags(flags)
	c.formatFlag(flags)
	return c.with((*ctl.Cluster).NetworkList)
}

func listPeers(flags *flag.FlagSet) action {
	c := storeFlags(flags)
	c.formatFlag(flags)
	flags.StringVar(&c.Network, "network", "", "the `name` of the network (default: all)")
	return c.with((*ctl.Cluster).PeerList)
}

func listLeases(flags *flag.FlagSet) action {
	c := storeFlags(flags)
	c.formatFlag(flags)
	flags.StringVar(&c.Network, "network", "", "the `name` of the network (default: all)")
	flags.StringVar(&c.Node, "node", "", "the `name` of the node (default: all)")
	return c.with((*ctl.Cluster).LeaseList)
}

func removeNetwork(flags *flag.FlagSet) action {
	c := storeFlags(flags)
	flags.BoolVar(&c.Force, "force", false, "also one that nodes have leases of: those that serve the store's networks leave it once they have no pods in it")
	return c.with(func(cluster *ctl.Cluster, ctx context.Context) error { return cluster.NetworkRemove(ctx, flags.Arg(0)) })
}

func releaseLeases(flags *flag.FlagSet) action {
	c := storeFlags(flags)
	flags.StringVar(&c.Network, "network", "", "the `name` of the network (default: all)")
	flags.StringVar(&c.Node, "node", "", "the `name` of the node")
	flags.BoolVar(&c.Force, "force", false, "release also what hasn't expired; the node must be off")
	do := c.with((*ctl.Cluster).LeaseRelease)
	return func(ctx context.Context, stdout io.Writer) error {
		if c.Node == "" {
			return usagef("lease release: --node is missing")
		}
		return do(ctx, stdout)
	}
}

// named makes a command about one network or peer.
func named(do func(*ctl.Cluster, context.Context, string) error, shows bool) func(*flag.FlagSet) action {
	return func(flags *flag.FlagSet) action {
		c := storeFlags(flags)
		if shows {
			c.formatFlag(flags)
		}
		return c.with(func(cluster *ctl.Cluster, ctx context.Context) error { return do(cluster, ctx, flags.Arg(0)) })
	}
}

// applied makes a command that reads a file.
func applied(do func(*ctl.Cluster, context.Context, io.Reader) error) func(*flag.FlagSet) action {
	return func(flags *flag.FlagSet) action {
		c := storeFlags(flags)
		path := flags.String("f", "", "the `file` with one or several, YAML or JSON; -: the standard input")
		apply := func(in io.Reader) action {
			return c.with(func(cluster *ctl.Cluster, ctx context.Context) error { return do(cluster, ctx, in) })
		}
		return func(ctx context.Context, stdout io.Writer) error {
			switch *path {
			case "":
				return usagef("apply: -f is missing")
			case "-":
				return apply(os.Stdin)(ctx, stdout)
			}
			file, err := os.Open(*path)
			if err != nil {
				return fmt.Errorf("read objects: %w", err)
			}
			return errors.Join(apply(file)(ctx, stdout), file.Close())
		}
	}
}

// spaceFlags are about an address space that all nodes share.
func spaceFlags(flags *flag.FlagSet) (*ctl.Space, func(do func(*ctl.Space, context.Context) error) action) {
	c, s := storeFlags(flags), &ctl.Space{}
	flags.StringVar(&s.Network, "network", "", "the `name` of the CNI network")
	flags.StringVar(&s.Node, "node", "", "the `name` of the node")
	return s, func(do func(*ctl.Space, context.Context) error) action {
		return func(ctx context.Context, stdout io.Writer) error {
			if s.Network == "" {
				return usagef("ipam: --network is missing")
			}
			return c.open(func(opened store.Store) error {
				s.Store, s.Out = opened, stdout
				return do(s, ctx)
			})
		}
	}
}

func listClaims(flags *flag.FlagSet) action {
	s, with := spaceFlags(flags)
	flags.TextVar(&s.Format, "o", ctl.Table, "the `format` of the output: table or json")
	return with((*ctl.Space).Claims)
}

func releaseClaims(flags *flag.FlagSet) action {
	s, with := spaceFlags(flags)
	flags.StringVar(&s.Instance, "instance", "", "which machine, where several have the node's name")
	do := with((*ctl.Space).Release)
	return func(ctx context.Context, stdout io.Writer) error {
		if s.Node == "" {
			return usagef("ipam release: --node is missing")
		}
		return do(ctx, stdout)
	}
}
