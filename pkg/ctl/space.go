package ctl

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam/space"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Space is the operator's view of an address space that all nodes share.
type Space struct {
	Store store.Store
	// Network is the CNI network's name, which is the space's.
	Network string
	// Node narrows claims down; "": all.
	Node string
	// Instance says which machine is meant, where several have the node's name.
	Instance string
	// Out is where results go.
	Out io.Writer
	// Format of results.
	Format Format
}

// claim is one in a result.
type claim struct {
	Address   string    `json:"address"`
	Node      string    `json:"node"`
	Instance  string    `json:"instance"`
	Container string    `json:"container"`
	Interface string    `json:"interface"`
	Since     time.Time `json:"since"`
}

// Claims writes who has claimed which address.
func (s *Space) Claims(ctx context.Context) error {
	if err := lease.ValidateName("network", s.Network); err != nil {
		return err
	}
	all, err := space.Claims(ctx, s.Store, s.Network)
	if err != nil {
		return err
	}
	claims := make([]claim, 0, len(all))
	rows := [][]string{{"ADDRESS", "NODE", "INSTANCE", "CONTAINER", "INTERFACE", "SINCE"}}
	for i := range all {
		c := &all[i]
		if s.Node != "" && c.Node != s.Node {
			continue
		}
		claims = append(claims, claim{c.Address.String(), c.Node, c.Instance, c.ContainerID, c.Interface, c.Since})
		rows = append(rows, []string{c.Address.String(), c.Node, c.Instance, c.ContainerID, c.Interface, c.Since.Format(time.RFC3339)})
	}
	if s.Format == JSON {
		return writeJSON(s.Out, claims)
	}
	return table(s.Out, rows)
}

// Release frees what a machine has claimed that won't come back.
func (s *Space) Release(ctx context.Context) error {
	if err := lease.ValidateName("network", s.Network); err != nil {
		return err
	}
	freed, err := space.ReleaseNode(ctx, s.Store, s.Network, s.Node, s.Instance)
	for i := range freed {
		fmt.Fprintf(s.Out, "freed %s of %s\n", freed[i].Address, freed[i].Attachment)
	}
	if err == nil && len(freed) == 0 {
		return fmt.Errorf("node %s has claimed nothing of %s", s.Node, s.Network)
	}
	return err
}
