package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// IPAM is the operator's view of one node's addresses.
type IPAM struct {
	// Node is where its state and its ledgers are; other fields aren't used.
	Node config.Node
	// Network is the one that is meant; "": all that the node has state of.
	Network string
	// Out is where results go.
	Out io.Writer
	// Format of results.
	Format Format
	// Ledger holds the options by which ledgers are opened.
	Ledger ipam.Options
	// Live lists the addresses of a network's live attachments; nil: as this
	// machine's interfaces say.
	Live func(ctx context.Context, network string) ([]ipam.Allocation, error)
	// Pause is the time between the two looks of an audit; 0: a second.
	Pause time.Duration
}

func (c *IPAM) live(ctx context.Context, network string) ([]ipam.Allocation, error) {
	list := c.Live
	if list == nil {
		list = func(ctx context.Context, network string) ([]ipam.Allocation, error) {
			return interfaces(ctx, c.Node.RunDir, network)
		}
	}
	live, err := list(ctx, network)
	if err != nil {
		return nil, fmt.Errorf("list live interfaces of network %s: %w", network, err)
	}
	return live, nil
}

// each calls fn for the network that is meant, or for all. What fails for one
// doesn't keep the others from their turn.
func (c *IPAM) each(fn func(*nodestate.State) error) error {
	if c.Network != "" {
		s, err := nodestate.Read(c.Node.RunDir, c.Network)
		if err != nil {
			return err
		}
		return fn(s)
	}
	states, err := nodestate.List(c.Node.RunDir)
	if err != nil {
		return err
	}
	if len(states) == 0 {
		return fmt.Errorf("%w: no state of any network in %s", nodestate.ErrNotReady, c.Node.RunDir)
	}
	var errs []error
	for _, s := range states {
		errs = append(errs, fn(s))
	}
	return errors.Join(errs...)
}

// inspect reads a network's ledger; one that isn't there is empty.
func (c *IPAM) inspect(ctx context.Context, network string) (ipam.Snapshot, error) {
	s, err := ipam.Inspect(ctx, c.Node.LedgerPath(network), c.Ledger)
	switch {
	case isMissing(err):
		return ipam.Snapshot{}, nil
	case errors.Is(err, ipam.ErrCorrupt):
		return s, fmt.Errorf("%w; `overlayctl ipam rebuild --network %s` replaces it", err, network)
	}
	return s, err
}
