package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/blocks"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// addresses is what Show says of a network.
type addresses struct {
	Network     string       `json:"network"`
	Node        string       `json:"node"`
	Ledger      string       `json:"ledger"`
	Blocks      []block      `json:"blocks"`
	Allocations []allocation `json:"allocations"`
}

// block is one of the node's. Numbers that don't fit are the largest that does.
type block struct {
	Block     string `json:"block"`
	Family    string `json:"family"`
	Taken     uint64 `json:"taken"`
	Free      uint64 `json:"free"`
	Withdrawn uint64 `json:"withdrawn"`
	Total     uint64 `json:"total"`
}

// Show writes each network's blocks and all addresses that are held. It changes
// nothing. Of a corrupt ledger it shows what can be read, and fails.
func (c *IPAM) Show(ctx context.Context) error {
	all := make([]*addresses, 0, 1)
	err := c.each(func(s *nodestate.State) error {
		held, damage := c.inspect(ctx, s.Network.Name)
		if damage != nil && !errors.Is(damage, ipam.ErrCorrupt) {
			return damage
		}
		a, err := describe(s, &held)
		if err == nil {
			a.Ledger = c.Node.LedgerPath(s.Network.Name)
			all = append(all, a)
		}
		return errors.Join(damage, err)
	})
	if c.Format == JSON {
		return errors.Join(err, writeJSON(c.Out, all))
	}
	for i, a := range all {
		if i > 0 {
			fmt.Fprintln(c.Out)
		}
		err = errors.Join(err, a.write(c.Out))
	}
	return err
}

// describe brings together what the node has and what is held of it.
func describe(s *nodestate.State, held *ipam.Snapshot) (*addresses, error) {
	a := &addresses{Network: s.Network.Name, Node: s.Node, Allocations: shown(held.Held)}
	sets := make([]ipam.RangeSet, 0, len(s.Blocks()))
	for _, b := range s.Blocks() {
		sets = append(sets, ipam.RangeSet{blocks.PodRange(b)})
	}
	usage, err := held.Usage(sets)
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", s.Network.Name, err)
	}
	for i, b := range s.Blocks() {
		u := usage[i]
		a.Blocks = append(a.Blocks, block{
			Block: b.String(), Family: lease.FamilyOf(b.Addr()).String(),
			Taken: u.Taken, Free: u.Free, Withdrawn: u.Withdrawn, Total: u.Total,
		})
	}
	return a, nil
}

// write is the table.
func (a *addresses) write(out io.Writer) error {
	fmt.Fprintf(out, "network %s on node %s, ledger %s\n", a.Network, a.Node, a.Ledger)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "BLOCK\tFAMILY\tTAKEN\tFREE\tWITHDRAWN\tTOTAL")
	for _, b := range a.Blocks {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", b.Block, b.Family,
			number(b.Taken), number(b.Free), number(b.Withdrawn), number(b.Total))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	if len(a.Allocations) == 0 {
		return nil
	}
	fmt.Fprintln(t, "ADDRESS\tCONTAINER\tINTERFACE\tSINCE\tMADE")
	for _, h := range a.Allocations {
		container, made := h.Container, "here"
		if h.Truncated {
			container += "..."
		}
		if h.Elsewhere {
			made = "elsewhere"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", h.Address, container, h.Interface, h.Since.Format(time.RFC3339), made)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// number writes those of IPv6 blocks so that one can read them.
func number(n uint64) string {
	const exact = math.MaxUint32
	if n > exact {
		return strconv.FormatFloat(float64(n), 'g', 2, 64)
	}
	return strconv.FormatUint(n, 10)
}
