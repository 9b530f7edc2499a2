// Package cluster runs our binaries on a lab's nodes as a cluster would: a
// daemon on each, and pods that come and go through the CNI library.
package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store/local"
)

// Options say what a cluster runs.
type Options struct {
	// Bin is the folder with our binaries; Path lists further folders with
	// plugins.
	Bin  string
	Path []string
	// Network is the specification of the network "pods": JSON.
	Network string
	// Chain holds further plugins of the conflist: JSON objects.
	Chain []string
	// IPAM replaces the IPAM section: a JSON object.
	IPAM string
	// CNIVersion of the conflist; "": 1.1.0.
	CNIVersion string
	// NoDaemon: the plugin brings the node up by itself.
	NoDaemon bool
	// Daemon holds further fields of the daemon's configuration.
	Daemon map[string]any
}

// DefaultNetwork has both families.
const DefaultNetwork = `{"cidrs": ["10.244.0.0/16", "fd00:10:244::/48"]}`

// Network is the name of the cluster's network.
const Network = "pods"

// Cluster is a lab whose nodes run our binaries, with one embedded store that
// they share.
type Cluster struct {
	Lab     *lab.Lab
	options Options
	store   string
}

// New returns a cluster on a lab; dir is for its store.
func New(l *lab.Lab, dir string, o Options) *Cluster {
	if o.Network == "" {
		o.Network = DefaultNetwork
	}
	if o.CNIVersion == "" {
		o.CNIVersion = "1.1.0"
	}
	return &Cluster{Lab: l, options: o, store: filepath.Join(dir, "store")}
}

// AddNode adds a node, and starts its daemon unless there is none.
func (c *Cluster) AddNode(ctx context.Context, name, segment string) (*Node, error) {
	host, err := c.Lab.AddNode(name, segment)
	if err != nil {
		return nil, err
	}
	n := Adopt(c, host)
	if c.options.NoDaemon {
		return n, nil
	}
	return n, n.StartDaemon(ctx)
}

// Adopt makes a host a node of the cluster, without starting anything.
func Adopt(c *Cluster, host *lab.Node) *Node { return &Node{Node: host, cluster: c} }

// spec decodes the network's specification, for it to be put elsewhere.
func (c *Cluster) spec() (map[string]any, error) {
	var spec map[string]any
	if err := json.Unmarshal([]byte(c.options.Network), &spec); err != nil {
		return nil, fmt.Errorf("decode network: %w", err)
	}
	return spec, nil
}

// Release gives a node's leases back, as an operator does who removes it.
func (c *Cluster) Release(ctx context.Context, node string) error {
	return c.Operate(func(r *lease.Registry) error { return r.Release(ctx, Network, node) })
}

// Operate does something in the cluster's store, as operators do.
func (c *Cluster) Operate(do func(r *lease.Registry) error) (err error) {
	s, err := local.Open(c.store, local.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return do(&lease.Registry{Store: s})
}
