package ctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// ErrNoLease says that there is none such as was asked for.
var ErrNoLease = errors.New("no lease")

// LeaseList writes the leases of the network and the node, or of all.
func (c *Cluster) LeaseList(ctx context.Context) error {
	leases, err := c.leases(ctx)
	if err != nil {
		return err
	}
	if c.Format == JSON {
		return writeJSON(c.Out, leases)
	}
	rows := [][]string{{"NETWORK", "BLOCK", "NODE", "VTEP", "MAC", "EXPIRES", "NOTICE"}}
	for i := range leases {
		l := &leases[i]
		rows = append(rows, []string{l.Network, l.Block.String(), l.Node, list(l.VTEP.Underlay), l.VTEP.MAC.String(), c.expires(l), c.notice(l)})
	}
	return table(c.Out, rows)
}

// leases are those that are meant; never nil.
func (c *Cluster) leases(ctx context.Context) ([]lease.Lease, error) {
	networks := []lease.Network{{Name: c.Network}}
	if c.Network == "" {
		var err error
		if networks, err = c.Registry.Registered(ctx); err != nil {
			return nil, err
		}
	} else if err := lease.ValidateName("network", c.Network); err != nil {
		return nil, err
	}
	all := []lease.Lease{}
	for i := range networks {
		leases, err := c.Registry.Leases(ctx, networks[i].Name)
		if err != nil {
			return nil, err
		}
		for _, l := range leases {
			if c.Node == "" || l.Node == c.Node {
				all = append(all, l)
			}
		}
	}
	return all, nil
}

func (c *Cluster) expires(l *lease.Lease) string {
	if l.Expires.IsZero() {
		return "never"
	}
	return span(l.Expires.Sub(c.now()))
}

func (c *Cluster) notice(l *lease.Lease) string {
	if l.Notice == nil {
		return ""
	}
	return fmt.Sprintf("node %s is about to take it (%s)", l.Notice.Node, span(l.Notice.At.Sub(c.now())))
}

// LeaseRelease releases the leases of a node that won't come back, in the network
// or in all. That of one which renews them is refused, unless by force.
func (c *Cluster) LeaseRelease(ctx context.Context) error {
	leases, err := c.leases(ctx)
	if err != nil {
		return err
	}
	if len(leases) == 0 {
		return fmt.Errorf("%w of node %s%s", ErrNoLease, c.Node, c.inNetwork())
	}
	var networks, alive []string
	for i := range leases {
		l := &leases[i]
		if !l.Expired(c.now()) {
			alive = append(alive, fmt.Sprintf("%s in network %s (expires: %s)", l.Block, l.Network, c.expires(l)))
		}
		if !slices.Contains(networks, l.Network) {
			networks = append(networks, l.Network)
		}
	}
	if len(alive) > 0 && !c.Force {
		return fmt.Errorf("%w: node %s may still be running, and renew its leases of %s; power it off, and use --force",
			lease.ErrAlive, c.Node, strings.Join(alive, ", "))
	}
	for i := range leases {
		fmt.Fprintf(c.Out, "releasing %s in network %s, whose lease expires: %s\n", leases[i].Block, leases[i].Network, c.expires(&leases[i]))
	}
	fmt.Fprintf(c.Out, "Other nodes forget the way to node %s, and may have these blocks from now on.\n"+
		"Should it still run, its pods are cut off, and their addresses may become others': recreate them.\n", c.Node)
	for _, network := range networks {
		if err := c.release(ctx, network); err != nil {
			return err
		}
	}
	fmt.Fprintf(c.Out, "node %s has no lease%s any more\n", c.Node, c.inNetwork())
	return nil
}

func (c *Cluster) release(ctx context.Context, network string) error {
	if c.Force {
		return c.Registry.Release(ctx, network, c.Node)
	}
	_, err := c.Registry.ReleaseExpired(ctx, network, c.Node)
	return err
}

func (c *Cluster) inNetwork() string {
	if c.Network == "" {
		return ""
	}
	return " in network " + c.Network
}
