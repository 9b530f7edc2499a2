package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// Cluster is the operator's view of what all nodes share, and the store has:
// networks, external peers and leases.
type Cluster struct {
	Registry *lease.Registry
	// Network and Node narrow leases down; "": all.
	Network, Node string
	// Out is where results go.
	Out io.Writer
	// Format of results.
	Format Format
	// Force lets a lease be released that hasn't expired, and a network be
	// removed that nodes have leases of.
	Force bool
}

// object is a result in the shape of Kubernetes' objects, which can be applied
// again, here and there.
type object struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   map[string]string `json:"metadata"`
	Spec       any               `json:"spec"`
	Status     any               `json:"status"`
}

// The kinds of objects, and their group.
const (
	apiVersion   = "overlay-cni.io/v1alpha1"
	kindNetwork  = "Network"
	kindExternal = "ExternalPeer"
)

func newObject(kind, name string, spec, status any) object {
	return object{apiVersion, kind, map[string]string{"name": name}, spec, status}
}

// viewed is a network's leases, with its external peers.
type viewed struct {
	leases  []lease.Lease
	usable  []lease.ExternalPeer
	refused []*lease.PeerError
}

func (c *Cluster) view(ctx context.Context, network string) (viewed, error) {
	view, err := c.Registry.View(ctx, network)
	if err != nil {
		return viewed{}, err
	}
	v := viewed{leases: view.Leases}
	v.usable, v.refused, err = c.Registry.UsablePeers(ctx, network, view.Leases)
	return v, err
}

// apply reads a file with objects of a kind, and applies each that it could read
// all of. What fails for one doesn't keep the others from their turn.
func (c *Cluster) apply(in io.Reader, kind string, each func(*document) error) error {
	all, err := readDocuments(in, kind)
	if err != nil {
		return err
	}
	var errs []error
	for i := range all {
		d := &all[i]
		err := each(d)
		for _, w := range d.warnings {
			fmt.Fprintf(c.Out, "warning: %s%s\n", d.place, w)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s%w", d.place, err))
		}
	}
	return errors.Join(errs...)
}

func (c *Cluster) now() time.Time {
	if c.Registry.Now != nil {
		return c.Registry.Now()
	}
	return time.Now()
}
