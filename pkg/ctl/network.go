package ctl

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"

	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// networkStatus is what is so of a network, and wasn't specified.
type networkStatus struct {
	// Nodes have leases of it.
	Nodes []string `json:"nodes"`
	// ExternalPeers are those that the nodes use.
	ExternalPeers []string `json:"externalPeers"`
	// Problem is why it can't be used.
	Problem string `json:"problem,omitempty"`
}

// networkResult is a network with its status.
type networkResult struct {
	network lease.Network
	status  networkStatus
}

// NetworkList writes the registered networks.
func (c *Cluster) NetworkList(ctx context.Context) error {
	registered, err := c.Registry.Registered(ctx)
	if err != nil {
		return err
	}
	objects := make([]object, 0, len(registered))
	rows := [][]string{{"NETWORK", "CIDRS", "VNI", "PORT", "NODES", "EXTERNAL PEERS", "PROBLEM"}}
	for i := range registered {
		n, err := c.judge(ctx, &registered[i])
		if err != nil {
			return err
		}
		objects = append(objects, n.object())
		rows = append(rows, []string{
			n.network.Name, list(n.network.CIDRs), strconv.FormatUint(uint64(n.network.VNI), 10), strconv.Itoa(int(n.network.Port)),
			strconv.Itoa(len(n.status.Nodes)), strconv.Itoa(len(n.status.ExternalPeers)), n.status.Problem,
		})
	}
	if c.Format == JSON {
		return writeJSON(c.Out, objects)
	}
	return table(c.Out, rows)
}

// NetworkShow writes one network.
func (c *Cluster) NetworkShow(ctx context.Context, name string) error {
	registered, err := c.Registry.Registered(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(registered, func(n lease.Network) bool { return n.Name == name })
	if at < 0 {
		return fmt.Errorf("network %s: %w", name, store.ErrNotFound)
	}
	n, err := c.judge(ctx, &registered[at])
	if err != nil {
		return err
	}
	if c.Format == JSON {
		return writeJSON(c.Out, n.object())
	}
	mtu, masquerade := "auto", "yes"
	if n.network.MTU != 0 {
		mtu = strconv.Itoa(n.network.MTU)
	}
	if m := &n.network.Masquerade; m.Disabled {
		masquerade = "no"
	} else if len(m.Exclude) > 0 {
		masquerade = "yes, but not to " + list(m.Exclude)
	}
	rows := [][]string{
		{"network", name}, {"VNI", strconv.FormatUint(uint64(n.network.VNI), 10)}, {"port", strconv.Itoa(int(n.network.Port))},
		{"MTU", mtu}, {"masquerade", masquerade},
	}
	rows = append(rows, blockRows(&n.network)...)
	rows = append(rows, []string{"nodes", strings.Join(n.status.Nodes, ", ")}, []string{"external peers", strings.Join(n.status.ExternalPeers, ", ")})
	if n.status.Problem != "" {
		rows = append(rows, []string{"problem", n.status.Problem})
	}
	return table(c.Out, rows)
}

// blockRows say where nodes have their blocks.
func blockRows(n *lease.Network) [][]string {
	var rows [][]string
	for _, p := range n.Pools {
		rows = append(rows, []string{"pool", fmt.Sprintf("%s in blocks of /%d", p.CIDR, p.BlockLength) + selected(p.NodeSelector)})
	}
	if n.Pooled() {
		return rows
	}
	for _, p := range n.CIDRs {
		rows = append(rows, []string{"CIDR", fmt.Sprintf("%s in blocks of /%d", p, n.BlockLength.Of(lease.FamilyOf(p.Addr())))})
	}
	return rows
}

func selected(labels map[string]string) string {
	if len(labels) == 0 {
		return ""
	}
	pairs := make([]string, 0, len(labels))
	for key, value := range labels {
		pairs = append(pairs, key+"="+value)
	}
	slices.Sort(pairs)
	return " for nodes with " + strings.Join(pairs, ", ")
}

// judge adds what is so of a network.
func (c *Cluster) judge(ctx context.Context, n *lease.Network) (networkResult, error) {
	r := networkResult{network: *n, status: networkStatus{Nodes: []string{}, ExternalPeers: []string{}}}
	if _, err := c.Registry.Network(ctx, n.Name); err != nil {
		r.status.Problem = err.Error()
	}
	v, err := c.view(ctx, n.Name)
	if err != nil {
		return r, err
	}
	for i := range v.leases {
		r.status.Nodes = append(r.status.Nodes, v.leases[i].Node)
	}
	slices.Sort(r.status.Nodes)
	r.status.Nodes = slices.Compact(r.status.Nodes)
	for i := range v.usable {
		r.status.ExternalPeers = append(r.status.ExternalPeers, v.usable[i].Name)
	}
	return r, nil
}

// object has what was specified, and no more: a pool's CIDR stands in it once.
func (r *networkResult) object() object {
	n := r.network
	spec := struct {
		lease.Network
		Name  string         `json:"name,omitempty"` // it is the object's
		CIDRs []netip.Prefix `json:"cidrs,omitempty"`
	}{Network: n, CIDRs: n.CIDRs}
	if n.Pooled() {
		spec.CIDRs = nil
	}
	return newObject(kindNetwork, n.Name, spec, r.status)
}

// NetworkApply registers the networks of a file, or changes their registrations.
func (c *Cluster) NetworkApply(ctx context.Context, in io.Reader) error {
	return c.apply(in, kindNetwork, func(d *document) error {
		n, err := d.network()
		if err != nil {
			return err
		}
		if err := c.Registry.ApplyNetwork(ctx, &n); err != nil {
			return err
		}
		fmt.Fprintf(c.Out, "network %s is as it should be\n", n.Name)
		return nil
	})
}

// network reads the document.
func (d *document) network() (n lease.Network, err error) {
	if d.name != "" && !bytes.HasPrefix(d.spec, []byte("{")) {
		return n, lease.Invalid("spec", string(d.spec), "is not an object")
	}
	n, d.warnings, err = config.ParseNetwork(d.name, d.spec)
	return n, d.within(err)
}

// NetworkRemove removes a network that no node has leases of, or any.
func (c *Cluster) NetworkRemove(ctx context.Context, name string) error {
	if err := c.Registry.RemoveNetwork(ctx, name, c.Force); err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "network %s is removed\n", name)
	return nil
}
